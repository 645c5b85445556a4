"""The `council` command."""
