"""Registration rate of the mirror beside the usual call pattern of git-annex, in one run.

Input: ``python -m benchmarks.mirror [FILES …]``. Output: a table of
seconds, files a second and ratios; exit 1 when the two disagree on a tree.

The peer is the call pattern of tools that mirror a bucket through git-annex:
``examinekey --batch`` for each key, ``fromkey --force --batch`` and
``registerurl --batch`` for each file, one commit. No content moves on either
side, and both sides end with the same symlinks and URLs.
"""

import argparse
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peers
from benchmarks.figures import note
from lading.verification.manifest import ManifestHeader, ManifestRow, write_manifest

ENDPOINT, BUCKET = "http://127.0.0.1:9", "bench"
FOLDERS = 100


def rows(count: int) -> list[ManifestRow]:
    """Return ``count`` rows of one session, as a manifest has them."""
    found = []
    for number in range(count):
        digest = hashlib.sha256(b"%d" % number).hexdigest()
        path = f"session/d{number % FOLDERS:03d}/f{number:07d}.dat"
        stamp = "2026-01-01T00:00:00+00:00"
        found.append(
            ManifestRow(path, path, 1000, 0, digest[:32], digest, digest[:32], f"v{number:08d}", "etag", "b", stamp)
        )
    return sorted(found, key=lambda row: row.key)


def environment(home: Path) -> dict[str, str]:
    """Return an environment whose git has no settings but these."""
    # No git goes on in the background when its repository is deleted.
    quiet = "[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n"
    (home / ".gitconfig").write_text("[user]\n\tname = Bench\n\temail = bench@example.org\n" + quiet)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "XDG_"))}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    return {**kept, "HOME": str(home), "PYTHONPATH": str(Path(__file__).resolve().parent.parent.parent)}


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock and of CPU, user and system, child processes included."""

    wall: float
    cpu: float


def clock() -> Cost:
    """Return the time now and the CPU time of all ended children."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(time.monotonic(), usage.ru_utime + usage.ru_stime)


def since(started: Cost) -> Cost:
    """Return what was spent since ``started``."""
    now = clock()
    return Cost(now.wall - started.wall, now.cpu - started.cpu)


def mirror(directory: Path, env: dict[str, str]) -> Cost:
    """Run the mirror's own command; returns its cost, its start included."""
    started = clock()
    subprocess.run(
        [sys.executable, "-m", "lading", "mirror", "--store", "mirror", "update"],
        cwd=directory, env=env, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return since(started)


def batch(directory: Path, env: dict[str, str], verb: Sequence[str], lines: Sequence[str]) -> list[str]:
    """Run one batch verb of git-annex over ``lines``."""
    done = subprocess.run(
        ["git", "annex", *verb], cwd=directory, env=env, check=True, text=True, capture_output=True,
        input="".join(line + "\n" for line in lines),
    )  # fmt: skip
    return done.stdout.splitlines()


def reference(directory: Path, env: dict[str, str], listed: Sequence[ManifestRow]) -> Cost:
    """Register the same files through git-annex' batch verbs and commit; returns the cost."""
    directory.mkdir()
    started = clock()
    for arguments in (["init", "-q", "-b", "main"], ["annex", "init", "-q", "reference"]):
        subprocess.run(["git", *arguments], cwd=directory, env=env, check=True)
    names = [f"SHA256-s{row.size}--{row.sha256} {row.path}" for row in listed]
    keys = batch(directory, env, ["examinekey", "--batch", "--migrate-to-backend=SHA256E"], names)
    places = [f"{key} {row.path.removeprefix('session/')}" for key, row in zip(keys, listed, strict=True)]
    batch(directory, env, ["fromkey", "--force", "--batch", "--json"], places)
    urls = [
        f"{key} {ENDPOINT}/{BUCKET}/{row.key}?versionId={row.version_id}" for key, row in zip(keys, listed, strict=True)
    ]
    batch(directory, env, ["registerurl", "--batch", "--json"], urls)
    subprocess.run(["git", "commit", "-q", "-m", "add"], cwd=directory, env=env, check=True)
    subprocess.run(["git", "annex", "merge", "-q"], cwd=directory, env=env, check=True)
    return since(started)


def session(directory: Path) -> Path:
    """Return the repository of the one session of a mirror."""
    superdataset = (directory / "mirror" / "alias" / "super").resolve()
    return next(p.parent for p in (directory / "mirror").glob("???/*/HEAD") if p.parent != superdataset)


def symlinks(repository: Path) -> set[str]:
    """Return every symlink of main with its target's object id."""
    listed = subprocess.run(
        ["git", "-C", str(repository), "ls-tree", "-r", "main"], check=True, capture_output=True, text=True
    ).stdout
    return {line for line in listed.splitlines() if line.startswith("120000")}


def logs(repository: Path) -> set[str]:
    """Return the name of every URL log of the git-annex branch."""
    listed = subprocess.run(
        ["git", "-C", str(repository), "ls-tree", "-r", "--name-only", "git-annex"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return {line for line in listed.splitlines() if line.endswith(".log.web")}


def main() -> int:
    """Run the benchmark and print its table."""
    if not peers.find("git-annex"):
        peers.tell("git-annex", "the mirror needs it too: make setup extras=mirror")
        return None
    parser = argparse.ArgumentParser(description="Rate of registration, beside git-annex' batch verbs")
    parser.add_argument("files", nargs="*", type=int, default=[10_000, 100_000])
    arguments = parser.parse_args()
    print(f"{'files':>8}  {'what':<34}  {'seconds':>8}  {'CPU s':>8}  {'files/s':>8}  {'ratio':>6}  {'by CPU':>6}")
    agree = True
    for count in arguments.files:
        with tempfile.TemporaryDirectory(prefix="lading-bench-") as name:
            directory = Path(name)
            env = environment(directory)
            listed = rows(count)
            header = ManifestHeader(BUCKET, "", ENDPOINT, "/nonexistent", "0" * 64, "2026-01-01", {})
            write_manifest(directory / "manifest.jsonl.zst", header, listed, complete=True)
            ours = mirror(directory, env)
            again = mirror(directory, env)
            theirs = reference(directory / "reference", env, listed)
            for what, cost in (
                ("examinekey, fromkey, registerurl", theirs),
                ("lading.mirror update", ours),
                ("lading.mirror update, unchanged", again),
            ):
                print(
                    f"{count:>8}  {what:<34}  {cost.wall:>8.2f}  {cost.cpu:>8.2f}  {count / cost.wall:>8.0f}  "
                    f"{theirs.wall / cost.wall:>6.1f}  {theirs.cpu / cost.cpu:>6.1f}",
                    flush=True,
                )
                if cost is not theirs:
                    note(f"{count:,} files, {what}: times git-annex", theirs.wall / cost.wall, better="more")
                    note(f"{count:,} files, {what}: times git-annex by CPU", theirs.cpu / cost.cpu, better="more")
            found, peer = session(directory), directory / "reference"
            if symlinks(found) != symlinks(peer) or logs(found) != logs(peer):
                print(f"the trees of {count} files differ")
                agree = False
            shutil.rmtree(directory / "reference")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
