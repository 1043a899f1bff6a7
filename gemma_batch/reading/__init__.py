"""Reading: a row from its file to a request (Ray CPU task)."""
