"""``python -m benchmarks [NAME…]``: every benchmark in turn, or those named.

Input: names of the folders beside this file. Output: their tables.
Invariant: each prints ratios to peers that it measured in the same run.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(names: list[str]) -> int:
    """Run the benchmarks; returns 2 for an unknown name, else the first failure."""
    known = sorted(path.parent.name for path in HERE.glob("*/__main__.py"))
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"error: no benchmark {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    code = 0
    for name in names or known:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        code = code or subprocess.run(command, cwd=HERE.parent, check=False).returncode
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
