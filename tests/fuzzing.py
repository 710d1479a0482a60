"""A fuzzer for every reader of an artefact: mutated inputs, checksums made right again, each answer judged.

Input: a seed, a number of inputs or seconds. Output: what went wrong, if
anything: an exception that is no sentence, or more than ``SLOW`` seconds.
Invariant: the same seed gives the same inputs. By hand, for longer:

    python -m tests.fuzzing --inputs 1000000 --seed 7

prints figures; inputs that went wrong are kept in the directory ``--keep``.
"""

import argparse
import io
import json
import os
import random
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import zstandard

from lading.compress import file_records as records
from lading.compress import state
from lading.compress.ephys import openephys
from lading.compress.ephys import raw_binary as plain
from lading.compress.ephys.recording import Finding
from lading.coordination import claims
from lading.coordination.heartbeat import LivenessMonitor
from lading.coordination.lock import Lock
from lading.core.atomic import encode_record, read_record
from lading.core.bounded import decode
from lading.core.errors import LadingError
from lading.core.identity import ProcessId, read_process
from lading.core.target_tree import split_path
from lading.core.times import set_mtime
from lading.journal.index_file import _HEAD
from lading.journal.index_rows import ROW, hash_keys
from lading.journal.journal_index import JournalIndex
from lading.journal.records import (
    VerificationRecord,
    encode_failure,
    encode_header,
    encode_invalidated,
    encode_verification,
    read_key_prefix,
)
from lading.mirror.config import load_config
from lading.mirror.last_run import read_note
from lading.objectstore.keys import parse_remap
from lading.plan.batch_plan import Batch, NameRange, Plan, batch_id, read_plan, write_plan
from lading.plan.ownership import expand
from lading.report.facts import gather, read_journals
from lading.report.status import render
from lading.restore.links_and_directories import leads_out
from lading.sessions import table
from lading.sessions.executors.slurm_arrays import _Queued, read_tickets
from lading.sessions.presets import PresetDirectory, load
from lading.sessions.provenance import FORMAT as LINEAGE
from lading.sessions.provenance import SUFFIX, read_lineages
from lading.sessions.result import JobResult
from lading.sessions.tasks.transform import read_configs, read_decisions
from lading.tree.entry_record import EntryMetadata, RecordedEntry
from lading.tree.json_reader import _Reader, read_tree
from lading.tree.metadata_file import encode_line, open_metadata
from lading.tree.size_tree import TreeMeta, Unreadable, read_meta, write_meta
from lading.upload.engines.multipart import PartLog, resumable
from lading.verification.manifest import ManifestHeader, ManifestRow, read_manifest, write_manifest

SLOW = 2.0
# What a reader may answer beside a value: a sentence. OSError is one too, except what a bad name makes of it.
SENTENCES = (LadingError, OSError)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7.5, 1 << 31, 1 << 63, (1 << 64) - 1, -(1 << 63) - 1, 10**30, 1e300, "", "x", "/", "..",
    "a/../b", "\0", "\ud800", "\udcff", "\n", "\x1b[31m", "9" * 50, [], [[]], [None], ["x", 1], {}, {"x": {}}, {"": []},
)  # fmt: skip
MEMBERS = (
    "plan",
    "size",
    "mtime",
    "ctime",
    "inode",
    "gen",
    "etag",
    "at",
    "swallowed",
    "path",
    "named",
    "sources",
    "crawl",
)
TOKENS = (
    b"null", b"true", b"-1", b"1e999", b"NaN", b"Infinity", b"9" * 30, b"9" * 5000, b"[" * 3000, b'{"a":' * 1000, b"[]",
    b"{}", b'""', b'"\\ud800"', b'"\\u0000"', b"\xff", b"\x00", b"\x1b", b"\n", b",", b"]", b"}", b'"', b"\\", b":",
    b"- ", b"&a ", b"*a", b"!!binary x", b"? ", b"<<: ", b"1:" * 200, b"%", b"' '", b"\xed\xa0\x80", b"\xef\xbb\xbf",
)  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """One artefact: good bytes of it, what reads it (from a directory that holds it), and how its sums are mended."""

    name: str
    good: bytes
    read: Callable[[Path], object]
    file: str
    seal: Callable[[bytes], bytes] = lambda data: data
    lines: bool = False  # JSON a line
    json: bool = True


@dataclass
class Report:
    """What came of a run."""

    inputs: int = 0
    accepted: int = 0
    slowest: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    by_reader: Counter[str] = field(default_factory=Counter)


def seal_lines(data: bytes) -> bytes:
    """Return log lines with their CRCs made right again."""
    out = []
    for line in data.splitlines(keepends=True):
        body = line.rstrip(b"\n")
        body = body[: body.rfind(b',"crc":')] if b',"crc":' in body else body[:-1]
        out.append(body + b',"crc":"%08x"}' % zlib.crc32(body) + (b"\n" if line.endswith(b"\n") else b""))
    return b"".join(out)


def seal_manifest(text: bytes) -> bytes:
    """Return a packed manifest of mutated lines, its end record made right again where it can be."""
    lines = text.splitlines(keepends=True)
    if lines and lines[-1].startswith(b'{"end"'):
        body = b"".join(lines[:-1])
        sizes, others = [], 0
        for line in lines[1:-1]:
            if line.startswith(b'{"kind":'):
                others += 1
                continue
            try:
                sizes.append(json.loads(line)["size"])
            except (ValueError, KeyError, TypeError, RecursionError):
                sizes.append(0)
        if all(type(size) is int for size in sizes):
            end = {"objects": len(sizes), "bytes": sum(sizes), "sha256": sha256(body).hexdigest(), "complete": True}
            end |= {"entries": others} if others else {}
            lines[-1] = json.dumps({"end": end}, separators=(",", ":")).encode() + b"\n"
    return zstandard.ZstdCompressor(level=1).compress(b"".join(lines))


def seal_plan(data: bytes) -> bytes:
    """Return a plan with the ids of its batches, and the tree's digest, made right again where they can be."""
    try:
        record = json.loads(data)
        for batch in record["batches"]:
            text = json.dumps(batch["paths"], separators=(",", ":"), sort_keys=True)
            batch["id"] = sha256(text.encode("ascii")).hexdigest()[:16]
        if type(record["settings"].get("tree_sha256")) is str:
            record["settings"]["tree_sha256"] = sha256(TREE).hexdigest()
        return json.dumps(record).encode()
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        return data


def seal_index(data: bytes) -> bytes:
    """Return the index of a journal with its counts and CRC made right again."""
    if len(data) < _HEAD.size:
        return data
    magic, covered, _, extra, _ = _HEAD.unpack(data[: _HEAD.size])
    extra = min(extra, len(data) - _HEAD.size)
    count = (len(data) - _HEAD.size - extra) // ROW.itemsize
    rows, rest = data[_HEAD.size : _HEAD.size + ROW.itemsize * count], data[_HEAD.size + ROW.itemsize * count :]
    return _HEAD.pack(magic, covered, count, len(rest), zlib.crc32(rest, zlib.crc32(rows))) + rows + rest


TREE = (
    b'["data",0,40,["s",-1,0],["a",0,30,["x.bin",1,10,1717000000123456789],["y.bin",1,20,-5]],'
    b'["b\\udcff",0,3,["\\u65e5",1,3,0]],["f",1,7,1],["l",2,0]]\n'
)


def make_plan(directory: Path) -> bytes:
    entries = [("a/", NameRange("./", "f", "g")), ("b\udcff/",), (NameRange("./", "c/", "d/"),)]
    batches = tuple(
        Batch(batch_id(paths), size, files, paths) for paths, size, files in zip(entries, (37, 3, 0), (3, 1, 0))
    )
    settings = {"tree": "find.json", "tree_sha256": sha256(TREE).hexdigest(), "exclude": ["*.tmp"], "min": 1}
    write_plan(directory / "p.json", Plan("/data", (".",), settings, batches, ("f",)))
    return (directory / "p.json").read_bytes()


METADATA = EntryMetadata(
    0o4755, 1000, 1000, "alice", None, 10**18, 10**18, 10**18, 2, "1:2", 512, {"user.a": b"1"}, ("b",)
)
ENTRIES = [
    RecordedEntry("directory", "a", empty=True, metadata=METADATA),
    RecordedEntry("link", "a/l", "../x\udcff", dangling=True, outside=True),
    RecordedEntry("fifo", "p"),
]


def make_metadata() -> bytes:
    """Return the lines of a metadata file without its end."""
    header = {"format": 1, "kind": "tree-metadata", "tree_sha256": "0" * 64, "metadata": True}
    entries = [*ENTRIES, RecordedEntry("file", "a/f", metadata=METADATA)]
    return json.dumps(header).encode() + b"\n" + b"".join(map(encode_line, entries)) + b'{"end":{}}\n'


def seal_metadata(text: bytes) -> bytes:
    """Return a packed metadata file of mutated lines with sums that are right."""
    lines = text.splitlines(keepends=True)
    body = b"".join(lines[:-1])
    end = {"entries": max(0, len(lines) - 2), "sha256": sha256(body).hexdigest()}
    return zstandard.ZstdCompressor(level=1).compress(
        body + json.dumps({"end": end}, separators=(",", ":")).encode() + b"\n"
    )


def read_metadata(path: Path) -> None:
    for entry in open_metadata(path, "0" * 64).entries():
        os.fsencode(entry.path + (entry.target or ""))
        if entry.target and not leads_out(entry.path, entry.target):
            split_path(entry.path)


def make_manifest(directory: Path) -> bytes:
    header = ManifestHeader(
        "bucket", "p/", "http://127.0.0.1:1", "/data", "0" * 64, "2026-01-01T00:00:00Z", {"level": "etag"}
    )
    rows = [
        ManifestRow(
            f"a/{n}\udcff",
            f"p/a/{n}%FF",
            n,
            10**18 + n,
            "0" * 32,
            "0" * 64,
            "0" * 32,
            None,
            "etag",
            "b",
            header.created_at,
            metadata=METADATA if n % 2 else None,
        )
        for n in range(5)
    ]
    write_manifest(directory / "m.zst", header, rows, complete=True, entries=ENTRIES)
    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO((directory / "m.zst").read_bytes())).read()


def make_journal() -> bytes:
    proof = VerificationRecord("a/x", 5, 7, "e" * 32, "2026-01-01T00:00:00Z", "m", "s", "c", "etag", "b1", "v", 3)
    lines: list[dict[str, Any]] = [
        encode_header("w", "s3://bucket/", "http://127.0.0.1:1", "/data", "2026-01-01T00:00:00Z"),
        encode_verification(proof, (5, 8)),
        encode_verification(VerificationRecord("b", 0, 0, "e", "2026-01-01T00:00:00Z", None, None, None, "size", "b2")),
        encode_invalidated("b", 4, "lost"),
        encode_failure("c", "c", "b1", "object", "refused", 2),
    ]
    return b"".join(map(encode_record, lines))


def read_whole_plan(directory: Path) -> None:
    plan = read_plan(directory / "batch.json")
    (directory / "find.json").write_bytes(TREE)
    (directory / "find.meta.json").unlink(missing_ok=True)
    for _, members in expand(plan, directory):
        for path, _, _ in members:
            os.fsencode(path)


def read_whole_manifest(path: Path) -> None:
    manifest = read_manifest(path)
    os.fsencode(manifest.header.bucket + str(manifest.header.endpoint))
    with open(os.devnull, "rb") as stream:
        for row in manifest.rows():
            row.metadata and row.metadata.is_sparse(row.size)
            row.strength, row.present_before, row.key.encode("utf-8", "surrogateescape")
            try:
                split_path(row.path)
                set_mtime(stream.fileno(), row.mtime_ns)
            except SENTENCES:
                pass

    for entry in manifest.entries():
        os.fsencode(entry.path + (entry.target or ""))
        leads_out(entry.path, entry.target or "x")


def read_whole_journal(directory: Path) -> None:
    journal_index = JournalIndex(directory)
    found = journal_index.find(hash_keys(["a/x", "b", "c"]))
    list(journal_index.proofs(["a/x", "b", "c"], found))
    list(journal_index.failures())
    list(journal_index.rejected(["a/x", "b", "c"], found))
    found.proven([5, 0, 1], [8, 0, 1])
    try:
        journal_index.check("s3://bucket/", "http://127.0.0.1:1")
        read_key_prefix(directory)
    except SENTENCES:
        pass
    for failure in read_journals(directory)[0]:
        str(failure)


def read_runs(directory: Path) -> None:
    render(gather(directory))


def read_presets(directory: Path) -> None:
    presets = load(PresetDirectory(directory), "presets")
    for name in presets.names():
        presets.tasks(name)


def read_compression(directory: Path) -> None:
    planned = state.read_plan(directory / "plan.json")
    for unit in state.all_units(planned):
        unit.id.encode("utf-8", "surrogateescape")


def read_lock(path: Path) -> ProcessId | None:
    link = Lock(path, b"").look()
    return link.process if link and link.lives(LivenessMonitor(path.parent)) else None


def read_claims(directory: Path) -> None:
    attempt = claims.LaunchState(directory)
    attempt.failures(), attempt.claimed()
    claims.CompletionRecords(directory).read("x")


def _object(take: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda path: read_record(path, take, "again")


def readers(directory: Path) -> Iterator[Reader]:
    """Yield every reader; ``directory`` is for making good inputs."""
    meta = TreeMeta("/d", {"links": "record"}, "0" * 64, 3, 1, 1, 0, 0, 9, "t", "t", (Unreadable("a", 13, "denied"),))
    write_meta(directory / "meta.json", meta)
    (directory / "good.json").write_bytes(TREE)
    journal = make_journal()
    (directory / "j").mkdir()
    (directory / "j" / "w.jsonl").write_bytes(journal)
    JournalIndex(directory / "j").write_indexes()
    index = (directory / "j" / "w.index").read_bytes()

    def both(path: Path) -> None:
        with path.open("rb") as stream:
            try:
                ours = _Reader(path).read(stream).tree
            except LadingError:
                ours = None
        try:
            found = read_tree(path).tree
        except LadingError:
            found = None
        if (found is None) != (ours is None) or (found and ours and bytes(found.names) != bytes(ours.names)):
            raise AssertionError("the two readers of a tree differ")

    def index_of(path: Path) -> None:
        (path.parent / "w.jsonl").write_bytes(journal)
        read_whole_journal(path.parent)

    run = {"stage": "upload", "started": "2026-01-01T00:00:00Z", "seconds": 1.5, "batches": {"listed": 1, "completed": 1},
           "objects": {"sent": 1, "adopted": 0, "proven": 1, "failed": 0, "left": 0}, "bytes": {"sent": 1, "proven": 1},
           "reasons": {"gone": 1}, "stopped": None, "crawl": {"complete": True}}  # fmt: skip
    verified = {"stage": "verify", "started": "2026-01-01T00:00:00Z", "seconds": 1, "complete": True,
                "objects": {"listed": 1, "proven": 1, "missing": 0}, "bytes": {"proven": 1}}  # fmt: skip
    lease = {"writer": "w", "host": "h", "pid": 4, "started": 9, "group": "g", "launch": "l", "job": "1"}
    mirror = (
        b"datasets: {path: datasets, github_org: lab}\nbackup_root: .\njobs: 10\nmode: timestamp\n"
        b"candidates:\n- {name: web, url: 'https://h/{id}', cost: 100}\nproperties: {a: b}\n"
        b"siblings:\n- name: gin\n  url: ria+file:///x\ntext: {max_size: 64k}\nmax_removed: 0.5\nversion: 1.0.0\n"
    )
    preset = b"upload_settings:\n  chunk: 5\n  names: [a, b]\n  deep: {a: {b: 1.5, c: true, d: 2024-05-27}}\n"
    unit = {"id": "u", "cost": 5, "task": {"a": [1, 2]}, "after": ["*"]}
    job = {
        "source": "/s",
        "destination": "/d",
        "kind": "generic",
        "options": {},
        "facts": {},
        "ranks": 1,
        "working": f".lading-work-{0:032x}",
    }
    plan = {"format": state.FORMAT, "kind": state.KIND, "lading": "1", "planned_at": "t", "fingerprint": "f", "job": job,
            "units": [unit, {**unit, "id": "v"}]}  # fmt: skip
    result = {"bytes_in": 1, "bytes_out": 1, "source_hash": "a", "decoded_hash": "b", "codec": "c", "detail": {},
              "outputs": [{"path": "p", "size": 1, "hash": "h", "sha256": "s"}], "sources": []}  # fmt: skip
    marker = {"item": "x", "worker": "w", "seconds": 1.5, "result": result}
    source = {"path": "a", "size": 1, "sha256": "s", "mtime_ns": 1, "ctime_ns": 1, "inode": 1, "device": 1, "lossy": ""}
    ticket = {
        "line": 2,
        "bucket": "b",
        "prefix": "p",
        "dry_run": False,
        "array": 0,
        "index": 1,
        "attempts": 0,
        "ended": "",
    }
    copied = {"source": "/s/a", "key": "m/a", "size": 1, "mtime_ns": 1, "md5": None}
    copies = {"format": 1, "kind": "copies", "files": [copied]}
    lineage = [
        {"format": LINEAGE, "kind": "lineage", "folder": "m", "source": "/s", "how": "copies", "linked": False},
        {"path": "a", "size": 1, "sha256": None, "mtime_ns": 1, "ctime_ns": 1, "inode": 1, "device": 1, "key": "m/a"},
        {"output": "m/b", "size": 1, "sha256": "s"},
        {"end": {"sources": 1, "outputs": 1}},
    ]
    turned = {
        "format": 1,
        "kind": "transformed",
        "folder": "m",
        "sources": [["/s", 1, 1]],
        "report": copied,
        "lacks": "",
    }
    decision = {"m": {"source": "/s", "action": "compress", "kind": "generic", "options": {"a": 1}}}
    oebin = {"continuous": [{"folder_name": "a/", "sample_rate": 30000.0, "num_channels": 1,
                             "channels": [{"channel_name": "c", "bit_volts": 0.195}]}]}  # fmt: skip
    note = {"request": "r", "software": "s", "manifest": "m", "pushed": True, "refs": {"a": ["b", None]}}
    parts = [
        {"kind": "upload", "key": "bucket/key", "id": "u", "stamp": [1, 2, 3, 4], "part": 5},
        {"kind": "part", "id": "u", "n": 1, "etag": "e"},
    ]
    part_file = f"parts/{sha256(b'bucket/key').hexdigest()[:32]}.jsonl"
    recording = b"files: [a.bin]\ndtype: int16\nsampling_frequency: 30000.0\nchannels: 2\ngain_uV: [0.1, 0.2]\n"

    def text(value: Any) -> bytes:
        return json.dumps(value, separators=(",", ":")).encode()

    def work(path: Path) -> Any:
        return SimpleNamespace(place=SimpleNamespace(directory=path.parent))

    yield Reader("find", TREE, both, "find.json")
    yield Reader("find.zst", TREE, read_tree, "find.json.zst", zstandard.ZstdCompressor(level=1).compress)
    yield Reader("meta", (directory / "meta.json").read_bytes(), read_meta, "find.meta.json")
    yield Reader(
        "metadata, sums right", make_metadata(), read_metadata, "find.metadata.jsonl.zst", seal_metadata, lines=True
    )
    yield Reader("plan", make_plan(directory), lambda p: read_whole_plan(p.parent), "batch.json")
    yield Reader("plan, sums right", make_plan(directory), lambda p: read_whole_plan(p.parent), "batch.json", seal_plan)
    yield Reader("journal", journal, lambda p: read_whole_journal(p.parent), "w.jsonl", lines=True)
    yield Reader(
        "journal, sums right", journal, lambda p: read_whole_journal(p.parent), "w.jsonl", seal_lines, lines=True
    )
    yield Reader("index", index, index_of, "w.index", json=False)
    yield Reader("index, sums right", index, index_of, "w.index", seal_index, json=False)
    yield Reader("manifest", zstandard.ZstdCompressor().compress(make_manifest(directory)), read_whole_manifest, "m.zst",
                 json=False)  # fmt: skip
    yield Reader(
        "manifest, sums right", make_manifest(directory), read_whole_manifest, "m.zst", seal_manifest, lines=True
    )
    yield Reader(
        "parts", b"".join(map(encode_record, parts)), lambda p: read_parts(p), part_file, seal_lines, lines=True
    )
    yield Reader("run", text(run), lambda p: read_runs(p.parent.parent), "runs/u.json")
    yield Reader("run of verify", text(verified), lambda p: read_runs(p.parent.parent), "runs/v.json")
    yield Reader("lease", text(lease), read_lock, "lease")
    yield Reader("job lease", text(lease), read_process, "lease")
    yield Reader("alive", text(lease), lambda p: LivenessMonitor(p.parent).find(p.name), "alive")
    yield Reader("failure", text({"item": "x", "message": "m", "exit_code": 3}), lambda p: read_claims(p.parents[2]),
                 "failed/ab/x.json")  # fmt: skip
    yield Reader("mirror.yaml", mirror, lambda p: load_config(p, {}), "mirror.yaml", json=False)
    yield Reader("presets", preset, lambda p: read_presets(p.parents[4]), "job_types/v2/default/tasks/compress_data.yaml",
                 json=False)  # fmt: skip
    yield Reader("presets in JSON", text({"a": [1, {"b": None}]}), lambda p: read_presets(p.parents[4]),
                 "job_types/v2/default/tasks/compress_data.json")  # fmt: skip
    yield Reader("extra_configs", preset, read_configs, "extra.yaml", json=False)
    yield Reader("recording", recording, read_recording, f"r{plain.SUFFIX}", json=False)
    yield Reader("structure.oebin", text(oebin), openephys._read_structure, "structure.oebin")
    yield Reader("compression", text(plan), lambda p: read_compression(p.parent), "plan.json")
    yield Reader("marker", text(marker), _object(state.decode_record), "x.json")
    yield Reader("sources", b"\n".join(map(text, ({"format": 1, "kind": "compress-sources", "files": 1}, source))) + b"\n",
                 lambda p: records.read_sources(p.parent), records.SOURCES, lines=True)  # fmt: skip
    yield Reader(
        "outcome", text(asdict(JobResult(2, "s3://b/p", "done"))), _object(lambda v: decode(JobResult, v)), "2.json"
    )
    yield Reader("submission", text({"list": "l", "transfer": False, "jobs": [ticket]}), lambda p: read_tickets(p.parent),
                 "submission.json")  # fmt: skip
    yield Reader("queued", text({"submission": "/s", "list": "l", "array": 0, "index": 1, "element": "4_1"}),
                 _object(lambda v: decode(_Queued, v)), "queued.json")  # fmt: skip
    yield Reader(
        "lineage",
        b"".join(text(line) + b"\n" for line in lineage),
        lambda p: read_lineages(p.parent),
        f"m{SUFFIX}",
        lines=True,
    )
    yield Reader("old lineage", text(copies), lambda p: read_lineages(p.parent), "m.json")
    yield Reader("old lineage of a compression", text(turned), lambda p: read_lineages(p.parent), "m.json")
    yield Reader("decisions", text(decision), lambda p: read_decisions(work(p)), "transform.json")
    yield Reader("note", text(note), read_note, "done.json")
    yield Reader("job list", b'job_type,modality0\ndefault,{"a": 1}\n', table.read, "jobs.csv", json=False)
    yield Reader("remap", text({"a/b": "c", "/data/x": ""}), lambda p: parse_remap(p.read_text(errors="surrogateescape"), "/data", "/data"),
                 "remap")  # fmt: skip


def read_recording(path: Path) -> None:
    (path.parent / "a.bin").write_bytes(bytes(64))
    plain.find_streams(path.parent, Finding())


def read_parts(path: Path) -> None:
    PartLog(path.parent, "bucket", "key").read()
    resumable(path.parent.parent)


def mutate(good: bytes, chance: random.Random, reader: Reader) -> bytes:
    """Return a mutated input: a member of its JSON replaced, or its bytes cut, doubled, flipped and spoilt."""
    if reader.json and chance.random() < 0.6:
        try:
            if reader.lines:
                lines = good.splitlines()
                place = chance.randrange(len(lines))
                lines[place] = json.dumps(_replace(json.loads(lines[place]), chance), separators=(",", ":")).encode()
                return b"\n".join(lines) + b"\n"
            return json.dumps(_replace(json.loads(good), chance), separators=(",", ":")).encode() + b"\n"
        except ValueError:
            pass
    data = bytearray(good)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        what = chance.randrange(7)
        if what == 0 and data:
            data[min(at, len(data) - 1)] = chance.randrange(256)
        elif what == 1:
            del data[at : at + chance.randrange(1, 30)]
        elif what == 2:
            data[at:at] = chance.choice(TOKENS)
        elif what == 3:
            stop = at + chance.randrange(1, 200)
            data[at:at] = data[at:stop] * chance.choice((1, 1, 2, 50))
        elif what == 4:
            del data[at:]
        elif what == 5:
            data[at : at + chance.randrange(1, 12)] = chance.choice(TOKENS)
        else:
            data[at : at + 8] = struct.pack("<q", chance.choice((0, -1, 1, 1 << 40, -(1 << 63), (1 << 63) - 1)))
    return bytes(data)


def _replace(value: Any, chance: random.Random) -> Any:
    """Return a JSON value in which one place, at any depth, is another value, absent, doubled or renamed."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name = chance.choice(list(value))
        what = chance.random()
        if what < 0.05:
            return {**value, chance.choice(MEMBERS): chance.choice(VALUES)}
        if what < 0.1:
            return {key: inner for key, inner in value.items() if key != name}
        if what < 0.15:
            return {("x" if key == name else key): inner for key, inner in value.items()}
        return {key: _replace(inner, chance) if key == name else inner for key, inner in value.items()}
    if isinstance(value, list) and value and chance.random() < 0.85:
        place = chance.randrange(len(value))
        what = chance.random()
        if what < 0.1:
            return [*value[:place], *value[place + 1 :]]
        if what < 0.2:
            return [*value, value[place]]
        return [_replace(inner, chance) if at == place else inner for at, inner in enumerate(value)]
    return chance.choice(VALUES)


def fuzz(seed: int, *, inputs: int = 0, seconds: float = 0.0, keep: Path | None = None, only: str = "") -> Report:
    """Try mutated inputs of every reader in turn until there were ``inputs`` or ``seconds`` are over."""
    chance, report = random.Random(seed), Report()
    end = time.monotonic() + seconds if seconds else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        top = Path(name)
        (top / "make").mkdir()
        known = [reader for reader in readers(top / "make") if only in reader.name]
        for number, reader in enumerate(known):
            place = top / str(number) / reader.file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(reader.seal(reader.good))
            reader.read(place)  # what is good is taken
        while (not inputs or report.inputs < inputs) and (end is None or time.monotonic() < end):
            for number, reader in enumerate(known):
                place = top / str(number) / reader.file
                data = reader.seal(mutate(reader.good, chance, reader))
                place.write_bytes(data)
                _try(reader, place, data, report, keep)
    return report


def _try(reader: Reader, place: Path, data: bytes, report: Report, keep: Path | None) -> None:
    report.inputs += 1
    report.by_reader[reader.name] += 1
    started = time.process_time()
    fault = ""
    try:
        reader.read(place)
        report.accepted += 1
    except SENTENCES as error:
        if len(str(error)) > 20_000:
            fault = f"{reader.name}: a sentence of {len(str(error))} characters"
    except Exception as error:
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
        fault = f"{reader.name}: {type(error).__name__} at {where}"
    taken = time.process_time() - started
    report.slowest = max(report.slowest, taken)
    if taken > SLOW:
        fault = f"{reader.name}: {taken:.1f} s"
    if fault:
        report.faults[fault] += 1
        if keep and report.faults[fault] <= 3:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{reader.name.replace(' ', '-')}-{sum(report.faults.values())}").write_bytes(data)


def main() -> int:
    """Fuzz by hand; 1 when anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    fuzz(arguments.seed, inputs=1000, only=arguments.only)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    report = fuzz(arguments.seed, inputs=arguments.inputs, keep=arguments.keep, only=arguments.only)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"{report.inputs:,} inputs over {len(report.by_reader)} readers in {time.monotonic() - started:.0f} s: "
        f"{report.accepted:,} taken, {sum(report.faults.values()):,} went wrong; slowest {report.slowest:.2f} s; "
        f"memory grew by {grown / 1024:.0f} MiB, numpy {np.__version__}"
    )
    for fault, count in report.faults.most_common():
        print(f"{count:8,}  {fault}")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
