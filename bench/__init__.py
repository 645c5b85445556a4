"""Benchmarks: what the council costs, each number beside a limit measured in the same run. Nothing is asserted."""
