"""Access to the server: connections, hosts and origins, the token, rate limits, and how refusals are sent."""
