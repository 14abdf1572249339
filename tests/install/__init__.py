"""cpool.install() and `python -m cpool run`, from outside."""
