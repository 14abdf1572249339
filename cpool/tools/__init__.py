"""Command-line tools of cpool; they use the public API only."""
