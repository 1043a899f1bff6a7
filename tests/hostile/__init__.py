"""What strangers may put into a row, a file, a spec or a model folder, and what must not follow."""
