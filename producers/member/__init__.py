"""One member of one session: its request, its tokens on their way to Redis, and its grants."""
