"""What a benchmark measures itself against, where it is there.

Input: a program's name. Output: its path, or one line that it is not here.
Invariant: what is absent costs its line of the table, never the benchmark.
"""

import os
import shutil
import sys
from pathlib import Path

NOT_HERE = "not here"


def find(name: str) -> str | None:
    """Return the path of a program beside this Python, else on PATH."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def tell(name: str, reason: str = "") -> None:
    """Say that a peer is left out."""
    print(f"{name}: {NOT_HERE}{reason and f' ({reason})'}", flush=True)


def lacks_compiler(what: str) -> bool:
    """Tell whether what has to be compiled first cannot be; says so."""
    if find("cc"):
        return False
    tell(what, "no C compiler")
    return True
