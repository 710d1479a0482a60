"""Every failure a person can meet, as one sentence with an exit code.

Input: what failed, where, and what to do next, as text.
Output: exceptions that ``lading.cli.run_main`` turns into one line on stderr and
the exit code of docs/reference/formats.md.
Invariant: a message never holds a secret and never spans more lines than it
has faults.
"""

from collections.abc import Iterable

from lading.core import exit_codes


class LadingError(Exception):
    """The run failed (exit 1)."""

    exit_code = exit_codes.FAILED


class UsageError(LadingError):
    """A flag, a setting or a missing artefact (exit 2)."""

    exit_code = exit_codes.USAGE


class PartialFailure(LadingError):
    """Some items failed and the rest is done: run the same command again (exit 3)."""

    exit_code = exit_codes.SOME_FAILED


class ConsistencyError(LadingError):
    """Artefacts contradict each other, or the bucket contradicts them (exit 4)."""

    exit_code = exit_codes.DISAGREE


class LockHeldError(LadingError):
    """Another run holds the lock (exit 75, EX_TEMPFAIL of sysexits.h)."""

    exit_code = exit_codes.LOCKED


def usage_errors(faults: Iterable[str]) -> UsageError:
    """Return one ``UsageError`` that lists every fault, a line each."""
    return UsageError("\n".join(faults))
