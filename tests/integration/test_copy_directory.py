"""Copies of a release in a directory: what may not be one, what cannot be held, what somebody changed in it."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lading.core.atomic import read_log
from lading.testing.s3_server import Server
from lading.verification.manifest import read_manifest, write_manifest
from tests.buckets import Bucket
from tests.copying import Release
from tests.servers.moto import ENVIRONMENT, serve


@pytest.fixture
def held(tmp_path: Path, s3: Server, bucket: str) -> Bucket:
    """A bucket of six objects and its manifest, whose source is on this machine still."""
    s3.make_bucket(bucket)
    made = Bucket(tmp_path / "here", s3, bucket)
    made.directory.mkdir()
    made.fill(6)
    source = tmp_path / "source"
    (source / "d0").mkdir(parents=True)
    header = replace(read_manifest(made.manifest).header, root=str(source))
    write_manifest(made.manifest, header, made.rows, complete=True)
    return made


def copy(held: Bucket, to: str | Path, *more: str, code: int = 0) -> tuple[dict[str, Any], str]:
    done = held.run("copy", "--to", str(to), "--json", *more, code=code)
    return json.loads(done.stdout or "{}"), done.stderr


def test_a_directory_within_the_source_is_refused(held: Bucket, tmp_path: Path) -> None:
    """The source itself would count as the second copy, and what is inside of it becomes part of the release."""
    (tmp_path / "link").symlink_to(tmp_path / "source")
    for to in ("source", "source/d0/copy", "link/d0", ""):
        _, said = copy(held, tmp_path / to, "--name", "second", code=2)
        assert "one inside the other" in said
    assert list((tmp_path / "source").iterdir()) == [tmp_path / "source" / "d0"]
    found, _ = copy(held, tmp_path / "second")
    assert (found["copied"], found["verified"]) == (6, 6)
    for to in ("second", "second/inner", ""):  # a copy of the copy
        _, said = copy(held, tmp_path / to, "--manifest", "manifest.second.jsonl.zst", "--name", "third", code=2)
        assert "one inside the other" in said


def test_the_path_of_another_machines_source_is_free_here(held: Bucket, tmp_path: Path) -> None:
    """An archive may hold the copy where the source is elsewhere; a second run finds the first one's files there."""
    (tmp_path / "source" / "d0").rmdir()
    for present in (0, 6):
        found, _ = copy(held, tmp_path / "source")
        assert (found["present"], found["verified"]) == (present, 6)


def test_a_file_that_was_changed_in_place_is_no_copy_any_more(held: Bucket, tmp_path: Path) -> None:
    """A directory lists no ETags: another time of a file of the same size is reason enough to read it."""
    copy(held, tmp_path / "second")
    path = tmp_path / "second" / held.rows[2].path
    touched, body = tmp_path / "second" / held.rows[3].path, path.read_bytes()
    path.write_bytes(b"x" * len(body))
    os.utime(touched)
    found, said = copy(held, tmp_path / "second", code=4)
    assert (found["copied"], found["present"], found["refused"]) == (0, 5, 1), found
    assert held.rows[2].path in said
    found, _ = copy(held, tmp_path / "second", "--overwrite")
    assert (found["copied"], found["present"]) == (1, 5)
    assert path.read_bytes() == body


@pytest.mark.long
def test_names_that_no_directory_holds_are_told_apart(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run could not copy them either: a path that leads out, a file and a directory of one name, 300 bytes."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with serve() as moto:
        moto.make_bucket(bucket)
        release = Release(tmp_path / "here", moto.client(), moto.endpoint, bucket)
        release.directory.mkdir()
        for name in ("../../out", "a//b", "f", "f/below", "x" * 300, "good"):
            release.put(name, b"body of " + name.encode())
        release.write()
        done = release.copy(str(tmp_path / "second" / "top"), "--json", code=None)
    found = json.loads(done.stdout)
    # Of a file and a directory of one name, the second to come fails: under the first one, or beside it.
    assert (found["unfit"] in (3, 4), found["unfit"] + found["failed"], found["refused"]) == (True, 4, 0), done.stderr
    assert found["copied"] == 2
    assert "a directory cannot hold such names" in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*out*")) == []


def test_places_of_one_release_are_not_listed_with_those_of_another(held: Bucket, tmp_path: Path) -> None:
    copy(held, tmp_path / "second")
    header = replace(read_manifest(held.manifest).header, prefix="dr2/")
    rows = [replace(row, key=row.key.replace("dr1/", "dr2/")) for row in held.rows]
    write_manifest(held.manifest, header, rows, complete=True)
    _, said = copy(held, tmp_path / "other", code=2)
    assert "lists the places of" in said
    assert len(json.loads((held.directory / "manifest.places.json").read_text())["places"]) == 1


def test_a_repair_without_a_manifest_says_so(held: Bucket) -> None:
    held.manifest.unlink()
    assert "manifest.jsonl.zst is missing" in held.run("repair", code=2).stderr


def test_a_damaged_object_that_two_records_name_is_counted_once(held: Bucket, tmp_path: Path) -> None:
    """By the listing and by the log of scrubs."""
    copy(held, tmp_path / "second")
    held.path(held.rows[1].key).write_bytes(b"short")
    held.run("scrub", "--all", code=4)
    wrong = [record for record in read_log(held.log) if record and record.get("wrong")]
    done = held.run("repair", "--from", "second")
    assert wrong
    assert "1 of 1 object came back from second" in done.stdout
