"""Zip archives, with or without a password, proven by reading them back.

Input: files and their names inside the archive. Output: one ``.zip`` under its
final name.
Invariant: the archive appears by rename, after every member was extracted
again and its digest equals that of the source as read a second time. The
password is in no argument, record or message.

``aes`` (WinZip AE-2, AES-256, members stored: what goes in is compressed
already) is recommended; ``legacy`` is ZipCrypto, which falls to known
plaintext, for readers that know nothing else (Biham and Kocher 1994).
"""

import contextlib
import os
import stat
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyzipper
import xxhash

from jobs.compress.base import SourceFault, VerificationFailed, digest_file, fold_digests
from jobs.compress.files import WORKING, working_name
from lading.errors import LadingError, UsageError
from lading.files import sync_directory

METHODS = ("plain", "aes", "legacy")
PASSWORD_VARIABLE = "LADING_ZIP_PASSWORD"  # noqa: S105 - the name of a variable, no secret

LEGACY_WARNING = (
    "legacy zip passwords (ZipCrypto) can be broken by who knows a few bytes of a file; choose the aes method "
    "unless the reader cannot open it"
)
_BLOCK = 4 << 20
# What the reference used for its zips.
_DEFLATE_LEVEL = 5


@dataclass(frozen=True)
class Member:
    """A file and its name in the archive (``/`` between folders)."""

    path: Path
    name: str


@dataclass(frozen=True)
class Proof:
    """What was proven: bytes of the members, bytes of the archive, digest over the members' digests."""

    bytes_in: int
    bytes_out: int
    checksum: str


def read_password(file: str | None, variable: str | None) -> str:
    """Return the first line of a file, or an environment variable; ``UsageError`` when there is no password."""
    if file:
        path = Path(file)
        try:
            status = path.stat()
            text = path.read_text(encoding="utf-8").split("\n")[0]
        except OSError as error:
            raise UsageError(f"{path}: the password file cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: the password file is no UTF-8 text (offset {error.start})") from error
        if status.st_mode & stat.S_IROTH:
            raise UsageError(f"{path}: anybody can read the password file; run chmod 600 on it")
        source = f"the first line of {path}"
    else:
        name = variable or PASSWORD_VARIABLE
        text = os.environ.get(name, "")
        source = f"the environment variable {name}"
    if not text:
        raise UsageError(f"{source} holds no password; give one by --password-file or by {PASSWORD_VARIABLE}")
    if "\0" in text:
        raise UsageError(f"{source} holds a zero byte, which no zip password can have")
    return text


def write_zip(members: Sequence[Member], target: Path, method: str, password: str | None) -> Proof:
    """Write ``target`` from ``members`` and prove it.

    Raises ``SourceFault`` for a member that cannot be read, ``LadingError``
    when the archive cannot be written, ``VerificationFailed`` when it does not
    give back what went in.
    """
    if not members:
        raise SourceFault(f"{target.stem}: there is no file to put into {target.name}")
    for member in members:
        try:
            member.name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise SourceFault(
                f"{os.fsencode(member.path)!r}: the name is no UTF-8, which a zip cannot hold; "
                "rename it or copy the folder"
            ) from error
    partial = working_name(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write = _write_legacy if method == "legacy" else _write_members
        write(members, partial, method, password)
        found = (
            _extract_legacy(members, partial, password)
            if method == "legacy"
            else _read_members(members, partial, method, password)
        )
        expected = [digest_file(member.path) for member in members]
        for member, before, after in zip(members, expected, found):
            if before != after:
                raise VerificationFailed(
                    f"{target}: member {member.name} does not give back {member.path}; "
                    "the source changed meanwhile or a disk is faulty; run again"
                )
        size = sum(member.path.stat().st_size for member in members)
        with open(partial, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, target)
        sync_directory(target.parent)
        return Proof(size, target.stat().st_size, fold_digests(expected))
    except OSError as error:
        raise _fault(error, members, target) from error
    finally:
        partial.unlink(missing_ok=True)


def _fault(error: OSError, members: Sequence[Member], target: Path) -> LadingError:
    if error.filename is not None and any(os.fspath(member.path) == os.fspath(error.filename) for member in members):
        return SourceFault(f"{error.filename}: cannot be read: {error.strerror}")
    return LadingError(f"{target}: cannot be written: {error.strerror or error}; make room there and run again")


@contextlib.contextmanager
def _archive(path: Path, mode: Any, method: str, password: str | None) -> Iterator[Any]:
    if method == "aes":
        assert password
        with pyzipper.AESZipFile(path, mode, compression=zipfile.ZIP_STORED, allowZip64=True) as archive:
            archive.setpassword(password.encode("utf-8"))
            if mode == "w":
                archive.setencryption(pyzipper.WZ_AES, nbits=256)
            yield archive
    else:
        with zipfile.ZipFile(path, mode, zipfile.ZIP_DEFLATED, compresslevel=_DEFLATE_LEVEL, allowZip64=True) as plain:
            yield plain


def _write_members(members: Sequence[Member], partial: Path, method: str, password: str | None) -> None:
    with _archive(partial, "w", method, password) as archive:
        for member in members:
            status = member.path.stat()
            # Zip knows the years 1980 to 2107 (APPNOTE 4.4.6).
            when = time.gmtime(min(max(status.st_mtime, 315532800), 4354819198))[:6]
            about = (pyzipper.zipfile_aes.AESZipInfo if method == "aes" else zipfile.ZipInfo)(member.name, when)
            about.external_attr = (status.st_mode & 0xFFFF) << 16
            about.compress_type = archive.compression
            about.file_size = status.st_size
            large = status.st_size >= 0x7FFFFFFF
            with open(member.path, "rb", buffering=0) as reader, archive.open(about, "w", force_zip64=large) as writer:
                while block := reader.read(_BLOCK):
                    writer.write(block)


def _read_members(members: Sequence[Member], partial: Path, method: str, password: str | None) -> list[str]:
    found = []
    try:
        with _archive(partial, "r", method, password) as archive:
            for member in members:
                state = xxhash.xxh3_128()
                with archive.open(member.name) as reader:
                    while block := reader.read(_BLOCK):
                        state.update(block)
                found.append(state.hexdigest())
    except (zipfile.BadZipFile, pyzipper.BadZipFile, zlib.error, RuntimeError, KeyError, EOFError) as error:
        raise VerificationFailed(f"{partial}: what was written cannot be read back: {error}; run again") from error
    return found


def _pyminizip() -> Any:
    try:
        import pyminizip
    except ImportError as error:
        raise UsageError(
            "legacy password zips need the pyminizip package, which is not installed; install it or take the aes method"
        ) from error
    return pyminizip


def _write_legacy(members: Sequence[Member], partial: Path, method: str, password: str | None) -> None:
    library = _pyminizip()
    # pyminizip takes the base name from the path and the folder as a prefix.
    for member in members:
        if Path(member.name).name != member.path.name:
            raise ValueError("a legacy zip keeps the base name of its members")
        with open(member.path, "rb"):  # pyminizip tells no reason when it cannot
            pass
    folders = [os.path.dirname(member.name) for member in members]
    try:
        library.compress_multiple(
            [os.fspath(member.path) for member in members], folders, os.fspath(partial), password, _DEFLATE_LEVEL
        )
    except (OSError, ValueError) as error:
        raise LadingError(f"{partial}: pyminizip cannot write it: {error}; make room there and run again") from error


def _extract_legacy(members: Sequence[Member], partial: Path, password: str | None) -> list[str]:
    """Extract by pyminizip (Python's own ZipCrypto runs at a few MB/s) beside the archive and digest what came out."""
    library = _pyminizip()
    here = os.getcwd()
    with tempfile.TemporaryDirectory(prefix=WORKING, dir=partial.parent) as directory:
        try:
            library.uncompress(os.fspath(partial), password, directory, 0)
        except (OSError, ValueError) as error:
            raise VerificationFailed(f"{partial}: what was written cannot be read back: {error}; run again") from error
        finally:
            os.chdir(here)  # pyminizip leaves the process in the directory it extracted to
        paths = [Path(directory, member.name) for member in members]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise VerificationFailed(f"{partial}: member {missing[0]} is missing in what was written; run again")
        return [digest_file(path) for path in paths]
