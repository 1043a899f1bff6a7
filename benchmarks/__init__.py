"""Each promise about speed as a program that prints a table, peers in the same run."""
