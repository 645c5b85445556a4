"""Replay: a recording as a session. Its entries come in their recorded order and time, with their own ids."""
