"""What each storage class costs: requests, storage with its minima, reading, thawing; and which is the cheapest.

Input: sizes of objects, a table of prices. Output: a cost per class, in the
first year as a function of how often everything is read.
Invariant: prices are data of one table with one date, and each can be
overridden; how they are billed (minimum size, minimum days, what is stored
beside an archived object) is here too, and nowhere else.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lading.core.bounded import parse_json
from lading.core.errors import UsageError, usage_errors
from lading.core.progress import counted

KIB = 1024
GB = 1e9
# Whose prices these are, and of when: https://aws.amazon.com/s3/pricing/.
SOURCE = "Amazon S3, us-east-1, USD, as listed in 2025"


@dataclass(frozen=True)
class ThawTier:
    """A way to have an archived object back: per GB and per 1,000 objects, and how many hours it takes at most."""

    gb: float
    thousand: float
    hours: int
    words: str


@dataclass(frozen=True)
class ClassPrice:
    """One storage class.

    storage     per GB and month; put, get: per 1,000 requests; retrieval: per GB that is read
    least_bytes what a smaller object is billed as; least_days: what an object that goes sooner is billed for
    beside      bytes stored with each object at this price; beside_standard: at the price of STANDARD
    monitoring  per 1,000 objects and month, of ``monitored`` bytes at least
    later       (after this many months without a reading, storage then)
    tiers       of a class that must be thawed before it is read
    """

    storage: float
    put: float
    get: float
    retrieval: float = 0.0
    least_bytes: int = 0
    least_days: int = 0
    beside: int = 0
    beside_standard: int = 0
    monitoring: float = 0.0
    monitored: int = 0
    later: tuple[tuple[int, float], ...] = ()
    tiers: Mapping[str, ThawTier] = field(default_factory=dict)


TABLE: Mapping[str, ClassPrice] = {
    "STANDARD": ClassPrice(0.023, 0.005, 0.0004),
    "INTELLIGENT_TIERING": ClassPrice(
        0.023, 0.005, 0.0004, monitoring=0.0025, monitored=128 * KIB, later=((1, 0.0125), (3, 0.004))
    ),
    "STANDARD_IA": ClassPrice(0.0125, 0.01, 0.001, 0.01, 128 * KIB, 30),
    "ONEZONE_IA": ClassPrice(0.01, 0.01, 0.001, 0.01, 128 * KIB, 30),
    "GLACIER_IR": ClassPrice(0.004, 0.02, 0.01, 0.03, 128 * KIB, 90),
    "GLACIER": ClassPrice(
        0.0036,
        0.03,
        0.0004,
        least_days=90,
        beside=32 * KIB,
        beside_standard=8 * KIB,
        tiers={
            "Bulk": ThawTier(0.0, 0.0, 12, "5 to 12 h"),
            "Standard": ThawTier(0.01, 0.05, 5, "3 to 5 h"),
            "Expedited": ThawTier(0.03, 10.0, 1, "1 to 5 min"),
        },
    ),
    "DEEP_ARCHIVE": ClassPrice(
        0.00099,
        0.05,
        0.0004,
        least_days=180,
        beside=32 * KIB,
        beside_standard=8 * KIB,
        tiers={
            "Bulk": ThawTier(0.0025, 0.025, 48, "up to 48 h"),
            "Standard": ThawTier(0.02, 0.1, 12, "up to 12 h"),
        },
    ),
}
CHEAPEST_TIER = "Bulk"
THAWED_DAYS = 7
MOST_READS = 1000.0
SAME = 0.001  # a class that costs less by no more than this share is no better


def read_table(text: str) -> dict[str, ClassPrice]:
    """Return the table with what a JSON object of ``{class: {name: price}}`` says instead; raises every error of it."""
    table = dict(TABLE)
    if not text.strip():
        return table
    example = 'class_prices=\'{"GLACIER_IR": {"storage": 0.005, "retrieval": 0.03}}\''
    try:
        given = parse_json(text)
    except ValueError as error:
        raise UsageError(f"class_prices is not JSON ({error}); write it like {example}") from error
    if not isinstance(given, dict):
        raise UsageError(f"class_prices is not a JSON object; write it like {example}")
    numbers = [one.name for one in fields(ClassPrice) if one.name not in ("later", "tiers")]
    errors = []
    for name, prices in given.items():
        if name not in table or not isinstance(prices, dict):
            errors.append(
                f"class_prices: {name!r} is not a class with prices; one of {', '.join(table)}, like {example}"
            )
            continue
        for what, value in prices.items():
            if what not in numbers or isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                errors.append(
                    f"class_prices: {name}: {what!r} = {value!r} is not a price; names are {', '.join(numbers)}"
                )
            else:
                table[name] = _with(table[name], what, value)
    if errors:
        raise usage_errors(errors)
    return table


def _with(price: ClassPrice, name: str, value: float) -> ClassPrice:
    whole = name in ("least_bytes", "least_days", "beside", "beside_standard", "monitored")
    found: Any = {name: int(value) if whole else float(value)}
    return replace(price, **found)


@dataclass(frozen=True)
class ClassCost:
    """What a tree costs in a class: once for the upload, a month, one reading of everything.

    ``archived``: it takes hours to read. ``least_days`` are billed in any case.
    """

    name: str
    upload: float
    month: float
    reading: float
    archived: bool
    least_days: int
    later: tuple[tuple[int, float], ...] = ()

    def year(self, reads: float) -> float:
        """Return the cost of the first year, the upload included, when everything is read so many times."""
        return self.upload + 12 * self._average_month(reads) + reads * self.reading

    def _average_month(self, reads: float) -> float:
        """Return a month's cost; a class that moves what nobody reads is cheaper the rarer it is read."""
        if not self.later:
            return self.month
        between = 12 / reads if reads > 1 else 12.0
        total, at, price = 0.0, 0.0, self.month
        for months, cheaper in self.later:
            if months >= between:
                break
            total += (months - at) * price
            at, price = months, cheaper
        return (total + (between - at) * price) / between


def class_cost(
    name: str, table: Mapping[str, ClassPrice], sizes: NDArray[np.int64], writes: int, lists: int
) -> ClassCost:
    """Return what objects of these sizes cost in a class, sent by so many PUT and POST, and LIST requests."""
    price, standard, count = table[name], table["STANDARD"], len(sizes)
    stored = int(np.maximum(sizes, price.least_bytes).sum()) + count * price.beside
    held = int(sizes.sum())
    month = stored / GB * price.storage + count * price.beside_standard / GB * standard.storage
    watched = sizes >= price.monitored if price.monitoring else np.zeros(count, np.bool_)
    monitoring = int(watched.sum()) / 1000 * price.monitoring
    small = int(sizes[~watched].sum()) / GB * price.storage
    moving = int(sizes[watched].sum()) / GB
    later = tuple((months, monitoring + small + moving * cheaper) for months, cheaper in price.later)
    reading = count / 1000 * price.get + held / GB * price.retrieval
    if price.tiers:
        reading += thaw_cost(table, name, CHEAPEST_TIER, count, held, THAWED_DAYS)
    upload = writes / 1000 * price.put + lists / 1000 * standard.put
    return ClassCost(name, upload, month + monitoring, reading, bool(price.tiers), price.least_days, later)


def thaw_cost(table: Mapping[str, ClassPrice], name: str, tier: str, objects: int, held: int, days: int) -> float:
    """Return what it costs to have archived objects back for some days; meanwhile they lie in STANDARD too."""
    way = table[name].tiers[tier]
    kept = held / GB * table["STANDARD"].storage * days / 30
    return held / GB * way.gb + objects / 1000 * way.thousand + kept


def all_costs(table: Mapping[str, ClassPrice], sizes: NDArray[np.int64], writes: int, lists: int) -> list[ClassCost]:
    """Return the costs in each class of the table."""
    return [class_cost(name, table, sizes, writes, lists) for name in table]


def cheapest(costs: Iterable[ClassCost]) -> list[tuple[str, float]]:
    """Return (class, up to how many readings of everything a year) by rising readings; the last is without end."""
    known = list(costs)
    found: list[tuple[str, float]] = []
    reads = 0.0
    best = min(known, key=lambda cost: cost.year(0))
    while reads < MOST_READS:
        reads = reads + 0.01 if reads < 1 else reads * 1.01
        other = min(known, key=lambda cost: cost.year(reads))
        if other.year(reads) < best.year(reads) * (1 - SAME):
            found.append((best.name, reads))
            best = other
    return [*found, (best.name, float("inf"))]


def describe_cheapest(costs: Iterable[ClassCost]) -> str:
    """Return which class is the cheapest for how many readings, as a sentence's end."""
    ranges = cheapest(costs)
    if len(ranges) == 1:
        return f"{ranges[0][0]}, however often it is read"
    parts = [f"{name} up to {most:.2g}" for name, most in ranges[:-1]]
    return f"{', '.join(parts)}, {ranges[-1][0]} above that"


def describe_classes(costs: Sequence[ClassCost], money: Callable[[float], str]) -> list[str]:
    """Return the table of classes and what is cheapest, for people."""
    lines = [f"storage classes ({SOURCE}; class_prices= sets others)"]
    for cost in costs:
        notes = [f"at least {counted(cost.least_days, 'day')}"] if cost.least_days else []
        notes += ["in one zone only"] if cost.name == "ONEZONE_IA" else []
        notes += [f"thawed by {CHEAPEST_TIER} before it is read"] if cost.archived else []
        lines.append(
            f"  {cost.name:<20} {money(cost.upload):>14} requests {money(cost.month):>14} a month "
            f"{money(cost.reading):>14} to read all {money(cost.year(0)):>14} first year"
            + (f"  ({', '.join(notes)})" if notes else "")
        )
    lines.append(f"cheapest in the first year, by readings of everything: {describe_cheapest(costs)}")
    at_once = [cost for cost in costs if not cost.archived]
    if at_once and len(at_once) < len(costs):
        lines.append(f"cheapest of those that are read at once: {describe_cheapest(at_once)}")
    return lines
