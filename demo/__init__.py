"""The demo: a small lab tree carried the whole way on one machine."""
