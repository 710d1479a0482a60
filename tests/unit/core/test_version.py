"""What a record says of the program that wrote it: version, commit, lock digest, Python and host."""

import hashlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import tomllib
from pathlib import Path

import pytest
import zstandard

import lading
from lading.core import version
from lading.core.atomic import read_log
from tests import labtree
from tests.conftest import REPOSITORY

MEMBERS = {"version", "commit", "lock", "python", "host"}


def git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(directory), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository that has this module and one file more."""
    root = tmp_path / "checkout"
    (root / "lading/core").mkdir(parents=True)
    for name in ("lading/__init__.py", "lading/core/__init__.py", "lading/core/version.py", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, root / name)
    (root / "requirements.txt").write_text("numpy==2\n")
    git(tmp_path, "init", "-q", str(root))
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    return root


def ask(run, root: Path, monkeypatch: pytest.MonkeyPatch, **environment: str) -> dict[str, str | None]:
    """Return what the program of a checkout says of itself."""
    monkeypatch.setenv("PYTHONPATH", str(root))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code = "import json; from lading.core.version import provenance; print(json.dumps(provenance()))"
    done = run("-c", code, cwd=root.parent)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout)


def test_the_version_is_in_one_place() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert "version" in settings["project"]["dynamic"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "lading.__version__"}
    assert lading.__version__ == version.VERSION


def test_commit_and_changed_files(run, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    clean = ask(run, checkout, monkeypatch)
    assert clean == {
        "version": lading.__version__,
        "commit": head,
        "lock": hashlib.sha256(b"numpy==2\n").hexdigest(),
        "python": platform.python_version(),
        "host": socket.gethostname(),
    }
    (checkout / "find.json").write_text("a stage wrote it")
    # A hook or an editor may have named another repository.
    assert ask(run, checkout, monkeypatch, GIT_DIR=str(checkout.parent / "other"))["commit"] == head
    (checkout / "requirements.txt").write_text("numpy==1\n")
    assert ask(run, checkout, monkeypatch)["commit"] == f"{head}+dirty"
    # As on a compute node without git; the worktree of a branch, packed refs.
    monkeypatch.setenv("PATH", "/nowhere")
    assert ask(run, checkout, monkeypatch)["commit"] == f"{head}+unchecked"


@pytest.mark.parametrize("pack", [False, True])
def test_a_worktree_without_git(run, checkout: Path, monkeypatch: pytest.MonkeyPatch, pack: bool) -> None:
    other = checkout.parent / "worktree"
    git(checkout, "worktree", "add", "-q", "-b", "side", str(other))
    if pack:
        git(checkout, "pack-refs", "--all")
    head = git(checkout, "rev-parse", "side")
    monkeypatch.setenv("PATH", "/nowhere")
    assert ask(run, other, monkeypatch)["commit"] == f"{head}+unchecked"


@pytest.mark.parametrize("spoil", ["no repository", "empty .git", "odd HEAD", "built", "odd built"])
def test_it_never_fails(run, checkout: Path, monkeypatch: pytest.MonkeyPatch, spoil: str) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    expected = None
    if spoil == "odd HEAD":
        (checkout / ".git/HEAD").write_bytes(b"ref: \xff\0")
    else:
        shutil.rmtree(checkout / ".git")
    if spoil == "empty .git":
        (checkout / ".git").mkdir()
    if "built" in spoil:  # as in a wheel
        (checkout / "pyproject.toml").unlink()
        (checkout / "requirements.txt").unlink()
        built = {"commit": head, "lock": "l" * 64} if spoil == "built" else ["commit"]
        (checkout / "lading/core" / version.BUILT).write_text(json.dumps(built))
        expected = head if spoil == "built" else None
    found = ask(run, checkout, monkeypatch)
    assert found["commit"] == expected
    assert found["version"] == lading.__version__
    if "built" in spoil:
        assert found["lock"] == ("l" * 64 if expected else None)


def test_what_a_wheel_is_built_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version.write_built(tmp_path)
    assert json.loads((tmp_path / version.BUILT).read_text()) == {
        "commit": version.find_commit(),
        "lock": version.find_lock(),
    }


def test_every_artefact_tells_its_writer(run, s3, bucket: str, tmp_path: Path) -> None:
    root, directory = tmp_path / "data", tmp_path / "run"
    labtree.make_tree(root, 20, odd=False)
    labtree.make_plan(root, directory)
    first = (directory / "batch.json").read_bytes()
    labtree.make_plan(root, tmp_path / "again")
    assert (tmp_path / "again/batch.json").read_bytes() == first, "a plan is the same bytes each time"
    s3.make_bucket(bucket)
    sent = labtree.upload(root, directory, s3, bucket)
    assert sent.returncode == 0, sent.stderr
    checked = labtree.verify(root, directory, s3, bucket)
    assert checked.returncode == 0, checked.stderr
    with zstandard.open(directory / "manifest.jsonl.zst", "rt") as stream:
        header = json.loads(stream.readline())
    runs = sorted((directory / "runs").glob("*.json"))
    journals = sorted((directory / "journal").glob("*.jsonl"))
    assert len(runs) == 2
    assert journals
    packed = tmp_path / "packed"
    command = ["jobs", "compress", str(root), str(packed), "--kind", "generic", "--workers", "1"]
    done = run("-m", *command)
    assert done.returncode == 0, done.stderr
    records = [json.loads(first), json.loads((directory / "find.meta.json").read_text()), header]
    records += [json.loads(path.read_text()) for path in (*runs, packed / "compress.json")]
    records += [next(read_log(path)) for path in journals]
    for record in records:
        assert record["written_by"].keys() == MEMBERS, record
        assert record["written_by"] == version.provenance()
    assert re.fullmatch(r"[0-9a-f]{40}(\+dirty|\+unchecked)?", str(version.find_commit())), os.getcwd()
