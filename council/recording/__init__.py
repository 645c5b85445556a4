"""Recordings at the command line: keeping and replaying sessions, and what can be done with a recording."""
