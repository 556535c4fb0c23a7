"""The command line: one file for each group of commands, one table of errors, one object for output."""
