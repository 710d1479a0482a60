"""What a plan asks for, object by object, checked before anything is sent.

Input: ROOT, ``batch.json`` and its tree, bucket, remap. Output: items per
batch, and per batch how many are not proven yet.
Invariant: every fault of the plan (a key S3 cannot hold, two sources on one
key, a tree of another state) is found before the first byte moves. Memory:
the tree's arrays and 8 bytes an object.
"""

import argparse
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lading.errors import Disagreement, UsageError, all_faults
from lading.formats.plan import Batch, Plan, read_plan
from lading.formats.selection import Member, Members, coverage_of, follows_links, load_tree
from lading.opening import Root
from lading.transfer.endpoint import resolve_endpoint
from lading.transfer.engine import Target
from lading.transfer.keys import OBJECT_BYTES, KeyMap, Place, collisions, key_fault, parse_place, parse_remap
from lading.transfer.ledger import Found, Ledger, hash_keys
from lading.transfer.proof import Item

MOST_FAULTS = 20  # shown at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that upload and verify share."""
    parser.add_argument("root", metavar="ROOT", help="the directory that maps to the bucket's top")
    parser.add_argument("--bucket", required=True, metavar="S3URL", help="s3://bucket or s3://bucket/prefix")
    parser.add_argument("--batch", type=Path, default=Path("batch.json"), metavar="FILE", help="the plan")
    parser.add_argument("--remap", default="{}", metavar="JSON", help='{"path in the release": "path in the bucket"}')
    parser.add_argument("--endpoint-url", metavar="URL", help="an S3 server, if not AWS_ENDPOINT_URL or AWS")
    parser.add_argument("--json", action="store_true", help="end with one JSON line on stdout")


@dataclass(frozen=True)
class Share:
    """One batch and the rows of it that are not proven."""

    batch: Batch
    items: list[Item]


class Inventory:
    """The objects of a plan."""

    def __init__(self, root: str, place: Place, batch_file: Path, remap: str) -> None:
        self.root = os.path.abspath(root)
        self.place = place
        self.directory = batch_file.absolute().parent
        self.plan: Plan = read_plan(batch_file)
        self.plan_digest = hashlib.sha256(batch_file.read_bytes()).hexdigest()
        if not os.path.isdir(self.root):
            raise UsageError(f"ROOT {self.root} is {'no directory' if os.path.exists(self.root) else 'missing'}")
        self._rules = parse_remap(remap, self.root, self.plan.root)
        self.keys = KeyMap(self.root, self.plan.root, place.prefix, self._rules)
        if not os.path.isdir(self.plan.root):
            advice = "restore it, or run: rm find.json; make find.json batch.json"
            raise UsageError(f"the plan's root {self.plan.root} is gone; {advice}")
        self.open_bytes = 0
        self.coverage = coverage_of(self.plan, self.directory)
        self._members = Members(load_tree(self.plan, self.directory), self.plan)

    def open_root(self) -> Root:
        """Return the plan's root, open; its files are reached through links only if the crawl followed them."""
        return Root(self.plan.root, follow=follows_links(self.plan, self.directory))

    @property
    def journal(self) -> Path:
        """Where the journals of this plan lie."""
        return self.directory / "journal"

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The batches of the plan."""
        return self.plan.batches

    def members(self, number: int) -> list[Member]:
        """Return the files of a batch: (path, size, mtime in ns or None); ``Disagreement`` when they do not add up."""
        batch = self.batches[number]
        members = list(self._members.files(number))
        if (len(members), sum(member[1] for member in members)) != (batch.files, batch.size):
            raise Disagreement(
                f"batch {batch.id} holds {len(members)} files in the tree, but the plan says {batch.files} files of "
                f"{batch.size} bytes; run: make batch.json"
            )
        return members

    def audit(self, ledger: Ledger) -> list[int]:
        """Check every key; return per batch how many objects are not proven. ``open_bytes`` is what they sum to.

        Raises ``UsageError`` with a line per fault.
        """
        faults: list[str] = []
        hashes, open_counts = [], []
        self.open_bytes = 0
        for number in range(len(self.batches)):
            members = self.members(number)
            keys = [self.keys.key(member[0]) for member in members]
            for member, key in zip(members, keys):
                fault = key_fault(key)
                if fault:
                    faults.append(f"{member[0]!r}: {fault}")
                if member[1] > OBJECT_BYTES:
                    faults.append(
                        f"{member[0]!r}: it has {member[1]:,} bytes, S3 holds at most {OBJECT_BYTES:,} in one"
                    )
            hashed = hash_keys(keys)
            hashes.append(hashed)
            found = ledger.find(hashed)
            left = ~proven(found, members)
            open_counts.append(int(np.count_nonzero(left)))
            self.open_bytes += sum(members[place][1] for place in np.flatnonzero(left).tolist())
        faults += self._collisions(np.concatenate(hashes)) if hashes else []
        if faults:
            more = [f"… and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
            raise all_faults(["nothing was sent:", *faults[:MOST_FAULTS], *more])
        return open_counts

    def _collisions(self, hashes: "np.ndarray[tuple[int], np.dtype[np.uint64]]") -> list[str]:
        unique, counts = np.unique(hashes, return_counts=True)
        twice = unique[counts > 1]
        if not len(twice):
            return []
        wanted = {value.to_bytes(8, "little") for value in twice.tolist()}
        suspects = {key for _, key in self._pairs() if hash_keys([key]).tobytes() in wanted}
        return collisions(self._pairs(), suspects)

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for number in range(len(self.batches)):
            for path, _, _ in self._members.files(number):
                yield path, self.keys.key(path)

    def holds(self, keys: set[str]) -> set[str]:
        """Return those of ``keys`` that belong to this plan."""
        return {key for _, key in self._pairs() if key in keys}

    def unproven(self, number: int, ledger: Ledger) -> list[Item]:
        """Return what of a batch is not proven."""
        return [item for item, done in self.items(number, ledger) if not done]

    def items(self, number: int, ledger: Ledger) -> Iterator[tuple[Item, bool]]:
        """Yield (item, whether it is proven) of a batch."""
        members = self.members(number)
        keys = [self.keys.key(member[0]) for member in members]
        found = ledger.find(hash_keys(keys))
        done = proven(found, members).tolist()
        batch, base = self.batches[number].id, self.plan.root.rstrip("/") + "/"
        for position, ((path, size, mtime), key) in enumerate(zip(members, keys)):
            rank = int(found.rank[position])
            voids = rank >= 0 and rank % 2 == 0 and not done[position]
            item = Item(path, base + path, key, size, mtime, batch, found.generation(position), voids)
            yield item, done[position]


def proven(found: Found, members: list[Member]) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Return which members the ledger holds as proven in the state the tree says."""
    sizes = [member[1] for member in members]
    timed = bool(members) and members[0][2] is not None
    mask = found.proven(sizes, [member[2] for member in members] if timed else None)
    return np.asarray(mask, dtype=np.bool_)


def open_inventory(arguments: argparse.Namespace) -> tuple[Inventory, Target]:
    """Return the inventory and the target of a command line."""
    endpoint = resolve_endpoint(arguments.endpoint_url)
    place = parse_place(arguments.bucket)
    inventory = Inventory(arguments.root, place, arguments.batch, arguments.remap)
    return inventory, Target(place.bucket, endpoint)
