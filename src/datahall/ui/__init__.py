"""Doors for people: the command line, exports, readers of other programs' logs."""
