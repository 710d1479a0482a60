"""The exit codes of every command, in one place.

Input: the codes that a command can return. Output: the lines that end its ``--help``.
Invariant: a code means the same in every command, and never changes its meaning.
"""

from collections.abc import Iterable

DONE, FAILED, USAGE, SOME_FAILED, DISAGREE, LATE, DEFECT, LOCKED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 70, 75, 130

MEANINGS = {
    DONE: "done, or a budget was reached and the summary says what is left",
    FAILED: "failed",
    USAGE: "wrong usage, or an artefact or a package is missing",
    SOME_FAILED: "some items failed or could not be read; run the same command again",
    DISAGREE: "artefacts disagree, or verification found a difference",
    LATE: "something is late by its own limits",
    DEFECT: "an error inside Lading: the message names a report",
    LOCKED: "another run holds the lock",
    INTERRUPTED: "interrupted; the same command continues",
}
# Every command can return these: the others are its own.
ALWAYS = (DONE, FAILED, USAGE, DEFECT, INTERRUPTED)
OF_A_TRANSFER = (SOME_FAILED, DISAGREE, LOCKED)


def describe(codes: Iterable[int]) -> str:
    """Return the paragraph on exit codes that ends a help text."""
    listed = sorted({*ALWAYS, *codes})
    return "exit codes:\n" + "".join(f"  {code:>3}  {MEANINGS[code]}\n" for code in listed)
