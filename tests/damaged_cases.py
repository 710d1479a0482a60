"""Each file of given sources, truncated and with flipped bits: a sentence, no traceback, nothing that looks finished.

``python -m tests.damaged_cases DIRECTORY [ROUNDS]`` takes each folder of DIRECTORY for a source (each file where it has
only files), spoils each of its files ROUNDS times in both ways (default 10), and compresses what came of it. It prints
one line per source and ends with 1 when one of them crashed, or left a report after a failure.
"""

import contextlib
import io
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from lading.cli import compress as command
from lading.compress import launcher
from lading.compress.ephys.neo_bridge import READERS
from lading.core.errors import LadingError

EPHYS = (
    ".oebin",
    ".meta",
    ".nwb",
    ".yaml",
    *(end for reader in READERS.values() for end in reader.ends if end != ".xml"),
    ".dat",
)
IMAGES = (".tif", ".h5", ".ims", ".zarr", ".png")
VIDEOS = (".mkv", ".avi", ".mp4")
METADATA = 20_000  # bytes at the beginning, where flips meet metadata


def kind_of(source: Path) -> list[str]:
    """Return the flags for a source, by its files."""
    names = [str(path) for path in source.rglob("*")] if source.is_dir() else [str(source)]
    if any(name.endswith(EPHYS) for name in names):
        return ["--kind", "ephys"]
    if any(name.endswith(IMAGES) for name in names):
        return ["--kind", "imaging", "--chunk", "8,8,16", "--shard", "16,32,32", "--levels", "1"]
    if any(name.endswith(VIDEOS) for name in names):
        return ["--kind", "video", "--preset", "no-gamma"]
    return ["--kind", "generic"]


def sources(top: Path) -> Iterator[Path]:
    """Yield what is compressed by itself."""
    for case in sorted(path for path in top.iterdir() if path.is_dir()):
        folders = [path for path in sorted(case.iterdir()) if path.is_dir()]
        yield from folders or [path for path in sorted(case.iterdir()) if path.name != "README"]


def spoilt(content: bytes, chance: random.Random, way: str) -> bytes:
    """Return content that is truncated anywhere, or has one flipped bit where metadata are."""
    if way == "cut":
        return content[: chance.randrange(len(content))]
    changed = bytearray(content)
    changed[chance.randrange(min(len(content), METADATA))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def check(source: Path, rounds: int, chance: random.Random) -> tuple[int, list[str]]:
    """Compress a source with each of its files spoilt in turn; return how often, and what went wrong."""
    wrong: list[str] = []
    count = 0
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    for file in files:
        content = file.read_bytes()
        for number, way in ((number, way) for number in range(rounds) for way in ("cut", "flip") if content):
            with tempfile.TemporaryDirectory(prefix="lading-damage-") as scratch:
                place = Path(scratch, "in" if source.is_dir() else source.name)
                (shutil.copytree if source.is_dir() else shutil.copy)(source, place)
                below = place / file.relative_to(source) if source.is_dir() else place
                below.write_bytes(spoilt(content, chance, way))
                count += 1
                if said := compress(place, Path(scratch, "out")):
                    wrong.append(f"{file} {way} {number}: {said}")
    return count, wrong


def compress(source: Path, out: Path) -> str:
    """Compress; return what should not have happened, or an empty string."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = command.main([str(source), str(out), "--workers", "1", *kind_of(source)])
    except LadingError as error:
        code, text = error.exit_code, str(error)
        if not text.strip() or "Traceback" in text:
            return f"no sentence: {text!r}"
    except Exception:  # what must never happen
        return traceback.format_exc().strip().replace("\n", " | ")[-600:]
    if "Traceback" in said.getvalue():
        return said.getvalue()[-600:].replace("\n", " | ")
    if code not in (0, 3) and (out / "compress.json").exists():
        return f"exit {code}, and there is a report"
    return ""


def main(argv: list[str]) -> int:
    """Check every source; returns the exit code."""
    launcher.run_locally = lambda worker, count, stop: worker("w0", 0, stop)  # type: ignore[assignment]
    rounds, failed, total = int(argv[1]) if len(argv) > 1 else 10, 0, 0
    for source in sources(Path(argv[0])):
        count, wrong = check(source, rounds, random.Random(source.name))
        total, failed = total + count, failed + len(wrong)
        print(f"{source}: {count} damaged, {len(wrong)} wrong", *wrong[:5], sep="\n  ", flush=True)
    print(f"{total} damaged, {failed} wrong")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
