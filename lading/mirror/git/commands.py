"""Runs git and git-annex: argument lists, no shell, errors as sentences.

Input: a repository and arguments. Output: standard output as bytes.
Invariant: a failing program raises with its own last words; nothing asks a
person; the identity in commits is the mirror's, so equal input gives equal
commits.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lading.core.command_line import printable
from lading.core.errors import LadingError, UsageError
from lading.core.extras import describe

IDENTITY = ("Lading mirror", "mirror@lading.invalid")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


def environment(epoch: int | None = None, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a git process; ``epoch`` fixes author and committer date (seconds since 1970)."""
    name, address = IDENTITY
    found = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": name,
        "GIT_AUTHOR_EMAIL": address,
        "GIT_COMMITTER_NAME": name,
        "GIT_COMMITTER_EMAIL": address,
        "LC_ALL": "C.UTF-8",
        **(more or {}),
    }
    if epoch is not None:
        found["GIT_AUTHOR_DATE"] = found["GIT_COMMITTER_DATE"] = f"@{epoch} +0000"
    return found


def require_programs() -> None:
    """Raise ``UsageError`` when git or git-annex is not here."""
    path = environment()["PATH"]
    if shutil.which("git", path=path) is None:
        raise UsageError("git is not on PATH, and the mirror needs it; install it, or load its module")
    if shutil.which("git-annex", path=path) is None:
        raise UsageError(f"git-annex is not on PATH: {describe('git-annex', 'mirror')}")


def complaint(arguments: Sequence[str | bytes], repository: Path, error: bytes) -> str:
    """Return one sentence on a failed git: what was run, where, its last words, no credentials."""
    said = printable(error.decode("utf-8", "replace").strip().replace("\n", "; ")) or "it printed nothing"
    verb = " ".join(os.fsdecode(a) for a in arguments[:2])
    return _CREDENTIALS.sub("…@", f"git {verb} failed in {repository}: {said[-600:]}")


def run(
    arguments: Sequence[str | bytes],
    repository: Path,
    stdin: bytes = b"",
    *,
    epoch: int | None = None,
    more: Mapping[str, str] | None = None,
    fine: tuple[int, ...] = (0,),
) -> bytes:
    """Run ``git ARGUMENTS`` in ``repository`` and return what it printed; ``LadingError`` when it fails."""
    done = subprocess.run(
        ["git", "-C", os.fspath(repository), *arguments],
        input=stdin,
        capture_output=True,
        env=environment(epoch, more),
        check=False,
    )
    if done.returncode not in fine:
        raise LadingError(complaint(arguments, repository, done.stderr))
    return done.stdout


def succeeds(arguments: Sequence[str], repository: Path) -> bool:
    """Tell whether a git command that only answers a question says yes."""
    done = subprocess.run(
        ["git", "-C", os.fspath(repository), *arguments], capture_output=True, env=environment(), check=False
    )
    return done.returncode == 0


def create_bare(repository: Path, settings: Mapping[str, str]) -> None:
    """Make a bare repository with ``settings`` in its config, whole or not at all."""
    repository.parent.mkdir(parents=True, exist_ok=True)
    # One writer holds the store's lock, so this name is ours; a killed run may have left it half filled.
    fresh = repository.with_name(f".{repository.name}.new")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(fresh)
    run(["init", "--quiet", "--bare", "--template=", "--initial-branch=main", os.fspath(fresh)], repository.parent)
    with open(fresh / "config", "a", encoding="utf-8") as stream:
        for name, value in settings.items():
            section, key = name.split(".", 1)
            stream.write(f"[{section}]\n\t{key} = {quote_config(value)}\n")
    os.rename(fresh, repository)


def quote_config(value: str) -> str:
    """Return a value as git config reads it back: quoted, since ``#`` and ``;`` would start a comment.

    Source: git-config(1), "Syntax".
    """
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def resolve(repository: Path, name: str) -> str | None:
    """Return the object id of a ref such as ``refs/heads/main``, or None when there is none."""
    loose = repository / name
    with contextlib.suppress(OSError):
        text = loose.read_text(encoding="ascii").strip()
        if re.fullmatch(r"[0-9a-f]{40}", text):
            return text
    try:
        packed = (repository / "packed-refs").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    match = re.search(rf"^([0-9a-f]{{40}}) {re.escape(name)}$", packed, re.MULTILINE)
    return match[1] if match else None


@dataclass(frozen=True, slots=True)
class Held:
    """One entry of a tree: ``mode`` as git writes it (``120000``), ``sha`` in hex."""

    mode: bytes
    sha: bytes


def list_tree(repository: Path, commit: str) -> dict[bytes, Held]:
    """Return every file, symlink and gitlink of a commit by its path."""
    found: dict[bytes, Held] = {}
    for line in run(["ls-tree", "-r", "-z", "--full-tree", commit], repository).split(b"\0"):
        if line:
            head, path = line.split(b"\t", 1)
            mode, _, sha = head.split(b" ")
            found[path] = Held(mode, sha)
    return found


def read_blobs(repository: Path, shas: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the content of blobs, in order, by one ``cat-file --batch``."""
    wanted = list(shas)
    if not wanted:
        return
    output = run(["cat-file", "--batch"], repository, b"\n".join(wanted) + b"\n")
    position = 0
    for sha in wanted:
        end = output.index(b"\n", position)
        parts = output[position:end].split(b" ")
        if len(parts) != 3:
            raise LadingError(f"{repository} does not have the object {sha.decode()}; run: git fsck there")
        size = int(parts[2])
        yield output[end + 1 : end + 1 + size]
        position = end + 2 + size


def commit_epoch(repository: Path, commit: str) -> int:
    """Return the committer date of a commit, seconds since 1970."""
    return int(run(["show", "-s", "--format=%ct", commit], repository))
