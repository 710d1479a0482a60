"""Zip archives, with or without a password, proven by reading them back.

Input: files and their names inside the archive. Output: one ``.zip`` under its
final name.
Invariant: the archive appears by rename, after every member was extracted
again and compared, byte by byte, with the source as read a second time. The
password is in no argument, record or message.

``aes`` (WinZip AE-2, AES-256, members stored: what goes in is compressed
already) is recommended; ``legacy`` is ZipCrypto, which falls to known
plaintext, for readers that know nothing else (Biham and Kocher 1994).
"""

import contextlib
import os
import stat
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyzipper

from lading.compress.file_copy import appear, compare, unfinished
from lading.compress.job import BlockDigest, Measured, SourceFault, SourceFile, VerificationFailed, fold_digests
from lading.compress.sources import Source, SourceState
from lading.core.errors import LadingError, UsageError

METHODS = ("plain", "aes", "legacy")
PASSWORD_VARIABLE = "LADING_ZIP_PASSWORD"  # noqa: S105 - the name of a variable, no secret

LEGACY_WARNING = (
    "legacy zip passwords (ZipCrypto) can be broken by anyone who knows a few bytes of a file; choose the aes method "
    "unless the reader cannot open it"
)
_BLOCK = 4 << 20
# What the reference used for its zips.
_DEFLATE_LEVEL = 5
# Members of a legacy zip that are held open while it is written; of more only their paths are given to pyminizip.
_HELD = 256


@dataclass(frozen=True)
class ArchiveMember:
    """A file of a source and its name in the archive (``/`` between folders)."""

    path: str
    name: str


@dataclass(frozen=True)
class ArchiveProof:
    """What was proven: bytes of the members, digest over their digests, their records, the archive as read back."""

    bytes_in: int
    checksum: str
    sources: tuple[SourceFile, ...]
    archive: Measured


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
            raise UsageError(f"{path}: the password file is not UTF-8 text (offset {error.start})") from error
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
        raise UsageError(f"{source} holds a zero byte, which a zip password cannot have")
    return text


def write_zip(
    source: Source, members: Sequence[ArchiveMember], target: Path, working: Path, method: str, password: str | None
) -> ArchiveProof:
    """Write ``target`` from ``members`` in ``working`` and prove it.

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
                f"{os.fsencode(source.locate(member.path))!r}: the name is not UTF-8, so a zip cannot hold it; "
                "rename it or copy the folder"
            ) from error
    try:
        with unfinished(working) as partial:
            write = _write_legacy if method == "legacy" else _write_members
            before = write(source, members, partial, method, password)
            read = _extract_legacy if method == "legacy" else _read_members
            checksums, sources = [], []
            for member, state, blocks in zip(members, before, read(members, partial, method, password)):
                with source.open(member.path) as file:
                    found = compare(file, blocks) if file.state == state else None
                    if found is None:
                        raise VerificationFailed(
                            f"{target}: member {member.name} does not extract to the bytes of {file.name}; "
                            "the source changed meanwhile or a disk is faulty; run again"
                        )
                    file.require_unchanged()
                    checksums.append(found.hash)
                    sources.append(file.record(found.sha256))
            archive = BlockDigest()
            with open(partial, "rb", buffering=0) as stream:
                os.fsync(stream.fileno())
                while block := stream.read(_BLOCK):
                    archive.update(block)
            appear(partial, target)
    except OSError as error:
        raise LadingError(
            f"{target}: cannot be written: {error.strerror or error}; make room there and run again"
        ) from error
    size = sum(record.size for record in sources)
    measured = Measured(archive.size, archive.hash, archive.sha256)
    return ArchiveProof(size, fold_digests(checksums), tuple(sources), measured)


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


def _write_members(
    source: Source, members: Sequence[ArchiveMember], partial: Path, method: str, password: str | None
) -> list[SourceState]:
    """Write the members; return the state in which each was read."""
    states = []
    with _archive(partial, "w", method, password) as archive:
        for member in members:
            with source.open(member.path) as file:
                states.append(file.state)
                status = os.fstat(file.descriptor)
                # Zip knows the years 1980 to 2107 (APPNOTE 4.4.6).
                when = time.gmtime(min(max(status.st_mtime, 315532800), 4354819198))[:6]
                about = (pyzipper.zipfile_aes.AESZipInfo if method == "aes" else zipfile.ZipInfo)(member.name, when)
                about.external_attr = (status.st_mode & 0xFFFF) << 16
                about.compress_type = archive.compression
                about.file_size = status.st_size
                with archive.open(about, "w", force_zip64=status.st_size >= 0x7FFFFFFF) as writer:
                    for block in file.blocks():
                        writer.write(block)
    return states


def _read_members(
    members: Sequence[ArchiveMember], partial: Path, method: str, password: str | None
) -> Iterator[Iterator[bytes]]:
    """Yield what comes back of each member, in blocks to be taken before the next."""

    def blocks(archive: Any, name: str) -> Iterator[bytes]:
        try:
            with archive.open(name) as reader:
                while block := reader.read(_BLOCK):
                    yield block
        except damage as error:
            raise VerificationFailed(f"{partial}: what was written cannot be read back: {error}; run again") from error

    damage = (zipfile.BadZipFile, pyzipper.BadZipFile, zlib.error, RuntimeError, KeyError, EOFError)
    try:
        with _archive(partial, "r", method, password) as archive:
            for member in members:
                yield blocks(archive, member.name)
    except damage as error:
        raise VerificationFailed(f"{partial}: what was written cannot be read back: {error}; run again") from error


def _pyminizip() -> Any:
    try:
        import pyminizip
    except ImportError as error:
        raise UsageError(
            "legacy password zips need the pyminizip package, which is not installed; install it, or use the aes method"
        ) from error
    return pyminizip


def _write_legacy(
    source: Source, members: Sequence[ArchiveMember], partial: Path, method: str, password: str | None
) -> list[SourceState]:
    """Write the members by pyminizip, which opens them by their paths.

    What it opened is known only by the bytes: they are compared afterwards
    with the file that is opened below the source's top.
    """
    library = _pyminizip()
    states, paths = [], []
    refuse_names((member.name for member in members), "legacy")
    with contextlib.ExitStack() as held, tempfile.TemporaryDirectory(dir=partial.parent) as directory:
        for number, member in enumerate(members):
            with contextlib.ExitStack() as opened:
                file = opened.enter_context(source.open(member.path))
                states.append(file.state)
                path = file.name
                if number < _HELD:
                    # A link to the open file, under its own name: pyminizip takes the base name from the path.
                    path = os.path.join(directory, str(number), os.path.basename(member.name))
                    os.mkdir(os.path.dirname(path))
                    os.symlink(file.system_path(), path)
                    held.push(opened.pop_all())
            if os.path.basename(member.name) != os.path.basename(path):
                raise ValueError("a legacy zip keeps the base name of its members")
            paths.append(path)
        folders = [os.path.dirname(member.name) for member in members]
        try:
            library.compress_multiple(paths, folders, os.fspath(partial), password, _DEFLATE_LEVEL)
        except (OSError, ValueError) as error:
            raise LadingError(
                f"{partial}: pyminizip cannot write it: {error}; make room there and run again"
            ) from error
    _flag_names(partial)
    return states


def refuse_names(names: Iterable[str], method: str) -> None:
    """Raise ``SourceFault`` for names that an archive of this method would change."""
    faults = [
        f"{name}: the name has a backslash, which a legacy zip takes for a folder; rename it, or use the aes method"
        for name in names
        if method == "legacy" and "\\" in name
    ]
    if faults:
        raise SourceFault("\n".join(faults))


def _flag_names(path: Path) -> None:
    """Say of each name that is not ASCII that it is UTF-8 (APPNOTE 4.4.4, bit 11), which pyminizip writes and keeps.

    Without it unzip and Python show the bytes in the code page of DOS. unzip does so even with it for archives of
    DOS, so these members are of Unix, with the mode that a plain file has there.
    """
    with zipfile.ZipFile(path) as archive:
        at, offsets = archive.start_dir, [info.header_offset for info in archive.infolist()]
    with open(path, "r+b") as stream:
        for offset in offsets:
            stream.seek(at)
            head = stream.read(46)
            lengths = struct.unpack("<3H", head[28:34])
            if not stream.read(lengths[0]).isascii():
                for place in (at + 8, offset + 6):
                    stream.seek(place)
                    (flags,) = struct.unpack("<H", stream.read(2))
                    stream.seek(place)
                    stream.write(struct.pack("<H", flags | 0x800))
                stream.seek(at + 5)
                stream.write(b"\3")
                stream.seek(at + 38)
                stream.write(struct.pack("<I", (stat.S_IFREG | 0o644) << 16))
            at += 46 + sum(lengths)


def _extract_legacy(
    members: Sequence[ArchiveMember], partial: Path, method: str, password: str | None
) -> Iterator[Iterator[bytes]]:
    """Extract by pyminizip (Python's own ZipCrypto runs at a few MB/s) beside the archive; yield what came out."""
    library = _pyminizip()
    here = os.getcwd()

    def blocks(path: Path) -> Iterator[bytes]:
        with open(path, "rb", buffering=0) as reader:
            while block := reader.read(_BLOCK):
                yield block

    with tempfile.TemporaryDirectory(dir=partial.parent) as directory:
        try:
            library.uncompress(os.fspath(partial), password, directory, 0)
        except (OSError, ValueError) as error:
            raise VerificationFailed(f"{partial}: what was written cannot be read back: {error}; run again") from error
        finally:
            os.chdir(here)  # pyminizip leaves the process in the directory it extracted to
        with zipfile.ZipFile(partial) as archive:
            shown = archive.namelist()
        for member, name in zip(members, shown):
            if name != member.name:
                raise VerificationFailed(f"{partial}: {member.name} is shown as {name} by other readers; run again")
        paths = [Path(directory, member.name) for member in members]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise VerificationFailed(f"{partial}: member {missing[0]} is missing in what was written; run again")
        yield from map(blocks, paths)
