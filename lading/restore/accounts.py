"""Whose a restored entry shall be: users and groups of another machine, by name, by number, or by a table.

Input: recorded numbers and names; a table of lines ``user NAME NAME`` or
``group NAME NAME``, numbers where there is no name. Output: numbers here.
Invariant: a name that is not known here is nobody's: its number, which may
be another person's here, is never taken in its place. Every mistake of a
table is told at once, before anything is written.
"""

import grp
import pwd
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from lading.core.bounded import read_bounded
from lading.core.command_line import printable
from lading.core.errors import UsageError, usage_errors

MOST_FAULTS = 20
_ID = (1 << 32) - 2


@lru_cache(maxsize=65536)
def find_user(name: str) -> int | None:
    """Return the number of a user's name here, None where there is no such user."""
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, OSError, ValueError):
        return None


@lru_cache(maxsize=65536)
def find_group(name: str) -> int | None:
    """Return the number of a group's name here, None where there is no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, OSError, ValueError):
        return None


_FINDERS: Mapping[str, Callable[[str], int | None]] = {"user": find_user, "group": find_group}


@dataclass(frozen=True)
class AccountMap:
    """Recorded names or numbers (as text) → numbers here, apart for users and groups."""

    users: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)

    def user(self, number: int, name: str | None) -> int | None:
        """Return whose an entry of a recorded user shall be; None where nobody here can be told to be it."""
        return _choose(self.users, find_user, number, name)

    def group(self, number: int, name: str | None) -> int | None:
        """Return which group's an entry shall be; None as for ``user``."""
        return _choose(self.groups, find_group, number, name)


def _choose(table: Mapping[str, int], find: Callable[[str], int | None], number: int, name: str | None) -> int | None:
    if name is not None and name in table:
        return table[name]
    if str(number) in table:
        return table[str(number)]
    return number if name is None else find(name)


def read_accounts(path: Path) -> AccountMap:
    """Return the table of a file; ``UsageError`` with a line per mistake."""
    try:
        lines = read_bounded(path).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--map-users {path} cannot be read: {reason}") from error
    tables: dict[str, dict[str, int]] = {"user": {}, "group": {}}
    faults = []
    for place, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            kind, old, new = words
            if kind not in tables:
                raise ValueError
        except ValueError:
            faults.append(f"{path}, line {place}: write 'user OLD NEW' or 'group OLD NEW', names or numbers")
            continue
        number = int(new) if new.isascii() and new.isdecimal() and len(new) <= len(str(_ID)) else _FINDERS[kind](new)
        if number is None or number > _ID:
            faults.append(f"{path}, line {place}: there is no {kind} {printable(new)} here")
        elif tables[kind].setdefault(old, number) != number:
            faults.append(f"{path}, line {place}: {kind} {printable(old)} is mapped twice")
    if faults:
        more = [f"… and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
        raise usage_errors([*faults[:MOST_FAULTS], *more])
    return AccountMap(tables["user"], tables["group"])
