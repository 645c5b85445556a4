"""The web: one page, a small HTTP API, and the frames of each session over WebSocket."""
