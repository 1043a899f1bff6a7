"""Driver: one run from start to end; it follows the run and stops it."""
