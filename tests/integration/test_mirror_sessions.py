"""Sessions that job lists sent one by one form one superdataset: the mirror of a directory of manifests."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from lading.verification.manifest import ManifestHeader, ManifestRow, write_manifest
from tests.conftest import need_program
from tests.mirrors import Listed, git, head, repository, stores

FIRST = "ecephys_1_2024-05-27_16-07-59"
SECOND = "behavior_2_2024-05-28_10-00-00"
THIRD = "SPIM_3_2024-06-01_09-30-00"
ENDPOINT = "http://127.0.0.1:9"


@pytest.fixture
def update(run, tmp_path) -> Callable[..., str]:
    """Run the mirror over ``runs/``: ``update("--gc-assets", code=3)``; returns what it said."""
    need_program("git-annex")

    def call(*arguments: object, verb: str = "update", store="datasets", config: str = "", code: int = 0) -> str:
        settings = tmp_path / "mirror.yaml"
        places = f"datasets: {{path: {store}}}\nzarrs: {{path: {store}}}\nmanifest: runs\n"
        settings.write_text(places + config)
        result = run("-m", "lading", "mirror", "--config", settings, verb, *arguments, cwd=tmp_path)
        assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
        assert "Traceback" not in result.stderr
        return str(result.stdout + result.stderr)

    return call


def write(
    tmp_path: Path, prefix: str, names: Iterable[str], *, bucket: str = "lab", shipment: str = "staged", complete=True
) -> Path:
    """Write the manifest of one upload of a job where the job's state has it."""
    listing = Listed(tmp_path)
    for name in names:
        listing.put(name, f"{prefix}/{name}".encode())
    rows = [dataclasses.replace(row, key=f"{prefix}/{name}") for name, row in listing.rows.items()]
    header = ManifestHeader(bucket, f"{prefix}/", ENDPOINT, str(tmp_path / "gone"), "0" * 64, "2026-01-01", {})
    target = tmp_path / "runs" / bucket / prefix.split("/")[0] / "upload" / shipment / "manifest.jsonl.zst"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(target, header, sorted(rows, key=_key), complete=complete)
    return target


def _key(row: ManifestRow) -> bytes:
    return row.key.encode()


def datasets(tmp_path: Path) -> list[str]:
    records = json.loads(git("show", "main:.mirror/datasets.json", cwd=repository(tmp_path, "")))
    return sorted(path for path in records["datasets"] if path)


def files_of(tmp_path: Path, path: str) -> list[str]:
    names = git("ls-tree", "-r", "--name-only", "main", cwd=repository(tmp_path, path)).decode().splitlines()
    return [name for name in names if not name.startswith((".datalad", ".mirror", ".git"))]


def three(tmp_path: Path) -> None:
    write(tmp_path, FIRST, ["session.json", "ecephys/a.dat", "ecephys/b.zarr/.zgroup", "ecephys/b.zarr/0"])
    write(tmp_path, f"{FIRST}/behavior-videos", ["cam.mp4"], shipment="behavior-videos")
    write(tmp_path, SECOND, ["behavior/x.csv", "behavior/y.csv", "behavior/z.csv"])


def test_each_session_is_a_dataset_of_one_superdataset(update, tmp_path) -> None:
    three(tmp_path)
    update()
    assert datasets(tmp_path) == [SECOND, FIRST, f"{FIRST}/ecephys/b.zarr"]
    # What was sent beside the staging folder is in the session, too.
    assert files_of(tmp_path, FIRST) == [
        *("behavior-videos/cam.mp4", "ecephys/a.dat", "ecephys/b.zarr", "session.json")
    ]
    url = git("grep", "-h", "cam.mp4", "git-annex", cwd=repository(tmp_path, FIRST)).decode()
    assert f"{ENDPOINT}/lab/{FIRST}/behavior-videos/cam.mp4" in url
    assert "agrees" in update(verb="verify")
    assert "nothing changed" in update()
    # A session more moves no other.
    before = {path: head(repository(tmp_path, path)) for path in datasets(tmp_path)}
    write(tmp_path, THIRD, ["SPIM/tile.bin"])
    assert "1 dataset updated, 3 unchanged" in update()
    assert datasets(tmp_path) == sorted([*before, THIRD])
    assert {path: head(repository(tmp_path, path)) for path in before} == before


def test_a_manifest_that_is_gone_says_nothing_of_its_session(update, tmp_path) -> None:
    three(tmp_path)
    update()
    before = head(repository(tmp_path, SECOND))
    write(tmp_path, SECOND, []).unlink()
    update()
    assert datasets(tmp_path) == [SECOND, FIRST, f"{FIRST}/ecephys/b.zarr"]
    assert head(repository(tmp_path, SECOND)) == before
    assert "1 removed" in update("--gc-assets")
    assert datasets(tmp_path) == [FIRST, f"{FIRST}/ecephys/b.zarr"]


def test_an_incomplete_session_holds_up_no_other(update, tmp_path) -> None:
    three(tmp_path)
    update()
    write(tmp_path, FIRST, ["session.json"], complete=False)
    write(tmp_path, SECOND, ["behavior/x.csv", "behavior/y.csv"])
    update("--gc-assets")
    assert "behavior/z.csv" not in files_of(tmp_path, SECOND)
    assert "ecephys/a.dat" in files_of(tmp_path, FIRST)
    assert f"{FIRST}/ecephys/b.zarr" in datasets(tmp_path)


def test_a_damaged_manifest_is_named_and_the_rest_done(update, tmp_path) -> None:
    three(tmp_path)
    update()
    before = head(repository(tmp_path, SECOND))
    damaged = write(tmp_path, SECOND, ["behavior/x.csv"])
    damaged.write_bytes(damaged.read_bytes()[:-9])
    write(tmp_path, THIRD, ["SPIM/tile.bin"])
    said = update(code=3)
    assert str(damaged.relative_to(tmp_path)) in said
    assert "1 dataset updated" in said
    assert head(repository(tmp_path, SECOND)) == before
    assert THIRD in datasets(tmp_path)
    # It is told until it is mended.
    assert str(damaged.relative_to(tmp_path)) in update(code=3)
    write(tmp_path, SECOND, ["behavior/x.csv", "behavior/y.csv", "behavior/z.csv"])
    update()


def test_two_manifests_of_one_prefix_count_neither(update, tmp_path) -> None:
    three(tmp_path)
    update()
    other = tmp_path / "runs" / "again" / "manifest.jsonl.zst"
    other.parent.mkdir()
    write(tmp_path, SECOND, ["behavior/x.csv"]).rename(other)
    write(tmp_path, SECOND, ["behavior/x.csv", "behavior/new.csv"])
    said = update(code=3)
    assert "describe the same objects" in said
    assert str(other.relative_to(tmp_path)) in said
    assert "behavior/z.csv" in files_of(tmp_path, SECOND)


def test_a_mirror_is_of_one_bucket(update, tmp_path) -> None:
    three(tmp_path)
    write(tmp_path, THIRD, ["SPIM/tile.bin"], bucket="open")
    assert "a mirror is of one bucket" in update(code=4)
    assert not stores(tmp_path).exists()
    update(store="open", config="s3bucket: open\n")
    assert not (tmp_path / "datasets").exists()
    update(config="s3bucket: lab\n")
    assert datasets(tmp_path) == [SECOND, FIRST, f"{FIRST}/ecephys/b.zarr"]
    assert "has no manifest of bucket else" in update(config="s3bucket: else\n", code=2)
