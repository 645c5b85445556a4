"""Decisions that several roles take in the same way: admission, members, tiers, claims. Pure."""
