"""Benchmark of the mirror of a DANDI archive."""
