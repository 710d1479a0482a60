"""``python -m benchmarks.compress [ephys|imaging|bucket|writers]``: the first two, or the named one."""

import sys
from importlib import import_module

if __name__ == "__main__":
    sys.exit(max(import_module(f"benchmarks.compress.{name}").main() for name in sys.argv[1:] or ["ephys", "imaging"]))
