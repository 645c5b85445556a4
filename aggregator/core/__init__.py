"""Frames as a pure function of the token stream: no clock, no I/O, no randomness, no log."""
