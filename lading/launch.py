"""Start setup with a Python that can run it: what make calls before the environment exists.

Input: the flags of ``lading/environment.py``. Output: that program, in place of
this one, or one sentence that no Python fits.
Invariant: runs with any Python from 3.6 on; standard library only.
"""

import os
import shutil
import subprocess
import sys

OLDEST = (3, 11)
# From here on packages may lack files for it: taken where there is no other.
NEWEST = (3, 14)
NAMES = ("python3.13", "python3.12", "python3.11", "python3.14", "python3")
TEST = "import sys, venv, ensurepip; sys.exit(not %r <= sys.version_info[:2] < %r)"


def fits(path, below):  # type: (str, tuple[int, ...]) -> bool
    """Tell whether a program is a Python that can make the environment: a name on PATH may be an empty shell."""
    try:
        return (
            subprocess.call([path, "-c", TEST % (OLDEST, below)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            == 0
        )
    except OSError:
        return False


def choose():  # type: () -> str
    """Return the Python to go on with; exits with the remedy when there is none."""
    found = [path for path in [sys.executable] + [shutil.which(name) for name in NAMES] if path]
    for below in (NEWEST, (4,)):
        for path in found:
            if fits(path, below):
                return path
    sys.exit(
        "setup: no Python from 3.11 to 3.14 with its venv module is on PATH (python3 is %s); load a Python module, "  # noqa: UP031
        "like module load python, or install python3 and python3-venv, then run the same command again"
        % sys.version.split()[0]
    )


if __name__ == "__main__":
    python = choose()
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "environment.py")
    sys.stdout.flush()
    os.execv(python, [python, script] + sys.argv[1:])  # noqa: RUF005, S606
