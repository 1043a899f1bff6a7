"""The command line: thin commands, the texts that people read, the starter spec."""
