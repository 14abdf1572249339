"""Deadlines: every wait of a pool and a connection ends in time, and says where it was."""
