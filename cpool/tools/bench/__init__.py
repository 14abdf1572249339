"""`python -m cpool bench`: redis-py beside cpool on the user's own server."""
