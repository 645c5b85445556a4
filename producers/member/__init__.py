"""One member of one session: its requests, its tokens on their way to Redis, and its grants."""
