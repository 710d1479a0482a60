"""The whole way on one machine: make a lab tree, serve S3 from a folder, run every stage.

Input: a directory. Output: in it ``data/`` with the tree, the bucket's objects as
files and every artefact; exit 0 only when each object was proven.
Invariant: each stage is what a user would type, printed before it runs: a make
target in a checkout, a command where Lading is installed. The server stops
with the demo and nothing outside the directory changes.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from demo.mirror import have_datalad, mirror_and_clone
from demo.sessions import carry_sessions
from demo.tree import make_release
from lading.core.command_line import Parser, run_main
from lading.core.errors import LadingError, UsageError
from lading.core.extras import PACKAGES
from lading.core.progress import format_bytes, format_seconds
from lading.testing.s3_server import Server, serve
from lading.verification.manifest import Manifest, read_manifest

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent / "makefile"
BUCKET = "demo"
REMAP = '{"spectro/data": "raw_spectro_data"}'
MARK = ".lading-demo"  # what is in a directory with it may be removed


def heading(text: str) -> None:
    """Print what comes next, set off from the output of the stages."""
    print(f"\n\033[1m── {text}\033[0m" if sys.stdout.isatty() else f"\n-- {text}", flush=True)


class Stages:
    """Runs stages in the run directory against one server."""

    def __init__(self, run: Path, server: Server) -> None:
        self._run, self._endpoint = run, server.endpoint
        self._environment = {
            **{name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")},
            **server.environment(),
        }

    def find(self) -> None:
        """Crawl."""
        self._stage("find.json", (), "find", self._release, "--max-workers", "8", "-o", "find.json")

    def batch(self) -> None:
        """Plan."""
        bounds = ("--min-batch-size", "500k", "--max-batch-size", "4M")
        self._stage("batch.json", (), "batch", self._release, *bounds, *self._keys)

    def upload(self, most_batches: int | None = None) -> None:
        """Send and verify, so many batches at most."""
        more, flags = ((), ()) if most_batches is None else (
            (f"max_batches={most_batches}",), ("--max-batches", str(most_batches))
        )  # fmt: skip
        self._stage("upload", more, "upload", str(self._run / "data"), *self._bucket, *flags)

    def verify(self) -> None:
        """Compare the bucket with the release."""
        self._stage("verify", (), "verify", str(self._run / "data"), *self._bucket)

    def jobs(self, path: Path, presets: Path, bucket: str) -> None:
        """Do a job list."""
        make = (f"jobs_csv={path}", f"presets={presets}", f"bucket=s3://{bucket}")
        flags = ("--presets", str(presets), "--bucket", f"s3://{bucket}", "--endpoint-url", self._endpoint)
        self._stage("jobs", make, "jobs", "run", str(path), *flags)

    def mirror(self, endpoint: str) -> None:
        """Write the mirror; clones will read from ``endpoint``."""
        flags = ("--s3endpoint", endpoint, "--store", "mirror", "update")
        self._stage("mirror", (f"mirror_flags=--s3endpoint {endpoint}",), "mirror", *flags)

    @property
    def _release(self) -> str:
        return str(self._run / "data" / "dr1")

    @property
    def _keys(self) -> tuple[str, ...]:
        return ("--upload-root", str(self._run / "data"), "--remap", REMAP)

    @property
    def _bucket(self) -> tuple[str, ...]:
        return ("--bucket", f"s3://{BUCKET}", "--endpoint-url", self._endpoint, "--remap", REMAP)

    def _stage(self, target: str, settings: Sequence[str], *arguments: str) -> None:
        """Run a stage as its make target, or without a makefile as its command; ``LadingError`` when it fails."""
        if CHECKOUT.exists():
            shown = " ".join(["make", target, *settings])
            command = self._make(target, *settings)
        else:
            shown = shlex.join(["lading", *arguments])
            command = [sys.executable, "-m", "lading", *arguments]
        heading(shown)
        code = subprocess.run(command, env=self._environment, cwd=self._run, check=False).returncode
        if code:
            raise LadingError(f"{shown} ended with {code}; its message is above")

    def _make(self, target: str, *more: str) -> list[str]:
        venv = sys.prefix
        settings = [
            f"root={self._run / 'data'}",
            f"release={self._release}",
            f"bucket=s3://{BUCKET}",
            f"endpoint={self._endpoint}",
            f"remap={REMAP}",
            "min_batch=500k",
            "max_batch=4M",
            "workers=8",
            "here=1",
        ]
        stamps = [f"{venv}/.ready", *(f"{venv}/.ready-{extra}" for extra in PACKAGES)]
        built = [word for stamp in stamps for word in ("-o", stamp)]
        command = ["make", "--no-print-directory", "-s", "-f", str(CHECKOUT), *built, f"venv={venv}"]
        return [*command, target, *settings, *more]


def run_stages(run: Path, server: Server, stages: Stages) -> Manifest:
    """Carry the release from the file system to a verified bucket."""
    server.make_bucket(BUCKET)
    stages.find()
    stages.batch()
    stages.upload(2)
    stages.upload()
    stages.verify()
    return read_manifest(run / "manifest.jsonl.zst")


def regular_files(directory: Path) -> Iterator[tuple[str, int]]:
    """Yield (path, size) of every regular file, as an independent count for the end."""
    for folder, _, names in os.walk(os.fsencode(directory)):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                yield os.fsdecode(path), os.path.getsize(path)


NEXT = {
    True: (
        "  cp config.mk.example config.mk    # set root, release, bucket\n"
        "  make find.json                    # on a compute node\n"
        "  make batch.json estimate          # on a login node\n"
        "  make upload                       # again until nothing is left\n"
        "  make verify"
    ),
    False: (
        "  lading find /data/dr1                               # on a compute node\n"
        "  lading batch /data/dr1 --upload-root /data          # on a login node\n"
        "  lading upload /data --bucket s3://bucket            # again until nothing is left\n"
        "  lading verify /data --bucket s3://bucket"
    ),
}


def parse(argv: Sequence[str] | None) -> Path:
    """Return where the demo runs."""
    parser = Parser(prog="demo", description="Run every stage on a small lab tree, with an S3 server on this machine.")
    default = HERE / "run" if CHECKOUT.exists() else Path("lading-demo")
    parser.add_argument(
        "--directory", type=Path, default=default, metavar="DIR", help="emptied and filled (demo/run, or lading-demo)"
    )
    run: Path = parser.parse_args(argv).directory.absolute()
    ours = CHECKOUT.exists() and run == HERE / "run"
    if not ours and run.exists() and any(run.iterdir()) and not (run / MARK).exists():
        raise UsageError(f"{run} holds something that is not from a demo; give --directory another one")
    return run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo from the start; returns 0 when everything arrived."""
    started = time.monotonic()
    run = parse(argv)
    shutil.rmtree(run, ignore_errors=True)
    (run / "data").mkdir(parents=True)
    (run / MARK).touch()
    heading("a small lab tree: a recording, a stack, a video, spectra, odd names")
    make_release(run / "data" / "dr1")
    sizes = [size for _, size in regular_files(run / "data" / "dr1")]
    print(f"{len(sizes)} files, {format_bytes(sum(sizes))} in {run / 'data' / 'dr1'}")
    with serve(run / "s3", run / "s3.log") as server:
        print(f"S3 server on {server.endpoint}, objects as files in {run / 's3' / BUCKET}")
        stages = Stages(run, server)
        manifest = run_stages(run, server, stages)
        described = carry_sessions(run, server, stages.jobs, heading)
        cloned = mirror_and_clone(run, stages.mirror, heading) if have_datalad() else None
    if (manifest.end.objects, manifest.end.bytes) != (len(sizes), sum(sizes)):
        raise LadingError(f"the manifest lists {manifest.end.objects} objects, but the tree has {len(sizes)} files")
    back = "no DataLad here: not mirrored" if cloned is None else f"mirrored, cloned and compared: {cloned} files"
    heading("done")
    print(
        f"verified {manifest.end.objects} of {len(sizes)} files, {format_bytes(manifest.end.bytes)}, "
        f"in {format_seconds(time.monotonic() - started)}\n"
        f"3 sessions compressed, described and verified: {described} metadata files valid by their schema\n"
        f"{back}\n\n"
        f"next, with your own data and bucket:\n{NEXT[CHECKOUT.exists()]}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
