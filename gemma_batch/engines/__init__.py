"""Engines answer requests. A new engine is one file here and one line in `REGISTRY`."""
