"""Tests under a preloaded library that lets system calls and allocations fail."""
