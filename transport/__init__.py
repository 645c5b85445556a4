"""The one door to Redis: connections, sessions and their leases, tokens, the frame commit, fan-out, the embedded
server."""

# Before any module of this package imports redis-py.
from transport import redis_py as redis_py
