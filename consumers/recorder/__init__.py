"""The recorder: sessions become files."""
