"""Units: the nouns that travel between processes: Shard, Unit, RouteJob, the payload."""
