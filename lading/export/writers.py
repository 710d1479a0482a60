"""A manifest in other forms: checksum files, BagIt, csv, a registry for pooch, and a set for ``check.py``.

Input: a manifest that was read whole and found sound. Output: one file or
directory, which appears complete or not at all.
Invariant: every row is written, or is counted and named in what is returned:
a form that rests on SHA-256 holds no row whose SHA-256 is not known.
"""

import csv
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lading.core.atomic import atomic_write
from lading.core.command_line import printable
from lading.core.errors import ConsistencyError, LadingError, UsageError
from lading.core.version import version_line
from lading.export.addresses import Addresses
from lading.verification.manifest import Manifest, ManifestRow

NAMED = 10
HELD_LINES = 200_000  # of files per directory, before they are written
CHECK_FORMAT = 1
_ENDS = re.compile(r"[\r\n]")  # these are encoded
_AMBIGUOUS = re.compile(rb"%(0[adAD]|25)")


@dataclass
class Exported:
    """What was written, and what was left out and why; ``named`` holds the first paths."""

    rows: int = 0
    left_out: int = 0
    why: str = ""
    named: list[str] = field(default_factory=list)

    def leave_out(self, row: ManifestRow, why: str) -> None:
        """Count a row that the form cannot hold."""
        self.left_out += 1
        self.why = why
        if len(self.named) < NAMED:
            self.named.append(row.path)


def sum_line(digest: str, path: str) -> bytes:
    r"""Return a line as ``sha256sum`` writes it: with ``\`` before it where the name holds ``\`` or a newline."""
    name = os.fsencode("./-" if path == "-" else path)  # alone it would be standard input
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if escaped != name else b"") + digest.encode("ascii") + b"  " + escaped + b"\n"


def digested(manifest: Manifest, done: Exported) -> Iterator[tuple[ManifestRow, str]]:
    """Yield rows with their SHA-256; leaves out those of which none is known."""
    for row in manifest.rows():
        if is_outside(row.path):
            raise ConsistencyError(f"the manifest has a path that leads out of the release: {printable(row.path)}")
        if row.sha256 is None:
            done.leave_out(
                row,
                "the manifest has no SHA-256 of these objects; make verify verify_flags=--full reads all objects for "
                "it, and --adopt=download only those that were in the bucket before",
            )
        else:
            done.rows += 1
            yield row, row.sha256


def write_sums(manifest: Manifest, out: Path, _: Addresses) -> Exported:
    """Write one file for ``sha256sum -c``, with paths relative to the release's root."""
    done = Exported()
    with atomic_write(out, "wb") as stream:
        for row, digest in digested(manifest, done):
            stream.write(sum_line(digest, row.path))
    return done


def write_directory_sums(manifest: Manifest, out: Path, _: Addresses) -> Exported:
    """Write a directory of ``DIRECTORY/SHA256SUMS`` files, each with the names of one directory."""
    done = Exported()
    with new_directory(out) as top:
        held: dict[str, list[bytes]] = defaultdict(list)

        def flush() -> None:
            for directory, lines in held.items():
                place = below(top, directory)
                place.mkdir(parents=True, exist_ok=True)
                with (place / "SHA256SUMS").open("ab") as stream:
                    stream.writelines(lines)
            held.clear()

        for count, (row, digest) in enumerate(digested(manifest, done), 1):
            directory, _slash, name = row.path.rpartition("/")
            held[directory].append(sum_line(digest, name))
            if count % HELD_LINES == 0:
                flush()
        flush()
    return done


def below(top: Path, folder: str) -> Path:
    """Return a folder of a release below ``top``; ``ConsistencyError`` for one that would lead out of it."""
    parts = folder.split("/") if folder else []
    if folder and is_outside(folder):
        raise ConsistencyError(f"the manifest has a path that leads out of the release: {printable(folder)}/…")
    return top.joinpath(*parts)


def is_outside(path: str) -> bool:
    """Tell whether a path has a part that is no name, so that who follows it may leave the release."""
    return any(part in ("", ".", "..") or "\0" in part for part in path.split("/"))


def write_csv(manifest: Manifest, out: Path, addresses: Addresses) -> Exported:
    """Write every row as csv, UTF-8; bytes of names that are no UTF-8 become ``\\xNN``."""
    names = ("path", "key", "size", "mtime_ns", "md5", "sha256", "etag", "version_id", "uploaded_at", "verified_by")
    done = Exported()
    with atomic_write(out, "wb") as raw:
        stream = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
        writer = csv.writer(stream)
        writer.writerow([*names, "url"])
        for row in manifest.rows():
            done.rows += 1
            writer.writerow([*(_blank(getattr(row, name)) for name in names), addresses.url(row.key)])
        stream.detach()
    return done


def _blank(value: object) -> object:
    return "" if value is None else value


def write_pooch(manifest: Manifest, out: Path, addresses: Addresses) -> Exported:
    """Write a registry for pooch: ``name sha256:digest url`` a line; pooch splits lines at white space."""
    done = Exported()
    with atomic_write(out) as stream:
        for row, digest in digested(manifest, done):
            if len(row.path.split()) != 1 or row.path.startswith("#") or not row.path.isprintable():
                done.rows -= 1
                done.leave_out(row, "pooch cannot read names with spaces or control characters")
            else:
                stream.write(f"{row.path} sha256:{digest} {addresses.url(row.key)}\n")
    return done


def is_cut_in_bags(path: str) -> bool:
    """Tell whether readers of lines and words, as bagit.py is, take a path for a shorter one."""
    written = _ENDS.sub("_", path)
    return written != written.rstrip() or len(written.splitlines()) > 1


def is_truncated_in_bags(path: str) -> bool:
    """Tell whether readers of lines and words, as bagit.py is, take a path for a shorter one."""
    written = _ENDS.sub("_", path)
    return written != written.rstrip() or len(written.splitlines()) > 1


def write_bag(manifest: Manifest, out: Path, addresses: Addresses) -> Exported:
    """Write a bag (RFC 8493, version 1.0) whose payload is fetched: ``fetch.txt`` names an address for each file."""
    done = Exported()
    size = 0
    with new_directory(out) as top:
        (top / "data").mkdir()
        (top / "bagit.txt").write_text("BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n", encoding="ascii")
        with (top / "manifest-sha256.txt").open("wb") as sums, (top / "fetch.txt").open("wb") as fetch:
            for row, digest in digested(manifest, done):
                try:
                    name = row.path.encode("utf-8")
                except UnicodeEncodeError:
                    done.rows -= 1
                    done.leave_out(row, "a bag's names are UTF-8")
                    continue
                if is_truncated_in_bags(row.path):
                    done.rows -= 1
                    done.leave_out(row, "readers of bags truncate names at a separator of lines, and at their end")
                    continue
                if _AMBIGUOUS.search(name):
                    done.rows -= 1
                    done.leave_out(row, "readers of bags do not agree on names that hold %0A, %0D or %25")
                    continue
                # RFC 8493, 2.1.3, would have % encoded too; bagit.py does not decode it, and no reader needs it here.
                name = b"data/" + name.replace(b"\n", b"%0A").replace(b"\r", b"%0D")
                sums.write(digest.encode("ascii") + b"  " + name + b"\n")
                fetch.write(addresses.url(row.key).encode("ascii") + b" %d " % row.size + name + b"\n")
                size += row.size
        info = f"Payload-Oxum: {size}.{done.rows}\nBagging-Date: {manifest.header.created_at[:10]}\n"
        info += f"Bag-Software-Agent: {version_line()}\n"
        (top / "bag-info.txt").write_text(info, encoding="utf-8")
        tags = ("bag-info.txt", "bagit.txt", "fetch.txt", "manifest-sha256.txt")
        lines = [f"{digest_file(top / name)}  {name}\n" for name in tags]
        (top / "tagmanifest-sha256.txt").write_text("".join(lines), encoding="ascii")
    return done


def write_check(manifest: Manifest, out: Path, addresses: Addresses) -> Exported:
    """Write ``check.py`` with what it reads: ``index.json`` and ``files.jsonl.gz``, in key order.

    Put the directory beside the data: who has Python 3.6 checks a download, or fetches and checks paths.
    """
    done = Exported()
    size = 0
    with new_directory(out) as top:
        with (
            (top / "files.jsonl.gz").open("wb") as raw,
            gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as stream,
        ):
            for row in manifest.rows():
                if row.sha256 is None and row.md5 is None:
                    done.leave_out(row, "the manifest has no digest of these objects")
                    continue
                done.rows += 1
                size += row.size
                record = {"path": row.path, "key": row.key, "size": row.size, "sha256": row.sha256, "md5": row.md5}
                stream.write(json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n")
        index = {
            "format": CHECK_FORMAT,
            "base": addresses.base,
            "objects": done.rows,
            "bytes": size,
            "files_sha256": digest_file(top / "files.jsonl.gz"),
            "manifest_sha256": manifest.end.sha256,
            "created_at": manifest.header.created_at,
        }
        (top / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="ascii")
        shutil.copyfile(Path(__file__).with_name("check_download.py"), top / "check.py")
    return done


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a small file, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """Fill a directory beside ``out`` that takes its name at the end; an existing ``out`` is never replaced."""
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} already exists; remove it, or give another -o")
    try:
        top = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise LadingError(f"{out.parent}: cannot be written: {error.strerror}") from error
    try:
        yield top
        top.chmod(0o777 & ~_umask())
        os.rename(top, out)
    except BaseException:
        shutil.rmtree(top, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
