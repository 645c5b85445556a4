"""The web: a page, an HTTP API, and the frames and events of each session over sockets."""
