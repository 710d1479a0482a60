"""The walk behind one interface: the compiled core, or Python where it was not built.

Input: a root and settings. Output: a ``Walker``: start, wait, settle, then
the tree as pieces of text.
Invariant: both walks give the same bytes for the same tree, whatever the
number of threads and ranks.
"""

import importlib
import os

from lading.core.errors import LadingError
from lading.crawl.options import NCDU, TREE, Options, Walker, root_name
from lading.tree.globs import pack_globs

_LINKS = ("record", "follow", "skip")


def has_core() -> bool:
    """Tell whether the compiled walk can be used; ``LADING_WALK=python`` says no."""
    if os.environ.get("LADING_WALK") == "python":
        return False
    try:
        core = importlib.import_module("lading.crawl._walk")
    except ImportError:
        return False
    return hasattr(core.Walker, "know")  # not one of an older state: till it is built anew


def make_walker(root: str, options: Options, *, seed: bool = True, core: bool | None = None) -> Walker:
    """Return a walk that has not begun. ``seed=False``: it only borrows from other ranks.

    Raises ``LadingError`` when the root cannot be opened.
    """
    try:
        if not (has_core() if core is None else core):
            from lading.crawl.python_walker import PythonWalker  # here: most ranks have the compiled walk

            return PythonWalker(root, options, seed=seed)
        walker: Walker = importlib.import_module("lading.crawl._walk").Walker(
            os.fsencode(root),
            os.fsencode(root_name(root) if options.form == TREE else os.path.abspath(root)),
            options.workers,
            _LINKS.index(options.links),
            options.mtime,
            options.form == NCDU,
            2 if options.hard_links == "once" else int(options.form == NCDU),
            options.one_file_system,
            pack_globs(options.exclude),
            options.rate,
            options.log_depth,
            seed,
            options.stamps,
        )
        return walker
    except OSError as error:
        raise LadingError(f"cannot open {root}: {error.strerror}") from error
