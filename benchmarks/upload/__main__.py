"""Ours with proof beside bare s5cmd, rclone and one process per batch, in one run: ``python -m benchmarks.upload``.

Every contestant sends the same files with 32 workers to the same server, into a bucket of its own: a sink
(``sink_server.c``, which stores nothing and so leaves the cores to the client), the same by TLS (``--server tls``), or
Ceph's gateway (``--server ceph``). Ours does more: preflight, digests of every file, listings, a journal that is on
disk. A row shows medians of all rounds; ratios are of wall time and CPU to those of ``s5cmd cp`` in the same round.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import md5
from pathlib import Path
from statistics import median

from benchmarks import peers
from benchmarks.checksums.__main__ import describe_processor
from benchmarks.figures import note
from benchmarks.upload.cold import COLD_SETS, SCARCE_RATE, SCARCE_SET, Command, limited_memory, measure_reads
from benchmarks.upload.measure import Cost, run
from lading.checksums.digest import PATH_VARIABLE, digest_path
from lading.core.atomic import read_log
from lading.core.command_line import parse_size
from lading.testing import ceph_gateway, sink_server
from lading.upload.engines.s5cmd import find_binary

REPOSITORY = Path(__file__).resolve().parent.parent.parent
WORKERS = "32"
EXTRAS = ("idle", "many", "cold", "tls", "null")
BASE, PER_BATCH = "s5cmd cp", "one s5cmd sync per batch"


@dataclass(frozen=True)
class Set:
    """A set of files: ``count`` of ``size`` bytes in ``folders`` directories, cut into about as many batches."""

    name: str
    count: int
    size: int
    folders: int


SETS = {
    "small": Set("10,000 x 10 kB in 100 batches", 10_000, 10_000, 100),
    "medium": Set("1,000 x 1 MB", 1_000, 1_000_000, 10),
    "large": Set("4 x 512 MB", 4, 512_000_000, 1),
}


def write_set(root: Path, files: Set) -> None:
    """Write the files; random bytes, each file its own."""
    chance = random.Random(1)
    block = chance.randbytes(1 << 20)
    for number in range(files.count):
        folder = root / f"batch{number % files.folders:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{number:06d}.bin").open("wb") as stream:
            stream.write(number.to_bytes(8, "big"))
            left = files.size - 8
            while left:
                left -= stream.write(block[: min(left, len(block))])


def make_plan(root: Path, directory: Path, largest: int) -> None:
    """Crawl and cut, outside the measurement: the peers get their file list for nothing too."""
    directory.mkdir(parents=True, exist_ok=True)
    crawl = ["find.py", str(root), "--mtime", "-o", "find.json"]
    cut = ["batch.py", str(root), "--file-tree", "find.json", "--min-batch-size", "1"]
    cut += ["--max-batch-size", str(largest), "-o", "batch.json"]
    for script, *rest in (crawl, cut):
        subprocess.run([sys.executable, str(REPOSITORY / script), *rest], cwd=directory, check=True)


@dataclass(frozen=True)
class Server:
    """Where all send to: what clients need to reach it, its processes, and how a bucket is made."""

    endpoint: str
    environment: dict[str, str]
    processes: Callable[[], list[int]]
    make_bucket: Callable[[str], None]

    def cpu_seconds(self) -> float:
        """Return the CPU time the server has used."""
        return sum(sink_server.cpu_seconds(pid) for pid in self.processes())


@contextmanager
def serve(kind: str, directory: Path) -> Iterator[Server]:
    """Run a sink, with TLS or without, or Ceph's gateway for the block."""
    if kind in ("sink", "tls"):
        with sink_server.serve(directory, tls=kind == "tls") as server:
            yield Server(server.endpoint, server.environment(), lambda: [server.pid], lambda name: None)
        return
    if reason := ceph_gateway.missing():
        sys.exit(f"--server ceph cannot run here: {reason}")
    with ceph_gateway.serve(directory / "ceph") as gateway:
        pid_files = sorted((gateway.directory / "run").glob("*.pid"))
        yield Server(
            gateway.endpoint,
            gateway.environment(),
            lambda: [int(path.read_text()) for path in pid_files],
            gateway.make_bucket,
        )


def ours(root: Path, plan: Path, server: Server, bucket: str, engine: str) -> list[str]:
    """Return the command of an upload."""
    return [
        sys.executable, str(REPOSITORY / "upload.py"), str(root), "--bucket", f"s3://{bucket}",
        "--batch", str(plan / "batch.json"), "--endpoint-url", server.endpoint,
        "--max-workers", WORKERS, "--engine", engine,
    ]  # fmt: skip


def proven(plan: Path) -> int:
    """Return how many objects the journals call done."""
    keys = set()
    for path in (plan / "journal").glob("*.jsonl"):
        keys |= {record["key"] for record in read_log(path) if record and record["kind"] == "done"}
    return len(keys)


def per_batch(root: Path, server: Server, bucket: str) -> list[str]:
    """Return a command that runs one ``s5cmd sync`` after the other, one per batch."""
    code = (
        "import os, subprocess, sys\n"
        "binary, endpoint, workers, root, bucket = sys.argv[1:]\n"
        "for name in sorted(os.listdir(root)):\n"
        "    subprocess.run([binary, '--endpoint-url', endpoint, '--numworkers', workers, '--log', 'error', '--stat',\n"
        "                    'sync', f'{root}/{name}/', f's3://{bucket}/{name}/'], check=True,\n"
        "                   stdout=subprocess.DEVNULL)\n"
    )
    return [sys.executable, "-c", code, find_binary(), server.endpoint, WORKERS, str(root), bucket]


def contestants(
    root: Path, plan: Path, server: Server, files: Set
) -> dict[str, Callable[[str], tuple[list[str], Callable[[], None]]]]:
    """Return name → (bucket → (command, what to do before))."""
    s5 = [find_binary(), "--endpoint-url", server.endpoint, "--numworkers", WORKERS, "--log", "error"]
    remote = f":s3,provider=Other,env_auth=true,force_path_style=true,endpoint='{server.endpoint}':"
    rclone = [peers.find("rclone") or "", "copy", str(root), "--transfers", WORKERS, "--checkers", WORKERS]

    def fresh() -> None:
        shutil.rmtree(plan / "journal", ignore_errors=True)

    table: dict[str, Callable[[str], tuple[list[str], Callable[[], None]]]] = {
        BASE: lambda b: ([*s5, "cp", f"{root}/", f"s3://{b}/"], lambda: None),
        "s5cmd sync": lambda b: ([*s5, "sync", f"{root}/", f"s3://{b}/"], lambda: None),
        "rclone copy": lambda b: ([*rclone, f"{remote}{b}"], lambda: None),
        "ours, s5cmd, proven": lambda b: (ours(root, plan, server, b, "s5cmd"), fresh),
        "ours, crt, proven": lambda b: (ours(root, plan, server, b, "crt"), fresh),
        "ours, obstore, proven": lambda b: (ours(root, plan, server, b, "obstore"), fresh),
        "ours, boto3, proven": lambda b: (ours(root, plan, server, b, "boto3"), fresh),
    }
    if not rclone[0]:
        del table["rclone copy"]
        peers.tell("rclone copy")
    if files.folders > 1:
        table[PER_BATCH] = lambda b: (per_batch(root, server, b), lambda: None)
    return table


def compare(files: Set, directory: Path, repeat: int, kind: str, only: Collection[str] = ()) -> None:
    """Run the contestants ``repeat`` times, in turn, and print the table; ``only``: those whose names hold a word."""
    if kind != "ceph" and peers.lacks_compiler("the sink server"):
        return
    root, plan = directory / "data", directory / "plan"
    write_set(root, files)
    make_plan(root, plan, max(1, files.count // files.folders) * files.size)
    rounds: list[dict[str, tuple[Cost, float]]] = []
    with serve(kind, directory) as server:
        environment = {**server.environment, "RCLONE_CONFIG": os.devnull, "PYTHONPATH": str(REPOSITORY)}
        for turn in range(repeat):
            rounds.append({})
            for place, (name, make) in enumerate(contestants(root, plan, server, files).items()):
                if only and name != BASE and not any(word in name for word in only):
                    continue
                bucket = f"b{turn}-{place}-{os.getpid()}"
                command, before = make(bucket)
                server.make_bucket(bucket)
                before()
                served = server.cpu_seconds()
                cost = run(command, environment, directory)
                served = server.cpu_seconds() - served
                if cost.code:
                    sys.exit(f"{name} ended with {cost.code}:\n{cost.output[-2000:]}")
                if name.startswith("ours") and proven(plan) != files.count:
                    sys.exit(f"{name} proved {proven(plan)} of {files.count}")
                rounds[-1][name] = cost, served
                print(f"{files.name} to {kind}: {name}: {cost.wall:.1f} s, {cost.cpu:.2f} s CPU", file=sys.stderr)
    print_table(files, kind, rounds)


def print_table(files: Set, kind: str, rounds: Sequence[Mapping[str, tuple[Cost, float]]]) -> None:
    """Print medians, and medians of the ratios within each round."""
    print(
        f"\n{files.name} to {kind} (medians of {len(rounds)}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
    )
    print(f"{'':26}{'wall s':>8}{'ratio':>7}{'obj/s':>9}{'MB/s':>8}{'CPU s':>8}{'ratio':>7}{'server':>8}{'MB mem':>8}")
    for name in rounds[0]:
        wall = median(one[name][0].wall for one in rounds)
        print(
            f"{name:26}{wall:8.2f}{median(one[name][0].wall / one[BASE][0].wall for one in rounds):7.2f}"
            f"{files.count / wall:9.0f}{files.count * files.size / wall / 1e6:8.0f}"
            f"{median(one[name][0].cpu for one in rounds):8.2f}"
            f"{median(one[name][0].cpu / one[BASE][0].cpu for one in rounds):7.2f}"
            f"{median(one[name][1] for one in rounds):8.2f}{median(one[name][0].memory for one in rounds) / 1e6:8.0f}"
        )
        if name != BASE:
            where = f"{files.name} to {kind}, {name}"
            note(f"{where}: wall of {BASE}", median(one[name][0].wall / one[BASE][0].wall for one in rounds))
            note(f"{where}: CPU of {BASE}", median(one[name][0].cpu / one[BASE][0].cpu for one in rounds))
    if PER_BATCH in rounds[0]:
        for name in (name for name in rounds[0] if name.startswith("ours")):
            times = median(one[PER_BATCH][0].wall / one[name][0].wall for one in rounds)
            print(f"{name} is {times:.1f} x as fast as one process per batch")
            note(f"{files.name} to {kind}, {name}: times {PER_BATCH}", times, better="more")


def link_files(directory: Path, root: Path, count: int, least: int = 0) -> Iterator[tuple[str, int, str]]:
    """Make ``count`` names of few files, 1,000 to a directory; yields (path below ``root``, size, MD5) of each.

    What counts is the number of names, and links are quick to make. The files have at least ``least`` bytes.
    """
    for number in range(count):
        if number % 50_000 == 0:  # a file system allows so many links to a file
            source = directory / f"source{number}"
            source.write_bytes(b"%d" % number + bytes(max(0, least - len(str(number)))))
            size, digest = source.stat().st_size, md5(source.read_bytes(), usedforsecurity=False).hexdigest()
        folder = f"d{number // 1000:04d}"
        if number % 1000 == 0:
            (root / folder).mkdir(parents=True)
        path = f"{folder}/{number % 1000:03d}"
        os.link(source, root / path)
        yield path, size, digest


def send_many(directory: Path, count: int, engine: str) -> None:
    """Send and prove ``count`` objects of a few bytes: what a run keeps in memory for each would show here."""
    if peers.lacks_compiler("the sink server"):
        return
    root, plan = directory / "data", directory / "plan"
    for _ in link_files(directory, root, count):
        pass
    make_plan(root, plan, 10**6)
    with serve("sink", directory) as server:
        environment = {**server.environment, "PYTHONPATH": str(REPOSITORY)}
        cost = run(ours(root, plan, server, "many", engine), environment, directory)
        if cost.code or proven(plan) != count:
            sys.exit(f"ended with {cost.code}, {proven(plan)} of {count} proven:\n{cost.output[-2000:]}")
    print(
        f"{count:,} objects of 1 to 6 bytes sent and proven by {engine}: {cost.wall:.0f} s wall, {cost.cpu:.0f} s CPU, "
        f"{cost.memory / 1e6:.0f} MB (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
    )
    note(f"{count:,} objects sent by {engine}", cost.wall, "s")
    note(f"{count:,} objects sent by {engine}: CPU", cost.cpu, "CPU s")
    note(f"{count:,} objects sent by {engine}: memory", cost.memory / 1e6, "MB")


def idle(directory: Path, count: int) -> None:
    """Adopt ``count`` objects that are in the bucket already, then run again with nothing to do."""
    if peers.lacks_compiler("the sink server"):
        return
    root, plan = directory / "data", directory / "plan"
    with (directory / "preload").open("w") as preload:
        for path, size, digest in link_files(directory, root, count):
            preload.write(f"{size} {digest} idle/{path}\n")
    make_plan(root, plan, 10**12)
    print(f"\n{count:,} objects that are in the bucket (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
    with sink_server.serve(directory, preload=directory / "preload") as found:
        server = Server(found.endpoint, found.environment(), lambda: [found.pid], lambda name: None)
        environment = {**server.environment, "PYTHONPATH": str(REPOSITORY)}
        for name in ("state lost: adopt all", "nothing to do", "nothing to do, again"):
            cost = run(ours(root, plan, server, "idle", "s5cmd"), environment, directory)
            if cost.code or proven(plan) != count:
                sys.exit(f"{name}: ended with {cost.code}, {proven(plan)} proven:\n{cost.output[-2000:]}")
            print(f"{name:26}{cost.wall:8.2f} s wall{cost.cpu:8.2f} s CPU{cost.memory / 1e6:8.0f} MB", flush=True)
            note(f"{count:,} objects, {name}: CPU", cost.cpu, "CPU s")
            note(f"{count:,} objects, {name}: memory", cost.memory / 1e6, "MB")


def send_cold(directory: Path, scale: float, only: Collection[str], memory: int | None) -> None:
    """Print for each engine what the disk is read for each byte sent, with no page of the files in memory.

    ``memory``: bytes that the engines and the cache of their files have together.
    """
    if peers.lacks_compiler("the sink server"):
        return
    for place, (name, count, size) in enumerate([SCARCE_SET] if memory else COLD_SETS):
        home = directory / str(place)
        root, plan = home / "data", home / "plan"
        files = Set(name, max(1, int(count * scale)), size, max(1, count // 100))
        write_set(root, files)
        make_plan(root, plan, 10**12)
        print(f"\n{files.name}, cold: bytes read from disk for each byte sent (load {os.getloadavg()[0]:.1f})")
        with serve("sink", home) as server, limited_memory(memory) as enter:
            table = contestants(root, plan, server, files)
            chosen = {one: table[one] for one in table if (one == BASE and not memory) or one.startswith("ours")}
            if memory:
                chosen = {one: partial(_slowly, make) for one, make in chosen.items()}
            if only:
                chosen = {one: make for one, make in chosen.items() if any(word in one for word in only)}
            environment = {**server.environment, "PYTHONPATH": str(REPOSITORY)}
            for one, ratio in measure_reads(root, chosen, environment, home, enter).items():
                note(f"{files.name}, cold, {one}: bytes read for each sent", ratio)
        shutil.rmtree(home)


def _slowly(make: Command, bucket: str) -> tuple[Sequence[str], Callable[[], None]]:
    command, before = make(bucket)
    return [*command, "--bandwidth", SCARCE_RATE], before


def scaled(files: Set, share: float) -> Set:
    """Return a set with a share of the files."""
    return replace(files, count=max(files.folders, int(files.count * share)))


def run_extra(name: str, directory: Path, arguments: argparse.Namespace, words: Collection[str]) -> bool:
    """Run what is no table of a set; False where the name is that of a set."""
    if name == "idle":
        idle(directory, arguments.objects)
    elif name == "many":
        send_many(directory, arguments.objects, arguments.engine)
    elif name == "cold":
        send_cold(directory, arguments.scale, words, arguments.memory)
    elif name == "tls":  # where real users are: every engine of ours beside ``s5cmd cp``
        for key, files in SETS.items():
            home = directory / key
            home.mkdir()
            compare(scaled(files, arguments.scale), home, arguments.repeat, "tls", words or ["ours"])
            shutil.rmtree(home)
    elif name == "null":
        from benchmarks.upload.null_engine import measure  # which takes from this module

        measure(directory, min(arguments.objects, 200_000), profile=False)
    else:
        return False
    return True


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--only", choices=[*SETS, *EXTRAS], action="append", help="the sets and idle")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--server", choices=["sink", "tls", "ceph"], default="sink", help="what receives (ceph: as root)"
    )
    parser.add_argument("--contestants", default="", metavar="WORD,WORD", help="those whose names hold one of these")
    parser.add_argument("--scale", type=float, default=1.0, help="a share of the objects, for a quick look")
    parser.add_argument("--objects", type=int, default=1_000_000, help="of idle, many and null")
    parser.add_argument("--engine", choices=["s5cmd", "crt", "obstore"], default="obstore", help="of many")
    parser.add_argument("--memory", type=parse_size, metavar="600M", help="of cold: all that an engine has, as root")
    parser.add_argument("--digest-path", help=f"how ours computes SHA-256, as {PATH_VARIABLE} does (default: the best)")
    arguments = parser.parse_args()
    if arguments.digest_path:
        os.environ[PATH_VARIABLE] = arguments.digest_path
    print(f"{describe_processor()}; SHA-256 by {digest_path()}")
    words = [word for word in arguments.contestants.split(",") if word]
    for name in arguments.only or [*SETS, "idle"]:
        with tempfile.TemporaryDirectory(prefix="bench-upload-") as directory:
            if run_extra(name, Path(directory), arguments, words):
                continue
            compare(scaled(SETS[name], arguments.scale), Path(directory), arguments.repeat, arguments.server, words)


if __name__ == "__main__":
    main()
