"""The parts that the process of every role has: settings, log, process record, leases, and its end."""
