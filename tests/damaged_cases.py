"""Each file of given sources, truncated, with flipped bits, with numbers of others: a sentence, no traceback.

``python -m tests.damaged_cases DIRECTORY [ROUNDS [SEED]]`` takes each folder of DIRECTORY for a source (each file where
it has only files), spoils each of its files ROUNDS times in every way (default 10), and compresses what came of it. It
prints one line per source and ends with 1 when one of them crashed, left a report after a failure, or left an image
that tensorstore, zarr and ome-zarr-models do not read alike. ``made`` stands for sources that the tests write.
"""

import contextlib
import importlib
import io
import random
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from lading.cli import compress as command
from lading.compress import launcher
from lading.compress.ephys.neo_bridge import READERS
from lading.core.errors import LadingError
from tests import image_checks

EPHYS = (
    ".oebin",
    ".meta",
    ".nwb",
    ".yaml",
    *(end for reader in READERS.values() for end in reader.ends if end != ".xml"),
    ".dat",
)
IMAGES = (".tif", ".h5", ".ims", ".zarr", ".png", ".n5", "attributes.json")
VIDEOS = (".mkv", ".avi", ".mp4")
METADATA = 20_000  # bytes at the beginning, where flips meet metadata
WAYS = ("cut", "flip", "number")
NUMBERS = (b"0", b"-1", b"", b"nan", b"1e999", b"99999999999999999999", b"2147483648", b"null", b"0.5", b"65537")
SECONDS = 120  # for one compression: more is a program that never ends


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
    """Return content that is truncated anywhere, has flipped bits where metadata are, or another number in a text."""
    if way == "cut":
        return content[: chance.randrange(len(content))]
    numbers = list(re.finditer(rb"(?<![\w.])-?\d+(\.\d+)?(?![\w.])", content[:METADATA])) if way == "number" else []
    if numbers:
        found = chance.choice(numbers)
        return content[: found.start()] + chance.choice(NUMBERS) + content[found.end() :]
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 10])):
        changed[chance.randrange(min(len(content), METADATA))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def check(source: Path, rounds: int, chance: random.Random) -> tuple[int, list[str]]:
    """Compress a source with each of its files spoilt in turn; return how often, and what went wrong."""
    wrong: list[str] = []
    count = 0
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    for file in files:
        content = file.read_bytes()
        for number, way in ((number, way) for number in range(rounds) for way in WAYS if content):
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
    image_checks.WRONG.clear()
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = command.main([str(source), str(out), "--workers", "1", *kind_of(source)])
    except LadingError as error:
        code, text = error.exit_code, str(error)
        if not text.strip() or "Traceback" in text:
            return f"no sentence: {text!r}"
    except Exception:  # what must never happen
        return traceback.format_exc().strip().replace("\n", " | ")[-600:]
    finally:
        signal.alarm(0)
    if "Traceback" in said.getvalue():
        return said.getvalue()[-600:].replace("\n", " | ")
    if code not in (0, 3) and (out / "compress.json").exists():
        return f"exit {code}, and there is a report"
    if code not in (0, 3) and (named := [path for path in out.rglob("*") if _is_finished(path)]):
        return f"exit {code}, and {named[0].relative_to(out)} looks finished"
    return "; ".join(image_checks.WRONG)[:600]


def _is_finished(path: Path) -> bool:
    """Tell whether a file makes readers open what is around it: the metadata of an image or of a recording."""
    return (path.name in ("zarr.json", ".zattrs") and b"multiscales" in path.read_bytes()) or path.name == ".zmetadata"


def _too_long(*_: object) -> None:
    raise TimeoutError(f"it took more than {SECONDS} s")


def make(top: Path) -> Path:
    """Write sources of every kind; returns their directory."""
    from tests.integration import test_case_damage

    for write in test_case_damage.WRITERS:
        (top / write.__name__ / "source").mkdir(parents=True)
        write(top / write.__name__ / "source")
    return top


def main(argv: list[str]) -> int:
    """Check every source; returns the exit code."""
    launcher.run_locally = lambda worker, count, stop: worker("w0", 0, stop)  # type: ignore[assignment]
    image_checks.PLACES = False  # what numbers that make no sense mean, two parsers need not agree on
    image_checks.watch(importlib.import_module("lading.compress.imaging.imaging_plan"))
    signal.signal(signal.SIGALRM, _too_long)
    rounds, seed, failed, total = int([*argv, "10", "10"][1]), [*argv, "", "", ""][2], 0, 0
    with tempfile.TemporaryDirectory(prefix="lading-made-") as scratch:
        for source in sources(make(Path(scratch)) if argv[0] == "made" else Path(argv[0])):
            count, wrong = check(source, rounds, random.Random(f"{source.parent.name}/{source.name}{seed}"))
            total, failed = total + count, failed + len(wrong)
            print(f"{source}: {count} damaged, {len(wrong)} wrong", *wrong[:5], sep="\n  ", flush=True)
    print(f"{total} damaged, {failed} wrong; {dict(image_checks.COUNTED)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
