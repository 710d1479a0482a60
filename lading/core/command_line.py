"""What all command lines share: sizes, durations, exit codes, one-line errors.

Input: ``argv`` and exceptions. Output: an exit code, and for a failure one
sentence on stderr.
Invariant: no traceback, whatever happens: what nobody foresaw is one sentence
(exit 70) that names a report file. ``LADING_DEBUG=1`` shows it all the same.
"""

import argparse
import functools
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from lading.core import exit_codes, extras
from lading.core.errors import LadingError, UsageError
from lading.core.exit_codes import DEFECT as DEFECT
from lading.core.safe_streams import escape_controls, protect_streams
from lading.core.safe_streams import printable as printable
from lading.core.startup import collect_seldom, require_utf8

# What was said of the errors that ended commands of this process.
LAST_ERRORS: list[str] = []
REPORTED_FRAMES = 60  # of a traceback: the innermost
SHORTEST_SECRET = 6
_SECRET_NAME = re.compile("SECRET|TOKEN|PASSW|KEY|CREDENTIAL|AUTH", re.IGNORECASE)
_CREDENTIALS = re.compile(r"://[^/@\s]+@")

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


# What the settings of make are called on command lines, and how one is written.
_SETTINGS = {
    "root": ("root", "root=/data"),
    "upload_root": ("root", "--upload-root /data (root=/data)"),
    "bucket": ("bucket", "bucket=s3://name or bucket=s3://name/prefix"),
    "endpoint_url": ("endpoint", "--endpoint-url https://s3.example.org (endpoint=https://…)"),
    "prefix": ("prefix", "--prefix spectro/data (prefix=spectro/data), or leave it out for everything"),
    "to": ("place to restore to", "--to /scratch/back (to=/scratch/back)"),
    "source": ("source", "source=/data/session"),
    "destination": ("dest", "dest=/scratch/session"),
    "remap": ("remap", '--remap \'{"path in the release": "path in the bucket"}\' (remap=…)'),
}


def _no_value(action: argparse.Action) -> str:
    """Return the sentence on an argument that is empty."""
    name = "/".join(action.option_strings) or str(action.metavar or action.dest)
    setting, example = _SETTINGS.get(action.dest, (name, ""))
    if not example:
        return f"{name} is empty; give a value, or leave it out"
    return f"no {setting} is given: {name} is empty; write it like {example}"


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are sentences, with exit code 2, and whose help ends in the exit codes."""

    # What a stage calls itself, and what it was called as: ``find.py`` is ``lading find`` below the command.
    called_as: tuple[str, str] | None = None

    def __init__(self, *args: Any, codes: Iterable[int] = (), **more: Any) -> None:
        super().__init__(*args, **more)
        self._codes = tuple(codes)
        if self.called_as and (self.prog + " ").startswith(self.called_as[0] + " "):
            self.prog = self.called_as[1] + self.prog.removeprefix(self.called_as[0])

    def add_subparsers(self, **more: Any) -> Any:
        """Add subcommands, which end with the codes of their command."""
        return super().add_subparsers(**{"parser_class": functools.partial(type(self), codes=self._codes), **more})

    def format_help(self) -> str:
        """Return the help text, the exit codes last."""
        return f"{super().format_help()}\n{exit_codes.describe(self._codes)}"

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Return what argparse makes of an argument's words; an empty one is a slip of who wrote it.

        A variable that is not set, say: as a path it would be the working
        directory, as a prefix everything, as an endpoint AWS.
        """
        words = [] if action.nargs in (argparse.PARSER, argparse.REMAINDER) or action.dest == "exclude" else arg_strings
        if not all(map(str.strip, words)):  # of a glob the stage says that it matches nothing
            raise UsageError(_no_value(action))
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        """Raise ``UsageError`` where argparse would print and exit."""
        raise UsageError(f"{self.prog}: {message}; see {self.prog} --help")


def configure_logging(level: str = "WARNING") -> None:
    """Send log records to stderr with time and level; never to stdout, which carries results."""
    import logging  # here: find.py starts on thousands of ranks and logs nothing

    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    # A broken answer is asked for again, and told by us where it lasts; urllib3 warns of each, with a traceback.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def run_main(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run ``main`` and return its exit code; every process begins here, and whatever fails becomes a sentence."""
    collect_seldom()
    own = sys.stdout, sys.stderr
    protect_streams()
    try:
        return _run(main, argv)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = own
        collect_seldom()  # nor once more at the end: what is left goes with the process


def _run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    try:
        require_utf8()
        return main(argv)
    except LadingError as error:
        if _debugging():
            raise
        LAST_ERRORS.append(str(error))
        for line in str(error).split("\n"):
            print(f"error: {printable(line)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left: end as a filter does, without a second error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if _debugging():
            raise
        named = isinstance(error.filename, str | bytes) and error.filename
        where = f" ({printable(os.fsdecode(error.filename))})" if named else ""
        print(f"error: {printable(error.strerror or str(error))}{where}", file=sys.stderr)
        return 1
    except ImportError as error:
        sentence = extras.explain(error)
        if sentence is None:
            return _report_defect(error)
        print(f"error: {sentence}", file=sys.stderr)
        return exit_codes.USAGE
    except Exception as error:  # noqa: BLE001  # a defect of ours: the person gets a sentence, we get the rest
        return _report_defect(error)


def _report_defect(error: Exception) -> int:
    """Say in a sentence what nobody foresaw, or raise it again for who looks for it; returns the exit code."""
    if _debugging():
        raise error
    print(f"error: {printable(describe_defect(error))}", file=sys.stderr)
    return exit_codes.DEFECT


def _debugging() -> bool:
    return bool(os.environ.get("LADING_DEBUG"))


def describe_defect(error: BaseException) -> str:
    """Return one sentence on an exception that nobody foresaw; it names the file with the traceback."""
    if isinstance(error, MemoryError):
        what = "there is not enough memory for this"
    else:
        said = blot_secrets(str(error)).split("\n")[0][:200]
        what = f"Lading failed in a way that it does not handle ({type(error).__name__}{said and ': ' + said})"
    try:
        path = write_report(error)
    except OSError as problem:
        return f"{what}; no report could be written ({problem.strerror}); LADING_DEBUG=1 shows where"
    return f"{what}; please report it with {path}"


def blot_secrets(text: str) -> str:
    """Return a text without credentials of URLs and without what the environment keeps under a secret's name."""
    text = _CREDENTIALS.sub("://…@", text)
    for name, value in os.environ.items():
        if len(value) >= SHORTEST_SECRET and _SECRET_NAME.search(name):
            text = text.replace(value, "…")
    return text


def write_report(error: BaseException) -> str:
    """Write the traceback of an exception to a new file that only the user can read; returns its path.

    It holds code and the exception's own words: no arguments, no variables, no secrets.
    """
    import traceback  # here, and the next: an error that nobody foresaw is rare

    text = "".join(traceback.format_exception(error, limit=-REPORTED_FRAMES))
    text = blot_secrets(text)
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    head = f"{os.path.basename(sys.argv[0])}, Python {sys.version.split()[0]}, {moment}"
    name = f"lading-error-{moment}-{os.getpid()}.txt"
    for directory in (os.curdir, os.environ.get("TMPDIR") or "/tmp"):  # noqa: S108  # a new file, through no link
        path = os.path.join(directory, name)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except OSError as problem:
            refused = problem
            continue
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(escape_controls(f"{head}\n\n{text}"))
        return os.path.normpath(path)
    raise refused
