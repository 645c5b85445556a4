"""Recordings: their format, writing and reading them, repairing damaged ones, and the library. It does not use
Redis."""
