"""C units of the core and their runner."""
