"""``python -m benchmarks.upload.eta [FILES [HUGE_GB]]``: how wrong the time left is, over a whole upload.

Input: how many small files (300,000; 0 to 2 kB each) and the size of each of
two huge, sparse ones (6). Output: a table of the progress lines: elapsed
time, time left as said, time left as it turned out, error; then the median
error after the first minute.
Invariant: the upload is the product's own, against a real Ceph gateway on
loopback; nothing of the estimate is computed here.
"""

import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lading.testing import ceph_gateway

HERE = Path(__file__).resolve().parent.parent.parent
EACH = 5.0  # seconds between progress lines
# The upload as it is, but with a progress line every few seconds instead of every thirty.
UPLOAD = (
    "import sys, upload; from lading.core.command_line import run_main; from lading.core.progress import Progress\n"
    f"Progress.__init__.__kwdefaults__['log_seconds'] = {EACH}\n"
    "sys.exit(run_main(upload.main))"
)
_LINE = re.compile(r"upload  (?P<elapsed>.*? s)  .* failed, (?P<left>.*?) left")


def make_release(release: Path, count: int, huge: int) -> None:
    """Write the files; the huge ones have names that sort in the middle and at the end."""
    draw = random.Random(1)
    for number in range(count):
        directory = release / f"d{number // 1000:04d}"
        if number % 1000 == 0:
            directory.mkdir(parents=True)
        (directory / f"{number:07d}").write_bytes(draw.randbytes(draw.randrange(2000)))
    for name in (f"d{count // 2000:04d}/huge1", "huge2"):
        (release / name).parent.mkdir(parents=True, exist_ok=True)
        with open(release / name, "wb") as stream:
            stream.truncate(huge)


def seconds(text: str) -> float:
    """Return the seconds of a duration as people read it: ``4.2 s``, ``3 min 20 s``, ``5 h 02 min``."""
    factors = {"s": 1.0, "min": 60.0, "h": 3600.0}
    words = text.replace(",", "").split()
    return sum(float(number) * factors[unit] for number, unit in zip(words[::2], words[1::2], strict=True))


def watch(command: list[str], directory: Path) -> tuple[list[tuple[float, float]], float]:
    """Run the upload; return (elapsed, left as said) of each line, and the seconds it took."""
    said, started = [], time.monotonic()
    with subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", flush=True)
            if found := _LINE.search(line):
                said.append((time.monotonic() - started, seconds(found["left"])))
    if child.returncode:
        sys.exit(child.returncode)
    return said, time.monotonic() - started


def main() -> None:
    """Run and print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000
    huge = int(float(sys.argv[2]) * 1e9) if len(sys.argv) > 2 else 6 * 10**9
    if lacking := ceph_gateway.missing():
        sys.exit(lacking)
    with tempfile.TemporaryDirectory(prefix="eta-") as name, ceph_gateway.serve(Path(name) / "gateway") as gateway:
        directory, release = Path(name), Path(name) / "data"
        os.environ.update(gateway.environment(), PYTHONPATH=str(HERE))
        make_release(release, count, huge)
        gateway.make_bucket("eta")
        crawl = [sys.executable, str(HERE / "find.py"), str(release), "-o", "find.json"]
        cut = [sys.executable, str(HERE / "batch.py"), str(release), "-o", "batch.json"]
        for command in (crawl, cut, [*cut, "--estimate"]):
            subprocess.run(command, cwd=directory, check=True)
        upload = [sys.executable, "-c", UPLOAD, str(release), "--bucket", "s3://eta", "--batch", "batch.json"]
        said, whole = watch([*upload, "--endpoint-url", gateway.endpoint], directory)
    print("elapsed     said  true  error")
    errors = []
    for elapsed, left in said:
        error = left / (whole - elapsed) - 1
        errors += [abs(error)] if elapsed > min(60.0, whole / 4) else []
        print(f"{elapsed:6.0f} s {left:6.0f} s {whole - elapsed:4.0f} s {error:+5.0%}")
    errors.sort()
    if errors:
        print(f"whole {whole:.0f} s; median error after the first minute (or quarter): {errors[len(errors) // 2]:.0%}")


if __name__ == "__main__":
    main()
