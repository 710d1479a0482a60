"""The only importer of dask: workers as tasks of a dask cluster.

Input: how many workers, and what each one runs. Output: nothing; the work
leaves markers.
Invariant: dask places processes and replaces dead ones, and knows nothing of
what is done; a cluster that does not shut down is ended by its caller.
"""

import functools
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Future, LocalCluster

from lading.core.errors import LadingError
from lading.core.progress import counted
from lading.core.safe_streams import protect_streams
from lading.parallel.local import Worker

# A task lost with its process this often is not given to yet another one.
ALLOWED_FAILURES = 10
PATIENCE = 120.0
DEATH_TIMEOUT = 60
# Scheduler and client hold two ranks of an MPI world.
OVERHEAD_RANKS = 2


def configure_dask() -> None:
    """Set what the work needs: no worker is given up early, memory is not policed."""
    dask.config.set(
        {
            "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
            "distributed.scheduler.worker-saturation": 1.0,
            "distributed.scheduler.work-stealing": False,
            "distributed.worker.daemon": False,
            "distributed.worker.memory.target": False,
            "distributed.worker.memory.spill": False,
            "distributed.worker.memory.pause": False,
            "distributed.worker.memory.terminate": 0.95,
            "distributed.comm.timeouts.connect": "60s",
        }
    )


def choose_interface(name: str | None) -> str | None:
    """Return the network interface to listen on; the loopback when all ranks are on this machine."""
    if name:
        return name
    nodes = os.environ.get("SLURM_JOB_NUM_NODES", "1")
    return "lo" if nodes == "1" and Path("/sys/class/net/lo").exists() else None


def join_cluster(interface: str | None) -> bool:
    """Turn the MPI ranks into a dask cluster; True on the client's rank, False on others when all is over.

    Rank 0 becomes the scheduler, rank 1 returns as the client, each further
    one a nanny whose child may be killed and is started again. Raises
    ``LadingError`` when fewer than three ranks were started.
    """
    from dask_mpi import initialize
    from dask_mpi.exceptions import WorldTooSmallException

    configure_dask()
    try:
        client: bool = initialize(
            interface=choose_interface(interface),
            nthreads=1,
            memory_limit=0,
            local_directory=tempfile.gettempdir(),
            worker_class="distributed.Nanny",
            # A child that was started again just before the end must not wait for a scheduler that is gone.
            worker_options={"dashboard": False, "death_timeout": DEATH_TIMEOUT},
            dashboard=False,
            dashboard_address=":0",
            exit=False,
        )
    except WorldTooSmallException as error:
        raise LadingError(
            f"dask needs {OVERHEAD_RANKS} ranks beside its workers: start at least {OVERHEAD_RANKS + 1}"
        ) from error
    return client


def run_joined(worker: Worker, count: int, stop: threading.Event) -> None:
    """On the client's rank: run ``count`` workers on the joined cluster."""
    with Client(set_as_default=False) as client:
        _run(client, worker, count, stop)


def close_joined() -> None:
    """On the client's rank: shut the joined cluster down, whether or not it was used."""
    from dask_mpi.initialize import send_close_signal

    send_close_signal()


def run_local_cluster(worker: Worker, count: int, stop: threading.Event) -> None:
    """Run ``count`` workers on a dask cluster of this machine."""
    configure_dask()
    with (
        tempfile.TemporaryDirectory(prefix="dask-") as scratch,
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
            local_directory=scratch,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        _run(client, worker, count, stop)


def _run(client: Client, worker: Worker, count: int, stop: threading.Event) -> None:
    client.wait_for_workers(1, timeout=PATIENCE)
    task = functools.partial(_live, worker)
    futures: list[Future] = [
        client.submit(task, index, key=f"worker-{index}-{time.time_ns()}", pure=False, retries=ALLOWED_FAILURES)
        for index in range(count)
    ]
    asked = False
    while any(not future.done() for future in futures):
        if stop.is_set() and not asked:
            # The workers see the stop file of the attempt; a cluster in trouble is not waited for.
            asked = True
            deadline = time.monotonic() + PATIENCE
        if asked and time.monotonic() > deadline:
            break
        stop.wait(0.2) if not asked else time.sleep(0.2)
    faults = [repr(future.exception()) for future in futures if future.status == "error"]
    if faults and not stop.is_set():
        raise LadingError(f"{len(faults)} of {counted(count, 'worker')} failed: {faults[0]}")


def _live(worker: Worker, index: int) -> None:
    protect_streams()
    # A task that is retried after its process died must not carry the dead one's name.
    worker(f"d{index}.{os.getpid()}.{time.time_ns() % 10**6}", index, threading.Event())


def after(seconds: float, action: Callable[..., Any], *arguments: Any) -> threading.Timer:
    """Start a daemon timer: the watchdog of a shutdown that may never end."""
    timer = threading.Timer(seconds, action, arguments)
    timer.daemon = True
    timer.start()
    return timer
