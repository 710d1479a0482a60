"""The only importer of mpi4py: which rank this process is, and of how many.

Input: the launcher's environment. Output: a ``World``.
Invariant: without an MPI launcher mpi4py is not imported at all, and N
processes that each believe to be rank 0 of 1 (a wrong ``srun --mpi=…``) are
refused before they can write one file.
"""

import faulthandler
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from lading.coordination.signals import follow
from lading.core.errors import LadingError
from lading.core.processes import BEFORE_EXIT
from lading.core.progress import counted
from lading.parallel.shm_cleanup import remove_stale_segments

# Set by, in order: MPICH and PMI-1/2 launchers, Open MPI, PMIx.
_LAUNCHED = ("PMI_SIZE", "PMI_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK")
LOOK_SECONDS = 0.02
SHARED, SHARED_TREE, SHARED_AUDIT = 11, 12, 13  # tags of ``spread``: what one gave up must not reach the next
MEET_SECONDS = 300.0  # from the first rank's start to the last one's
ORPHAN_SECONDS = 8.0  # of a rank whose launcher is gone, which may not notice by itself
LAST_SECONDS = 0.5  # the end of a process takes some hundredths


@dataclass(frozen=True)
class World:
    """This process among its peers; ``comm`` is None when it is alone."""

    rank: int
    size: int
    comm: Any

    @property
    def is_root(self) -> bool:
        """True on the rank that prints and writes the result."""
        return self.rank == 0


def launched_tasks() -> int | None:
    """Return how many tasks ``srun`` started in this step, or None outside one."""
    count = os.environ.get("SLURM_STEP_NUM_TASKS")
    return int(count) if count and os.environ.get("SLURM_PROCID") is not None else None


def join_world(*, finalize: bool = True) -> World:
    """Return this process's rank and size, importing MPI only under a launcher.

    ``finalize=False`` is for work that outlives dead peers: MPI_Finalize waits
    for them, so such a process must end through ``leave_world``. Raises
    ``LadingError`` when the launcher started more tasks than MPI sees.
    """
    if "mpi4py" not in sys.modules and not any(name in os.environ for name in _LAUNCHED):
        world = World(0, 1, None)
    else:
        remove_stale_segments()
        if launched_tasks() is None:  # Slurm ends its tasks itself, and some outlive a part of their launch
            follow(os.getppid(), ORPHAN_SECONDS)
        if not finalize:
            import mpi4py

            mpi4py.rc.finalize = False
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
        world = World(comm.Get_rank(), comm.Get_size(), comm if comm.Get_size() > 1 else None)
    tasks = launched_tasks()
    if tasks is not None and tasks != world.size:
        raise LadingError(
            f"the launcher started {counted(tasks, 'task')} but MPI sees {world.size}; "
            "use the launcher that belongs to this MPI (for the bundled MPICH: srun --mpi=pmi2)"
        )
    return world


def leave_world(world: World, code: int, patience: float = 300.0, *, together: float = 0.0) -> NoReturn:
    """End this process with ``code``, whether or not its peers still live.

    Hydra takes a process for a crash that ends without MPI_Finalize, or by
    ``os._exit`` after it while others still end, and kills these; srun does
    not mind, and with a dead peer, which only srun lets the others survive,
    MPI_Finalize never returns.

    A peer that is merely slow is waited for; one that hangs costs ``patience``
    seconds and the launcher's exit code, which proves nothing anyway.
    ``together`` is how many seconds to wait for peers that are about to end
    too: the first rank, last, then ends with the highest code, the others
    with 0, since Hydra kills all with the first one whose code is not 0.
    """
    for hook in BEFORE_EXIT[:]:
        hook(code)
    sys.stdout.flush()
    sys.stderr.flush()
    met = world.comm is not None and together > 0 and meet(world, together)
    if met:
        codes = world.comm.allgather(code)
        code = max(codes) if world.is_root else 0
    if world.comm is not None and (code == 0 or met) and launched_tasks() is None:
        from mpi4py import MPI

        # MPI_Finalize holds the interpreter's lock: only a watchdog outside Python can end a hanging one.
        with open(os.devnull, "w") as nowhere:
            faulthandler.dump_traceback_later(patience, exit=True, file=nowhere)
            MPI.Finalize()
            time.sleep(LAST_SECONDS if code else 0)
            sys.exit(code)
    time.sleep(LAST_SECONDS if met and code else 0)
    os._exit(code)


def meet(world: World, seconds: float, lost: Callable[[], bool] | None = None) -> bool:
    """Wait until all ranks are here; False when they are not in time, or ``lost`` tells that one will never come."""
    request, deadline = world.comm.Ibarrier(), time.monotonic() + seconds
    asked = time.monotonic()
    while not request.Test():
        now = time.monotonic()
        if now > deadline:
            return False
        if lost and now - asked > 1.0:
            if lost():
                time.sleep(LOOK_SECONDS)  # it may have been here, and ended since
                return bool(request.Test())
            asked = now
        time.sleep(LOOK_SECONDS)  # not inside MPI: it would burn a core
    return True


def spread(world: World, value: Any, lives: Callable[[int], bool], tag: int = SHARED, ranks: Sequence[int] = ()) -> Any:
    """Return the first rank's value, None where it will never come; ``lives`` tells of a rank whether it may.

    As a broadcast, but a rank that was killed keeps nobody waiting. Of some
    ``ranks`` alone, the first of them gives its value.
    """
    comm, asked = world.comm, time.monotonic()
    first, *others = ranks or range(world.size)
    gives = world.rank == first
    leaving: dict[int, Any] = {rank: comm.isend(value, rank, tag) for rank in others} if gives else {first: None}
    while True:
        if not gives and (found := comm.improbe(first, tag)) is not None:
            return found.recv()
        leaving = {rank: sent for rank, sent in leaving.items() if sent is None or not sent.test()[0]}
        if time.monotonic() - asked > 1.0:
            leaving = {rank: sent for rank, sent in leaving.items() if lives(rank)}
            asked = time.monotonic()
        if not leaving:
            return value if gives else None
        time.sleep(LOOK_SECONDS)


def gather(
    world: World, value: str, seconds: float = MEET_SECONDS, lost: Callable[[], bool] | None = None
) -> list[str]:
    """Return the value of each rank, in their order; raises ``LadingError`` when one does not come.

    ``lost`` tells, asked once a second, whether one of them is gone.
    """
    if world.comm is None:
        return [value]
    started = time.monotonic()
    if not meet(world, seconds, lost):
        waited = f"within {time.monotonic() - started:.0f} s"
        raise LadingError(f"not all of the {counted(world.size, 'rank')} answered {waited}; run the same command again")
    return [str(given) for given in world.comm.allgather(value)]
