"""A real model server for the tests: llama.cpp's own, with a model that is built here in a second or two."""
