"""Layer 2 from outside: one socket, by its descriptor or by its methods."""
