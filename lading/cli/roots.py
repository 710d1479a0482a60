"""Roots that few mean: the whole machine, and what holds the working directory.

Input: a root as given. Output: nothing, or ``UsageError``.
Invariant: what a slip makes of a setting (``/``, ``.``, ``..``) is crawled and
sent only with ``--yes-root``: a bucket may be public.
"""

import argparse
import os
from pathlib import Path

from lading.core.errors import UsageError


def add_yes_root(parser: argparse.ArgumentParser) -> None:
    """Add the flag that takes such a root."""
    parser.add_argument(
        "--yes-root", action="store_true", help="accept / as ROOT, or a directory that contains the working directory"
    )


def check_root(root: str, agreed: bool) -> None:
    """Raise ``UsageError`` for / and for a root in or below which this process works, unless that was agreed to.

    A root that cannot be looked at is for others to complain of.
    """
    if agreed:
        return
    top = os.path.realpath(root)
    if top == "/":
        raise UsageError(f"ROOT {root} is the whole machine; if that is intended, add --yes-root (make: yes_root=1)")
    try:
        status = os.stat(top)
        here = Path(os.getcwd())
        holds = any(os.path.samestat(status, os.stat(above)) for above in (here, *here.parents))
    except OSError:
        return
    if holds:
        raise UsageError(
            f"ROOT {root} contains the working directory {here}; work in another directory, or if that is intended, "
            "add "
            "--yes-root (make: yes_root=1)"
        )
