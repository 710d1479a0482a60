"""Two manifests are compared by content, whatever prefixes and order they have."""

import hashlib
import itertools
import json
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from lading.cli.diff import main
from lading.core import external_sort
from lading.core.command_line import run_main
from lading.diff.manifests import compare_content
from lading.diff.sides import OF_LISTING, OF_TREE, SortedSide, listing_side
from lading.objectstore.keys import encode_key
from lading.objectstore.object_info import ObjectInfo
from lading.testing.s3_server import Server
from lading.tree.entry_record import EntryMetadata, RecordedEntry
from lading.verification import manifest_scan
from lading.verification.manifest import ManifestHeader, ManifestRow, manifest_lines, read_manifest, write_manifest
from lading.verification.manifest_scan import ScannedRow, text_of

WHEN = "2026-01-01T00:00:00Z"


def write(path: Path, files: dict[str, str], prefix: str = "dr1/", keys: dict[str, str] | None = None) -> Path:
    """Write a manifest of {path: content}; ``keys`` are of files that were remapped."""
    rows = [
        ManifestRow(
            name, (keys or {}).get(name, prefix + name), len(content), 0, None, content and f"sha-{content}", "e", None,
            "etag", "b", WHEN,
        )
        for name, content in files.items()
    ]  # fmt: skip
    rows.sort(key=lambda row: row.key.encode())
    write_manifest(path, ManifestHeader("b", "", None, "/r", "0" * 64, WHEN, {}), rows, complete=True)
    return path


def diff(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    assert run_main(main, [*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


OLD = {"a": "1", "b/x": "22", "b/y": "333", "c": "4444", "gone": "5", "empty": "", "z/raw/deep/f": "777"}
NEW = {"a": "1", "q/x": "22", "q/y": "333", "c": "other", "new": "66", "void": "", "z/cooked/deep/f": "777"}


@pytest.mark.parametrize("prefix", ["dr1/", "dr2/", ""])
def test_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str], prefix: str) -> None:
    old, new = write(tmp_path / "old", OLD), write(tmp_path / "new", NEW, prefix)
    found = diff(capsys, old, new, "-o", tmp_path / "all.jsonl")
    assert (found["compared_by"], found["same"]) == ("path", 1)
    assert found["objects"] == {"added": 2, "removed": 2, "changed": 1, "renamed": 3, "undecided": 0}
    assert found["bytes"]["renamed"] == 8
    assert {(item["old"], item["new"]): item["objects"] for item in found["renamed_directories"]} == {
        ("b", "q"): 2, ("z/raw", "z/cooked"): 1,
    }  # fmt: skip
    assert found["directories"]["q"] == {"renamed": 2, "bytes": 5}
    changes = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert {"kind": "changed", "path": "c", "size": 5, "old_size": 4} in changes
    assert {"kind": "renamed", "path": "q/x", "size": 2, "old_path": "b/x"} in changes
    assert {change["path"] for change in changes if change["kind"] in ("added", "removed")} == {
        "new", "void", "gone", "empty",
    }  # fmt: skip


def test_remapped_files_are_compared_by_their_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {"b/x": "raw/x"}
    old, new = write(tmp_path / "old", OLD, keys=keys), write(tmp_path / "new", {**OLD, "a": "other"}, "dr1/", keys)
    found = diff(capsys, old, new, "-o", tmp_path / "all.jsonl")
    assert (found["compared_by"], found["same"], sum(found["objects"].values())) == ("key", len(OLD) - 1, 1)
    (line,) = (tmp_path / "all.jsonl").read_text().splitlines()
    assert json.loads(line) == {"kind": "changed", "path": "a", "size": 5, "old_size": 1}


def test_in_pieces_as_in_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a comparison in memory, with renames among files of equal content."""
    draw = random.Random(7)
    files = [{f"{draw.randrange(9)}/{n}": "x" * draw.randrange(40) for n in range(300)} for _ in range(2)]
    old, new = write(tmp_path / "old", files[0]), write(tmp_path / "new", files[1])
    whole = diff(capsys, old, new, "--most", "1000")
    monkeypatch.setattr(external_sort, "LINES", 7)
    assert diff(capsys, old, new, "--most", "1000") == whole
    both = files[0].keys() & files[1].keys()
    changed = sum(files[0][name] != files[1][name] for name in both)
    gone = [files[0][name] for name in files[0].keys() - both]
    come = [files[1][name] for name in files[1].keys() - both]
    renamed = sum(min(gone.count(content), come.count(content)) for content in set(gone) if content)
    assert whole["objects"] == {
        "added": len(come) - renamed, "removed": len(gone) - renamed, "changed": changed, "renamed": renamed,
        "undecided": 0,
    }  # fmt: skip


def test_exit_codes_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = str(write(tmp_path / "old", OLD)), str(write(tmp_path / "new", {**NEW, "n\x1b[2J": "esc"}))
    assert run_main(main, [old, new, "--most", "1"]) == 0
    table = capsys.readouterr().out
    assert "renamed directory: b -> q (2 objects)" in table
    assert "… and 2 more (-o FILE writes all)" in table
    assert "\x1b" not in table
    assert run_main(main, [old, new, "--exit-code"]) == 4
    assert run_main(main, [old, old, "--exit-code"]) == 0
    assert run_main(main, [old, new, "-o", old]) == 2
    whole = Path(new).read_bytes()
    Path(new).write_bytes(whole[:-5])
    assert run_main(main, [old, new, "-o", str(tmp_path / "out")]) == 4
    assert not (tmp_path / "out").exists()


def test_without_a_common_digest_nothing_is_claimed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = ManifestRow("a", "a", 1, 0, "md5", None, "e1", None, "etag", "b", WHEN)
    header = ManifestHeader("b", "", None, "/r", "0" * 64, WHEN, {})
    write_manifest(tmp_path / "old", header, [row], complete=True)
    write_manifest(tmp_path / "new", header, [replace(row, md5=None, sha256="s", etag="e2")], complete=True)
    assert diff(capsys, tmp_path / "old", tmp_path / "new")["objects"]["undecided"] == 1


def test_names_that_json_escapes_and_rows_of_another_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both are read as the plain ones are, in blocks of any length."""
    names = {
        f"d/{name}": name for name in ("é", 'quote"', "back\\", "new\nline", "\udcff", "plain", "tab\t", "emoji😀")
    }
    old = write(tmp_path / "old", names, keys={name: "dr1/" + name.replace("\udcff", "%FF") for name in names})
    lines = list(manifest_lines(old))
    spaced = [line.replace(b'","key":', b'", "key":') if b"plain" in line else line for line in lines[:-1]]
    end = json.loads(lines[-1])
    end["end"]["sha256"] = hashlib.sha256(b"".join(spaced)).hexdigest()
    (tmp_path / "other").write_bytes(zstandard.compress(b"".join(spaced) + json.dumps(end).encode() + b"\n"))
    found = diff(capsys, old, tmp_path / "other", "--changes", tmp_path / "changes.json")
    assert (found["same"], sum(found["objects"].values())) == (len(names), 0)
    assert json.loads((tmp_path / "changes.json").read_text()) == found
    assert (found["old"]["objects"], found["new"]["manifest"]) == (len(names), end["end"]["sha256"])
    new = write(tmp_path / "new", {"e/" + name[2:]: content for name, content in names.items()},
                keys={"e/" + name[2:]: "dr1/e/" + name[2:].replace("\udcff", "%FF") for name in names})  # fmt: skip
    found = diff(capsys, old, new)
    assert found["objects"]["renamed"] == len(names)
    assert {(item["path"], item["old_path"]) for item in found["named"]["renamed"]} == {
        ("e/" + name[2:], name) for name in names
    }


@pytest.mark.parametrize("size", [50, 333, 4 << 20])
def test_blocks_of_any_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    old, new = write(tmp_path / "old", OLD), write(tmp_path / "new", NEW)
    whole = manifest_scan.manifest_blocks

    def small(path: Path, shown: str) -> Iterator[bytes]:
        for block in whole(path, shown):
            yield from (block[place : place + size] for place in range(0, len(block), size))

    monkeypatch.setattr(manifest_scan, "manifest_blocks", small)
    assert diff(capsys, old, new)["objects"] == {"added": 2, "removed": 2, "changed": 1, "renamed": 3, "undecided": 0}
    empty = write(tmp_path / "empty", {})
    assert diff(capsys, empty, new)["objects"]["added"] == len(NEW)
    assert diff(capsys, empty, empty)["same"] == 0


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        (lambda lines: lines[:-1], 4, "is truncated"),
        (lambda lines: [*lines[:-1], lines[-1][:20]], 4, "is truncated"),
        (lambda lines: [lines[0], *lines[2:]], 4, "does not match its end record"),
        (lambda lines: [*lines[:1], lines[1].replace(b'"size":1', b'"size":2'), *lines[2:]], 4, "does not match"),
        (lambda lines: [*lines[:1], b"nonsense\n", *lines[1:]], 4, "line 2: not a manifest row"),
        (lambda lines: [lines[0].replace(b'"format":1', b'"format":2'), *lines[1:]], 2, "of format 2, and this Lading"),
        (lambda lines: [], 4, "is truncated"),
        (lambda lines: [b"{}\n"], 2, "is not a manifest of format 1"),
        (lambda lines: [*lines[:1], *sorted(lines[1:-1], reverse=True), lines[-1]], 4, "does not match"),
    ],
)
def test_what_is_no_whole_manifest_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, code: int, word: str
) -> None:
    good, bad = write(tmp_path / "good", OLD), tmp_path / "bad"
    bad.write_bytes(zstandard.compress(b"".join(change(list(manifest_lines(good))))))
    for pair in ((good, bad), (bad, good)):
        assert run_main(main, [*map(str, pair), "-o", str(tmp_path / "out")]) == code
        said = capsys.readouterr()
        assert (word in said.err, said.out, (tmp_path / "out").exists()) == (True, "", False), said.err


@pytest.mark.parametrize("size", [50, 4 << 20])
def test_what_is_no_regular_file_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    whole = manifest_scan.manifest_blocks

    def small(path: Path, shown: str) -> Iterator[bytes]:
        for block in whole(path, shown):
            yield from (block[place : place + size] for place in range(0, len(block), size))

    monkeypatch.setattr(manifest_scan, "manifest_blocks", small)
    old = write(tmp_path / "old", OLD)
    manifest = read_manifest(old)
    metadata = EntryMetadata(0o644, 1, 2, None, None, 3, 4, 5)
    rows = [replace(row, metadata=metadata) for row in manifest.rows()]
    links = [RecordedEntry("directory", "d", empty=True), RecordedEntry("link", "d/l", "../x")]
    write_manifest(tmp_path / "new", manifest.header, rows, complete=True, entries=links)
    assert diff(capsys, old, tmp_path / "new")["same"] == len(OLD)
    lines = list(manifest_lines(tmp_path / "new"))
    moved = [lines[0], lines[-2], *lines[1:-2], lines[-1]]
    (tmp_path / "moved").write_bytes(zstandard.compress(b"".join(moved)))
    assert run_main(main, [str(old), str(tmp_path / "moved")]) == 4


# -- sides that are no manifests --

HARD = {
    "a": "1",
    "b/x": "22",
    "b": None,
    "b-c": "333",
    "new\nline": "4444",
    "caf\udce9": "5",
    "z/\x01": "6",
    "e": "",
}


def fill(top: Path, files: dict[str, str | None], seconds: int = 1_700_000_000) -> Path:
    for name, content in files.items():
        if content is None:
            continue
        path = Path(os.fsdecode(os.path.join(os.fsencode(top), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        os.utime(path, (seconds, seconds))
    return top


def manifest_of(path: Path, files: dict[str, str | None], prefix: str = "dr1/", bucket: str = "b") -> Path:
    """Write a manifest with true digests, whose keys are in order of bytes."""
    rows = []
    for name, content in files.items():
        if content is not None:
            body = content.encode()
            md5, sha256 = hashlib.md5(body).hexdigest(), hashlib.sha256(body).hexdigest()
            key = prefix + encode_key(name)
            rows.append(ManifestRow(name, key, len(body), 0, md5, sha256, md5, None, "etag", "b", WHEN))
    rows.sort(key=lambda row: row.key.encode())
    write_manifest(path, ManifestHeader(bucket, prefix, None, "/r", "0" * 64, WHEN, {}), rows, complete=True)
    return path


def signed_off(run: Any, top: Path, output: Path) -> Path:
    assert run("-m", "lading", "signoff", top, "-o", output, "--checks", "all=off").returncode == 0
    return output / "digests.jsonl"


def test_a_directory_is_the_manifest_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Any) -> None:
    """By its entries, its tree and the digests of a sign-off, each with each; order and odd names do not matter."""
    top = fill(tmp_path / "data", HARD)
    manifest = manifest_of(tmp_path / "m", HARD)
    assert run("find.py", top, "--mtime", "-o", tmp_path / "find.json").returncode == 0
    digests = signed_off(run, top, tmp_path / "signoff")
    sides = [top, tmp_path / "find.json", digests, manifest]
    for one, other in itertools.permutations(sides, 2):
        found = diff(capsys, one, other)
        assert (found["same"], sum(found["objects"].values())) == (7, 0), (one, other, found)
        assert found["same_by_size"] == (0 if {one, other} == {digests, manifest} else 7)
    assert found["old"]["manifest"]
    assert found["new"]["objects"] == 7


@pytest.mark.parametrize("remap", [{"b": "elsewhere"}, {"b": "dr1/zz"}])
def test_a_directory_is_the_manifest_of_it_also_where_directories_were_remapped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], remap: dict[str, str]
) -> None:
    """A tree knows paths alone: its files are not others because their keys are."""
    files = {"a": "1", "b/x": "22", "b/deep/\xff": "333", "c": "4444", "ü\n": "5"}
    top = fill(tmp_path / "data", files)
    manifest = read_manifest(manifest_of(tmp_path / "m", files, "dr1/"))
    rows = [
        replace(row, key=row.key.replace(f"dr1/{old}/", f"{new}/"))
        for row in manifest.rows()
        for old, new in remap.items()
    ]
    path = tmp_path / "remapped"
    write_manifest(path, manifest.header, sorted(rows, key=lambda row: row.key.encode()), complete=True)
    for pair in ((path, top), (top, path)):
        found = diff(capsys, *pair)
        assert (found["same"], sum(found["objects"].values()), found["compared_by"]) == (5, 0, "path"), found
    assert {found["old"]["objects"], found["new"]["objects"]} == {5}
    assert found["new"]["manifest"] == read_manifest(path).end.sha256
    (top / "b" / "x").unlink()
    found = diff(capsys, path, top)
    assert [one["path"] for one in found["named"]["removed"]] == ["b/x"]


def test_what_changed_in_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Any) -> None:
    top = fill(tmp_path / "data", {"same": "1", "longer": "22", "bytes": "333", "gone": "4", "old/f": "rename"})
    find = ("find.py", top, "--mtime", "-o")
    assert run(*find, tmp_path / "one.json").returncode == 0
    before = signed_off(run, top, tmp_path / "one")
    (top / "gone").unlink()
    (top / "old").rename(top / "new")
    fill(top, {"longer": "2222", "bytes": "334", "added": "5"}, 1_700_000_100)
    assert run(*find, tmp_path / "two.json").returncode == 0
    found = diff(capsys, tmp_path / "one.json", tmp_path / "two.json")
    assert found["objects"] == {"added": 2, "removed": 2, "changed": 1, "renamed": 0, "undecided": 1}
    assert [one["path"] for one in found["named"]["undecided"]] == ["bytes"]  # of equal size, at another time
    assert (found["same"], found["same_by_size"]) == (1, 1)
    found = diff(capsys, before, signed_off(run, top, tmp_path / "two"))
    assert found["objects"] == {"added": 1, "removed": 1, "changed": 2, "renamed": 1, "undecided": 0}
    assert found["renamed_directories"] == [{"old": "old", "new": "new", "objects": 1}]


def test_a_manifest_and_its_bucket(tmp_path: Path, capsys: pytest.CaptureFixture[str], s3: Server, bucket: str) -> None:
    """By whole keys, also where the release is below the root; another bucket is compared below its prefix."""
    s3.make_bucket(bucket)
    files = {"a": "1", "b/x": "22", "b/y": "333", "c": "4444"}
    fill(s3.directory / bucket / "p/dr1", files)
    manifest = manifest_of(tmp_path / "m", files, "p/dr1/", bucket)
    where = f"s3://{bucket}/p"
    found = diff(capsys, manifest, where, "--endpoint-url", s3.endpoint)
    assert (found["compared_by"], found["same"], sum(found["objects"].values())) == ("key", 4, 0)
    fill(s3.directory / bucket / "p/dr1", {"a": "2", "extra": "5", "d/y": "333"})
    (s3.directory / bucket / "p/dr1/b/y").unlink()
    found = diff(capsys, manifest, where, "--endpoint-url", s3.endpoint, "--page", tmp_path / "diff.html")
    assert found["objects"] == {"added": 1, "removed": 0, "changed": 1, "renamed": 1, "undecided": 0}
    assert found["named"]["renamed"][0]["path"] == "p/dr1/d/y"
    page = (tmp_path / "diff.html").read_text()
    assert "b/y → p/dr1/d/y" in page
    assert where in page
    s3.make_bucket(f"{bucket}-2")
    fill(s3.directory / f"{bucket}-2" / "q", files)
    found = diff(capsys, manifest, f"s3://{bucket}-2/q", "--endpoint-url", s3.endpoint)
    assert (found["compared_by"], found["same"], sum(found["objects"].values())) == ("path", 4, 0)
    found = diff(capsys, f"s3://{bucket}-2/q", fill(tmp_path / "data", files), "--endpoint-url", s3.endpoint)
    assert (found["same"], found["same_by_size"]) == (4, 4)


def test_an_etag_of_parts_decides_nothing(tmp_path: Path) -> None:
    def row(size: bytes, md5: bytes, etag: bytes, more: bytes = b"") -> ScannedRow:
        return b"p", b"k", size, md5, b"null", etag, more

    ours = row(b"9", b'"m"', b'"e-2"')
    assert compare_content(ours, row(b"9", b"null", b'"e-2"', OF_LISTING)) == "same"
    assert compare_content(ours, row(b"9", b"null", b'"f-2"', OF_LISTING)) == "undecided"
    assert compare_content(ours, row(b"9", b'"m"', b'"m"', OF_LISTING)) == "same"
    assert compare_content(row(b"9", b"null", b'"e"'), row(b"9", b"null", b'"f"', OF_LISTING)) == "changed"
    assert compare_content(ours, row(b"8", b'"m"', b'"m"', OF_LISTING)) == "changed"


def test_a_bucket_that_lists_keys_twice_and_in_any_order(tmp_path: Path) -> None:
    """Each object counts once; where it was replaced between two pages, as it is since."""
    old, new = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    listed = [
        ObjectInfo("p/c", 1, "0" * 32, old),
        ObjectInfo("p/b", 2, "0" * 32, new),
        ObjectInfo("p/b", 3, "0" * 32, old),
        ObjectInfo("p/a", 4, "0" * 32, old),
        ObjectInfo("p/c", 1, "0" * 32, old),
    ]
    side = listing_side(listed, {"bucket": "b"}, "p/", tmp_path, "side")
    rows = [row for block in side.rows() for row in block]
    assert [(row[1], row[2]) for row in rows] == [(b"p/a", b"4"), (b"p/b", b"2"), (b"p/c", b"1")]


def test_a_directory_that_cannot_be_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    top = fill(tmp_path / "data", {"a": "1", "b/x": "22"})
    real = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert run_main(main, [str(manifest_of(tmp_path / "m", {"a": "1", "b/x": "22"})), str(top)]) == 3
    assert "1 path could not be read and counts as absent: b" in capsys.readouterr().err


def test_sides_of_any_names_as_in_memory(tmp_path: Path) -> None:
    draw = random.Random(3)
    names = {"".join(draw.choices("ab/\n\t\x01\x0bé-", k=draw.randrange(1, 9))) for _ in range(2000)}
    side = SortedSide(tmp_path, "side", {})
    for name in names:
        side.add(name, name, len(name), b"null", b"null", b'""', OF_TREE)
    found = [row for block in side.rows() for row in block]
    assert [row[1].decode() for row in found] == sorted(names, key=str.encode)
    assert [text_of(row[0]) for row in found] == sorted(names, key=str.encode)
