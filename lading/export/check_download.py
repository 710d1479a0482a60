#!/usr/bin/env python3
"""Check a download of published data, or fetch and check paths of it.

    python3 check.py WHERE DIR              check every file in DIR
    python3 check.py WHERE DIR PATH...      check these files or directories alone
    python3 check.py WHERE DIR --fetch ...  fetch what is missing first, then check

WHERE is the directory with index.json and files.jsonl.gz, here or at an
https address. Nothing but Python 3.6 or later is needed. Exit code 0: all
that was asked for is here and right; 1: something is missing or differs;
2: a wrong call, or a list that is damaged.
"""

import argparse
import gzip
import hashlib
import http.client
import io
import json
import os
import sys
import tempfile
import urllib.parse
import urllib.request
import zlib
from typing import Any, Dict, List, NoReturn, Optional, Sequence, Tuple

FORMAT = 1
BLOCK = 1 << 20
URL = "/%:?#[]@!$&'()*+,;=~-._"  # what an address may hold as it is
NAMED = 20
Record = Dict[str, Any]
# What a broken connection, an answer that is not http and a damaged file end with.
FAILURES = (OSError, ValueError, EOFError, http.client.HTTPException, zlib.error)


def stop(text: str) -> NoReturn:
    """End with a sentence."""
    sys.stderr.write("error: " + text + "\n")
    sys.exit(2)


def shown(path: str) -> str:
    """Return a path that commands no terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in path)


def reason(error: Exception) -> str:
    """Return what an exception says, in one short line."""
    lines = str(error).strip().split("\n")
    return shown((lines[0] or type(error).__name__)[:200])


def read(where: str, name: str) -> bytes:
    """Return the bytes of a small file of the set."""
    try:
        if "://" in where:
            url = urllib.parse.quote(where.rstrip("/"), safe=URL) + "/" + name
            with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310
                return bytes(answer.read())
        with open(os.path.join(where, name), "rb") as stream:
            return stream.read()
    except FAILURES as error:
        stop(f"{shown(where)}/{name} cannot be read: {reason(error)}; check WHERE, or try again")


def read_list(where: str) -> Tuple[Record, List[Record]]:
    """Return (index, records) after comparing the list with the digest that the index names."""
    try:
        index = json.loads(read(where, "index.json").decode("ascii"))
        if index["format"] != FORMAT:
            stop(f"this list has another format than {FORMAT}; use the check.py beside it")
        packed = read(where, "files.jsonl.gz")
        if hashlib.sha256(packed).hexdigest() != index["files_sha256"]:
            stop("files.jsonl.gz is damaged: its digest is not the one in index.json")
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
            records = [json.loads(line.decode("ascii")) for line in stream]
        if len(records) != index["objects"] or not all(map(is_record, records)):
            stop("files.jsonl.gz does not hold what index.json says")
        return index, records
    except (KeyError, TypeError, RecursionError, *FAILURES) as error:
        stop(f"the list at {shown(where)} is damaged, or is none ({type(error).__name__}: {reason(error)})")


def is_record(record: Any) -> bool:
    """Tell whether this, read of a line, has what is asked of a record."""
    return (
        isinstance(record, dict)
        and all(isinstance(record.get(name), str) for name in ("path", "key"))
        and all(record.get(name) is None or isinstance(record[name], str) for name in ("sha256", "md5"))
        and bool(record.get("sha256") or record.get("md5"))
        and isinstance(record.get("size"), int)
    )


def place(top: str, path: str) -> Optional[bytes]:
    """Return where a path lies; None for one that would lead out of the directory."""
    if path.startswith("/") or "\0" in path or ".." in path.split("/"):
        return None
    return os.path.join(os.fsencode(top), path.encode("utf-8", "surrogateescape"))


def digest(record: Record) -> Tuple[str, str]:
    """Return (algorithm, digest) of a record: the strongest that is known."""
    return ("sha256", record["sha256"]) if record.get("sha256") else ("md5", record["md5"])


def compare(name: bytes, record: Record) -> str:
    """Return what is wrong with a file, or nothing."""
    algorithm, expected = digest(record)
    try:
        if not os.path.isfile(name) and os.path.exists(name):
            return "is not a regular file"
        with open(name, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != record["size"]:
                return f"has {size} bytes, not {record['size']}"
            found = hashlib.new(algorithm)
            while True:
                block = stream.read(BLOCK)
                if not block:
                    break
                found.update(block)
    except OSError as error:
        return "is missing" if error.errno == 2 else "cannot be read: " + str(error.strerror)
    return "" if found.hexdigest() == expected else f"has other bytes ({algorithm})"


def fetch(base: str, name: bytes, record: Record) -> str:
    """Bring a file; it appears under its name only when its bytes are right. Returns what is wrong, or nothing."""
    algorithm, expected = digest(record)
    key = record["key"].encode("utf-8", "surrogateescape")
    url = base + urllib.parse.quote(key, safe="/-._~")
    directory = os.path.dirname(name)
    temporary = None
    try:
        os.makedirs(directory, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=b".check-", dir=directory)
        found, size = hashlib.new(algorithm), 0
        with os.fdopen(handle, "wb") as stream, urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310
            while True:
                block = answer.read(BLOCK)
                if not block:
                    break
                size += len(block)
                if size > record["size"]:
                    break
                found.update(block)
                stream.write(block)
        if size < record["size"]:
            return f"broke off after {size} of {record['size']} bytes; run the same command again"
        if size != record["size"] or found.hexdigest() != expected:
            return "came with other bytes from the server"
        os.chmod(temporary, 0o644)
        give_name(temporary, name)
        return ""
    except FAILURES as error:
        return "was not fetched: " + reason(error)
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def give_name(temporary: bytes, name: bytes) -> None:
    """Rename a file, never over one that is there."""
    try:
        os.link(temporary, name)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, such as exFAT: the name is taken first, then replaced
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(temporary, name)


def wanted(records: List[Record], paths: Sequence[str]) -> List[Record]:
    """Return the records of the given files and directories; ends when one of them is not in the list."""
    if not paths:
        return records
    names = [os.path.normpath(path) for path in paths]
    chosen: List[Record] = []
    met = set()
    for record in records:
        for name in names:
            if record["path"] == name or record["path"].startswith(name + "/"):
                chosen.append(record)
                met.add(name)
                break
    for name in names:
        if name not in met:
            stop(f"{shown(name)} is not in the list")
    return chosen


def main() -> int:
    """Check; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="check.py WHERE DIR [PATH ...] [--fetch] [--base BASE]",
    )
    parser.add_argument("where", help="directory or https address of index.json")
    parser.add_argument("directory", help="where the files are, or will be")
    parser.add_argument("--fetch", action="store_true", help="fetch what is missing")
    parser.add_argument("--base", help="address of the bucket's top, instead of the one in index.json")
    # Paths may stand before and after flags, which a list of positional arguments does not allow.
    arguments, paths = parser.parse_known_args()
    for path in paths:
        if path.startswith("--"):
            parser.error(f"unknown flag {path}; give a file of this name as ./{path}")
    index, records = read_list(arguments.where)
    base = (arguments.base or str(index.get("base", ""))).rstrip("/") + "/"
    right = wrong = 0
    for record in wanted(records, paths):
        name = place(arguments.directory, record["path"])
        if name is None:
            fault = "leads out of the directory"
        else:
            fault = compare(name, record)
            if fault == "is missing" and arguments.fetch:
                fault = fetch(base, name, record) or compare(name, record)
        if not fault:
            right += 1
            continue
        wrong += 1
        if wrong <= NAMED:
            sys.stdout.write(f"{shown(record['path'])} {shown(fault)}\n")
    if wrong > NAMED:
        sys.stdout.write(f"... and {wrong - NAMED} more\n")
    sys.stdout.write(f"{right} {'file' if right == 1 else 'files'} right, {wrong} missing or different\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
