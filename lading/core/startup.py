"""What a process of Lading does first: take names as UTF-8, whatever its locale says; look for cycles seldom.

Input: the interpreter as it was started. Output: the same interpreter, or the
same command started once more in Python's UTF-8 mode.
Invariant: behind ``require_utf8`` a name's bytes become text, and text bytes,
by UTF-8 with surrogate escapes, in this process and in every Python it
starts. Under another encoding, files would be looked for, sent and restored
under other names.
"""

import gc
import os
import sys
from typing import NoReturn

from lading.core.errors import UsageError

# Set in a process that was started again, so that it does not happen for ever.
_AGAIN = "LADING_STARTED_AGAIN"


def collect_seldom() -> None:
    """Keep Python's search for cycles from looking through what is there now, and through each 700 new objects.

    A run makes objects by the million, and few of them are in cycles.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def takes_utf8() -> bool:
    """Tell whether this interpreter turns names into text, and back, by UTF-8 with surrogate escapes."""
    encoding = sys.getfilesystemencoding().lower().replace("-", "")
    return encoding == "utf8" and sys.getfilesystemencodeerrors() == "surrogateescape"


def require_utf8() -> None:
    """Return if names are UTF-8 here, else start the same command in UTF-8 mode in place of this process.

    To be called before threads and MPI begin. Raises ``UsageError`` when the
    command line itself forbids that mode.
    """
    again = os.environ.pop(_AGAIN, None)
    os.environ["PYTHONUTF8"] = "1"
    if takes_utf8():
        return
    if again or "mpi4py.MPI" in sys.modules:
        raise UsageError(
            f"Python reads file names as {sys.getfilesystemencoding()} here, so they would be wrong; "
            "set PYTHONUTF8=1 and leave out -X utf8=0"
        )
    _start_again()


def _start_again() -> NoReturn:
    os.environ[_AGAIN] = "1"
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    program, *arguments = _command_line()
    # Before what the command line says itself; the environment reaches the processes started later.
    os.execv(program, [program, b"-X", b"utf8", *arguments])  # noqa: S606  # no shell


def _command_line() -> list[bytes]:
    """Return the interpreter and its arguments as the bytes that they were, not as the locale read them."""
    program = os.fsencode(sys.executable)
    try:
        with open("/proc/self/cmdline", "rb") as stream:
            words = stream.read().split(b"\0")[:-1]
    except OSError:
        words = []
    if len(words) != len(sys.orig_argv):
        words = [os.fsencode(word) for word in sys.orig_argv]
    return [program, *words[1:]]
