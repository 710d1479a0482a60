"""An oracle for what the mirror writes: the same update by git-annex' own commands in a throw-away clone.

Input: a ``DatasetUpdate``. Output: the trees and places that git-annex itself makes of it.
Invariant: every refusal of git-annex is an error; the clone is pushed back,
git-annex first, and never forced. It knows nothing of git-annex' files but
the URL log; slower by an order of magnitude, and public buckets only.
"""

import json
import os
import re
import tempfile
from pathlib import Path

from lading.core.errors import LadingError
from lading.mirror.dataset import ANNEX, MAIN
from lading.mirror.engine import DatasetUpdate
from lading.mirror.git.annex_keys import lower_directory
from lading.mirror.git.commands import list_tree, read_blobs, resolve, run
from lading.mirror.git.fast_import import COMMIT, FILE, Change
from lading.mirror.git.portable_names import to_text

_URL = re.compile(rb"^\d\S* 1 (.+)$", re.MULTILINE)


def write_by_annex(write: DatasetUpdate) -> bool:
    """Bring the repository to ``write`` with ``fromkey`` and ``registerurl``; returns whether any branch moved."""
    assert write.access.remote is None, "git-annex has no command that records versions of a private bucket"
    urls = _missing_urls(write)
    if not urls and not write.changes:
        return False
    with tempfile.TemporaryDirectory(prefix="lading-mirror-") as directory:
        clone = Path(directory) / "clone"
        run(["clone", "--quiet", "--no-checkout", os.fspath(write.dataset.repository), os.fspath(clone)], Path("/"))
        if write.parent:
            run(["checkout", "--quiet", "-B", "main", write.parent], clone)
        else:
            run(["symbolic-ref", "HEAD", MAIN], clone)
        run(["annex", "init", "--quiet", "mirror"], clone)
        _register(clone, urls)
        _commit(clone, write)
        branches = [branch for branch in (ANNEX, MAIN) if resolve(clone / ".git", branch)]
        for branch in branches:
            run(["push", "--quiet", "origin", f"{branch}:{branch}"], clone)
    return True


def _missing_urls(write: DatasetUpdate) -> list[tuple[bytes, str]]:
    """Return (key, url) of every place that the git-annex branch does not state yet."""
    repository = write.dataset.repository
    held = list_tree(repository, write.annex_parent) if write.annex_parent else {}
    known: dict[bytes, set[bytes]] = {}
    logs = {key: held.get(lower_directory(key) + key + b".log.web") for key in write.places}
    present = [(key, entry.sha) for key, entry in logs.items() if entry]
    for (key, _), log in zip(present, read_blobs(repository, [sha for _, sha in present]), strict=True):
        known[key] = set(_URL.findall(log))
    found = []
    for key, places in write.places.items():
        for url in sorted({write.access.url(place) for place in places}):
            if url.encode() not in known.get(key, ()):
                found.append((key, url))
    return found


def _batch(clone: Path, verb: list[str], lines: list[bytes]) -> None:
    """Run a batch verb of git-annex; ``LadingError`` unless it did every line."""
    if not lines:
        return
    answers = [json.loads(line) for line in run(["annex", *verb], clone, b"".join(lines)).splitlines()]
    refused = [answer for answer in answers if not answer.get("success")]
    if refused or len(answers) != len(lines):
        first = "; ".join(refused[0].get("error-messages", [])) if refused else "no answer"
        raise LadingError(f"git annex {verb[0]} refused {len(lines) - len(answers) + len(refused)} files: {first}")


def _register(clone: Path, urls: list[tuple[bytes, str]]) -> None:
    lines = [key + b" " + url.encode() + b"\n" for key, url in urls]
    _batch(clone, ["registerurl", "-c", "annex.alwayscompact=false", "--batch", "--json"], lines)


def _commit(clone: Path, write: DatasetUpdate) -> None:
    """Put the changes into the clone's index and commit them."""
    if not write.changes:
        return
    # Removals come first, so that a file may take a directory's place.
    for change in write.changes:
        target = clone / to_text(change.path)
        if change.mode in (None, FILE) or change.path in write.keys:
            _clear(target)
        if change.mode == FILE:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(change.data)
    removed = [change.path for change in write.changes if change.mode is None]
    if removed:
        run(
            ["rm", "-r", "--quiet", "--cached", "--pathspec-from-file=-", "--pathspec-file-nul"],
            clone,
            b"".join(b":(literal)" + path + b"\0" for path in removed),
        )
    annexed = [change.path for change in write.changes if change.mode is not None and change.path in write.keys]
    for path in annexed:
        (clone / to_text(path)).parent.mkdir(parents=True, exist_ok=True)
    _batch(
        clone,
        ["fromkey", "--force", "--batch", "-z", "--json"],
        [write.keys[path] + b" " + path + b"\0" for path in annexed],
    )
    rest = [change for change in write.changes if change.mode is not None and change.path not in write.keys]
    _index(clone, rest)
    run(
        ["commit", "--quiet", "--no-verify", "--allow-empty", "--file=-"],
        clone,
        write.message.encode(),
        epoch=write.epoch,
    )


def _clear(target: Path) -> None:
    """Remove what is at ``target`` of the work tree; of a directory only empty ones are left by then."""
    if target.is_dir() and not target.is_symlink():
        for folder, _, _ in os.walk(target, topdown=False):
            os.rmdir(folder)
    else:
        target.unlink(missing_ok=True)


def _index(clone: Path, rest: list[Change]) -> None:
    """Stage own files and gitlinks by their object ids (``fromkey`` staged the symlinks)."""
    records = []
    for change in rest:
        sha = (
            change.data if change.mode == COMMIT else run(["hash-object", "-w", "--stdin"], clone, change.data).strip()
        )
        records.append(b"%s %s\t%s\0" % (change.mode or FILE, sha, change.path))
    if records:
        run(["update-index", "-z", "--index-info"], clone, b"".join(records))
