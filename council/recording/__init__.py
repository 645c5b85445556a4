"""Work on recordings: making, verifying, inspecting, recovering, exporting and drawing them."""
