"""``python3 -m jobs serve``: the portal, on a Unix socket or loopback.

Input: flags. Output: a service until Ctrl-C or SIGTERM.
Invariant: without a token it listens only where its owner alone can reach
it; the address and how to open it from a laptop are printed, the token never.
"""

import argparse
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import uvicorn

from lading.coordination.kernel_lock import read_holder, sign, try_lock
from lading.core.command_line import Parser, configure_logging, parse_workers
from lading.core.errors import LadingError, LockHeldError, UsageError
from lading.core.progress import counted
from lading.objectstore.endpoint import resolve_endpoint
from lading.portal.app import build
from lading.portal.audit_log import AUDIT, AuditLog
from lading.portal.callers import UserRules
from lading.portal.fleet_watch import FleetWatch
from lading.portal.job_process import STATE
from lading.portal.peers import PeerProtocol
from lading.portal.security import PortalAccess, read_token
from lading.portal.service import PortalService
from lading.portal.store import JobStore
from lading.portal.supervisor import Supervisor

UNIX = "unix:"
LOCK = "portal.lock"
# What a portal keeps in its folder.
_OURS = {"jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-shm", "jobs.sqlite-journal", "jobs", STATE, LOCK, AUDIT}
_OPEN = "the portal's folder {} cannot be made private ({}); give --home a folder on a local disk"


def make_parser() -> Parser:
    """Return the command line of the portal."""
    parser = Parser(prog="python3 -m jobs serve", description="Serve the portal: submit job lists, follow them.")
    parser.add_argument(
        "--listen",
        default=f"{UNIX}portal.sock",
        metavar="WHERE",
        help="unix:PATH (mode 0600) or HOST:PORT (unix:portal.sock)",
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file with the token, mode 0600")
    parser.add_argument(
        "--host", action="append", default=[], metavar="NAME", help="host name by which browsers reach the portal"
    )
    parser.add_argument(
        "--home", type=Path, default=Path("portal"), help="where jobs and states are kept, local disk (portal)"
    )
    parser.add_argument("--presets", default="", metavar="WHERE", help="directory of presets, or ssm:/NAME")
    parser.add_argument("--bucket", default="", help="bucket of the jobs that name none")
    parser.add_argument("--endpoint-url", default="", metavar="URL", help="S3 endpoint, if not AWS")
    parser.add_argument(
        "--fleet", type=Path, metavar="LIST", help="list of releases, or a directory of them, to show beside the jobs"
    )
    parser.add_argument("--slots", default="2", metavar="N", help="jobs that run at the same time (2)")
    parser.add_argument("--executor", choices=("local", "slurm"), default="local", help="where a job's tasks run")
    parser.add_argument(
        "--sbatch", action="append", default=[], metavar="FLAG", help="flag of every sbatch, as --sbatch=--account=lab"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop."""
    configure_logging("INFO")
    options = make_parser().parse_args(argv)
    token = read_token(options.token_file) if options.token_file else None
    unix = options.listen.startswith(UNIX)
    home: Path = options.home.absolute()
    make_private(home)
    with alone(home):
        return serve(options, home, token, unix)


def serve(options: argparse.Namespace, home: Path, token: str | None, unix: bool) -> int:
    """Serve from a home that is this process's alone."""
    store = JobStore(home / "jobs.sqlite")
    bucket = options.bucket.removeprefix("s3://").rstrip("/")
    service = PortalService(store, home, options.presets, bucket, resolve_endpoint(options.endpoint_url or None) or "")
    # A fault in the presets is told now, not to the first visitor.
    rules = UserRules.of(service.presets().site)
    flags = ["--state", str(home / STATE)]
    for name, value in (("--presets", options.presets), ("--bucket", bucket), ("--endpoint-url", options.endpoint_url)):
        flags += [name, value] if value else []
    if options.executor != "local":
        flags += ["--executor", options.executor, *(f"--sbatch={flag}" for flag in options.sbatch)]
    supervisor = Supervisor(store, home, parse_workers(options.slots), tuple(flags))
    access = PortalAccess(token, tuple(options.host), unix, rules)
    if unix:
        listener = listen_unix(Path(options.listen.removeprefix(UNIX)), shared=rules.opens_socket)
    else:
        listener = listen_tcp(options.listen, known=token is not None or bool(rules.header))
    watch = FleetWatch(options.fleet) if options.fleet else None
    with closing(AuditLog(home)) as audit:
        config = uvicorn.Config(
            build(service, access, supervisor, audit, watch),
            http=PeerProtocol,
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
        )
        announce(listener, access)
        uvicorn.Server(config).run(sockets=[listener])
    return 0


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Keep other portals out of a home for the block: both would start and count its jobs."""
    path = home / LOCK
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+", encoding="ascii") as stream:
        try:
            taken = try_lock(stream)
        except OSError as error:
            raise LadingError(f"cannot lock {path}: {error.strerror}; give --home a folder on a local disk") from error
        if not taken:
            holder = read_holder(path)
            raise LockHeldError(f"another portal serves {home}: {holder}; stop it, or give another --home")
        with sign(stream):
            yield


def make_private(home: Path) -> None:
    """Make the portal's folder with mode 0700, or give one that is there this mode.

    Raises ``UsageError`` for a folder of other things or of another user: to
    close it could shut others out of what is theirs.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = home.stat()
    if status.st_uid != os.geteuid():
        raise UsageError(f"the portal's folder {home} belongs to another user; give --home a folder of your own")
    if stat.S_IMODE(status.st_mode) & 0o077:
        foreign = sorted(set(os.listdir(home)) - _OURS)
        if foreign:
            raise UsageError(
                f"the portal's folder {home} is open to other users and holds other files ({foreign[0]!r}); "
                "give --home a folder of its own"
            )
        try:
            home.chmod(0o700)
        except OSError as error:
            raise UsageError(_OPEN.format(home, error.strerror)) from error
        if stat.S_IMODE(home.stat().st_mode) & 0o077:
            raise UsageError(_OPEN.format(home, "its file system does not keep modes"))
    for name in ("list.csv", "run.log"):
        # Of earlier versions, which left them as the umask had them.
        for path in home.glob(f"jobs/*/{name}"):
            with suppress(OSError):
                path.chmod(0o600)


def listen_unix(path: Path, *, shared: bool) -> socket.socket:
    """Return a listening socket file, in place of a stale one: of mode 0600, or ``shared`` with users by name."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise LadingError(f"another portal listens on {path}; stop it, or give another --listen")
        path.unlink()
    # Whoever opens it is known by the kernel; the settings say who is answered.
    mask = os.umask(0o111 if shared else 0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        raise LadingError(f"cannot listen on {path}: {error.strerror or error}; give another --listen") from error
    finally:
        os.umask(mask)
    return listener


def listen_tcp(address: str, *, known: bool) -> socket.socket:
    """Return a bound TCP socket; only loopback is allowed where a token or a proxy does not make users known."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not port.isdigit() or not host:
        raise UsageError(f"--listen {address!r} is neither unix:PATH nor HOST:PORT")
    if host not in ("127.0.0.1", "::1", "localhost") and not known:
        raise UsageError(
            f"--listen {address} is open to other users; give --token-file, or listen on 127.0.0.1 or unix:PATH"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, int(port)))
    except OSError as error:
        raise LadingError(f"cannot listen on {address}: {error.strerror}; give another --listen") from error
    return listener


def announce(listener: socket.socket, access: PortalAccess) -> None:
    """Print where the portal is, who may open it, and how to reach it from elsewhere."""
    here, rules = socket.gethostname(), access.rules
    users = len(rules.users)
    if listener.family == socket.AF_UNIX:
        path = Path(listener.getsockname()).absolute()
        who = (
            f"for the {counted(users, 'user')} of the site's settings" if rules.opens_socket else "only you can open it"
        )
        print(f"portal on {path} ({who})", flush=True)
        print(f"from your laptop: ssh -L 8080:{path} {here}   then open http://localhost:8080/", flush=True)
    else:
        host, port = listener.getsockname()[:2]
        who = "others need the token" if access.token else "only your own processes have access"
        who = f"for the {counted(users, 'user')} of the site's settings; {who}" if users else who
        print(f"portal on http://{host}:{port}/ ({who})", flush=True)
        print(f"from your laptop: ssh -L 8080:{host}:{port} {here}   then open http://localhost:8080/", flush=True)
