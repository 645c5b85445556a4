"""Replay: a recording as a session again, its entries in their recorded order, under their recorded ids, in their time."""
