"""Answering: requests go to one engine, and each request gets one outcome (GPU actor).

The room holds the feed of the engine, the order of waiting rows, retries, the isolation of a row
that kills the engine, and the shapes of answers.
"""
