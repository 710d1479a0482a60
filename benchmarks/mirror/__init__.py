"""Benchmark of the mirror."""
