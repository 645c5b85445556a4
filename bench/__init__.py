"""Benchmarks: what the council costs, each number beside a limit that was measured in the same run. Nothing is asserted."""
