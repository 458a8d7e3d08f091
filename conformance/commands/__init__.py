"""The command line, one file a command; others arrive as ``mxmoe.commands``."""
