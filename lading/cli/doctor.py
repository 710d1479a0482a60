"""``lading doctor``: what is installed here, and what each missing part costs.

Input: the machine. Output: a line per part on stdout, or with ``--json`` one
object; exit 0 when crawl, upload and verify can run here, else 1.
Invariant: writes nothing, contacts nothing; a part that hangs is given up
after ``PATIENCE`` seconds.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lading.core.command_line import Parser, printable
from lading.core.extras import PACKAGES, lacking
from lading.core.version import provenance

PATIENCE = 20.0
WIDTH = 12
# Without these nothing is sent. Module: what pip calls it.
NEEDED = {
    "botocore": "boto3", "awscrt": "boto3[crt]", "numpy": "numpy", "zstandard": "zstandard", "rich": "rich",
    "jinja2": "jinja2", "yaml": "pyyaml",
}  # fmt: skip


@dataclass(frozen=True)
class InstalledPart:
    """One part: whether it is here, what it is, and what its absence costs."""

    name: str
    there: bool
    text: str
    needed: bool = False


def ask(*command: str) -> str | None:
    """Return the first line that a program says of its version; None when it does not run."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (done.stdout + done.stderr).decode("utf-8", "replace").strip().splitlines()
    return printable(lines[0].strip()) if done.returncode == 0 and lines else None


def beside(name: str) -> str | None:
    """Return a program's path: beside this Python, else on PATH."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def program(part: str, names: Sequence[str], flag: str, cost: str) -> InstalledPart:
    """Return a part that is a program."""
    for name in names:
        path = beside(name)
        said = ask(path, flag) if path else None
        if said:
            return InstalledPart(part, True, f"{said} ({path})")
        if path:
            return InstalledPart(part, False, f"{path} does not run; {cost}")
    return InstalledPart(part, False, f"not here; {cost}")


def look_at_packages() -> InstalledPart:
    """Look for what every installation has."""
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    text = f"missing: {', '.join(missing)}; no stage runs: pip install lading, or make setup" if missing else "all here"
    return InstalledPart("packages", not missing, text, needed=True)


def look_at_compiled() -> InstalledPart:
    """Look for the compiled modules."""
    cost = {
        "lading.crawl._walk": "the crawl takes twice the CPU time",
        "lading.tree._treefile": "trees are read 30 times slower",
        "lading.checksums._digest": "digests take ten times the CPU time",
    }
    missing = [name for name in cost if importlib.util.find_spec(name) is None]
    lost = "; ".join(cost[name] for name in missing)
    return InstalledPart("compiled", not missing, f"not built: {lost}" if missing else "all here")


def look_at_s5cmd() -> InstalledPart:
    """Look for the program that sends most files."""
    from lading.core.errors import LadingError
    from lading.upload.engines.s5cmd import find_binary

    try:
        path = find_binary()
    except LadingError as error:
        return InstalledPart("s5cmd", False, f"{error}; crt sends the files then")
    return InstalledPart("s5cmd", True, f"{ask(path, 'version')} ({path})")


def look_at_mpi() -> InstalledPart:
    """Start one rank with the launcher beside this Python, or on PATH."""
    cost = "one rank only, on one node: find, upload and compress use threads and processes there"
    if missing := lacking("mpi"):
        return InstalledPart("MPI", False, f"{missing[0]} is not installed: {cost}")
    launcher = beside("mpiexec")
    if launcher is None:
        return InstalledPart("MPI", False, f"no mpiexec: {cost}")
    code = "from mpi4py import MPI; print(MPI.Get_library_version().split(chr(10))[0])"
    said = ask(launcher, "-n", "1", sys.executable, "-m", "mpi4py", "-c", code)
    return InstalledPart("MPI", bool(said), f"{said} ({launcher})" if said else f"{launcher} starts no rank: {cost}")


def look_at_extras() -> list[InstalledPart]:
    """Look for the packages of each extra."""
    found = []
    for extra, (packages, what) in PACKAGES.items():
        if packages:
            missing = lacking(extra)
            text = f"not installed: no {what}; pip install 'lading[{extra}]', or make setup extras={extra}"
            found.append(InstalledPart(f"[{extra}]", not missing, text if missing else what))
    return found


def look_at_itself() -> list[InstalledPart]:
    """Say which Python and which Lading this is."""
    known = provenance()
    lock = known["lock"]
    return [
        InstalledPart("lading", True, f"{known['version']}, commit {known['commit'] or 'unknown'}"),
        InstalledPart("Python", True, f"{known['python']} ({sys.executable})"),
        InstalledPart(
            "lock", lock is not None, f"SHA-256 {lock}" if lock else "unknown: records do not say what was installed"
        ),
    ]


def examine() -> list[InstalledPart]:
    """Return all parts, in the order in which they are shown."""
    single: list[Callable[[], InstalledPart]] = [
        look_at_packages,
        look_at_compiled,
        look_at_s5cmd,
        look_at_mpi,
        lambda: program("ffmpeg", ["ffmpeg"], "-version", "videos need the extra video, or the site's ffmpeg module"),
        lambda: program("git", ["git"], "--version", "no mirror; records hold no commit"),
        lambda: program("git-annex", ["git-annex"], "version", "no mirror"),
        lambda: program("Slurm", ["sbatch"], "--version", "no jobs --executor slurm, no batch scripts"),
    ]
    return [*look_at_itself(), *(look() for look in single), *look_at_extras()]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the parts; returns 1 when the stages that send cannot run."""
    parser = Parser(prog="doctor", description="Say what is installed here, and what each missing part costs.")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    as_json = parser.parse_args(argv).json
    parts = examine()
    if as_json:
        print(json.dumps({"parts": [asdict(part) for part in parts]}))
    else:
        for part in parts:
            print(f"{'ok ' if part.there else '-- '} {part.name:<{WIDTH}} {part.text}")
    return 1 if any(part.needed and not part.there for part in parts) else 0
