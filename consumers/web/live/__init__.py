"""What is told as it happens: frames and events, to any number of clients, slow ones among them."""
