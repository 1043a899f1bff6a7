"""Reading: takes a row from its input file to a request (Ray CPU task)."""
