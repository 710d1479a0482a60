"""Benchmark of a push of thousands of repositories."""
