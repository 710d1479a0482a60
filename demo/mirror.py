"""The demo's last stage: the bucket as DataLad datasets, cloned, fetched and compared with the tree.

Input: the run directory with its manifest. Output: ``mirror/`` and ``clone/``
in it; an error unless every file came back byte for byte.
Invariant: the clone reads through a server that asks for no signature, as a
public bucket would; only this machine can reach it.
"""

import filecmp
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from lading.core.errors import LadingError
from lading.mirror.git.portable_names import original_path
from lading.testing.s3_server import serve


def have_datalad() -> bool:
    """Tell whether DataLad and git-annex were installed (they are optional)."""
    beside = str(Path(sys.executable).parent)
    return all(shutil.which(name, path=beside) for name in ("datalad", "git-annex"))


def mirror_and_clone(run: Path, do: Callable[[str], None], heading: Callable[[str], None]) -> int:
    """Mirror, clone, fetch, compare; returns the number of files that came back."""
    with serve(run / "s3", run / "s3-public.log", anonymous=True) as public:
        do(public.endpoint)
        heading("datalad clone and get, from the bucket")
        clone = run / "clone"
        _datalad(run, "clone", f"ria+file://{run / 'mirror'}#~super", str(clone))
        _datalad(clone, "get", "--recursive", ".")
    return _compare(run / "data" / "dr1", clone)


def _datalad(directory: Path, *arguments: str) -> None:
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        # git-annex refuses servers on private addresses unless told otherwise.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "annex.security.allowed-ip-addresses",
        "GIT_CONFIG_VALUE_0": "127.0.0.1",
        **{
            f"GIT_{who}_{what}": value
            for who in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "Demo"), ("EMAIL", "demo@example.org"))
        },
    }
    done = subprocess.run(
        [str(Path(sys.executable).parent / "datalad"), "-f", "disabled", *arguments],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise LadingError(f"datalad {arguments[0]} ended with {done.returncode}: {done.stderr.strip()[-800:]}")


def _compare(source: Path, clone: Path) -> int:
    """Return how many regular files of ``source`` the clone has byte for byte; all must.

    The mirror spells names that git or DataLad cannot hold in its own way (docs/reference/mirror.md).
    """
    there = {original_path(path) or path: path for path in _regular_files(clone, links=True)}
    count = 0
    for relative in _regular_files(source):
        if relative not in there:
            raise LadingError(f"{os.fsdecode(relative)} did not come back")
        copy = os.path.join(os.fsencode(clone), there[relative])
        if not filecmp.cmp(os.path.join(os.fsencode(source), relative), copy, False):
            raise LadingError(f"{os.fsdecode(relative)} came back different")
        count += 1
    return count


def _regular_files(directory: Path, *, links: bool = False) -> Iterator[bytes]:
    top = os.fsencode(directory)
    for folder, folders, names in os.walk(top):
        if links and b".git" in folders:
            folders.remove(b".git")
        for name in names:
            path = os.path.join(folder, name)
            if links or not os.path.islink(path):
                yield os.path.relpath(path, top)
