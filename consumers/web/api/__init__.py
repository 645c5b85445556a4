"""The HTTP API: one table of operations, which are served and described."""
