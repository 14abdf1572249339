"""Tests of cpool.Pipeline: the same as redis-py's, whatever happens."""
