"""Compression of data kinds: each knows arrays and files, none knows clusters."""
