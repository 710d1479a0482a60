"""Archived objects of a restore: how many there are, what thawing them costs and takes, and asking for it.

Input: rows whose objects the server will not give because they are archived.
Output: sums by class and state; with a request, each object asked back once.
Invariant: nothing is asked for without ``--thaw``, since it costs; what is on
its way already is not asked for again.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lading.core.errors import UsageError, usage_errors
from lading.core.progress import counted, format_bytes, format_count
from lading.plan.class_prices import SOURCE, ClassPrice, thaw_cost
from lading.verification.manifest import ManifestRow

if TYPE_CHECKING:
    from lading.objectstore.readable_store import ReadableStore

TIERS = ("Bulk", "Standard", "Expedited")
DAYS = 7
TIERING = "INTELLIGENT_TIERING"  # keeps what it thawed: no days are named
UNKNOWN = "GLACIER"  # taken for the class where neither manifest nor server names one


@dataclass(frozen=True)
class ThawRequest:
    """How archived objects are asked back: by which tier, and for how many days they can then be read."""

    tier: str = "Bulk"
    days: int = DAYS


def parse_thaw(words: Sequence[str]) -> ThawRequest:
    """Return the request of ``tier=Bulk days=7``; raises every error of it."""
    errors: list[str] = []
    tier, days = ThawRequest.tier, DAYS
    for word in words:
        name, _, value = word.partition("=")
        if name == "tier" and value.capitalize() in TIERS:
            tier = value.capitalize()
        elif name == "days" and value.isascii() and value.isdigit() and 1 <= int(value) <= 3650:
            days = int(value)
        elif name == "tier":
            errors.append(f"--thaw {word!r}: no such tier; one of {', '.join(TIERS)}")
        else:
            errors.append(f"--thaw {word!r} is not understood; write it like --thaw tier=Bulk days=7")
    if errors:
        raise usage_errors(errors)
    return ThawRequest(tier, days)


@dataclass
class ArchivedSum:
    """Archived objects of one class: all of them, those that were asked back now, and those on their way before."""

    objects: int = 0
    bytes: int = 0
    asked: int = 0
    on_its_way: int = 0


class ArchivedObjects:
    """Counts archived objects, and asks them back; safe to use from many threads."""

    def __init__(self, store: "ReadableStore", request: ThawRequest | None, table: Mapping[str, ClassPrice]) -> None:
        self._store, self._request, self._table = store, request, table
        self._lock = threading.Lock()
        self.sums: dict[str, ArchivedSum] = {}

    @property
    def count(self) -> int:
        """How many objects are archived."""
        return sum(found.objects for found in self.sums.values())

    def take(self, row: ManifestRow) -> None:
        """Count an object, and ask it back if that was wanted and nobody did; raises ``StoreError``."""
        head = self._store.head(row.key)
        name = head.storage_class or row.storage_class or UNKNOWN
        asked = False
        if self._request is not None and not head.is_thawing:
            tier = self._request.tier
            price = self._table.get(name)
            if price is not None and price.tiers and tier not in price.tiers:
                raise UsageError(f"{name} cannot be thawed by {tier}; say --thaw tier={' or tier='.join(price.tiers)}")
            days = None if name == TIERING else self._request.days
            self._store.thaw(row.key, tier, days, row.version_id)
            asked = True
        with self._lock:
            found = self.sums.setdefault(name, ArchivedSum())
            found.objects += 1
            found.bytes += row.size
            found.asked += asked
            found.on_its_way += head.is_thawing

    def hours(self) -> int:
        """Return after how many hours at most all that was asked back is there."""
        tier = self._request.tier if self._request else ThawRequest.tier
        found = [self._table[name].tiers.get(tier) for name in self.sums if name in self._table]
        return max((way.hours for way in found if way is not None), default=12)

    def describe(self) -> list[str]:
        """Return what there is to say: counts, and the cost and time of each tier."""
        lines = []
        for name, found in sorted(self.sums.items()):
            lines.append(
                f"archived: {counted(found.objects, 'object')}, {format_bytes(found.bytes)} in {name}; "
                f"asked back now {format_count(found.asked)}, on their way before {format_count(found.on_its_way)}"
            )
            price, days = self._table.get(name), self._request.days if self._request else DAYS
            for tier, way in price.tiers.items() if price else ():
                cost = thaw_cost(self._table, name, tier, found.objects, found.bytes, days)
                lines.append(f"  thawing by {tier}: about {cost:,.2f} USD for {counted(days, 'day')}, {way.words}")
        if lines:
            lines.append(f"  prices: {SOURCE}; --class-prices sets others")
        return lines

    def advice(self) -> str:
        """Return what to do next."""
        waiting = all(found.asked + found.on_its_way == found.objects for found in self.sums.values())
        if waiting:
            return f"they are on their way; run again in {self.hours()} h"
        return (
            "ask for them with --thaw tier=Bulk days=7 (make: restore_flags=), which costs what is said above, "
            f"then run again in {self.hours()} h"
        )
