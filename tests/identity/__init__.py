"""The whole: whatever happens, every caller gets its own reply and no slot is lost."""
