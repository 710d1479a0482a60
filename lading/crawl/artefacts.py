"""What of a working directory inside the release is Lading's own, and so no part of the release.

Input: the root of a crawl and where its tree will be written. Output:
patterns for the walk, and the names for the summary.
Invariant: only the directory of the output is looked at, and only what is
known to be ours is left out: by its content where another program could have
chosen the name. A file of the user is never left out for its name alone.
"""

import io
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lading.tree.globs import Glob, parse_glob
from lading.tree.size_tree import tree_stem

# The start of a batch.json: no other program writes these members in this order.
_PLAN = re.compile(rb'\{"format": \d+, "root": "')
_RUN = re.compile(r"\d{8}T\d{6}Z-.*\.json")
_HEAD = 4096
_MANIFEST_NAME = "manifest.jsonl.zst"
STAGES_FOLDER = ".lading-stages"  # lading/journal/stage_result.py, which a crawl need not load


@dataclass(frozen=True)
class Artefacts:
    """``globs`` match what is left out; ``names`` are those of it that are there, relative to the root."""

    globs: tuple[Glob, ...] = ()
    names: tuple[str, ...] = ()


def find_artefacts(root: str, output: Path) -> Artefacts:
    """Return what belongs to the run that writes ``output``, if its directory is ``root`` or lies below it."""
    directory, top = os.path.realpath(output.absolute().parent), os.path.realpath(root)
    below = os.path.relpath(directory, top)
    if below == ".." or below.startswith("../"):
        return Artefacts()
    place = Path(directory)
    prefix = "./" if below == "." else f"{below}/"
    sure = list(_sure(output))
    found = sorted({*(name for name in sure if (place / name).exists()), *_recognised(place)}, key=_hidden_last)
    patterns = [*map(escape, {*sure, *found}), *_unfinished(output)]
    globs = tuple(parse_glob(escape(prefix) + pattern) for pattern in sorted(patterns))
    names = tuple(prefix.removeprefix("./") + name + ("/" if (place / name).is_dir() else "") for name in found)
    return Artefacts(globs, names)


def _hidden_last(name: str) -> tuple[bool, str]:
    return name.startswith("."), name


def escape(name: str) -> str:
    """Return the pattern that matches ``name`` alone."""
    return re.sub(r"[*?[]", r"[\g<0>]", name)


def _sure(output: Path) -> Iterator[str]:
    """Yield what this run replaces, and the stamps that the makefile writes beside it."""
    stem = tree_stem(output)
    yield from (output.name, f"{stem}.json", f"{stem}.json.zst", f"{stem}.meta.json", f"{stem}.arrays")
    yield f"{stem}.metadata.jsonl.zst"
    yield f"{stem}.directories.zst"
    yield from (".settings.find", ".settings.batch", STAGES_FOLDER)


def _unfinished(output: Path) -> Iterator[str]:
    """Yield patterns of files on their way to becoming artefacts, see ``lading.core.atomic.atomic_write``."""
    for name in (*_sure(output), "batch.json", _MANIFEST_NAME):
        yield f".{escape(name[:150])}.*-????????"
    yield ".verify-????????"


def _recognised(directory: Path) -> Iterator[str]:
    """Yield what lies in a directory and is ours by its content."""
    for name, test in _TESTS.items():
        path = directory / name
        if os.path.lexists(path) and not path.is_symlink() and _passes(test, path):
            yield name
    yield from _records(directory / "runs")
    yield from _pages(directory / "report")


def _passes(test: Callable[[Path], bool], path: Path) -> bool:
    try:
        return test(path)
    except (OSError, ValueError, RecursionError):
        return False


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_HEAD)


def _first_record(line: bytes) -> dict[str, Any]:
    record = json.loads(line)
    return record if isinstance(record, dict) else {}


def _is_plan(path: Path) -> bool:
    return bool(_PLAN.match(_head(path)))


def _is_manifest(path: Path) -> bool:
    import zstandard  # here: only where there is such a file

    try:
        with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            line = io.BufferedReader(stream).readline(1 << 20)
    except zstandard.ZstdError:
        return False
    return _first_record(line).get("kind") == "manifest"


def _is_journal(path: Path) -> bool:
    if {"leases", "claims"} <= set(os.listdir(path)):
        return True
    for log in path.glob("*.jsonl"):
        with log.open("rb") as stream:
            if _first_record(stream.readline(1 << 20)).get("kind") in ("journal", "snapshot"):
                return True
    return False


def _is_signoff(path: Path) -> bool:
    if {"holders", "parts"} <= set(os.listdir(path)):  # a run that works there, or was killed
        return True
    with (path / "digests.jsonl").open("rb") as stream:
        return _first_record(stream.readline(1 << 20)).get("kind") == "digests"


def _is_mirror(path: Path) -> bool:
    return (path / "ria-layout-version").is_file() and (path / ".lading").is_dir()


def _is_portal(path: Path) -> bool:
    return (path / "jobs.sqlite").is_file()


_TESTS: dict[str, Callable[[Path], bool]] = {
    "batch.json": _is_plan,
    _MANIFEST_NAME: _is_manifest,
    "journal": _is_journal,
    "mirror": _is_mirror,
    "portal": _is_portal,
    "signoff": _is_signoff,
}


def _records(runs: Path) -> Iterator[str]:
    """Yield the records of runs: the whole folder when nothing else is in it."""

    def is_record(path: Path) -> bool:
        return bool(_RUN.fullmatch(path.name)) and b'"kind": "run"' in _head(path)

    def is_job(path: Path) -> bool:
        """Tell whether a folder is the state of jobs: ``BUCKET/PREFIX/job.json`` or ``.slurm``."""
        return path.is_dir() and (path.name == ".slurm" or any(path.glob("*/job.json")))

    if runs.is_symlink() or not runs.is_dir():
        return
    try:
        entries = list(runs.iterdir())
    except OSError:
        return
    ours = [path.name for path in entries if _passes(is_record, path) or _passes(is_job, path)]
    if ours and len(ours) == len(entries):
        yield "runs"
    else:
        yield from (f"runs/{name}" for name in ours)


def _pages(report: Path) -> Iterator[str]:
    """Yield the pages of the report: the whole folder when nothing else is in it."""
    own = re.compile(r"index\.html|tree\.html|\.?tree-[0-9a-f]{12}")
    if report.is_symlink() or not _passes(lambda path: b"Lading</title>" in _head(path), report / "index.html"):
        return
    entries = [path.name for path in report.iterdir()]
    ours = [name for name in entries if own.fullmatch(name)]
    if len(ours) == len(entries):
        yield "report"
    else:
        yield from (f"report/{name}" for name in ours)
