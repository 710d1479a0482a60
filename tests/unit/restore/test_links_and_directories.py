"""Links, holes and hostile records, without a bucket."""

import base64
import os
from pathlib import Path

import pytest

from lading.core.target_tree import Tree
from lading.restore.accounts import AccountMap
from lading.restore.attributes import AttributeRestorer
from lading.restore.links_and_directories import EntryRestorer, leads_out
from lading.restore.sparse import FileWriter
from lading.tree.entry_record import (
    EntryMetadata,
    RecordedEntry,
    decode_entry_record,
    decode_metadata,
    encode_entry_record,
    encode_metadata,
)
from lading.verification.manifest import entry_order

PLAIN = EntryMetadata(0o644, os.getuid(), os.getgid(), None, None, 10**18, 10**18, 10**18)


@pytest.mark.parametrize(
    ("path", "target", "out"),
    [
        ("a/b/link", "../../x", False),
        ("a/b/link", "../../../x", True),
        ("link", "..", True),
        ("link", "/etc/passwd", True),
        ("link", "a//./b", False),
        ("link", "a/..", True),  # a may be a link to anywhere inside
        ("a/link", ".././../x", True),
        ("a/link", "..", False),
    ],
)
def test_what_leads_out(path: str, target: str, out: bool) -> None:
    assert leads_out(path, target) is out


def test_chained_links_never_lead_out_of_the_target(tmp_path: Path) -> None:
    """A link to a shallow place, and one that goes up behind it: by its text alone the second stays inside."""
    entries = [
        RecordedEntry("directory", "p", empty=True),
        RecordedEntry("link", "p/q/r/shallow", "../.."),
        RecordedEntry("link", "p/q/r/through", "shallow/../../etc"),
    ]
    tree = Tree(tmp_path / "to")
    found = EntryRestorer(tree, None).restore_all(entries)
    tree.close()
    assert (found.links, found.left.count("outside_links"), found.faults) == (1, 1, [])
    assert not os.path.lexists(tmp_path / "to/p/q/r/through")


def test_a_directory_swapped_for_a_link_meanwhile_gets_nothing(tmp_path: Path) -> None:
    trap, top = tmp_path / "trap", tmp_path / "to"
    trap.mkdir()
    tree = Tree(top)

    def entries():  # type: ignore[no-untyped-def]
        yield RecordedEntry("directory", "d", empty=True, metadata=PLAIN)
        (top / "d").rmdir()
        (top / "d").symlink_to(trap)
        yield RecordedEntry("link", "d/link", "x")
        yield RecordedEntry("directory", "d/e", empty=True)

    before = trap.stat()
    attributes = AttributeRestorer(AccountMap())
    found = EntryRestorer(tree, attributes).restore_all(entries())
    tree.close()
    assert [path for path, _ in found.faults] == ["d/link", "d/e"]
    assert list(trap.iterdir()) == []
    assert (trap.stat().st_mode, trap.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert any("attributes of a directory" in what for what in attributes.lacking)


def test_entries_of_a_hostile_manifest_are_refused() -> None:
    for value in (
        {"kind": "link", "path": "../x", "target": "y"},
        {"kind": "link", "path": "/x", "target": "y"},
        {"kind": "link", "path": "a//b", "target": "y"},
        {"kind": "link", "path": "a", "target": ""},
        {"kind": "link", "path": "a", "target": "x\0y"},
        {"kind": "link", "path": "a", "target": "x" * 5000},
        {"kind": "directory", "path": "a", "target": "y"},
        {"kind": "shortcut", "path": "a"},
        {"kind": "directory", "path": "a", "empty": 1},
        {"kind": "file", "path": "a", "metadata": 7},
        [],
    ):
        with pytest.raises(ValueError, match=r"."):
            decode_entry_record(value)


@pytest.mark.parametrize(
    "change",
    [
        {"mode": 0o10000},
        {"mode": "644"},
        {"uid": -1},
        {"uid": (1 << 32) - 1},
        {"mtime_ns": "1"},
        {"mtime_ns": True},
        {"user": "a\0b"},
        {"xattrs": {"user.\0": ""}},
        {"xattrs": {"": ""}},
        {"xattrs": {"user": ""}},
        {"xattrs": {"user." + "x" * 300: ""}},
        {"xattrs": {"user.x": "%%%"}},
        {"xattrs": {"user.x": base64.b64encode(bytes(70_000)).decode()}},
        {"xattrs": ["user.x"]},
    ],
)
def test_metadata_of_a_hostile_manifest_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_metadata(encode_metadata(PLAIN) | change)


def test_a_record_comes_back_as_it_was() -> None:
    full = EntryMetadata(
        0o4755, 1, 2, "a", "b\udcff", -(10**19), 10**19, 0, 3, "1:2", 4096, {"user.\udcff\n": b"\0\xff"}, ("trusted.x",)
    )
    entry = RecordedEntry("link", "a/b\udcff", "../x", True, True, False, full)
    back = decode_entry_record(encode_entry_record(entry))
    assert back.metadata is not None
    assert (back.metadata.mtime_ns, back.metadata.atime_ns) == (-(1 << 63), (1 << 63) - 1), "the nearest that is held"
    assert encode_entry_record(back)["metadata"]["xattrs"] == encode_entry_record(entry)["metadata"]["xattrs"]
    assert (back.path, back.target, back.dangling) == (entry.path, entry.target, True)


def test_attributes_of_the_system_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    attributes = AttributeRestorer(AccountMap())
    hostile = {"security.selinux": b"x", "system.nfs4_acl": b"x", "user.good": b"1", "nowhere.x": b""}
    with path.open("rb") as stream:
        attributes.apply(stream.fileno(), EntryMetadata(**{**_fields(PLAIN), "xattrs": hostile}), "file", 10**18)  # type: ignore[arg-type]
    assert os.listxattr(path) == ["user.good"]
    assert sum("belongs to the system" in what for what in attributes.lacking) == 2
    assert any("nowhere.x" in what for what in attributes.lacking)


def _fields(metadata: EntryMetadata) -> dict[str, object]:
    return {name: getattr(metadata, name) for name in EntryMetadata.__dataclass_fields__}


def test_an_unknown_name_is_nobody(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    attributes = AttributeRestorer(AccountMap())
    stranger = EntryMetadata(0o6755, 0, 0, "no-such-user-here", "no-such-group-here", 1, 1, 1)
    with path.open("rb") as stream:
        attributes.apply(stream.fileno(), stranger, "file", 10**18)
    status = path.stat()
    assert (status.st_uid, status.st_mode & 0o7777) == (os.getuid(), 0o755), "neither the number nor the bit is taken"
    assert {what.partition(",")[0] for what in attributes.lacking} == {
        "the owner no-such-user-here", "the group no-such-group-here", "the setuid bit", "the setgid bit",
    }  # fmt: skip


@pytest.mark.parametrize("size", [1, 4095, 4096, 70_000, 262_144, 300_001])
@pytest.mark.parametrize("step", [1000, 4096, 65_536, 262_144])
def test_zeros_become_holes_and_the_bytes_stay(tmp_path: Path, size: int, step: int) -> None:
    content = bytearray(size)
    for place in range(0, size, 50_000):
        content[place] = 1
    path = tmp_path / "file"
    with path.open("w+b") as stream:
        writer = FileWriter(stream.fileno(), sparse=True)
        for start in range(0, size, step):
            writer.write(bytes(content[start : start + step]))
        writer.finish()
    assert path.read_bytes() == content
    if step >= 4096 and size > 100_000:
        assert path.stat().st_blocks * 512 < size


def test_a_directory_comes_right_before_what_is_below_it() -> None:
    paths = [".", "a", "a/b", "a/b/c", "a-b", "a.b", "b"]
    entries = [RecordedEntry("directory", path) for path in reversed(paths)]
    assert [entry.path for entry in sorted(entries, key=entry_order)] == paths
