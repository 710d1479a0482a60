"""What all command lines share: sizes, durations, exit codes, one-line errors.

Input: ``argv`` and exceptions. Output: an exit code, and for a failure one
sentence on stderr.
Invariant: no traceback for anything a person can cause; ``LADING_DEBUG=1``
shows it all the same.
"""

import argparse
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from lading.errors import LadingError, UsageError

# SI and IEC prefixes, as `10G` = 10^10 and `10GiB` = 10 · 2^30 bytes.
_PREFIXES = "KMGTPE"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGTPE])(i?)B?|B)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_size(text: str) -> int:
    """Return bytes for ``10G`` (10^10), ``10GiB`` (10·2^30), ``500`` or ``1.5T``."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{text!r} is not a size; write it like 500, 10G (10^10 bytes) or 10GiB")
    number, prefix, binary = match.groups()
    power = _PREFIXES.index(prefix.upper()) + 1 if prefix else 0
    return (
        int(float(number) * (1024 if binary else 1000) ** power)
        if "." in number
        else int(number) * (1024 if binary else 1000) ** power
    )


def parse_duration(text: str) -> float:
    """Return seconds for ``90``, ``90s``, ``45m``, ``8h`` or ``2d``."""
    match = _DURATION.fullmatch(text.strip().lower())
    if not match:
        raise UsageError(f"{text!r} is not a duration; write it like 90s, 45m, 8h or 2d")
    return float(match[1]) * _SECONDS[match[2]]


def parse_workers(text: str) -> int:
    """Return a worker count from 1 to 512."""
    if not text.isdigit() or not 1 <= int(text) <= 512:
        raise UsageError(f"{text!r} is not a number of workers; give a whole number from 1 to 512")
    return int(text)


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are sentences, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Raise ``UsageError`` where argparse would print and exit."""
        raise UsageError(f"{self.prog}: {message}; see {self.prog} --help")


def configure_logging(level: str = "WARNING") -> None:
    """Send log records to stderr with time and level; never to stdout, which carries results."""
    import logging  # here: find.py starts on thousands of ranks and logs nothing

    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )


def printable(text: str) -> str:
    """Return ``text`` fit for a terminal: control characters and lone surrogates escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def guard(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run ``main`` and return its exit code, with every known failure as a sentence on stderr."""
    # What was imported stays: no need to look through it again and again for cycles, of which there are few here.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if os.environ.get("LADING_DEBUG"):
        return main(argv)
    try:
        return main(argv)
    except LadingError as error:
        for line in str(error).split("\n"):
            print(f"error: {printable(line)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output left: end as a filter does, without a second error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        where = f" ({printable(os.fsdecode(error.filename))})" if error.filename else ""
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        return 1
