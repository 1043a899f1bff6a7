"""Driver: takes one run from start to end, follows the run and stops it.

Everything here runs in the driver: the process that was started with `run` or `retry`.
"""
