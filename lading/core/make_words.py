"""Settings of make as words for the shell, with no sign in them that the shell would act on.

Input: names of environment variables. Output: on stdout, words quoted for
``eval "set -- …"``.
Invariant: quotes and backslashes group words as a shell has it; a ``$``, a
backquote and everything else is a character. Runs with the system's Python.
"""

import os
import shlex
import sys


def split(names):  # type: (list[str]) -> str
    """Return the words that the variables hold, one after the other."""
    words = []  # type: list[str]
    for name in names:
        try:
            words += shlex.split(os.environ.get(name, ""))
        except ValueError as error:
            raise SystemExit("error: {}={}: {}".format(name, os.environ[name], str(error).lower())) from error  # noqa: UP032
    return " ".join(map(shlex.quote, words))


def assign(names):  # type: (list[str]) -> str
    """Return the variables as words ``name=value``, for a command that is to be copied."""
    return " ".join(shlex.quote(name + "=" + os.environ.get(name, "")) for name in names)


if __name__ == "__main__":
    if sys.argv[1] == "--assign":
        text = assign(sys.argv[2:])
    elif sys.argv[1] == "--words":
        text = " ".join(map(shlex.quote, sys.argv[2:]))
    elif sys.argv[1] == "--quote":
        text = shlex.quote(sys.argv[2])
    else:
        text = split(sys.argv[1:])
    sys.stdout.buffer.write(os.fsencode(text) + b"\n")
