"""The commands that work on recordings: verify, inspect, diff, recover, export and plot. They need no council."""
