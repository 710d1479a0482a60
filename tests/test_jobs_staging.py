"""Staging copies the whole of a source or says why not, and what it copied is on disk."""

import errno
import os
from pathlib import Path

import pytest

from jobs.steps import staging
from lading.errors import LadingError


def copied(source: Path, target: Path, **more: Path) -> list[str]:
    return [copy.key for copy in staging.copy_tree(source, target, "behavior", check=lambda: None, **more)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source with a file at its top and one below."""
    (tmp_path / "source" / "deep").mkdir(parents=True)
    (tmp_path / "source" / "a.bin").write_bytes(b"1")
    (tmp_path / "source" / "deep" / "b.bin").write_bytes(b"2")
    return tmp_path / "source"


def test_a_source_that_is_gone_or_not_mounted_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(LadingError, match=r"typo cannot be read: No such file or directory"):
        copied(tmp_path / "typo", tmp_path / "staged")
    (tmp_path / "mount").mkdir()
    with pytest.raises(LadingError, match=r"mount holds no file"):
        copied(tmp_path / "mount", tmp_path / "staged")
    assert copied(source, tmp_path / "staged") == ["behavior/a.bin", "behavior/deep/b.bin"]
    (source / "a.bin").unlink()
    assert copied(source, tmp_path / "rest", leave_out=source / "deep") == []


def test_a_directory_that_cannot_be_listed_stops_the_copy(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def failing(path: str) -> object:
        if os.fspath(path).endswith("deep"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(LadingError, match=r"deep cannot be read: Input/output error"):
        copied(source, tmp_path / "staged")
