"""Makes a dataset's repository in a RIA store elsewhere, so that it can be pushed there.

Input: ``ria+file://PATH`` or ``ria+ssh://[USER@]HOST[:PORT]PATH`` and a
dataset. Output: the address that git pushes to.
Invariant: the store has the layout that DataLad clones from, a repository
appears whole, and what already exists is not touched.

Source of the layout: DataLad's RIA store documentation, store version 1, dataset version 2.
"""

import os
import shlex
import subprocess
from urllib.parse import unquote, urlsplit

from lading.core.errors import LadingError
from lading.mirror.git.commands import complaint, environment
from lading.mirror.layout import SUPER, Dataset

SCHEMES = ("ria+file", "ria+ssh")
# POSIX shell, so that it runs on the other side of ssh; the variables are set before it.
_SCRIPT = """
set -eu
mkdir -p "$store/alias"
[ -e "$store/ria-layout-version" ] || echo 1 > "$store/ria-layout-version"
if [ ! -e "$store/$place" ]; then
    fresh="$store/$place.new"
    rm -rf "$fresh"
    mkdir -p "${fresh%/*}"
    git init --quiet --bare --template= --initial-branch=main "$fresh"
    git -C "$fresh" config annex.uuid "$uuid"
    git -C "$fresh" config annex.version 10
    git -C "$fresh" config gc.auto 0
    git -C "$fresh" config receive.updateServerInfo true
    echo 2 > "$fresh/ria-layout-version"
    mv "$fresh" "$store/$place"
fi
[ -z "$alias" ] || [ -L "$store/alias/$alias" ] || ln -s "../$place" "$store/alias/$alias"
"""


def is_ria(url: str) -> bool:
    """Tell whether an address is a RIA store that can be written to."""
    return url.partition("://")[0] in SCHEMES


def make_repository(url: str, dataset: Dataset) -> str:
    """Make the repository of ``dataset`` in the store at ``url``, if it is missing; returns git's address of it."""
    parts = urlsplit(url)
    store, place = unquote(parts.path).rstrip("/"), f"{dataset.id[:3]}/{dataset.id[3:]}"
    values = {
        "store": store,
        "place": place,
        "uuid": dataset.uuid_at(url.partition("#")[0]),
        "alias": SUPER if dataset.kind == "super" else "",
    }
    script = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()) + _SCRIPT
    remote = parts.scheme == "ria+ssh"
    # As git itself does: the user's ssh command, through the shell.
    ssh = os.environ.get("GIT_SSH_COMMAND", "ssh")
    port = ["-p", str(parts.port)] if parts.port else []
    host = f"{parts.username}@{parts.hostname}" if parts.username else parts.hostname or ""
    command = ["sh", "-c", f'{ssh} "$@"', "ssh", *port, host, "sh"] if remote else ["sh"]
    done = subprocess.run(command, input=script.encode(), capture_output=True, env=environment(), check=False)
    if done.returncode:
        raise LadingError(complaint(["init", url], dataset.repository, done.stderr))
    return f"ssh://{parts.netloc}{store}/{place}" if remote else f"{store}/{place}"
