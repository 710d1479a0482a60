"""Names of users and groups by their numbers, asked for once each.

Input: a number. Output: its name here, None where it has none.
Invariant: a directory service that does not answer costs a name, never the crawl.
"""

import functools
import grp
import pwd


@functools.lru_cache(maxsize=65536)
def user_name(number: int) -> str | None:
    """Return a user's name."""
    try:
        return pwd.getpwuid(number).pw_name
    except (KeyError, OSError, OverflowError):
        return None


@functools.lru_cache(maxsize=65536)
def group_name(number: int) -> str | None:
    """Return a group's name."""
    try:
        return grp.getgrgid(number).gr_name
    except (KeyError, OSError, OverflowError):
        return None
