"""The digests of upload and verify by each path of this processor: ``python -m benchmarks.checksums``.

Input: files in memory (``/dev/shm``), as many at a time as a row says. Output: what the processor can do, and MB per
CPU second of MD5, SHA-256 and CRC64NVME of one reading, for each path of SHA-256, beside hashlib's SHA-256 alone.
Invariant: each path gives the digests of hashlib, which is checked once; the best of some rounds counts.
"""

import argparse
import hashlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.figures import note
from lading.checksums.digest import MIB, PATH_VARIABLE
from lading.core.compiled import load_compiled

ABILITIES = ("sha_ni", "avx512f", "avx512vl", "avx512bw", "avx2", "bmi2", "pclmulqdq", "vpclmulqdq", "sha2")
MEMORY = Path("/dev/shm")
# Files of a call, bytes of each, and of each part: 0 for one piece.
ROWS = (
    (16, 16 * MIB, 0),
    (8, 16 * MIB, 0),
    (4, 16 * MIB, 0),
    (2, 16 * MIB, 0),
    (1, 16 * MIB, 0),
    (16, 32 * MIB, 8 * MIB),
    (4, 32 * MIB, 8 * MIB),
    (1, 32 * MIB, 8 * MIB),
    (64, 1_000_000, 0),
    (1024, 10_000, 0),
)


def describe_processor() -> str:
    """Return the processor's name and those of its abilities that count here."""
    name, flags = "unknown processor", set[str]()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = set(value.split())
            break
    found = [ability for ability in ABILITIES if ability in flags]
    return f"{name}: {' '.join(found) or 'none of ' + ' '.join(ABILITIES)}"


def best_rate(size: int, repeat: int, work: Callable[[], object]) -> float:
    """Return the MB per CPU second of the best round."""
    seconds = []
    for _ in range(repeat):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return size / max(min(seconds), 1e-9) / 1e6


def measure(core: Any, paths: Sequence[str], directory: Path, row: tuple[int, int, int], repeat: int) -> list[float]:
    """Return the rate of each path for one kind of files, and that of hashlib last."""
    count, size, part = row
    chance = random.Random(count)
    block = chance.randbytes(MIB + 4099)
    files = [directory / f"{number:04d}" for number in range(count)]
    for number, file in enumerate(files):
        content = block[number:] * (size // (len(block) - number) + 1)
        file.write_bytes(content[:size])
    wanted = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    tasks = [(os.fsencode(file), part) for file in files]
    rates = []
    for path in paths:
        found = core.digest_files(tasks, bytearray(1), -1, False, path)
        if path != "none" and [answer[2] for answer in found] != wanted:
            sys.exit(f"{path} gives other digests than hashlib")
        again = partial(core.digest_files, tasks, bytearray(1), -1, False, path)
        rates.append(best_rate(count * size, repeat, again))

    def library() -> None:
        for file in files:
            with file.open("rb") as stream:
                hashlib.file_digest(stream, "sha256")

    rates.append(best_rate(count * size, repeat, library))
    for file in files:
        file.unlink()
    return rates


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--digest-path", help=f"of SHA-256: this path alone, as {PATH_VARIABLE} does (default: all)")
    arguments = parser.parse_args()
    core = load_compiled("lading.checksums._digest", "LADING_DIGEST")
    if core is None:
        print("the compiled digests: not here (run make setup)")
        return
    forced = arguments.digest_path or os.environ.get(PATH_VARIABLE)
    here = core.paths()
    if forced and forced not in here:
        sys.exit(f"error: --digest-path {forced}: not possible here; this machine has: {', '.join(here)}")
    paths = [forced] if forced else ["none", *here]
    print(describe_processor())
    print(f"MB per CPU second (best of {arguments.repeat}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
    print(f"{'files':>6}{'MB each':>9}{'parts':>7}" + "".join(f"{path:>15}" for path in (*paths, "hashlib sha256")))
    top = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="bench-checksums-", dir=top) as directory:
        for row in ROWS:
            rates = measure(core, paths, Path(directory), row, arguments.repeat)
            count, size, part = row
            parts = -(-size // part) if part else 1
            print(f"{count:6}{size / 1e6:9.2f}{parts:7}" + "".join(f"{rate:15.0f}" for rate in rates), flush=True)
            for path, rate in zip((*paths, "hashlib"), rates):
                note(f"{count:,} × {size / 1e6:g} MB in {parts} parts, {path}", rate, "MB/CPU s", "more")
                note(
                    f"{count:,} × {size / 1e6:g} MB in {parts} parts, {path}: of hashlib",
                    rate / rates[-1],
                    better="more",
                )


if __name__ == "__main__":
    main()
