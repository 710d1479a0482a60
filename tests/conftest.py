"""Fixtures that every test may use: an isolated home, lab trees, real S3 servers.

Every OME-Zarr image that a test finishes goes through ``image_checks``, whoever the test is of.
"""

import functools
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.loaders
import pytest

from lading.core.extras import PACKAGES
from lading.testing import ceph_gateway
from lading.testing.s3_server import Server, serve
from tests import image_checks
from tests.mirrors import ZARRS, Listed
from tests.servers import slurm

REPOSITORY = Path(__file__).resolve().parent.parent

# Names that break glue: shell and glob signs, leading dash, quotes, dots, bytes that are no UTF-8.
ODD_NAMES = [
    b"a b",
    b"-rf",
    b"--help",
    b"quote'single",
    b'quote"double',
    b"back\\slash",
    b"new\nline",
    b"tab\there",
    b"star*",
    b"what?",
    b"[set]",
    b"{brace}",
    b"$HOME",
    b"`id`",
    b"; echo foo",
    b"a&b|c",
    b"percent%20",
    b"plus+",
    b"hash#1",
    b"at@home",
    b"equals=1",
    b"comma,semi;colon:",
    b".hidden",
    b"..two",
    b"trailing.",
    b"trailing ",
    b" leading",
    "naïve-é-日本.txt".encode(),
    "\u202eright-to-left".encode(),
    b"latin-\xe9\xff.bin",
    b"\x01control",
    b"\x7fdelete",
    b"x" * 255,
]


_read_description = botocore.loaders.JSONFileLoader.load_file
_descriptions: dict[str, Any] = {}


def _read_once(loader: botocore.loaders.JSONFileLoader, path: str) -> Any:
    if path not in _descriptions:
        _descriptions[path] = _read_description(loader, path)
    return _descriptions[path]


# Each test has a boto3 session of its own, which would parse the descriptions of services (0.1 s) for each client.
botocore.loaders.JSONFileLoader.load_file = _read_once


def mostly_long(values: Iterable[Any], *short: Any) -> list[Any]:
    """Return parameters of which all but ``short`` are left to ``make test-long``."""
    rows = [(value, value if isinstance(value, tuple) else (value,)) for value in values]
    return [value if value in short else pytest.param(*row, marks=pytest.mark.long) for value, row in rows]


def need(reason: str | None) -> None:
    """Skip the test for ``reason`` unless it is None; in CI, where nothing may be absent, fail."""
    if reason is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI must have every component: {reason}")
    pytest.skip(reason)


def need_program(*names: str) -> None:
    """Skip (in CI: fail) when a program is on neither PATH nor beside this Python."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    lacking = [name for name in names if shutil.which(name, path=path) is None]
    need(f"not installed: {', '.join(lacking)}" if lacking else None)


def _makes_images(module: Any) -> bool:
    """Tell whether a test module has to do with images: loading their libraries takes a second."""
    path = getattr(module, "__file__", "")
    return "imaging" in _read_source(path) if path else False


@functools.cache
def _read_source(path: str) -> str:
    return Path(path).read_text()


@pytest.fixture(autouse=True)
def independent_readers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test whose finished OME-Zarr images tensorstore, ome-zarr-models and their sources disagree about."""
    if not _makes_images(request.module):
        yield
        return
    image_checks.watch(importlib.import_module("lading.compress.imaging.imaging_plan"))
    image_checks.WRONG.clear()
    image_checks.PLACES = not getattr(request.module, "DAMAGED", False)
    top = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if top is not None:
        image_checks.check_finished_below(top)
    assert not image_checks.WRONG


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what was counted in a worker of xdist to the process that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["images"] = dict(image_checks.COUNTED)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what a worker of xdist counted."""
    image_checks.COUNTED.update(getattr(node, "workeroutput", {}).get("images", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many images were checked."""
    if counted := image_checks.COUNTED:
        placed = counted["images"] - counted["without a source"]
        terminalreporter.write_line(
            f"{counted['images']} OME-Zarr images ({counted['levels']} levels, {counted['voxels']:,} voxels) are the "
            f"same for tensorstore, ome-zarr-models and zarr, {counted['levels of pcodec']} levels for zarr alone; "
            f"scale and place as the source says: {placed}, of which {counted['with sizes']} have sizes and "
            f"{counted['with a place']} a place of their own"
        )


@pytest.fixture(autouse=True)
def tmp_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own HOME, git identity and no AWS or Slurm variables of the caller."""
    home = tmp_path_factory.mktemp("home")
    # Settings that the make of the test run exported: they would count as the user's environment.
    makefile = REPOSITORY / "makefile"
    text = makefile.read_text() if makefile.exists() else ""
    for line in re.findall(r"^export ([^:=]*(?:\\\n[^\n]*)*)$", text, re.MULTILINE):
        for name in line.replace("\\", " ").split():
            monkeypatch.delenv(name, raising=False)
    # Thousands of programs are started: compiling all modules anew for each would take a third of their time.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    for name in list(os.environ):
        if name == "LADING_DEBUG" or name.startswith(
            ("AWS_", "SLURM_", "GIT_", "DATALAD_", "XDG_", "MAKE", "MFLAGS", "PYTEST_ADD")
        ):
            monkeypatch.delenv(name)
    # boto3 keeps the first credentials it saw for the whole process: each test has its own.
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    (home / ".gitconfig").write_text(
        "[user]\n\tname = Test\n\temail = test@example.org\n[init]\n\tdefaultBranch = main\n"
    )
    return home


@pytest.fixture(scope="session")
def rclone_server() -> Iterator[Server]:
    """An ``rclone serve s3`` on loopback (no versions; normalises ``//`` and ``./`` in keys)."""
    with tempfile.TemporaryDirectory(prefix="ls3-") as directory, serve(Path(directory) / "data") as server:
        yield server


@pytest.fixture
def s3(rclone_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The rclone server, without the buckets of tests before, and with its keys in this test's environment."""
    # It looks at all its buckets for each request: with those of a thousand tests a request takes five times as long.
    # Not at the end of a test: functions of the system may be patched then.
    for bucket in rclone_server.directory.iterdir():
        shutil.rmtree(bucket, ignore_errors=True)  # what a killed uploader's server still writes
    for name, value in rclone_server.environment().items():
        monkeypatch.setenv(name, value)
    return rclone_server


@pytest.fixture(scope="session")
def rgw_server() -> Iterator[ceph_gateway.Gateway]:
    """A Ceph gateway on loopback: versions, Content-MD5, multipart ETags, odd keys.

    Put ``@pytest.mark.xdist_group("rgw")`` on its users, so that only one worker starts it.
    """
    need(ceph_gateway.missing())
    directory = Path(tempfile.mkdtemp(prefix="rgw-"))
    with ceph_gateway.serve(directory) as gateway:
        yield gateway


@pytest.fixture
def gateway(rgw_server: ceph_gateway.Gateway, monkeypatch: pytest.MonkeyPatch) -> ceph_gateway.Gateway:
    """The Ceph gateway, with its keys in this test's environment."""
    for name, value in rgw_server.environment().items():
        monkeypatch.setenv(name, value)
    return rgw_server


@pytest.fixture(scope="session")
def slurm_cluster_server() -> Iterator[slurm.Cluster]:
    """A Slurm of four nodes with eight virtual cores each on this machine.

    Put ``@pytest.mark.xdist_group("slurm")`` on its users, so that only one worker starts it.
    """
    need(slurm.missing())
    directory = Path(tempfile.mkdtemp(prefix="sl-", dir="/tmp"))
    with slurm.serve(directory, cores=8, nodes=4) as cluster:
        yield cluster


@pytest.fixture
def slurm_cluster(slurm_cluster_server: slurm.Cluster, monkeypatch: pytest.MonkeyPatch) -> slurm.Cluster:
    """The Slurm cluster, chosen by this test's environment."""
    for name, value in slurm_cluster_server.environment().items():
        monkeypatch.setenv(name, value)
    return slurm_cluster_server


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> str:
    """A bucket name of this test's own."""
    return "b-" + os.urandom(6).hex()


@pytest.fixture
def run() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a command of the repository with this Python: ``run("find.py", root, "-o", out)``."""

    def call(*arguments: object, cwd: Path | None = None, timeout: float = 300) -> "subprocess.CompletedProcess[str]":
        command = [os.fsencode(a) if isinstance(a, Path) else str(a) for a in arguments]
        if isinstance(command[0], str) and command[0].endswith(".py"):
            command[0] = str(REPOSITORY / command[0])
        return subprocess.run(
            [sys.executable, *command],
            cwd=cwd,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )

    return call


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run make targets as a user would, artefacts in ``tmp_path``: ``make("find.json", root=…)``."""

    def call(*targets: str, cwd: Path | None = None, timeout: float = 600, **settings: object):  # type: ignore[no-untyped-def]
        venv = sys.prefix
        command = ["make", "--no-print-directory", "-f", str(REPOSITORY / "makefile")]
        for stamp in (".ready", *(f".ready-{extra}" for extra in (*PACKAGES, "optional", "docs", "tests"))):
            command += ["-o", f"{venv}/{stamp}"]
        command += [f"venv={venv}", "here=1", *targets]
        command += [f"{name}={value}" for name, value in settings.items()]
        return subprocess.run(
            command,
            cwd=cwd or tmp_path,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )

    return call


@pytest.fixture
def mirror(run, tmp_path):
    """Run the mirror on a listing: ``mirror(listing, "update")``; returns its output."""
    need_program("git-annex")

    def call(listing: Listed, *arguments: object, config: str = "", code: int = 0, complete: bool = True, zarrs=True):
        settings = tmp_path / "mirror.yaml"
        settings.write_text((ZARRS if zarrs else "") + config)
        listing.write(tmp_path / "manifest.jsonl.zst", complete=complete)
        result = run("-m", "lading", "mirror", "--config", settings, *arguments, cwd=tmp_path)
        assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
        assert "Traceback" not in result.stderr
        return result.stdout + result.stderr

    return call


@pytest.fixture
def listing(tmp_path) -> Listed:
    found = Listed(tmp_path / "root")
    for session in ("a", "b"):
        for number in range(6):
            found.put(f"{session}/d/f{number}.dat", b"%s %d" % (session.encode(), number))
    return found
