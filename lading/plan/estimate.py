"""What an upload will be: objects, bytes, requests, price and hours, and where they come from.

Input: a plan's tree, which files of it are to be sent, prices. Output: an
``Estimate`` and its text.
Invariant: objects, bytes, requests and parts are counted file by file with
the rule that the upload follows (``lading.checksums.parts``), so they are what
an upload without failures does; only listings are about right.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lading.checksums.parts import PART_BYTES, count_parts
from lading.core.command_line import parse_size
from lading.core.errors import UsageError
from lading.core.progress import counted, format_bytes, format_count, format_seconds
from lading.plan.class_prices import TABLE, ClassCost, ClassPrice, all_costs, describe_classes
from lading.tree.size_tree import DIRECTORY
from lading.tree.tree_index import TreeIndex

# Amazon S3 API reference: one ListObjectsV2 answers at most 1,000 keys. The upload lists before and after it sends.
KEYS_PER_LIST = 1000
LISTINGS = 2
# Below this a request costs more than three months of the bytes it brings (at 0.005 per 1,000 and 0.023 per GB-month),
# and latency, not bandwidth, sets the pace.
TINY = 64 * 1024
# What one run does with 32 workers where a request takes some 50 ms; a gateway on the same machine did 600.
OBJECTS_PER_SECOND = 500
TOP = 10
# A directory that gets this share from one subdirectory is left out of the tables in favour of that one.
SAME = 0.7
# One of many small parts of a directory that is listed comes only when there is room in the table.
SMALL = 0.1
MOST_LOOKED_AT = 10_000

_TIER = re.compile(r"([0-9.]+)(?:\s+to\s+(\S+))?")


@dataclass(frozen=True)
class Prices:
    """Prices in ``currency``.

    request  per 1,000 PUT, POST or LIST requests
    storage  per GB (10^9 bytes) and month, as (price, up to this many bytes); the last tier has no end
    transfer per GB sent
    """

    request: float
    storage: tuple[tuple[float, int | None], ...]
    transfer: float
    currency: str


def parse_prices(request: str, storage: str, transfer: str, currency: str) -> Prices:
    """Return prices; storage as ``0.023`` or ``0.023 to 50T, 0.021``; ``UsageError`` when they are none."""
    tiers: list[tuple[float, int | None]] = []
    for text in storage.split(","):
        match = _TIER.fullmatch(text.strip())
        if not match:
            raise UsageError(f"price_storage {storage!r} is not a price; write it like 0.023 or 0.023 to 50T, 0.021")
        tiers.append((_price("price_storage", match[1]), parse_size(match[2]) if match[2] else None))
    if tiers[-1][1] is not None or any(end is None for _, end in tiers[:-1]):
        raise UsageError(f"price_storage {storage!r}: every price but the last needs its end, like 0.023 to 50T, 0.021")
    return Prices(_price("price_request", request), tuple(tiers), _price("price_transfer", transfer), currency)


def _price(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise UsageError(f"{name} {text!r} is not a number") from error
    if not 0 <= value < float("inf"):
        raise UsageError(f"{name} {text!r} is not a price")
    return value


def storage_price(prices: Prices, size: int) -> float:
    """Return what ``size`` bytes cost for a month."""
    total, start = 0.0, 0
    for price, end in prices.storage:
        stop = size if end is None else min(size, end)
        total += max(0, stop - start) / 1e9 * price
        start = max(start, stop)
    return total


@dataclass(frozen=True)
class DirectoryCost:
    """A directory with what is to be sent of it: files, bytes, files below ``TINY``."""

    path: str
    files: int
    bytes: int
    tiny: int


@dataclass(frozen=True)
class Estimate:
    """What is to be sent.

    puts      requests that carry bytes: whole objects and parts
    parts     those of them that are parts; multipart: objects sent in parts, two more requests each
    listings  about
    proven    objects of the plan that are proven already and are not counted above
    """

    objects: int
    bytes: int
    puts: int
    parts: int
    multipart: int
    listings: int
    proven: int
    largest: tuple[DirectoryCost, ...]
    worst: tuple[DirectoryCost, ...]
    classes: tuple[ClassCost, ...] = ()

    @property
    def requests(self) -> int:
        """All requests that are billed as PUT, POST or LIST."""
        return self.puts + 2 * self.multipart + self.listings


def estimate(
    tree_index: TreeIndex, files: NDArray[np.int64], proven: int = 0, table: Mapping[str, ClassPrice] = TABLE
) -> Estimate:
    """Return the estimate for ``files`` (nodes to be sent, ascending, int64, shape (n,)); ``table``: of classes."""
    sizes = np.frombuffer(tree_index.tree.sizes, dtype=np.int64)[files]
    parts = [count_parts(size) for size in sizes[sizes > PART_BYTES].tolist()]
    multipart = sum(1 for count in parts if count)
    largest, worst = _tables(tree_index, files, sizes)
    puts, listings = len(files) - multipart + sum(parts), LISTINGS * -(-len(files) // KEYS_PER_LIST)
    return Estimate(
        objects=len(files),
        bytes=int(sizes.sum()),
        puts=puts,
        parts=sum(parts),
        multipart=multipart,
        listings=listings,
        proven=proven,
        largest=largest,
        worst=worst,
        classes=tuple(all_costs(table, sizes, puts + 2 * multipart, listings)),
    )


def _tables(
    tree_index: TreeIndex, files: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[tuple[DirectoryCost, ...], tuple[DirectoryCost, ...]]:
    """Return the directories with most bytes and with most tiny files."""
    tree = tree_index.tree
    directories = np.flatnonzero(np.frombuffer(tree.types, dtype=np.int8) == DIRECTORY)
    low = np.searchsorted(files, directories)
    ends = np.frombuffer(tree.ends, dtype=np.int64)[directories]
    high = np.searchsorted(files, ends)
    byte_sums = np.concatenate([[0], np.cumsum(sizes)])
    tiny_sums = np.concatenate([[0], np.cumsum(sizes < TINY)])

    def place(number: int) -> DirectoryCost:
        first, last = int(low[number]), int(high[number])
        return DirectoryCost(
            tree_index.path(int(directories[number])),
            last - first,
            int(byte_sums[last] - byte_sums[first]),
            int(tiny_sums[last] - tiny_sums[first]),
        )

    def top(weights: NDArray[np.int64]) -> tuple[DirectoryCost, ...]:
        def heaviest_child(number: int) -> int:
            children = tree_index.listing(int(directories[number])).directories
            found = np.searchsorted(directories, np.frombuffer(children, dtype=np.int64))
            return int(weights[found].max(initial=0))

        chosen: list[int] = []
        passed: list[int] = []
        for number in np.argsort(-weights, kind="stable")[:MOST_LOOKED_AT].tolist():
            weight = int(weights[number])
            if len(chosen) == TOP or weight == 0:
                break
            # The root and directories around one that is nearly the same say nothing new.
            if (number == 0 and len(directories) > 1) or heaviest_child(number) > SAME * weight:
                continue
            inside = [int(weights[other]) for other in chosen if directories[other] < directories[number] < ends[other]]
            (passed if any(weight < SMALL * around for around in inside) else chosen).append(number)
        chosen += passed[: TOP - len(chosen)]
        return tuple(place(number) for number in sorted(chosen, key=lambda number: -int(weights[number])))

    return top(byte_sums[high] - byte_sums[low]), top(tiny_sums[high] - tiny_sums[low])


def upload_seconds(found: Estimate, rate: int, objects_rate: int) -> float:
    """Return how long an upload takes in which each byte and each object costs time."""
    return found.bytes / rate + found.objects / objects_rate


def describe(
    found: Estimate,
    prices: Prices,
    rate: int,
    objects_rate: int = OBJECTS_PER_SECOND,
    show: Callable[[str], str] = str,
) -> str:
    """Return the estimate as text; rates in bytes and objects a second, ``show`` makes a path printable."""

    def money(value: float) -> str:
        return f"{value:,.2f} {prices.currency}"

    listed = f"about {format_count(found.listings)} LIST"
    by_bytes, by_objects = format_seconds(found.bytes / rate), format_seconds(found.objects / objects_rate)
    lines = [
        f"objects   {format_count(found.objects)}"
        + (f" ({format_count(found.proven)} more are verified already)" if found.proven else ""),
        f"bytes     {format_count(found.bytes)} ({format_bytes(found.bytes)})",
        f"requests  {format_count(found.puts)} PUT ({format_count(found.parts)} of them parts of "
        f"{counted(found.multipart, 'object')}), {format_count(2 * found.multipart)} POST, {listed}",
        f"price     {money(found.requests / 1000 * prices.request)} for requests, "
        f"{money(found.bytes / 1e9 * prices.transfer)} for transfer, "
        f"then {money(storage_price(prices, found.bytes))} a month for storage",
        f"time      {format_seconds(upload_seconds(found, rate, objects_rate))}: {by_bytes} at {format_bytes(rate)}/s "
        f"and {by_objects} at {objects_rate:,} objects/s",
    ]
    if found.classes and found.objects:
        lines += ["", *describe_classes(found.classes, money)]
    lines += _table("largest directories", found.largest, show)
    lines += _table(f"directories with most files below {TINY // 1024} KiB", found.worst, show)
    return "\n".join(lines)


def _table(title: str, places: Sequence[DirectoryCost], show: Callable[[str], str]) -> list[str]:
    if not places:
        return []
    rows = [
        f"  {format_bytes(place.bytes):>8}  {counted(place.files, 'file'):>18}  {format_count(place.tiny):>12} tiny"
        f"  {show(place.path)}"
        for place in places
    ]
    return ["", title, *rows]
