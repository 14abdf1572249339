"""The gates have no Python side: compiled code asks them."""
