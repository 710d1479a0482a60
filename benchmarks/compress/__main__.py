"""``python -m benchmarks.compress [ephys|imaging|bucket|writers]``: the first two, or the named ones."""

import sys
from importlib import import_module

from benchmarks.choice import choose_tables

TABLES = ("ephys", "imaging", "bucket", "writers")

if __name__ == "__main__":
    chosen = choose_tables(__doc__, TABLES, TABLES[:2])
    sys.exit(max(import_module(f"benchmarks.compress.{name}").main() for name in chosen))
