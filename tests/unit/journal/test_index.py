"""The journal index: the fold of journals, however they were cut, split, ordered or tidied."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lading.coordination.lease import Lease
from lading.core.atomic import decode_record, encode_record
from lading.core.errors import ConsistencyError, LadingError, LockHeldError
from lading.core.identity import start_ticks
from lading.journal.index_file import index_path
from lading.journal.index_rows import ROW, hash_keys, search_keys
from lading.journal.journal_index import JournalIndex
from lading.journal.journal_writer import JournalWriter
from lading.journal.records import (
    PRESENT,
    SENT,
    VerificationRecord,
    encode_failure,
    encode_header,
    encode_invalidated,
    encode_verification,
)
from lading.objectstore.keys import KeyMap, encode_key, key_error, parse_key_prefix, parse_remap

HEADER = encode_header("w", "s3://bucket/", None, "/data", "2026-01-01T00:00:00Z")


def proof(key: str, size: int = 5, generation: int = 0) -> dict[str, object]:
    return encode_verification(
        VerificationRecord(
            key, size, 7, "e" * 32, "2026-01-01T00:00:00Z", "m", "s", "c", "etag", "b1", None, generation
        )
    )


def is_proven(journal_index: JournalIndex, key: str, size: int = 5) -> bool:
    return bool(journal_index.find(hash_keys([key])).proven([size], [7])[0])


def write(directory: Path, name: str, records: list[dict[str, object]]) -> None:
    journal = JournalWriter(directory, name, HEADER)
    journal.write(records)
    journal.close()


RECORDS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans(), st.integers(1, 3)), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=RECORDS, split=st.integers(1, 4), tidy=st.booleans(), indexed=st.booleans())
def test_fold_does_not_depend_on_files_order_indexes_or_compaction(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[tuple[str, int, bool, int]],
    split: int,
    tidy: bool,
    indexed: bool,
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    # One size per (key, generation): a writer raises the generation when the content changes.
    lines = [encode_invalidated(k, g, "x") if void else proof(k, 10 * g + 5, g) for k, g, void, _ in records]
    for number in range(split):
        write(directory, f"w{number}", lines[number::split])
    if not indexed:
        for path in directory.glob("*.index"):
            path.unlink()
    journal_index = JournalIndex(directory)
    if tidy:
        journal_index.compact(HEADER)
        assert len(journal_index.journals) == 1
        journal_index = JournalIndex(directory)
    for key in "abc":
        ranks = [(g, void) for k, g, void, _ in records if k == key]
        newest = max(ranks, default=None)
        for generation in range(4):
            expected = newest == (generation, False)
            assert is_proven(journal_index, key, 10 * generation + 5) == expected, (key, generation, records)


def test_cut_at_every_byte_it_opens_and_believes_only_whole_lines(tmp_path: Path) -> None:
    lines = [encode_record(record) for record in (HEADER, proof("a"), proof("b"), encode_invalidated("a", 0, "lost"))]
    whole = b"".join(lines)
    ends = [sum(map(len, lines[: n + 1])) for n in range(len(lines))]
    for cut in range(len(whole) + 1):
        (tmp_path / "w.jsonl").write_bytes(whole[:cut])
        journal_index = JournalIndex(tmp_path)
        assert journal_index.damaged == 0
        assert is_proven(journal_index, "a") == (ends[1] <= cut < ends[3])
        assert is_proven(journal_index, "b") == (cut >= ends[2])


def test_damaged_line_is_an_unknown_object(tmp_path: Path) -> None:
    write(tmp_path, "w", [proof("a"), proof("b")])
    index_path(tmp_path / "w.jsonl").unlink()
    path = tmp_path / "w.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"key":"a"', b'"key":"z"'))
    journal_index = JournalIndex(tmp_path)
    assert (
        journal_index.damaged,
        is_proven(journal_index, "a"),
        is_proven(journal_index, "z"),
        is_proven(journal_index, "b"),
    ) == (
        1,
        False,
        False,
        True,
    )


@pytest.mark.parametrize("where", [0, 20, 40, -1])
def test_damaged_index_is_rebuilt(tmp_path: Path, where: int) -> None:
    write(tmp_path, "w", [proof("a"), encode_failure("f", "p", "b1", "object", "why", 2)])
    path = index_path(tmp_path / "w.jsonl")
    data = bytearray(path.read_bytes())
    data[where] ^= 0xFF
    path.write_bytes(data)
    journal_index = JournalIndex(tmp_path)
    assert is_proven(journal_index, "a")
    assert [failure.key for failure in journal_index.failures()] == ["f"]


def test_crash_in_compaction_loses_nothing(tmp_path: Path) -> None:
    write(tmp_path, "w0", [proof("a")])
    write(tmp_path, "w1", [proof("b"), encode_failure("f", "p", "b1", "object", "why", 2)])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    JournalIndex(tmp_path).compact(HEADER)
    for name, data in before.items():  # as if it died before it removed the old files
        (tmp_path / name).write_bytes(data)
    journal_index = JournalIndex(tmp_path)
    assert journal_index.journals == ["snapshot-1.jsonl"]
    assert is_proven(journal_index, "a")
    assert is_proven(journal_index, "b")
    assert [failure.message for failure in journal_index.failures()] == ["why"]


def test_fields_added_to_a_proof_pass_through_index_and_compaction(tmp_path: Path) -> None:
    """Records of the first edition have none of them, and come back without."""
    old = VerificationRecord("a", 5, 7, "e" * 32, "2026-01-01T00:00:00Z", "m", "s", "c", "etag", "b1")
    new = replace(
        old,
        key="b",
        ctime_ns=8,
        inode=9,
        device=10,
        origin=PRESENT,
        server_checksum="crc64nvme:AAAAAAAAAAA=",
        suspect="0" * 64,
    )
    assert not encode_verification(old).keys() & {"ctime", "inode", "dev", "origin", "sum", "suspect"}
    write(tmp_path, "w0", [encode_verification(old), encode_verification(new)])
    write(tmp_path, "w1", [proof("c")])
    for _ in range(2):
        journal_index = JournalIndex(tmp_path)
        assert list(journal_index.proofs(["a", "b"], journal_index.find(hash_keys(["a", "b"])))) == [old, new]
        journal_index.compact(HEADER)


@pytest.mark.parametrize(
    ("origin", "method", "given"),
    [
        (None, "etag", True),  # of an edition that did not say: as it was
        (SENT, "etag", True),
        (SENT, "size", True),
        (PRESENT, "etag", False),
        (PRESENT, "size", False),
        (PRESENT, "crc64nvme:AAAAAAAAAAA=", False),
        (PRESENT, "sha256:AAAA", True),
        (PRESENT, "download", True),
    ],
)
def test_sha256_is_the_objects_where_its_bytes_were_sent_or_read(origin: str | None, method: str, given: bool) -> None:
    held = VerificationRecord("a", 5, 7, "e", "", "m", "s", "c", method, "b", origin=origin)
    assert held.object_sha256 == ("s" if given else None)


def test_compaction_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lading.journal.journal_index.COPIED", 3)
    keys = [f"k{number}" for number in range(20)]
    for number in range(4):
        write(tmp_path, f"w{number}", [proof(key, number, number) for key in keys[number::2]])
    JournalIndex(tmp_path).compact(HEADER)
    for indexed in (True, False):
        if not indexed:
            index_path(tmp_path / "snapshot-1.jsonl").unlink()
        journal_index = JournalIndex(tmp_path)
        found = journal_index.find(hash_keys(keys))
        newest = [
            3 if number % 2 and number >= 3 else 2 if number >= 2 and not number % 2 else number for number in range(20)
        ]
        assert found.size.tolist() == newest
        assert [held.key for held in journal_index.proofs(keys, found) if held] == keys


def test_more_journals_than_files_may_be_open(tmp_path: Path) -> None:
    """As ranks leave them, night after night."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    keys = [f"k{number}" for number in range(90)]
    for number, key in enumerate(keys):
        write(tmp_path, f"w{number:03d}", [proof(key)])
    open_now = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 40, hard))
    try:
        journal_index = JournalIndex(tmp_path)
        mixed = [keys[number * 37 % 90] for number in range(180)]
        assert [held.key for held in journal_index.proofs(mixed, journal_index.find(hash_keys(mixed))) if held] == mixed
        journal_index.compact(HEADER)
        assert journal_index.journals == ["snapshot-1.jsonl"]
        journal_index = JournalIndex(tmp_path)
        assert [held.key for held in journal_index.proofs(keys, journal_index.find(hash_keys(keys))) if held] == keys
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_growing_journal_of_another_process_is_followed(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path, "w", HEADER)
    journal_index = JournalIndex(tmp_path)
    journal.write([proof("a")])
    assert not is_proven(journal_index, "a")
    journal_index.refresh()
    assert is_proven(journal_index, "a")
    assert next(journal_index.proofs(["a"], journal_index.find(hash_keys(["a"])))).key == "a"
    journal.close()


@pytest.mark.parametrize(("damage", "mapped"), [(False, 1), (False, 10**6), (True, 1)])
def test_what_another_process_indexed_is_not_read_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bool, mapped: int
) -> None:
    monkeypatch.setattr("lading.journal.journal_writer.INDEX_EVERY", 2000)
    monkeypatch.setattr("lading.journal.journal_index.RENEWED", 1000)
    monkeypatch.setattr("lading.journal.index_file.MAPPED_FEW_BYTES", 1000 * mapped)
    writer = JournalWriter(tmp_path, "w", HEADER)
    writer.write([proof("first")])
    reader = JournalIndex(tmp_path)
    writer.write([proof(f"k{number}") for number in range(2000)])
    writer.write([proof("last")])
    path = index_path(tmp_path / "w.jsonl")
    if damage:
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    decoded = []
    monkeypatch.setattr(
        "lading.journal.journal_index.decode_record", lambda line: decoded.append(line) or decode_record(line)
    )
    reader.refresh()
    assert len(decoded) == (2001 if damage else 1)
    assert all(is_proven(reader, key) for key in ("first", "k0", "k1999", "last"))
    assert not is_proven(reader, "k2000")
    assert reader.objects == 2002
    # What comes later counts, whichever of them is mapped.
    writer.write([encode_invalidated("k7", 0, "gone"), proof("k8", 6), proof("later")])
    writer.close()
    reader.refresh()
    for index in (reader, JournalIndex(tmp_path)):
        found = {key: is_proven(index, key) for key in ("k6", "k7", "k8", "later")}
        assert found == {"k6": True, "k7": False, "k8": False, "later": True}
        assert is_proven(index, "k8", 6)
        assert len(index.proven_hashes()) == 2002
    reader.compact(HEADER)
    assert len(JournalIndex(tmp_path).proven_hashes()) == 2002


@settings(max_examples=100, deadline=None)
@given(keys=st.lists(st.integers(0, 2**64 - 1), max_size=300), asked=st.lists(st.integers(0, 2**64 - 1), min_size=1))
def test_a_search_without_a_copy_finds_the_same(keys: list[int], asked: list[int]) -> None:
    rows = np.zeros(len(set(keys)), ROW)
    rows["key"] = np.array(sorted(set(keys)), np.uint64)
    hashes = np.array([*asked, *keys[:3], 0, 2**64 - 1], np.uint64)
    wanted = np.searchsorted(rows["key"], hashes)
    assert (search_keys(rows["key"], hashes) == wanted).all()
    one_by_one = [int(search_keys(rows["key"], hashes[place : place + 1])[0]) for place in range(len(hashes))]
    assert one_by_one == wanted.tolist()


def test_another_bucket_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "w", [])
    JournalIndex(tmp_path).check("s3://bucket/", None)
    assert JournalIndex(tmp_path).roots == {"/data"}
    for place, endpoint in (("s3://other/", None), ("s3://bucket/", "https://x.org")):
        with pytest.raises(ConsistencyError, match="is for"):
            JournalIndex(tmp_path).check(place, endpoint)


def test_lock_names_its_holder_and_dead_holders_do_not_count(tmp_path: Path) -> None:
    with Lease(tmp_path, "one"):
        with pytest.raises(LockHeldError, match=f"process {os.getpid()}"), Lease(tmp_path, "two"):
            pass
        with Lease(tmp_path, "two", join=True) as beside:
            assert [other.group for other in beside.workers()] == ["one"]
        with Lease(tmp_path, "", reader=True):
            pass
    code = (
        "import os, sys; from pathlib import Path; from lading.coordination.lease import Lease\n"
        "lease = Lease(Path(sys.argv[1]), 'dead').__enter__(); lease.claim('batch'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60)
    assert (tmp_path / "lock").exists()
    with Lease(tmp_path, "next") as lease:
        assert lease.claim("batch")
    assert not (tmp_path / "lock").exists()


def test_another_host_is_judged_by_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LADING_HOST", "elsewhere")
    far = Lease(tmp_path, "far", seconds=100)
    far.__enter__()
    far.claim("batch")
    monkeypatch.setenv("LADING_HOST", "here")
    with Lease(tmp_path, "near", join=True, seconds=100) as near:
        assert not near.claim("batch")
    old = (tmp_path / "leases" / far.holder.writer).stat().st_mtime - 200
    os.utime(tmp_path / "leases" / far.holder.writer, (old, old))
    with Lease(tmp_path, "near", seconds=100) as near:
        assert near.claim("batch")
    far.__exit__()


def test_who_retires_waits_for_its_peers_and_no_one_else(tmp_path: Path) -> None:
    with Lease(tmp_path, "launch") as first, Lease(tmp_path, "launch") as slow, Lease(tmp_path, "launch") as stranger:
        assert first.claim("batch")
        waiting = threading.Thread(target=first.leave, args=([first.holder.writer, slow.holder.writer],))
        waiting.start()
        waiting.join(1)
        assert waiting.is_alive()
        assert slow.claim("batch"), "who retires gives its batches back"
        slow.leave([first.holder.writer, slow.holder.writer])
        waiting.join(10)
        assert not waiting.is_alive()
        assert [other.writer for other in first.workers()] == [stranger.holder.writer]


def test_start_ticks_tell_a_process_from_its_successor() -> None:
    assert start_ticks(os.getpid()) == start_ticks(os.getpid())
    assert start_ticks(2**22 + 1) is None


def test_an_index_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    """As on a full disk, where the journal's own sentence must not be hidden by the index's."""
    journal = JournalWriter(tmp_path, "w", HEADER)
    journal.write([proof("a")])
    (index_path(journal.path) / "in the way").mkdir(parents=True)
    journal.close()
    shutil.rmtree(index_path(journal.path))
    assert is_proven(JournalIndex(tmp_path), "a")


def test_a_sync_that_fails_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network filesystems tell only then that the disk or the quota is full."""
    journal = JournalWriter(tmp_path, "w", HEADER)

    def full(_: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", full)
        with pytest.raises(LadingError, match=r"cannot append to .*w\.jsonl: Disk quota exceeded"):
            journal.write([proof("a")])
        with pytest.raises(LadingError, match="Disk quota exceeded"):
            journal.close()
    assert not [name for name in os.listdir("/proc/self/fd") if points_to(name) == str(journal.path)], "it is closed"


def points_to(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


class TestKeys:
    def keys(self, rules: dict[str, str], plan_root: str = "/data/dr1", prefix: str = "") -> KeyMap:
        return KeyMap("/data", plan_root, prefix, parse_remap(json.dumps(rules), "/data", plan_root))

    def test_whole_components_longest_first(self) -> None:
        keys = self.keys({"a": "x", "a/b": "y", "/data/dr1/c": "z/z"})
        assert [keys.key(p) for p in ("a/f", "a/b/f", "ab/f", "c/f", "a")] == [
            "x/f",
            "y/f",
            "dr1/ab/f",
            "z/z/f",
            "x",
        ]

    def test_rule_at_or_above_the_plan(self) -> None:
        assert self.keys({".": "top"}, prefix="p/").key("a/f") == "p/top/a/f"
        assert self.keys({"/data": "top"}).key("f") == "top/dr1/f"
        assert self.keys({"/data/dr10": "no"}).key("f") == "dr1/f"

    def test_unused_rules_are_named(self) -> None:
        keys = self.keys({"a": "x", "nope": "y", "/data/dr10": "z"})
        keys.key("a/f")
        assert sorted(keys.unused()) == ["dr10", "nope"]

    @given(st.binary(min_size=1, max_size=30).filter(lambda b: b"\0" not in b and b"/" not in b))
    def test_every_name_has_a_utf8_key(self, name: bytes) -> None:
        text = name.decode("utf-8", "surrogateescape")
        assert encode_key(text).encode("utf-8")
        unholdable = [c for c in text if c < " " or c == "\x7f" or 0xDC80 <= ord(c) <= 0xDCFF]
        if not unholdable:
            assert encode_key(text) == text
        # Back to the bytes of the name, as a person would read the key.
        if "%" not in text:
            assert unquote_to_bytes(encode_key(text)) == name

    def test_faults(self) -> None:
        assert key_error("a/" + "é" * 600)
        assert key_error("a/../b")
        assert key_error("./b")
        assert key_error("a//b")
        assert not key_error("a/.hidden/..two/b..")
        assert not key_error("x" * 1024)

    def test_places(self) -> None:
        assert str(parse_key_prefix("s3://b-1.x/p/q/")) == "s3://b-1.x/p/q/"
        assert str(parse_key_prefix("s3://bkt")) == "s3://bkt/"
