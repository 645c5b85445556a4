"""Faults on purpose and at random, on real processes and a real Redis. After each fault the law must hold."""
