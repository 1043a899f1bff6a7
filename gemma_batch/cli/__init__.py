"""The command line: thin commands, the text that people read, the starter spec."""
