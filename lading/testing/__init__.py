"""What tests, the demo and the benchmarks share: servers on loopback and makers of data.

No stage imports it.
"""
