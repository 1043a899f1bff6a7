"""Cluster: everything in a run that uses Ray: pipelines, GPU actor, exchange of a sort, board.

The driver builds the pipelines, and Ray's tasks and actors do the work. The first lines of each
module say which process runs the module.
"""
