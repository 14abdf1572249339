"""Run redis-py's own test-suite with cpool's classes in place of redis-py's, and compare."""
