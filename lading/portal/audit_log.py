"""Who did what at the portal: a log that only grows.

Input: callers and what they ask for. Output: records in ``audit.jsonl``
(docs/reference/formats.md).
Invariant: what is asked is on disk before it is done, and what became of it
before it is answered; what cannot be logged is not done. The log holds
names, ids and keys, never a list, a setting or a secret.
"""

import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lading.core.atomic import AppendLog
from lading.core.errors import LadingError
from lading.core.version import provenance
from lading.portal.callers import Caller
from lading.portal.service import RefusedError
from lading.portal.store import now

AUDIT = "audit.jsonl"
DONE, REFUSED, FAILED, FORBIDDEN = "done", "refused", "failed", "forbidden"
# A sentence of a refusal names keys and columns; a log needs no more of it.
LONGEST = 500


class ForbiddenError(LadingError):
    """The caller may not do this; the text says what would allow it."""


@dataclass
class Act:
    """One request to change something; what it changed is added while it is done."""

    about: dict[str, Any] = field(default_factory=dict)


class AuditLog:
    """The log of one portal, whose threads share it."""

    def __init__(self, home: Path) -> None:
        path = home / AUDIT
        # Private before anything is in it, whatever the umask.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._lock = threading.Lock()
        self._log = AppendLog(path)
        if path.stat().st_size == 0:
            self._write({"kind": "audit", "format": 1, "written_by": provenance()})

    def close(self) -> None:
        """Sync and close."""
        self._log.close()

    @contextmanager
    def act(self, caller: Caller, do: str, about: Mapping[str, Any]) -> Iterator[Act]:
        """Log what a caller asks for, let the block do it, and log what became of it."""
        number, done = secrets.token_hex(8), Act()
        self._write({**_head("asked", number), **_who(caller), "do": do, **about})
        try:
            yield done
        except ForbiddenError as error:
            self._answer(number, FORBIDDEN, str(error), done)
            raise
        except (LadingError, RefusedError) as error:
            self._answer(number, REFUSED, str(error), done)
            raise
        except BaseException as error:
            self._answer(number, FAILED, type(error).__name__, done)
            raise
        self._answer(number, DONE, "", done)

    def _answer(self, number: str, outcome: str, why: str, act: Act) -> None:
        self._write({**_head("answered", number), "outcome": outcome, "why": why[:LONGEST], **act.about})

    def _write(self, record: Mapping[str, Any]) -> None:
        with self._lock:
            self._log.append([record])
            self._log.sync()


def _head(kind: str, number: str) -> dict[str, Any]:
    return {"kind": kind, "id": number, "at": now()}


def _who(caller: Caller) -> dict[str, Any]:
    return {"who": caller.name, "way": caller.way, "peer": caller.peer}
