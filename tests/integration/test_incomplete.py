"""A crawl that could not read everything: every later stage says so, and nothing turns it into a whole release."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.plan.batch_plan import read_plan
from lading.plan.ownership import coverage_of, selected_unreadable
from lading.tree.coverage import (
    MOST_CHARACTERS,
    MOST_NAMED,
    Coverage,
    decode_coverage,
    encode_coverage,
    make_coverage,
)
from lading.tree.size_tree import TreeMeta, Unreadable, read_meta
from lading.verification.manifest import read_manifest
from tests.conftest import need_program
from tests.mirrors import Listed

DENIED = 13


@pytest.fixture
def unprivileged(tmp_path: Path) -> Path:
    """A Python for which mode bits count, also when the tests run as root."""
    need_program("setpriv")
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nexec setpriv --bounding-set=-dac_override,-dac_read_search "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def release(tmp_path: Path) -> Iterator[Path]:
    """Six files, one link, and two directories that nobody may read."""
    release = tmp_path / "data" / "dr1"
    for number in range(6):
        path = release / f"night{number % 2}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * 1000)
    for name in ("locked", "night0/closed\n"):
        (release / name).mkdir()
        (release / name / "inside").write_bytes(b"lost")
        (release / name).chmod(0)
    (release / "link").symlink_to("night0")
    yield release
    for name in ("locked", "night0/closed\n"):
        if (release / name).exists():
            (release / name).chmod(0o755)


def test_what_could_not_be_read_is_told_by_every_stage(make, s3, bucket, release, unprivileged, tmp_path) -> None:
    s3.make_bucket(bucket)
    settings = {
        "root": release.parent,
        "release": release,
        "bucket": f"s3://{bucket}",
        "endpoint": s3.endpoint,
        "python": unprivileged,
    }

    first = make("find.json", "batch.json", **settings)
    assert first.returncode == 2
    assert "Error 3" in first.stderr
    assert "rm find.json; make find.json" in first.stderr
    assert "make batch.json" in first.stderr
    assert not (tmp_path / "batch.json").exists()
    # Asked for again, the tree that is there is told to lack the same, and not crawled again.
    made = (tmp_path / "find.json").stat().st_mtime_ns
    again = make("find.json", **settings)
    assert (again.returncode, "Error 3" in again.stderr) == (2, True)
    assert "2 paths could not be read" in again.stderr
    assert "rm find.json; make find.json" in again.stderr
    assert (tmp_path / "find.json").stat().st_mtime_ns == made

    # By its name alone, the plan is made without them.
    cut = make("batch.json", **settings)
    assert cut.returncode == 0, cut.stderr
    assert "incomplete: the crawl could not read 2 paths: locked, night0/closed\\n;" in cut.stdout
    assert "in no batch: 1 link" in cut.stdout
    (tmp_path / "find.meta.json").unlink()  # from here on the plan speaks for itself
    estimate = make("estimate", **settings)
    assert "could not read 2 paths" in estimate.stdout
    sent = make("upload", **settings, upload_flags="--json")
    assert sent.returncode == 0, sent.stderr
    assert "incomplete: the crawl could not read 2 paths: locked, " in sent.stdout
    record = json.loads(sent.stdout.splitlines()[-1])
    assert record["crawl"]["complete"] is False
    assert [bad["path"] for bad in record["crawl"]["named"]] == ["locked", "night0/closed\n"]

    for _ in range(2):
        verified = make("verify", **settings, verify_flags="--json")
        assert verified.returncode == 2
        assert "Error 3" in verified.stderr
        assert (
            "the manifest is not complete: the crawl could not read 2 paths: locked, night0/closed" in verified.stderr
        )
        record = json.loads(verified.stdout.splitlines()[-1])
        assert (record["complete"], record["objects"]["proven"]) == (False, 6)
        assert record["crawl"]["unreadable"] == 2
        end = read_manifest(tmp_path / "manifest.jsonl.zst").end
        assert (end.complete, end.objects, end.unreadable) == (False, 6, 2)
        assert [bad.path for bad in end.named] == ["locked", "night0/closed\n"]

    table = make("status", **settings)
    assert table.returncode == 2
    text = " ".join(table.stdout.split())
    assert "incomplete: the crawl could not read 2 paths" in text
    assert "not complete" in text
    status = json.loads(make("status", json=1, **settings).stdout)
    assert status["plan"]["crawl"]["unreadable"] == status["manifest"]["unreadable"] == 2
    assert make("report", **settings).returncode == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "2 paths could not be read" in page
    assert "not complete" in page

    # Left out by name it is a whole plan again, by the plan's own exclusion too.
    shutil.copy(tmp_path / "batch.json", tmp_path / "before.json")
    for name in ("locked", "night0/closed\n"):
        (release / name).chmod(0o755)
    (tmp_path / "find.json").unlink()
    for stage in ("find.json", "batch.json", "upload", "verify"):
        done = make(stage, **settings)
        assert done.returncode == 0, done.stderr
    end = read_manifest(tmp_path / "manifest.jsonl.zst").end
    assert (end.complete, end.objects, end.unreadable) == (True, 8, 0)
    assert make("find.json", **settings).returncode == 0


def test_what_is_left_out_by_name_is_no_gap(make, run, release, unprivileged, tmp_path) -> None:
    settings = {"release": release, "python": unprivileged}
    assert make("find.json", **settings).returncode == 2
    cut = make("batch.json", **settings, batch_flags="--exclude locked --exclude 'night0/closed*'")
    assert cut.returncode == 0, cut.stderr
    assert "incomplete:" not in cut.stdout
    coverage = read_plan(tmp_path / "batch.json").coverage
    assert coverage is not None
    assert coverage.complete
    # And in what was not chosen nothing is missed.
    cut = make("batch.json", **settings, subdir="night1")
    assert cut.returncode == 0, cut.stderr
    assert "incomplete:" not in cut.stdout
    cut = make("batch.json", **settings, subdir="night0")
    assert "could not read 1 path: night0/closed" in cut.stdout


def test_the_mirror_removes_nothing_of_an_incomplete_manifest(mirror, listing: Listed, run, tmp_path) -> None:
    mirror(listing, "update")
    for key in [key for key in listing.rows if key.startswith("b/")]:
        del listing.rows[key]
    gap = Coverage(1, (Unreadable("b", DENIED, "Permission denied"),))
    listing.coverage = gap
    told = mirror(listing, "update")
    assert "0 removed" in told
    listing.coverage = None
    assert "1 removed" in mirror(listing, "update", "--gc-assets")


def test_a_plan_of_an_earlier_edition_asks_the_meta_data(tmp_path: Path, run, release) -> None:
    for name in ("locked", "night0/closed\n"):
        (release / name).chmod(0o755)
    assert run("find.py", release, "-o", tmp_path / "find.json").returncode == 0
    cut = ("batch.py", release, "--file-tree", tmp_path / "find.json", "-o", tmp_path / "batch.json")
    assert run(*cut).returncode == 0
    record = json.loads((tmp_path / "batch.json").read_text())
    assert record.pop("crawl")["complete"] is True
    (tmp_path / "batch.json").write_text(json.dumps(record))
    plan = read_plan(tmp_path / "batch.json")
    assert coverage_of(plan, tmp_path).complete
    meta = json.loads((tmp_path / "find.meta.json").read_text())
    meta["unreadable"] = [{"path": "locked", "errno": DENIED, "message": "Permission denied"}]
    (tmp_path / "find.meta.json").write_text(json.dumps(meta))
    assert coverage_of(plan, tmp_path).unreadable == 1
    meta["sha256"] = "0" * 64  # of another crawl: nobody knows then
    (tmp_path / "find.meta.json").write_text(json.dumps(meta))
    assert not coverage_of(plan, tmp_path).known
    assert not coverage_of(plan, tmp_path).complete
    told = run(*cut)
    assert (told.returncode, "rm find.json; make find.json" in told.stderr) == (4, True)
    (tmp_path / "find.meta.json").unlink()
    assert not coverage_of(plan, tmp_path).complete
    told = run(*cut)
    assert (told.returncode, "find.meta.json is missing" in told.stderr) == (2, True)


def test_a_tree_of_few_levels_is_no_plan(tmp_path: Path, run, release) -> None:
    run("find.py", release, "--depth", "1", "-o", tmp_path / "find.json")
    told = run("batch.py", release, "--file-tree", tmp_path / "find.json", "-o", tmp_path / "batch.json")
    assert told.returncode == 4
    assert "without --depth" in told.stderr
    assert read_meta(tmp_path / "find.meta.json").settings["depth"] == 1


def test_what_travels_is_bounded_and_comes_back() -> None:
    meta = TreeMeta("/data", {"exclude": ["*.tmp"], "links": "skip", "depth": None}, "", 0, 0, 0, 0, 0, 0, "", "")
    many = [Unreadable(f"{number:05d}", DENIED, "Permission denied") for number in range(12_345)]
    coverage = make_coverage(meta, many, 3, 4)
    assert (coverage.unreadable, len(coverage.named)) == (12_345, MOST_NAMED)
    assert coverage.left_out == {"exclude": ["*.tmp"], "links": "skip"}
    assert decode_coverage(json.loads(json.dumps(encode_coverage(coverage)))) == coverage
    long = make_coverage(meta, [Unreadable("x" * 30_000, DENIED, "")] * 9, 0, 0)
    assert long.unreadable == 9
    assert sum(len(bad.path) for bad in long.named) <= MOST_CHARACTERS


@pytest.mark.parametrize(
    ("subdirs", "patterns", "left"),
    [
        ((".",), (), ["a", "a/b/c", "ab", "z/odd\udcff"]),
        (("a",), (), ["a", "a/b/c"]),
        (("a/b",), (), ["a/b/c"]),
        ((".",), ("b",), ["a", "ab", "z/odd\udcff"]),
        ((".",), ("z/odd*", "a"), ["ab"]),
    ],
)
def test_only_what_is_selected_counts(subdirs, patterns, left) -> None:
    found = [Unreadable(path, DENIED, "") for path in ("a", "a/b/c", "ab", "z/odd\udcff")]
    assert [bad.path for bad in selected_unreadable(found, subdirs, patterns)] == left
