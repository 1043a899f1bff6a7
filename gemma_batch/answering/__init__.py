"""Answering: the feed of one engine, its order, retries and isolation of bad rows (GPU actor)."""
