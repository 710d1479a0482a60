"""The file of recorded entries: whole, or refused with a sentence."""

from pathlib import Path

import pytest
import zstandard

from lading.core.errors import ConsistencyError, UsageError
from lading.tree.entry_record import RecordedEntry
from lading.tree.metadata_file import MetadataHeader, encode_line, metadata_path, open_metadata, write_entries

TREE = "0" * 64
ENTRIES = [RecordedEntry("link", f"l{n}", "x") for n in range(50)] + [
    RecordedEntry("directory", "e", empty=True),
    RecordedEntry("directory", "d"),
    RecordedEntry("file", "d/f"),
]


def write(path: Path) -> bytes:
    lines = ((encode_line(entry), 1) for entry in ENTRIES)
    assert write_entries(path, MetadataHeader(TREE, True), lines) == len(ENTRIES)
    return zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = metadata_path(tmp_path / "find.json.zst")
    assert path.name == "find.metadata.jsonl.zst"
    write(path)
    file = open_metadata(path, TREE)
    assert (list(file.entries()), file.header.metadata) == (ENTRIES, True)
    assert list(file.entries(only_special=True)) == ENTRIES[:51]


def test_cut_short_anywhere_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    text = write(path)
    data = path.read_bytes()
    torn = [data[:size] for size in range(0, len(data), 7)]
    torn += [zstandard.compress(text[:size]) for size in range(0, len(text), 97)]
    refused = 0
    for damaged in torn:
        path.write_bytes(damaged)
        try:
            # Without the last bytes, which are zstd's own checksum, every line is there.
            assert list(open_metadata(path, TREE).entries()) == ENTRIES
        except (ConsistencyError, UsageError):
            refused += 1
    assert refused >= len(torn) - 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"l7"', b'"l8"'),
        (b'"tree_sha256":"0', b'"tree_sha256":"1'),
        (b'"path":"l1"', b'"path":"/l1"'),
        (b"x", b"\\u0000"),
    ],
)
def test_edited_it_is_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "m"
    path.write_bytes(zstandard.compress(write(path).replace(old, new)))
    with pytest.raises((ConsistencyError, UsageError), match=r"rm find\.json; make find\.json"):
        list(open_metadata(path, TREE).entries())


def test_missing_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is missing"):
        open_metadata(tmp_path / "m", TREE)
