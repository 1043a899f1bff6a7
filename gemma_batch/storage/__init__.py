"""Everything that touches files and object stores; the only room that knows paths."""
