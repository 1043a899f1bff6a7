"""Units: the nouns that travel between processes: shard, unit, route job and payload.

All processes of a run use this room.
"""
