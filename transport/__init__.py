"""The one door to Redis: connections, sessions and their leases, tokens, the frame commit, fan-out, the embedded
server."""
