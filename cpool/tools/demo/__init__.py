"""`python -m cpool demo`: the same verified work on redis-py and cpool, and a crash in it."""
