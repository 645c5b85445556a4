"""Live frames and events, sent to any number of clients, slow ones among them."""
