"""Fuzzing of the codec; see README.md."""
