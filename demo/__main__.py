"""The whole way on one machine: make a lab tree, serve S3 from a folder, run every stage.

Input: nothing. Output: ``demo/run/`` with the tree, the bucket's objects as
files and every artefact; exit 0 only when each object was proven.
Invariant: each stage is the make target a user would type, printed before it
runs; the server stops with the demo and nothing outside ``demo/run`` changes.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from demo.mirror import have_datalad, mirror_and_clone
from demo.server import Server, serve
from demo.sessions import carry_sessions
from demo.tree import make_release
from lading.cli import run_main
from lading.errors import LadingError
from lading.formats.manifest import Manifest, read_manifest
from lading.progress import format_bytes, format_seconds

HERE = Path(__file__).resolve().parent
RUN = HERE / "run"
BUCKET = "demo"


def heading(text: str) -> None:
    """Print what comes next, set off from the output of the stages."""
    print(f"\n\033[1m── {text}\033[0m" if sys.stdout.isatty() else f"\n-- {text}", flush=True)


class Stages:
    """Runs make targets in the run directory against one server."""

    def __init__(self, server: Server) -> None:
        self._environment = {
            **{name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")},
            **server.environment(),
        }
        self._settings = [
            f"root={RUN / 'data'}",
            f"release={RUN / 'data' / 'dr1'}",
            f"bucket=s3://{BUCKET}",
            f"endpoint={server.endpoint}",
            'remap={"spectro/data": "raw_spectro_data"}',
            "min_batch=500k",
            "max_batch=4M",
            "workers=8",
            "here=1",
        ]

    def make(self, target: str, *more: str) -> None:
        """Run one target; ``LadingError`` when it fails."""
        shown = " ".join(["make", target, *more])
        heading(shown)
        venv = sys.prefix
        command = ["make", "--no-print-directory", "-s", "-C", str(RUN), "-f", str(HERE.parent / "makefile")]
        command += ["-o", f"{venv}/.ready", f"venv={venv}", target, *self._settings, *more]
        code = subprocess.run(command, env=self._environment, check=False).returncode
        if code:
            raise LadingError(f"{shown} ended with {code}; its message is above")


def run_stages(server: Server, stages: Stages) -> Manifest:
    """Carry the release from the file system to a verified bucket."""
    server.make_bucket(BUCKET)
    stages.make("find.json")
    stages.make("batch.json")
    stages.make("upload", "max_batches=2")
    stages.make("upload")
    stages.make("verify")
    return read_manifest(RUN / "manifest.jsonl.zst")


def regular_files(directory: Path) -> Iterator[tuple[str, int]]:
    """Yield (path, size) of every regular file, as an independent count for the end."""
    for folder, _, names in os.walk(os.fsencode(directory)):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                yield os.fsdecode(path), os.path.getsize(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo from the start; returns 0 when everything arrived."""
    started = time.monotonic()
    shutil.rmtree(RUN, ignore_errors=True)
    (RUN / "data").mkdir(parents=True)
    heading("a small lab tree: a recording, a stack, a video, spectra, odd names")
    make_release(RUN / "data" / "dr1")
    sizes = [size for _, size in regular_files(RUN / "data" / "dr1")]
    print(f"{len(sizes)} files, {format_bytes(sum(sizes))} in demo/run/data/dr1")
    with serve(RUN / "s3", RUN / "s3.log") as server:
        print(f"S3 server on {server.endpoint}, objects as files in demo/run/s3/{BUCKET}")
        stages = Stages(server)
        manifest = run_stages(server, stages)
        described = carry_sessions(RUN, server, stages.make, heading)
        cloned = mirror_and_clone(RUN, stages.make, heading) if have_datalad() else None
    if (manifest.end.objects, manifest.end.bytes) != (len(sizes), sum(sizes)):
        raise LadingError(f"the manifest proves {manifest.end.objects} objects, but the tree has {len(sizes)} files")
    back = "no DataLad here: not mirrored" if cloned is None else f"mirrored, cloned and compared: {cloned} files"
    heading("done")
    print(
        f"verified {manifest.end.objects} of {len(sizes)} files, {format_bytes(manifest.end.bytes)}, "
        f"in {format_seconds(time.monotonic() - started)}\n"
        f"3 sessions compressed, described and proven: {described} metadata files valid by their schema\n"
        f"{back}\n\n"
        "next, with your own data and bucket:\n"
        "  cp config.mk.example config.mk    # set root, release, bucket\n"
        "  make find.json                    # on a compute node\n"
        "  make batch.json estimate          # on a login node\n"
        "  make upload                       # again until nothing is left\n"
        "  make verify"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
