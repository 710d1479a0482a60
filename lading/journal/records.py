"""The journal: what happened to each object, as records that only accumulate.

Input and output: log lines (``lading.core.atomic``), one file per writing process
under ``journal/``.
Invariant: state is the fold of all records of all writers, in any order: a
record carries the *generation* of its key, the highest generation counts, and
within one a ``void`` beats a ``done``. So no clock and no order between
machines matters, and folding twice changes nothing.

Kinds:

``done``      the bucket was seen to hold the file's bytes
``void``      an earlier proof no longer holds: lost, differs, or about to be overwritten; with ``withdrawn``: the
              object is, or is about to be, deleted on purpose, and is not sent again
``failed``    sending was given up for this run; ``done`` later makes it moot
``upload``    a multipart upload was begun; ``part`` one part of it was stored
``batch``     a note for the reader of the log: a batch was begun or finished
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lading.checksums.digest import FileState
from lading.core.atomic import read_log
from lading.core.bounded import is_name
from lading.core.errors import ConsistencyError
from lading.core.times import saturate
from lading.core.version import provenance

FORMAT = 1

DONE = "done"
INVALIDATED = "void"
FAILED = "failed"

# Sizes and times are kept in 64 bits, ranks (twice the generation) in 32.
_SIZES = 1 << 63
_GENERATIONS = 1 << 31
_SHAPES: dict[tuple[Any, ...], bool] = {}
_MOST_SHAPES = 1000
_TEXTS_OR_NONE = ("md5", "sha256", "crc64", "version", "origin", "sum", "suspect")
_NUMBERS_OR_NONE = ("ctime", "inode", "dev")
_FAILURE_TEXTS = ("path", "batch", "class", "message")

# How an object came under its key (``origin``).
SENT = "sent"  # by a run of ours, which then saw it listed
PRESENT = "present before"  # it was there already, and was found equal


@dataclass(frozen=True, slots=True)
class VerificationRecord:
    """A ``done`` record.

    key, size, mtime_ns  what was proven; mtime of the local file in nanoseconds
    etag, modified       as the bucket lists them; modified is ISO 8601 UTC
    md5, sha256          lower-case hex of the local bytes, or None
    crc64                CRC64NVME of the local bytes, base64 of 8 big-endian bytes, or None
    method               what proved it: ``etag``, ``<algorithm>:<base64>``, ``download`` or ``size``
    batch                id of the batch
    version_id           where the bucket keeps versions and told it
    generation           see the module's invariant
    ctime_ns, inode      of the file when it was read; None in records of earlier editions
    device               likewise; another one says nothing, since each mount of a network file system has its own
    origin               ``SENT`` or ``PRESENT``; None in records of earlier editions
    server_checksum      full-object checksum by the server, found equal: ``<algorithm>:<base64>`` as S3 writes it
    suspect              SHA-256 of the file when it was read again in this very state and had other bytes
    """

    key: str
    size: int
    mtime_ns: int
    etag: str
    modified: str
    md5: str | None
    sha256: str | None
    crc64: str | None
    method: str
    batch: str
    version_id: str | None = None
    generation: int = 0
    ctime_ns: int | None = None
    inode: int | None = None
    device: int | None = None
    origin: str | None = None
    server_checksum: str | None = None
    suspect: str | None = None

    @property
    def object_sha256(self) -> str | None:
        """The SHA-256 of the object's bytes: of what was sent or read; None where only a weaker digest was compared.

        Whoever chose an object that was there before may have chosen it to
        have the MD5 of another file: there are such pairs. A CRC can be chosen, too.
        """
        trusted = self.origin != PRESENT or self.method == "download" or self.method.startswith("sha256:")
        return self.sha256 if trusted else None


# Names on disk of what was added since the first edition: left out where unknown.
_ADDED = {
    "ctime": "ctime_ns",
    "inode": "inode",
    "dev": "device",
    "origin": "origin",
    "sum": "server_checksum",
    "suspect": "suspect",
}


def is_state(proof: VerificationRecord, now: FileState, *, is_copy: bool = False) -> bool:
    """Tell whether a file is still in the state in which it was read; what a record does not know agrees.

    Devices are not compared: a network file system has another one at each mount.
    Of a copy of the file, size and time are all that could agree.
    """
    if is_copy:
        return (proof.size, proof.mtime_ns) == (now.size, now.mtime_ns)
    return (
        (proof.size, proof.mtime_ns) == (now.size, now.mtime_ns)
        and proof.ctime_ns in (None, now.ctime_ns)
        and proof.inode in (None, now.inode)
    )


def in_state(proof: VerificationRecord, state: FileState) -> VerificationRecord:
    """Return a proof of the same content and object for the next generation, of a file in this state."""
    return replace(
        proof,
        mtime_ns=state.mtime_ns,
        ctime_ns=state.ctime_ns,
        inode=state.inode,
        device=state.device or None,
        suspect=None,
        generation=proof.generation + 1,
    )


def encode_verification(proof: VerificationRecord, plan: tuple[int, int] | None = None) -> dict[str, Any]:
    """Return the record of a proof.

    ``plan`` is the (size, mtime_ns) that the tree says where the file was
    proven in another state.
    """
    record: dict[str, Any] = {
        "kind": DONE,
        "key": proof.key,
        "size": proof.size,
        "mtime": proof.mtime_ns,
        "etag": proof.etag,
        "at": proof.modified,
        "md5": proof.md5,
        "sha256": proof.sha256,
        "crc64": proof.crc64,
        "by": proof.method,
        "batch": proof.batch,
    }
    if proof.version_id:
        record["version"] = proof.version_id
    if proof.generation:
        record["gen"] = proof.generation
    if plan:
        record["plan"] = list(plan)
    for name, attribute in _ADDED.items():
        value = getattr(proof, attribute)
        if value is not None:
            record[name] = value
    return record


def is_sound(record: Mapping[str, Any]) -> bool:
    """Tell whether a record has the fields of its kind, each of its type and within its bounds.

    Any whole number is a time: ``lading.core.times`` says what stands for those that 64 bits do not hold.
    """
    kind = record.get("kind")
    if kind == DONE:
        return _is_done(record)
    if kind == INVALIDATED:
        state = _is_state(record.get("key"), record.get("size", -1), record.get("gen", 0))
        numbers = all(type(record.get(name)) in (int, type(None)) for name in _NUMBERS_OR_NONE)
        if "withdrawn" in record and not _is_withdrawal(record["withdrawn"]):
            return False
        return state and numbers and type(record.get("mtime", 0)) is int and _is_plan(record.get("plan", [0, 0]))
    if kind == FAILED:
        texts = _is_state(record.get("key"), -1, 0) and all(_is_text(record.get(name)) for name in _FAILURE_TEXTS)
        return texts and type(record.get("attempts")) is int
    if kind == "upload":
        stamp = record.get("stamp")
        return (
            _is_text(record.get("key"))
            and _is_text(record.get("id"))
            and type(record.get("part")) is int
            and type(stamp) is list
            and len(stamp) >= 4
            and all(type(number) is int for number in stamp[:4])
        )
    if kind == "part":
        return _is_text(record.get("id")) and _is_text(record.get("etag")) and type(record.get("n")) is int
    if kind in ("journal", "snapshot"):
        lists = [record.get("swallowed", []), record.get("roots", [])]
        return (
            all(_is_text(record.get(name, "")) for name in ("bucket", "root", "inner"))
            and (record.get("endpoint") is None or _is_text(record["endpoint"]))
            and all(type(texts) is list and all(map(_is_text, texts)) for texts in lists)
        )
    return type(kind) is str


def _is_done(record: Mapping[str, Any]) -> bool:
    # Asked of every record of a journal, and these come in a few shapes: their types are looked at once each.
    shape = (*record, *map(type, record.values()))
    sound = _SHAPES.get(shape)
    if sound is None:
        sound = _has_types(record.get)
        if len(_SHAPES) < _MOST_SHAPES:
            _SHAPES[shape] = sound
    if not sound:
        return False
    key = record["key"]
    within = 0 <= record["size"] < _SIZES and 0 <= record.get("gen", 0) < _GENERATIONS
    return within and (key.isascii() or is_name(key)) and ("plan" not in record or _is_plan(record["plan"]))


def _has_types(get: Callable[..., Any]) -> bool:
    """Tell whether each member of a ``done`` record is of its type."""
    return (
        all(type(get(name)) is str for name in ("key", "etag", "at", "by", "batch"))
        and all(type(number) is int for number in (get("size"), get("mtime"), get("gen", 0)))
        and all(type(get(name)) in (str, type(None)) for name in _TEXTS_OR_NONE)
        and all(type(get(name)) in (int, type(None)) for name in _NUMBERS_OR_NONE)
    )


def _is_text(value: Any) -> bool:
    return type(value) is str and is_name(value)


def _is_state(key: Any, size: Any, generation: Any) -> bool:
    if type(key) is not str or type(size) is not int or type(generation) is not int:
        return False
    within = -1 <= size < _SIZES and 0 <= generation < _GENERATIONS
    return within and is_name(key)


def _is_plan(plan: Any) -> bool:
    return type(plan) is list and len(plan) == 2 and all(type(n) is int for n in plan) and 0 <= plan[0] < _SIZES


def _is_withdrawal(value: Any) -> bool:
    if type(value) is not dict or type(value.get("done")) is not bool:
        return False
    texts = all(_is_text(value.get(name)) for name in ("path", "etag", "reason", "at"))
    more = all(value.get(name) is None or _is_text(value[name]) for name in ("sha256", "version"))
    return texts and more and type(value.get("size")) is int and 0 <= value["size"] < _SIZES


def decode_verification(record: Mapping[str, Any]) -> VerificationRecord:
    """Return the proof of a ``done`` record."""
    return VerificationRecord(
        record["key"],
        record["size"],
        saturate(record["mtime"]),
        record["etag"],
        record["at"],
        record.get("md5"),
        record.get("sha256"),
        record.get("crc64"),
        record["by"],
        record["batch"],
        record.get("version"),
        record.get("gen", 0),
        *map(record.get, _ADDED),
    )


def encode_invalidated(
    key: str, generation: int, reason: str, rejected: tuple[str, str] | None = None
) -> dict[str, Any]:
    """Return a record that takes back every proof of ``key`` up to ``generation``.

    ``rejected`` is the (etag, modified) of an object that has the file's ETag
    and other bytes all the same: it is never believed again.
    """
    record: dict[str, Any] = {"kind": INVALIDATED, "key": key, "gen": generation, "why": reason}
    if rejected:
        record["etag"], record["at"] = rejected
    return record


def decode_rejected(record: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the object that a ``void`` record says is not to be believed."""
    etag, moment = record.get("etag"), record.get("at")
    return (etag, moment) if isinstance(etag, str) and isinstance(moment, str) else None


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """An object that is deleted on purpose; ``done`` is False from the decision to the deletion.

    ``planned`` are size and mtime (ns) of the file as the plan has them: only that state of it is withdrawn.
    """

    key: str
    path: str
    size: int
    etag: str
    sha256: str | None
    version_id: str | None
    reason: str
    moment: str
    planned: tuple[int, int]
    done: bool


def encode_withdrawal(one: Withdrawal, generation: int) -> dict[str, Any]:
    """Return the record of a withdrawal: a ``void`` of every proof up to ``generation``."""
    size, mtime = one.planned
    about = {
        "path": one.path,
        "size": one.size,
        "etag": one.etag,
        "sha256": one.sha256,
        "version": one.version_id,
        "reason": one.reason,
        "at": one.moment,
        "done": one.done,
    }
    head = {"kind": INVALIDATED, "key": one.key, "gen": generation, "why": "withdrawn", "size": size, "mtime": mtime}
    return {**head, "withdrawn": about}


def decode_withdrawal(record: Mapping[str, Any]) -> Withdrawal | None:
    """Return the withdrawal of a ``void`` record, None of another."""
    about = record.get("withdrawn")
    if about is None:
        return None
    return Withdrawal(
        record["key"],
        about["path"],
        about["size"],
        about["etag"],
        about.get("sha256"),
        about.get("version"),
        about["reason"],
        about["at"],
        (record.get("size", -1), saturate(record.get("mtime", 0))),
        about["done"],
    )


def encode_failure(key: str, path: str, batch: str, kind: str, message: str, attempts: int) -> dict[str, Any]:
    """Return the record of an object that was given up for this run."""
    return {
        "kind": FAILED,
        "key": key,
        "path": path,
        "batch": batch,
        "class": kind,
        "message": message,
        "attempts": attempts,
    }


def encode_header(
    writer: str,
    place: str,
    endpoint: str | None,
    root: str,
    started: str,
    *,
    inner: str | None = None,
    roots: Iterable[str] = (),
    stored_with: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the first record of a journal: which bucket and release it speaks of.

    ``root`` is where the release lies today, ``inner`` the same relative to
    the directory that maps to the bucket's top, ``roots`` where it lay before.
    ``stored_with``: the settings of the objects that are sent.
    """
    header = {
        "kind": "journal",
        "format": FORMAT,
        "writer": writer,
        "bucket": place,
        "endpoint": endpoint,
        "root": root,
        "started": started,
        "written_by": provenance(),
    }
    if inner is not None:
        header["inner"] = inner
    if before := sorted(set(roots) - {root}):
        header["roots"] = before
    if stored_with:
        header["objects"] = dict(stored_with)
    return header


def read_headers(directory: Path) -> list[dict[str, Any]]:
    """Return the first record of each journal of a directory."""
    found = [next(read_log(path), None) for path in sorted(directory.glob("*.jsonl"))]
    return [header for header in found if header and is_sound(header)]


def read_key_prefix(directory: Path) -> str | None:
    """Return the bucket with prefix (``s3://…``) that the journals of a directory speak of, or None without journals.

    Raises ``ConsistencyError`` when they speak of several.
    """
    places = sorted({header["bucket"] for header in read_headers(directory) if "bucket" in header})
    if len(places) > 1:
        raise ConsistencyError(f"the journals in {directory} name several buckets: {', '.join(places)}")
    return places[0] if places else None
