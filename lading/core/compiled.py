"""The compiled modules, where they were built.

Input: a module's name and the variable that says no to it. Output: the
module, or None: then its caller's Python does the same, more slowly.
Invariant: within a process the answer never changes.
"""

import functools
import importlib
import os
from typing import Any


@functools.cache
def load_compiled(name: str, variable: str) -> Any:
    """Return the module ``name``, or None where it was not built or ``variable`` is ``python``."""
    if os.environ.get(variable) == "python":
        return None
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
