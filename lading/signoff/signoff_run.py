"""One sign-off from beginning to end, on one rank or many.

Input: a root, rules, the messages of the other ranks if there are any. Output: on the first rank a ``SignoffResult``.
Invariant: the first rank alone holds the lock and writes results; the others write logs of their own, which lie on a
file system that all ranks see. A killed run leaves its logs: what it read counts.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lading.checksums.kept_digests import NAME, KeptDigests
from lading.coordination.lock import hold
from lading.core.errors import LadingError
from lading.core.identity import this_process
from lading.crawl.artefacts import find_artefacts
from lading.crawl.crawl import GRACE, POLL, agree
from lading.crawl.work_sharing import WorkSharing
from lading.parallel.messages import RankMessages
from lading.signoff.conclusion import Conclusion, SignoffResult, gather_known
from lading.signoff.entry_checks import EntryChecks
from lading.signoff.fault_kinds import SignoffRules
from lading.signoff.release_walk import ReleaseWalk
from lading.signoff.run_log import RunLog
from lading.signoff.task_reader import SignoffCounts, TaskReader
from lading.tree.globs import Glob, compile_globs, parse_glob

SCRATCH = ".signoff-"
Show = Callable[[tuple[int, int, int]], None]


@dataclass(frozen=True)
class SignoffOptions:
    """What a sign-off is told: ``again`` reads everything, also what an earlier run read."""

    root: str
    directory: Path
    rules: SignoffRules = field(default_factory=SignoffRules)
    workers: int = 16
    exclude: tuple[Glob, ...] = ()
    writes_sums: bool = False
    again: bool = False

    def left_out(self) -> tuple[Glob, ...]:
        """Return the patterns of what is no part of the release: those given, and Lading's own artefacts."""
        own = find_artefacts(self.root, self.directory.absolute().parent / "find.json").globs
        with suppress(ValueError):
            below = self.directory.resolve().relative_to(Path(self.root).resolve())
            own = (*own, parse_glob(f"./{below}"))
        return (*self.exclude, *own)


def sign_off(options: SignoffOptions, post: RankMessages | None, show: Show) -> SignoffResult:
    """Sign off, on the first rank.

    Raises ``UsageError`` for a root that cannot be read, ``LockHeldError`` while another run works on the directory.
    """
    agree(options.root, post)
    try:
        options.directory.mkdir(parents=True, exist_ok=True)
        writer = this_process().writer
        with (
            hold(options.directory, writer),
            _swept(options.directory),
            tempfile.TemporaryDirectory(prefix=SCRATCH, dir=options.directory) as scratch,
        ):
            return _lead(options, post, show, writer, Path(scratch))
    except OSError as error:
        raise LadingError(f"cannot write in {options.directory}: {error.strerror or error}") from error


@contextmanager
def _swept(directory: Path) -> Iterator[None]:
    """Remove what killed runs left to be sorted; the lock on the directory is held."""
    for left in directory.glob(f"{SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)
    yield


def serve(options: SignoffOptions, post: RankMessages, show: Show) -> int:
    """Walk beside the first rank; returns the exit code that it says."""
    agree(options.root, post)
    _, (kind, value) = post.expect()
    if kind == "begin":
        writer, reuses = value
        counts = _walk(options, post, show, f"{writer}-{post.rank}", reuses)
        post.send(0, ("counts", asdict(counts)))
    return int(value) if kind == "exit" else await_end(post)


def await_end(post: RankMessages) -> int:
    """Wait until the first rank lets go; returns the exit code that it says."""
    while (mail := post.expect()[1])[0] != "exit":
        pass
    return int(mail[1])


def _lead(options: SignoffOptions, post: RankMessages | None, show: Show, writer: str, scratch: Path) -> SignoffResult:
    known = gather_known(options.directory, options.root, scratch)
    known = None if options.again else known
    others = range(1, post.size) if post else ()
    for rank in others:
        assert post is not None
        post.send(rank, ("begin", (writer, known is not None)))
    counts = _walk(options, post, show, f"{writer}-0", known is not None)
    for _ in others:
        assert post is not None
        counts.add(_expect_counts(post))
    writers = [f"{writer}-{rank}" for rank in (0, *others)]
    conclusion = Conclusion(options.directory, options.root, writers, options.rules, scratch)
    return conclusion.run(counts, writes_sums=options.writes_sums)


def _expect_counts(post: RankMessages) -> SignoffCounts:
    while True:
        _, (kind, value) = post.expect()
        if kind == "counts":
            return SignoffCounts(**value)


def _walk(options: SignoffOptions, post: RankMessages | None, show: Show, writer: str, reuses: bool) -> SignoffCounts:
    """Walk on this rank until all are done."""
    known = _known(options) if reuses else None
    excluded = compile_globs(options.left_out())
    first = post is None or post.rank == 0
    try:
        with RunLog(options.directory, writer) as log:
            reader = TaskReader(options.root, EntryChecks(options.rules), known, excluded)
            walk = ReleaseWalk(reader, log, options.workers, seed=first)
            walk.start()
            try:
                if post is not None:
                    WorkSharing(walk, post, options.workers).run(show)
                else:
                    while not walk.wait(POLL):
                        show(walk.state()[:3])
            except BaseException:
                walk.stop()
                walk.end(GRACE)
                raise
            walk.end()
            return walk.counts
    finally:
        if known is not None:
            known.close()


def _known(options: SignoffOptions) -> KeptDigests | None:
    try:
        return KeptDigests(options.directory / NAME)
    except LadingError:
        return None
