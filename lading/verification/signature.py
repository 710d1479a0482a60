"""Sign a manifest, and tell by the signature which of its rows were changed.

Input: a manifest, a key of ssh or minisign. Output: beside the manifest a statement of one line (``.signed``), its
signature (``.signed.sig`` or ``.signed.minisig``), and eight bytes for each row (``.rows``).
Invariant: the tool that the key is of makes and checks signatures, nothing here does. The statement holds the digests
of the manifest and of the rows' bytes, so nothing that is believed is outside of what was signed.
"""

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from lading.core.atomic import atomic_write
from lading.core.bounded import SMALL_BYTES, JsonMembers, parse_json, read_bounded
from lading.core.command_line import printable
from lading.core.errors import ConsistencyError, LadingError, UsageError
from lading.core.progress import format_count
from lading.verification.manifest import Manifest, manifest_lines

FORMAT = 1
NAMESPACE = "lading-manifest"
STATEMENT, ROWS = ".signed", ".rows"
ENDINGS = {"ssh": ".sig", "minisign": ".minisig"}
PROGRAMS = {"ssh": "ssh-keygen", "minisign": "minisign"}
NAMED = 20
ROW_BYTES = 8
_SSH_PUBLIC = re.compile(rb"(?:ssh-|ecdsa-|sk-)[\w@.-]+ [A-Za-z0-9+/=]+")


@dataclass(frozen=True)
class SigningKey:
    """A key's file and the tool that it is of: ``ssh`` or ``minisign``."""

    path: Path
    kind: str

    @property
    def program(self) -> str:
        """Return the path of the key's tool; ``UsageError`` where it is not installed."""
        found = shutil.which(PROGRAMS[self.kind])
        if found is None:
            raise UsageError(f"{self.path} is a key of {self.kind}, and {PROGRAMS[self.kind]} is not installed here")
        return found


def read_key(path: Path) -> SigningKey:
    """Return which tool a key is of; ``UsageError`` for what is no key."""
    try:
        content = read_bounded(path, SMALL_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"the key {path} cannot be read: {reason}") from error
    if content.startswith(b"untrusted comment:"):
        return SigningKey(path, "minisign")
    if content.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----") or _SSH_PUBLIC.match(content):
        return SigningKey(path, "ssh")
    raise UsageError(f"{path} is a key neither of ssh (ssh-keygen -t ed25519) nor of minisign (minisign -G)")


def sign_manifest(manifest: Manifest, key: SigningKey, out: Path) -> list[Path]:
    """Write statement, signature and rows beside ``out``; returns their paths."""
    rows = out.with_name(out.name + ROWS)
    digest = hashlib.sha256()
    with atomic_write(rows, "wb") as stream:
        for line in row_lines(manifest.path):
            mark = digest_line(line)
            digest.update(mark)
            stream.write(mark)
    header, end = manifest.header, manifest.end
    statement = json.dumps(
        {
            "kind": NAMESPACE,
            "format": FORMAT,
            "bucket": header.bucket,
            "prefix": header.prefix,
            "created_at": header.created_at,
            "objects": end.objects,
            "bytes": end.bytes,
            "manifest": end.sha256,
            "rows": digest.hexdigest(),
        },
        separators=(",", ":"),
    ).encode("ascii") + b"\n"  # fmt: skip
    named = out.with_name(out.name + STATEMENT)
    if not named.exists() or named.read_bytes() != statement:
        for ending in ENDINGS.values():  # of the statement that is replaced now: of this one they would be wrong
            named.with_name(named.name + ending).unlink(missing_ok=True)
    signature = named.with_name(named.name + ENDINGS[key.kind])
    made = make_signature(key, statement)
    for path, content in ((named, statement), (signature, made)):
        with atomic_write(path, "wb") as stream:
            stream.write(content)
    return [named, signature, rows]


def signed_digest(statement: Path) -> str:
    """Return the digest of the manifest that a statement is on; empty where it says none."""
    try:
        return JsonMembers(parse_json(read_bounded(statement, SMALL_BYTES)), "the statement").text("manifest")
    except (OSError, ValueError):
        return ""


def make_signature(key: SigningKey, statement: bytes) -> bytes:
    """Return the signature of a statement; the tool asks for a password where the key has one."""
    if key.kind == "ssh":
        words = [key.program, "-Y", "sign", "-q", "-n", NAMESPACE, "-f", str(key.path)]
        return _run(words, "the manifest was not signed", statement)
    with tempfile.TemporaryDirectory(prefix="lading-sign-") as scratch:
        place = Path(scratch) / "statement"
        place.write_bytes(statement)
        signature = place.with_suffix(".minisig")
        words = [key.program, "-S", "-s", str(key.path), "-m", str(place), "-x", str(signature)]
        _run(words, "the manifest was not signed")
        return signature.read_bytes()


def check_signature(key: SigningKey, statement: bytes, signature: bytes, where: str) -> Mapping[str, Any]:
    """Return what a statement says; ``ConsistencyError`` unless ``key`` signed it."""
    with tempfile.TemporaryDirectory(prefix="lading-sign-") as scratch:
        signed, place, allowed = (Path(scratch) / name for name in ("signature", "statement", "allowed"))
        signed.write_bytes(signature)
        place.write_bytes(statement)
        if key.kind == "ssh":
            public = read_bounded(key.path, SMALL_BYTES)
            if not _SSH_PUBLIC.match(public):
                raise UsageError(f"{key.path} is a private key; give the public one, {key.path}.pub")
            allowed.write_bytes(b'lading namespaces="%s" ' % NAMESPACE.encode() + public.splitlines()[0] + b"\n")
            words = [key.program, "-Y", "verify", "-q", "-n", NAMESPACE, "-f", str(allowed), "-I", "lading"]
            words += ["-s", str(signed)]
            wrong = _fails(words, statement)
        else:
            wrong = _fails([key.program, "-V", "-q", "-p", str(key.path), "-m", str(place), "-x", str(signed)], b"")
    if wrong is not None:
        raise ConsistencyError(f"{where}: its signature is not of the key {key.path}: {wrong}; do not trust it")
    try:
        found = parse_json(statement)
        take = JsonMembers(found, "the statement")
        if take.text("kind") != NAMESPACE or take.number("format") != FORMAT:
            raise UsageError(f"{where}: the signed statement is of another format than {FORMAT}; update Lading")
        take.text("manifest"), take.text("rows")
    except ValueError as error:
        raise ConsistencyError(f"{where}: what was signed is not a statement on a manifest ({error})") from error
    return dict(found)


def _fails(words: list[str], data: bytes) -> str | None:
    """Return what a tool says that does not agree, None where it does."""
    done = subprocess.run(words, input=data, capture_output=True, check=False)
    said = (done.stderr or done.stdout).decode("utf-8", "backslashreplace").strip().splitlines()
    return None if done.returncode == 0 else printable(said[-1] if said else f"exit code {done.returncode}")


def _run(words: list[str], failed: str, data: bytes | None = None) -> bytes:
    done = subprocess.run(words, input=data, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise LadingError(f"{failed}: {Path(words[0]).name} ended with exit code {done.returncode}; it says why above")
    return done.stdout


def row_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a manifest but for its end record: the header is signed as the rows are."""
    for line in manifest_lines(path):
        if line.startswith(b'{"end":'):
            return
        yield line


def digest_line(line: bytes) -> bytes:
    """Return the eight bytes that stand for a line."""
    return hashlib.blake2b(line, digest_size=ROW_BYTES).digest()


def find_changed(path: Path, rows: IO[bytes], statement: Mapping[str, Any]) -> str:
    """Return which lines of a manifest are not those that were signed; ``rows`` are checked by the statement first."""
    held = rows.read()
    if hashlib.sha256(held).hexdigest() != statement["rows"] or len(held) % ROW_BYTES:
        return "which rows were changed is not known, since the list of rows beside it was changed too"
    signed = np.sort(np.frombuffer(held, dtype=">u8"))
    marks = array("Q")
    named: list[str] = []
    strange = 0
    for number, line in enumerate(row_lines(path), 1):
        mark = int.from_bytes(digest_line(line), "big")
        marks.append(mark)
        place = int(np.searchsorted(signed, mark))
        if place == len(signed) or int(signed[place]) != mark:
            strange += 1
            if len(named) < NAMED:
                named.append(_name_line(number, line))
    gone = int((~np.isin(signed, np.array(marks, dtype=np.uint64))).sum())
    more = " …" if strange > len(named) else ""
    changed = f"changed or added: {format_count(strange)}: {', '.join(named)}{more}" if strange else "none was changed"
    return f"{changed}; of the signed rows {format_count(gone)} are gone or changed"


def _name_line(number: int, line: bytes) -> str:
    if number == 1:
        return "the header"
    try:
        return f"line {number} ({printable(str(JsonMembers(parse_json(line)).text('key')))})"
    except ValueError:
        return f"line {number}, which is not a row"
