"""The manifest: whole or refused."""

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lading.core.errors import ConsistencyError, UsageError
from lading.tree.entry_record import EntryMetadata, RecordedEntry
from lading.verification.manifest import (
    ManifestHeader,
    ManifestRow,
    Strength,
    WithdrawnObject,
    read_manifest,
    write_manifest,
)
from lading.verification.manifest_scan import PATH, ManifestScan

HEADER = ManifestHeader("bucket", "p/", None, "/data/dr1", "0" * 64, "2026-01-01T00:00:00Z", {"level": "etag"})


def rows(count: int) -> list[ManifestRow]:
    return [
        ManifestRow(
            f"f{i:05d}",
            f"p/f{i:05d}",
            i,
            i * 10**9,
            "0" * 32,
            None,
            "0" * 32,
            None,
            "etag",
            "b1",
            "2026-01-01T00:00:00Z",
        )
        for i in range(count)
    ]


def test_rows_come_back(tmp_path) -> None:
    path = tmp_path / "manifest.jsonl.zst"
    end = write_manifest(path, HEADER, rows(1000), complete=True)
    manifest = read_manifest(path)
    assert list(manifest.rows()) == rows(1000)
    assert manifest.header == HEADER
    assert manifest.end == end
    assert (end.objects, end.bytes, end.complete) == (1000, sum(range(1000)), True)


@given(cut=st.integers(1, 4000))
def test_cut_anywhere_it_is_refused(tmp_path_factory, cut) -> None:
    path = tmp_path_factory.mktemp("m") / "manifest.jsonl.zst"
    write_manifest(path, HEADER, rows(200), complete=True)
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])
    with pytest.raises(ConsistencyError):
        read_manifest(path)


@pytest.mark.parametrize(
    "edit", [(b'"size":5,', b'"size":6,'), (b"f00007", b"f00008"), (b'"complete":true', b'"complete":tru')]
)
def test_edited_it_is_refused(tmp_path, edit) -> None:
    path = tmp_path / "manifest.jsonl.zst"
    write_manifest(path, HEADER, rows(20), complete=True)
    text = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
    assert edit[0] in text
    path.write_bytes(zstandard.compress(text.replace(*edit)))
    with pytest.raises(ConsistencyError):
        read_manifest(path)


def test_rows_out_of_order_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="order"):
        write_manifest(tmp_path / "m", HEADER, reversed(rows(3)), complete=True)
    assert list(tmp_path.iterdir()) == []


def test_missing_or_foreign_it_is_a_sentence(tmp_path) -> None:
    with pytest.raises(UsageError, match="make verify"):
        read_manifest(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ConsistencyError):
        read_manifest(tmp_path / "text")
    (tmp_path / "other").write_bytes(zstandard.compress(b'{"kind":"other","format":1}\n'))
    with pytest.raises(UsageError):
        read_manifest(tmp_path / "other")


def test_what_was_added_to_a_row_comes_back_and_is_left_out_where_unknown(tmp_path) -> None:
    plain, *_ = rows(1)
    full = replace(
        plain,
        key="p/g",
        sha256=None,
        verified_by="md5, present before",
        server_checksum="crc64nvme:AAAAAAAAAAA=",
        file_sha256="1" * 64,
    )
    path = tmp_path / "manifest.jsonl.zst"
    write_manifest(path, HEADER, [plain, full], complete=True)
    assert list(read_manifest(path).rows()) == [plain, full]
    assert (plain.present_before, full.present_before) == (None, True)
    assert (plain.strength, full.strength) == (Strength.MD5, Strength.CHECKSUM)
    text = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes()).splitlines()
    assert list(json.loads(text[1])) == [field.name for field in fields(ManifestRow)][:11]


def test_members_of_later_editions_are_passed_over(tmp_path) -> None:
    path = tmp_path / "manifest.jsonl.zst"
    write_manifest(path, HEADER, rows(3), complete=True)
    lines = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes()).splitlines()
    *body, end = [json.loads(line) for line in lines]
    for record in body:
        record["later"] = {"edition": 3}
    head = b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in body)
    end["end"] |= {"sha256": hashlib.sha256(head).hexdigest(), "later": 1}
    path.write_bytes(zstandard.compress(head + json.dumps(end).encode() + b"\n"))
    manifest = read_manifest(path)
    assert (list(manifest.rows()), manifest.header) == (rows(3), HEADER)


@pytest.mark.parametrize(
    ("checksum", "strength"),
    [("size", 0), ("etag", 1), ("crc64nvme:x", 2), ("sha256:x", 2), ("download", 3)],
)
def test_strength_of_rows_of_any_edition(checksum, strength) -> None:
    assert replace(rows(1)[0], checksum=checksum).strength == strength


def test_a_manifest_with_rows_of_sizes_alone_is_not_complete(tmp_path: Path) -> None:
    weak = replace(rows(1)[0], checksum="size")
    assert not write_manifest(tmp_path / "m", HEADER, [weak], complete=True).complete
    assert not read_manifest(tmp_path / "m").end.complete


def test_entries_follow_the_rows(tmp_path: Path) -> None:
    """Links, directories and metadata: both readers take them, and neither one between the rows."""
    metadata = EntryMetadata(0o640, 1, 2, "a", None, 5, 6, 7, xattrs={"user.x": b"\0"})
    kept = [replace(row, metadata=metadata if number % 2 else None) for number, row in enumerate(rows(300))]
    entries = [RecordedEntry("directory", "d", empty=True, metadata=metadata), RecordedEntry("link", "d/l", "../x")]
    path = tmp_path / "m"
    end = write_manifest(path, HEADER, kept, complete=True, entries=entries)
    manifest = read_manifest(path)
    assert (list(manifest.rows()), list(manifest.entries()), manifest.end) == (kept, entries, end)
    scan = ManifestScan(path)
    assert [row[PATH].decode() for block in scan.rows() for row in block] == [row.path for row in kept]
    lines = lines_of(path)
    for damaged in (
        [lines[0], lines[-3], *lines[1:-3], *lines[-2:]],
        [*lines[:-2], lines[1], *lines[-2:]],
        [*lines[:-2], lines[-1]],
    ):
        refuse(path, damaged)


def lines_of(path: Path) -> list[bytes]:
    text = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    return text.splitlines(keepends=True)


def refuse(path: Path, lines: list[bytes]) -> None:
    """Both readers refuse a manifest of these lines, though its end record has their digest."""
    body = b"".join(lines[:-1])
    record = json.loads(lines[-1])
    record["end"]["sha256"] = hashlib.sha256(body).hexdigest()
    path.write_bytes(zstandard.compress(body + json.dumps(record, separators=(",", ":")).encode() + b"\n"))
    with pytest.raises(ConsistencyError):
        read_manifest(path)
    with pytest.raises(ConsistencyError):
        list(ManifestScan(path).rows())


@pytest.mark.parametrize("count", [0, 2, 30_000])  # of no entry, and of more than a block of them
def test_withdrawn_objects_come_last_for_both_readers(tmp_path: Path, count: int) -> None:
    entries = [RecordedEntry("link", f"d{number:05}", "../x" * 50) for number in range(count)]
    withdrawn = [
        WithdrawnObject(f"w{n}", f"p/w{n}", 3, "0" * 32, None, None, "consent", "2026-01-01") for n in range(3)
    ]
    path = tmp_path / "m"
    end = write_manifest(path, HEADER, rows(300), complete=True, entries=entries, withdrawn=lambda: withdrawn)
    manifest, scan = read_manifest(path), ManifestScan(path)
    assert (list(manifest.withdrawn()), manifest.end) == (withdrawn, end)
    assert sum(map(len, scan.rows())) == 300
    assert scan.end == end
    lines = lines_of(path)
    refuse(path, [*lines[:-2], lines[-1]])
    refuse(path, [lines[0], lines[-2], *lines[1:-2], lines[-1]])
    if count:
        refuse(path, [*lines[:-3], lines[-2], lines[-5], lines[-1]])


def test_two_manifests_in_one_file_are_refused(tmp_path: Path) -> None:
    """As a shell makes them of two; a reader would take the first one for all."""
    path = tmp_path / "m"
    write_manifest(path, HEADER, rows(2), complete=True)
    path.write_bytes(zstandard.compress(b"".join(lines_of(path) * 2)))
    with pytest.raises(ConsistencyError, match="follows the end record"):
        read_manifest(path)
    with pytest.raises(ConsistencyError):
        list(ManifestScan(path).rows())


@pytest.mark.parametrize("second", ["f00000", "f"])
def test_a_manifest_whose_rows_are_out_of_order_is_refused(tmp_path: Path, second: str) -> None:
    """Of two rows of one key, or of keys that go back, a merge with a listing would make missing objects."""
    path = tmp_path / "m"
    write_manifest(path, HEADER, rows(2), complete=True)
    lines = [line.replace(b"f00001", second.encode()) for line in lines_of(path)]
    body = b"".join(lines[:-1])
    record = json.loads(lines[-1])
    record["end"]["sha256"] = hashlib.sha256(body).hexdigest()
    path.write_bytes(zstandard.compress(body + json.dumps(record, separators=(",", ":")).encode() + b"\n"))
    with pytest.raises(ConsistencyError, match=r"line 3: .* does not come after"):
        read_manifest(path)
