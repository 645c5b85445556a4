"""Faults on purpose and at random, on real processes and a real Redis: whatever is struck, the law holds."""
