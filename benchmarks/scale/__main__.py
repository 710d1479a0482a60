"""``python -m benchmarks.scale [FEW MANY]``: each stage at 10^7, 10^8 and 10^9 files, and what breaks first.

Input: two numbers of files, over which the costs are measured (``measured.py``);
what a site sets is assumed. Output: tables on stdout.
Invariant: seconds are the longest of the limits that hold at once: the
processors, the metadata server, the requests that a store takes, the network.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.figures import note
from benchmarks.scale.measured import Costs, measure
from lading.journal.index_file import MAPPED_BYTES
from lading.journal.index_rows import ROW

FILES = (10**7, 10**8, 10**9)
RANKS = (1, 100, 1_000, 10_000)
FILE_BYTES = 1_000_000
BATCH_BYTES = 100 * 10**9
SHARED = ("crawl", "upload: begin", "upload: send")  # by ranks; the others are of one process
SEND_SECONDS = 1 / 8_000  # of a process, by the object: python -m benchmarks.upload.null_engine
RANKS_A_NODE = 32
# What a site sets. Sources: docs/explanation/scale.md.
NODE_BYTES = 256 * 10**9
METADATA_RATE = 400_000  # stat calls a second of a whole file system
CREATE_RATE = 10_000  # files made or removed a second
PUT_RATE, LIST_RATE = 3_500, 5_500  # requests a second by the prefix of a bucket
PREFIXES = 8  # that a release spreads over
LIST_SECONDS = 0.1  # a page of 1,000 keys
NODE_NETWORK = 12.5e9
DAY = 86_400


@dataclass(frozen=True)
class Need:
    """What a stage needs: seconds by each limit, bytes of memory of a process and of a node, bytes on disk."""

    stage: str
    seconds: dict[str, float]
    process: float
    node: float
    disk: float = 0.0

    @property
    def limit(self) -> str:
        """The limit that holds longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])


def needs(costs: Costs, files: int, ranks: int) -> Iterator[Need]:
    """Yield what each stage needs for ``files`` files and ``ranks`` processes."""
    together = min(ranks, RANKS_A_NODE)
    nodes = -(-ranks // RANKS_A_NODE)
    share = costs.crawl.memory * files / ranks
    crawl = {"processor": costs.crawl.seconds * files / ranks, "metadata": files / METADATA_RATE}
    yield Need("crawl", crawl, share, share * together, costs.crawl.disk * files)
    plan = costs.plan.memory * files
    yield Need("plan", {"processor": costs.plan.seconds * files}, plan, plan, costs.plan.disk * files)
    held = costs.start.memory * files
    shared = held + (together - 1) * costs.further.memory * files  # tree and indexes are there once on a host
    # The first rank reads the tree and checks the keys, then the others go on.
    seconds = costs.start.seconds + (costs.further.seconds if ranks > 1 else 0)
    start = {"processor": seconds * files}
    yield Need("upload: begin", start, held, shared, costs.record * files)
    batches = files * FILE_BYTES / BATCH_BYTES
    looks = batches / ranks * min(ranks, 64) * costs.journal + (costs.journal * ranks if ranks > 64 else 0)
    send = {
        "processor": files / ranks * SEND_SECONDS,
        "requests": files / (PUT_RATE * PREFIXES),
        "network": files * FILE_BYTES / (NODE_NETWORK * nodes),
        "claims": batches * (costs.claim / ranks + 4 / CREATE_RATE) + looks,
    }
    # What the others verify meanwhile each rank reads in their journals, and holds a row of it while no index has it
    # that is large enough to be mapped.
    read = (ranks - 1) * min(files / ranks * ROW.itemsize, MAPPED_BYTES)
    yield Need("upload: send", send, held + read, shared + read * together, costs.record * files)
    page = {"processor": costs.verify.seconds * files, "listing": files / 1000 * LIST_SECONDS}
    verify = costs.verify.memory * files
    yield Need("verify", page, verify, verify, costs.verify.disk * files)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=int, metavar="FEW MANY")
    counts = parser.parse_args(words).files
    if counts and not (len(counts) == 2 and 0 < counts[0] < counts[1]):
        parser.error("give two numbers of files, the lower first, or none")
    costs = measure((counts[0], counts[1])) if counts else measure()
    print("measured, by the file:")
    for name in ("crawl", "plan", "start", "further", "verify"):
        cost = getattr(costs, name)
        print(
            f"  {name:7} {cost.seconds * 1e6:6.2f} µs of a processor {cost.memory:6.0f} bytes of memory "
            f"{cost.disk:6.0f} bytes on disk"
        )
        note(f"{name}: CPU", cost.seconds * 1e6, "µs a file")
        note(f"{name}: memory", cost.memory, "B a file")
    print(f"  journals with their indexes {costs.record:.0f} bytes on disk")
    print(f"by the claim {costs.claim * 1e6:.0f} µs, by the journal looked at {costs.journal * 1e6:.1f} µs\n")
    print("| files | ranks | stage | hours | set by | GB a process | GB a node | GB on disk |")
    print("|---|---|---|---|---|---|---|---|")
    first: dict[int, dict[str, int]] = {}
    for files in FILES:
        for ranks in RANKS:
            for need in needs(costs, files, ranks):
                if ranks > 1 and need.stage not in SHARED:
                    continue
                seconds = need.seconds[need.limit]
                print(
                    f"| {files:.0e} | {ranks:,} | {need.stage} | {seconds / 3600:.2f} | {need.limit} | "
                    f"{need.process / 1e9:.1f} | {need.node / 1e9:.0f} | {need.disk / 1e9:.0f} |"
                )
                why = (
                    "memory of a node"
                    if need.node > NODE_BYTES
                    else f"{need.limit}, over a day"
                    if seconds > DAY
                    else ""
                )
                if why:
                    first.setdefault(files, {}).setdefault(f"{need.stage} ({why})", ranks)
    print()
    for files in FILES:
        broken = [f"{what} from {ranks:,} ranks on" for what, ranks in first.get(files, {}).items()]
        print(f"{files:.0e} files: {'; '.join(broken) or 'nothing breaks'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
