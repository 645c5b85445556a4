"""All access to Redis: sessions and their leases, tokens, the frame commit, reading. redis/ has the connections."""

# Before any module of this package imports redis-py.
from transport.redis import redis_py as redis_py
