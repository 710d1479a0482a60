"""Compression beside bare codec calls and the reference's way."""
