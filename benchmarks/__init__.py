"""Benchmarks: each stage beside its peers, in one run, as ratios."""
