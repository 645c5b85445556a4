"""Those who read the frames: DECIPHER, which composes events from them, and the web, which shows them."""
