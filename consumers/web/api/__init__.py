"""The HTTP API: a table of operations, from which it is served and described."""
