"""Connections to Redis, one server, a cluster or behind Sentinels. Nothing here knows what a session is."""
