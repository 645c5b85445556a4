"""Replay: a recording as a session again. Its entries come in their recorded order and time, under their own ids."""
