"""The words of a benchmark's command line.

Input: what the module's docstring says of it, and the tables it has. Output: those that were asked for.
Invariant: a word that names no table is refused in one sentence before anything is measured; ``--help`` names them.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence


def choose_tables(
    about: str | None, tables: Iterable[str], usual: Iterable[str] = (), words: Sequence[str] | None = None
) -> list[str]:
    """Return the tables that the words name, or the ``usual`` ones (by default all) where there is no word."""
    known = list(tables)
    parser = argparse.ArgumentParser(
        description=about, prog=f"python -m {_module()}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(known))
    chosen: list[str] = parser.parse_args(words).tables
    if unknown := [word for word in chosen if word not in known]:
        parser.error(f"there is no table {', '.join(unknown)}; name some of {', '.join(known)}")
    return chosen or list(usual) or known


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else "benchmarks"
