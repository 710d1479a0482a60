"""A working directory inside the release: what is Lading's own stays out of it, what is the user's does not."""

import os
from pathlib import Path

import pytest

from lading.crawl.artefacts import escape, find_artefacts
from lading.plan.batch_plan import read_plan
from lading.tree.json_reader import read_tree
from lading.tree.size_tree import read_meta
from tests.conftest import mostly_long
from tests.shipping import Site


def paths(tree_file: Path) -> list[str]:
    return [path for path, _ in read_tree(tree_file).tree.files()]


@pytest.mark.parametrize("work", mostly_long([".", "odd [dir]*/work"], "odd [dir]*/work"))
def test_artefacts_are_no_part_of_the_release(make, s3, bucket, tmp_path, work) -> None:
    s3.make_bucket(bucket)
    release = tmp_path / "dr1"
    users = ["a.bin", "deep/find.json", "deep/journal/x.jsonl", "deep/runs/r.json", "find.json.bak", "runs.txt"]
    # Names that could be ours beside ours, in the very directory: by their content they are the user's.
    users += [os.path.join(work, name) for name in ("report/plot.png", "mirror/image.fits", "portal/notes")]
    users = [os.path.normpath(name) for name in users]
    for name in users:
        (release / name).parent.mkdir(parents=True, exist_ok=True)
        (release / name).write_text(f"the user's {name}")
    here = release / work
    settings = {"root": release, "bucket": f"s3://{bucket}", "endpoint": s3.endpoint, "yes_root": 1}
    stages = ("find.json", "batch.json", "upload", "verify", "report")
    for stage in stages:
        done = make(stage, cwd=here, **settings)
        assert done.returncode == 0, done.stdout + done.stderr
    (release / "new").write_text("new")
    (here / "find.json").unlink()
    for stage in stages:
        done = make(stage, cwd=here, **settings)
        assert done.returncode == 0, done.stdout + done.stderr
        if stage == "find.json":
            assert "is inside the release; these artefacts of Lading were left out: " in done.stderr
            own = ["batch.json", "find.meta.json", "journal/", "manifest.jsonl.zst", "report/index.html", "runs/"]
            prefix = "" if work == "." else f"{work}/"
            for name in own:
                assert f"{prefix}{name}" in done.stderr
            artefacts = read_meta(here / "find.meta.json").artefacts
            assert {f"{prefix}{name}" for name in own} <= set(artefacts)
            assert f"artefacts of Lading were left out: {len(artefacts)} (" in done.stderr
    wanted = sorted([*users, "new"])
    assert sorted(paths(here / "find.json")) == wanted
    coverage = read_plan(here / "batch.json").coverage
    assert coverage is not None
    assert coverage.left_out["artefacts"]
    assert sorted(Site(tmp_path / "site", s3.endpoint, bucket).listing()) == wanted
    again = make("upload", cwd=here, **settings)
    assert "nothing to send" in again.stdout


def test_only_the_directory_of_the_output_is_looked_at(tmp_path: Path, run) -> None:
    release = tmp_path / "dr1"
    (release / "journal").mkdir(parents=True)
    (release / "journal" / "a.jsonl").write_text('{"kind":"journal"}\n')
    (release / "find.json").write_text("mine")
    assert run("find.py", release, "-o", tmp_path / "find.json").returncode == 0
    assert sorted(paths(tmp_path / "find.json")) == ["find.json", "journal/a.jsonl"]
    # A directory beside the release whose name begins alike is not inside.
    (tmp_path / "dr1-work").mkdir()
    assert find_artefacts(str(release), tmp_path / "dr1-work" / "find.json").names == ()


def test_what_is_no_artefact_stays(tmp_path: Path) -> None:
    for name in ("journal", "runs", "report", "mirror", "portal"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").write_text("<title>of the user</title>")
    (tmp_path / "batch.json").write_text('{"jobs": []}')
    (tmp_path / "manifest.jsonl.zst").write_bytes(b"no frame")
    (tmp_path / "runs" / "20260101T000000Z-x.json").write_text('{"kind": "walk"}')
    assert find_artefacts(str(tmp_path), tmp_path / "find.json").names == ()
    (tmp_path / "runs" / "20260101T000000Z-host-1.json").write_text('{\n "format": 1,\n "kind": "run"}')
    assert find_artefacts(str(tmp_path), tmp_path / "find.json").names == ("runs/20260101T000000Z-host-1.json",)


@pytest.mark.parametrize("walk", ["core", "python"])
def test_snapshots_are_named_with_the_flag_to_give(tmp_path: Path, run, monkeypatch, walk) -> None:
    monkeypatch.setenv("LADING_WALK", walk)
    release = tmp_path / "dr1"
    for name in ("a/.snapshot", ".zfs", "b/c/.ckpt", "b/.snapshots-not"):
        (release / name / "daily").mkdir(parents=True)
    (release / ".snapshots").write_text("a file")
    done = run("find.py", release, "-o", tmp_path / "find.json")
    assert done.returncode == 0
    assert "snapshot directories: .zfs, a/.snapshot, b/c/.ckpt;" in done.stderr
    flags = "--exclude .ckpt --exclude .snapshot --exclude .zfs"
    assert flags in done.stderr
    assert read_meta(tmp_path / "find.meta.json").unreadable == ()
    done = run("find.py", release, *flags.split(), "-o", tmp_path / "find.json")
    assert "snapshot" not in done.stderr


def test_escaped_names_match_themselves_alone() -> None:
    assert escape("a[1]*?") == "a[[]1][*][?]"
