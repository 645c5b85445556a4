"""What every backend with an HTTP server needs: a client, addresses, keys, pieces of text, faults in words."""
