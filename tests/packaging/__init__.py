"""What is in the archives that users install from."""
