"""One treatment of time: what 64 bits of nanoseconds do not hold is the nearest that they do, in every part."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lading.checksums.digest import FileDigests, digest_file, digest_files
from lading.core.atomic import encode_record
from lading.core.times import EARLIEST, LATEST, mtime_of, parse_time, saturate, set_mtime
from lading.journal.index_rows import hash_keys
from lading.journal.journal_index import JournalIndex
from lading.journal.records import VerificationRecord, encode_header, encode_verification, is_sound
from lading.testing.s3_server import Server
from lading.tree.json_reader import read_tree
from lading.verification.manifest import ManifestHeader, ManifestRow, read_manifest, write_manifest
from tests.conftest import REPOSITORY

# Seconds since 1970 with nanoseconds: ext4's earliest and latest, 64 bits' latest and the one after, ordinary ones.
TIMES = {
    "1901": -(1 << 31) * 10**9,
    "1969": -1,
    "1970": 0,
    "2024": 1_717_000_000_123_456_789,
    "latest": LATEST - 1,
    "2262": LATEST,
    "over": LATEST + 1,
    "2300": 10_413_792_000 * 10**9,
    "2446": 15_032_385_535 * 10**9,
}


@pytest.fixture
def dated(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    for name, when in TIMES.items():
        (root / name).write_text(name)
        os.utime(root / name, ns=(when, when))
        if os.stat(root / name).st_mtime_ns != when:
            pytest.skip(f"this file system does not hold the year {name}")
    return root


def test_c_and_python_take_the_same_times(dated: Path, tmp_path: Path) -> None:
    expected = {name: saturate(when) for name, when in TIMES.items()}
    assert {name: mtime_of(os.stat(dated / name)) for name in TIMES} == expected
    for walk in ("", "python"):
        out = tmp_path / f"{walk or 'c'}.json"
        command = [sys.executable, str(REPOSITORY / "find.py"), str(dated), "--mtime", "-o", str(out)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "LADING_WALK": walk})
        assert {entry[0]: entry[3] for entry in json.loads(out.read_text())[3:]} == expected, walk
        times = read_tree(out).tree.mtimes
        assert times is not None
        assert sorted(times[1:]) == sorted(expected.values())


@pytest.mark.parametrize("compiled", [True, False])
def test_stamps_do_not_depend_on_who_reads(dated: Path, compiled: bool) -> None:
    paths = [str(dated / name) for name in TIMES]
    found = digest_files([(path, 4) for path in paths]) if compiled else [digest_file(path) for path in paths]
    found = [digests for digests in found if isinstance(digests, FileDigests)]
    assert [digests.after.mtime_ns for digests in found] == [saturate(when) for when in TIMES.values()]
    assert all(digests.steady for digests in found)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-0", 0),
        ("-1", -1),
        (str(LATEST), LATEST),
        (str(LATEST + 1), LATEST),
        (str(EARLIEST), EARLIEST),
        (str(EARLIEST - 1), EARLIEST),
        ("1" * 5000, LATEST),
        ("-" + "1" * 5000, EARLIEST),
        ("0" * 5000 + "7", 7),
    ],
)
def test_a_number_of_any_length_is_a_time(text: str, value: int, tmp_path: Path) -> None:
    assert parse_time(text) == parse_time(text.encode()) == value
    tree = tmp_path / "find.json"
    if len(text) < 5000 and text != "-0":
        tree.write_text(f'["data",0,3,["a",1,3,{text}]]\n')
        times = read_tree(tree).tree.mtimes
        assert times is not None
        assert list(times) == [0, value]


@pytest.mark.parametrize("text", ["", "-", "x", "1.5", "1e9", "٣"])
def test_other_texts_are_no_times(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        parse_time(text)


def proof_record(**more: object) -> dict[str, object]:
    proof = VerificationRecord("a", 5, 7, "e" * 32, "2026-01-01T00:00:00Z", "m", "s", "c", "etag", "b1")
    return {**encode_verification(proof), **more}


@pytest.mark.parametrize("number", [10**30, -(10**30), LATEST + 1, EARLIEST - 1, -1, 0])
def test_a_reader_of_journals_takes_any_number_as_a_time(tmp_path: Path, number: int) -> None:
    header = encode_header("w", "s3://bucket/", None, "/data", "2026-01-01T00:00:00Z")
    lines = [header, proof_record(mtime=number), proof_record(key="b"), proof_record(key="c", plan=[5, number])]
    (tmp_path / "w.jsonl").write_bytes(b"".join(map(encode_record, lines)))
    journal_index = JournalIndex(tmp_path)
    assert journal_index.damaged == 0
    found = journal_index.find(hash_keys(["a", "b", "c"]))
    assert found.proven([5, 5, 5], [saturate(number), 7, saturate(number)]).all()
    proofs = list(journal_index.proofs(["a", "b", "c"], found))
    assert [proof and proof.mtime_ns for proof in proofs] == [saturate(number), 7, 7]
    journal_index.write_indexes()
    assert JournalIndex(tmp_path).find(hash_keys(["a"])).proven([5], [saturate(number)]).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"mtime": "7"},
        {"mtime": None},
        {"mtime": 7.0},
        {"mtime": True},
        {"size": 1 << 63},
        {"size": -2},
        {"size": "5"},
        {"gen": 1 << 31},
        {"gen": -1},
        {"gen": "1"},
        {"plan": [5]},
        {"plan": [5, "7"]},
        {"plan": 5},
        {"plan": None},
        {"key": 5},
        {"key": "\ud800"},
        {"etag": None},
        {"by": 1},
        {"sha256": 1},
    ],
)
def test_a_record_with_a_wrong_field_is_a_damaged_line(tmp_path: Path, wrong: dict[str, object]) -> None:
    assert is_sound(proof_record())
    assert not is_sound(proof_record(**wrong))
    header = encode_header("w", "s3://bucket/", None, "/data", "2026-01-01T00:00:00Z")
    lines = [header, proof_record(key="b"), proof_record(**wrong)]
    (tmp_path / "w.jsonl").write_bytes(b"".join(map(encode_record, lines)))
    journal_index = JournalIndex(tmp_path)
    assert journal_index.damaged == 1
    assert journal_index.find(hash_keys(["b", "a"])).rank.tolist() == [0, -1]


def test_a_manifest_holds_the_nearest_time(tmp_path: Path) -> None:
    header = ManifestHeader("bucket", "", None, "/data", "0" * 64, "2026-01-01T00:00:00Z", {})
    row = ManifestRow("a", "a", 5, 10**30, None, None, "e" * 32, None, "etag", "b", "2026-01-01T00:00:00Z")
    write_manifest(tmp_path / "m.zst", header, [row], complete=True)
    assert [row.mtime_ns for row in read_manifest(tmp_path / "m.zst").rows()] == [LATEST]


def test_a_time_that_cannot_be_held_is_told(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as stream:
        assert set_mtime(stream.fileno(), 1_717_000_000_123_456_789)
        assert not set_mtime(stream.fileno(), LATEST)
        assert not set_mtime(stream.fileno(), 10**40)


@pytest.mark.parametrize("flags", ["", "--mtime"])
@pytest.mark.parametrize("digest", ["", "python"])
def test_files_of_all_times_go_the_whole_way(
    dated: Path,
    s3: Server,
    bucket: str,
    make: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
    flags: str,
    digest: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LADING_DIGEST", digest)
    s3.make_bucket(bucket)
    settings = {"root": dated, "bucket": f"s3://{bucket}", "endpoint": s3.endpoint, "find_flags": flags}
    for target in ("find.json", "batch.json", "upload", "verify", "upload", "verify"):
        done = make(target, **settings)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "sent 0 objects" in done.stdout or "9 of 9" in done.stdout, done.stdout
    back = tmp_path / "back"
    command = [sys.executable, "-m", "lading", "restore", "--to", str(back)]
    manifest = next(tmp_path.rglob("manifest.jsonl.zst"))
    done = subprocess.run(command, cwd=manifest.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {name: os.stat(back / name).st_mtime_ns for name in TIMES} == {n: saturate(w) for n, w in TIMES.items()}
    assert "note: 4 files have a modification time" in done.stderr, done.stderr
