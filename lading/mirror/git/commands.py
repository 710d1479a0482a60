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
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from lading.core.atomic import atomic_write
from lading.core.command_line import printable
from lading.core.errors import LadingError, UsageError
from lading.core.extras import describe

IDENTITY = ("Lading mirror", "mirror@lading.invalid")
_BLOCK = 1 << 20
# One object for each, however many entries there are.
_MODES = {mode: mode for mode in (b"100644", b"100755", b"120000", b"160000")}
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
    """Make a bare repository with ``settings`` in its config, whole or not at all.

    It has what ``git init --bare`` makes without a template, whatever a user's own settings ask of new repositories.
    A mirror makes thousands, and starting git for each took longer than filling them.

    Source: gitrepository-layout(5).
    """
    repository.parent.mkdir(parents=True, exist_ok=True)
    # One writer holds the store's lock, so this name is ours; a killed run may have left it half filled.
    fresh = repository.with_name(f".{repository.name}.new")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(fresh)
    for folder in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
        (fresh / folder).mkdir(parents=True)
    (fresh / "HEAD").write_text("ref: refs/heads/main\n", encoding="ascii")
    core = {"core.repositoryformatversion": "0", "core.filemode": "true", "core.bare": "true"}
    with open(fresh / "config", "w", encoding="utf-8") as stream:
        for name, value in {**core, **settings}.items():
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
    return dict(tree_entries(repository, commit))


def tree_entries(repository: Path, commit: str) -> Iterator[tuple[bytes, Held]]:
    """Yield (path, entry) for every file, symlink and gitlink of a commit, sorted by path as bytes.

    A block of git's answer is in memory at a time: a branch of git-annex has two files for each key.
    """
    arguments = ["ls-tree", "-r", "-z", "--full-tree", commit]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            ["git", "-C", os.fspath(repository), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=environment(),
        )
        assert process.stdout is not None
        ended = False
        try:
            rest = b""
            while block := process.stdout.read(_BLOCK):
                *lines, rest = (rest + block).split(b"\0")
                for line in lines:
                    head, path = line.split(b"\t", 1)
                    mode, _, sha = head.split(b" ")
                    yield path, Held(_MODES.get(mode, mode), sha)
            ended = True
        finally:
            if not ended:
                process.kill()
            process.stdout.close()
            process.wait()
        if process.returncode:
            complaints.seek(0)
            raise LadingError(complaint(arguments, repository, complaints.read()))


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


def tag_refs(repository: Path) -> list[tuple[str, str]]:
    """Return (ref, object id) of every tag, sorted, without asking git."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        packed = (repository / "packed-refs").read_text(encoding="utf-8", errors="surrogateescape")
        found.update((name, sha) for sha, name in re.findall(r"^([0-9a-f]{40}) (refs/tags/.+)$", packed, re.MULTILINE))
    for folder, _, names in os.walk(repository / "refs" / "tags", onerror=_refuse):
        for name in names:
            ref = os.path.relpath(os.path.join(folder, name), repository)
            if not name.endswith(".lock") and (sha := resolve(repository, ref)):
                found[ref] = sha
    return sorted(found.items())


def _refuse(error: OSError) -> NoReturn:
    raise LadingError(f"{error.filename} cannot be listed: {error.strerror}") from error


def remote_address(repository: Path, name: str) -> str | None:
    """Return the address of a remote, or None when there is no such remote."""
    if f'[remote "{name}"]' not in (repository / "config").read_text(encoding="utf-8", errors="replace"):
        return None  # of thousands, no git is started to say so
    found = run(["config", "--local", "--get", f"remote.{name}.url"], repository, fine=(0, 1))
    return os.fsdecode(found).rstrip("\n") or None


def add_remote(repository: Path, name: str, address: str) -> None:
    """Let ``name`` be a remote at ``address`` which git-annex never asks for content."""
    values = {"url": address, "fetch": f"+refs/heads/*:refs/remotes/{name}/*", "annex-ignore": "true"}
    config = repository / "config"
    text = config.read_text(encoding="utf-8", errors="surrogateescape")
    section = f'[remote "{name}"]\n'
    if section not in text:
        lines = "".join(f"\t{key} = {quote_config(value)}\n" for key, value in values.items())
        with atomic_write(config, "wb") as stream:
            stream.write((text + section + lines).encode("utf-8", "surrogateescape"))
        return
    for key, value in values.items():
        run(["config", "--local", "--replace-all", f"remote.{name}.{key}", value], repository)


def commit_epoch(repository: Path, commit: str) -> int:
    """Return the committer date of a commit, seconds since 1970."""
    return int(run(["show", "-s", "--format=%ct", commit], repository))
