"""Replays under both policies: what may run twice, and what never does."""
