"""Cluster: all of Ray: pipelines, the GPU actor, the exchange of a sort, the board."""
