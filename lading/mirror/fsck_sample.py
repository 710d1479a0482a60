"""Fetches a sample of a mirror's content through git-annex, as a clone would.

Input: the stores, how many files, a seed. Output: findings, a sentence each.
Invariant: the mirror itself is not touched: content goes to clones in a
temporary directory, one file at a time, and is deleted. Each file of the
mirror is as likely as any other to be in the sample.
"""

import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lading.core.command_line import printable
from lading.core.errors import LadingError
from lading.mirror.dataset import MAIN
from lading.mirror.git.annex import AnnexAccess
from lading.mirror.git.annex_keys import key_of_target
from lading.mirror.git.commands import list_tree, read_blobs, run
from lading.mirror.git.fast_import import LINK
from lading.mirror.git.portable_names import to_text
from lading.mirror.layout import MirrorLayout
from lading.mirror.superdataset import DatasetRecord


@dataclass
class SampleResult:
    """What was fetched and found right: files and bytes."""

    files: int = 0
    bytes: int = 0


def fsck_sample(
    layout: MirrorLayout,
    records: Mapping[str, DatasetRecord],
    access: AnnexAccess,
    count: int,
    seed: str,
    result: SampleResult,
) -> Iterator[str]:
    """Fetch ``count`` files, fill ``result``, and yield what is wrong."""
    chooser = random.Random(seed)  # noqa: S311 - a sample, no secret
    paths = sorted(path for path, record in records.items() if record.objects)
    if not paths:
        return
    drawn = Counter(chooser.choices(paths, [records[path].objects for path in paths], k=count))
    for path, wanted in sorted(drawn.items()):
        dataset = layout.dataset(records[path].kind, path)
        tree = list_tree(dataset.repository, MAIN)
        links = sorted(name for name, entry in tree.items() if entry.mode == LINK)
        names = chooser.sample(links, min(wanted, len(links)))
        targets = read_blobs(dataset.repository, [tree[name].sha for name in names])
        keys = {key.decode(): to_text(name) for name, target in zip(names, targets) if (key := key_of_target(target))}
        with tempfile.TemporaryDirectory(prefix="lading-fsck-") as scratch:
            try:
                clone = _clone(dataset.repository, Path(scratch))
                for finding in _check(clone, keys, access, result):
                    yield f"{path or 'superdataset'}: {finding}"
            except LadingError as error:
                yield f"{path or 'superdataset'}: {printable(str(error))}"
            finally:
                # git-annex writes content as nobody may change it.
                for folder in Path(scratch).glob("clone/.git/annex/objects/*/*/*"):
                    folder.chmod(0o700)


def _clone(repository: Path, scratch: Path) -> Path:
    clone = scratch / "clone"
    run(["clone", "--quiet", "--shared", "--no-checkout", str(repository), str(clone)], scratch)
    run(["config", "remote.origin.annex-ignore", "true"], clone)
    run(["annex", "init", "--quiet", "fsck of a sample"], clone)
    return clone


def _check(clone: Path, keys: Mapping[str, str], access: AnnexAccess, result: SampleResult) -> Iterator[str]:
    where = f"{(access.endpoint or 'amazonaws.com').rstrip('/').rpartition('//')[2]}"
    for key, name in sorted(keys.items()):
        known = _ask(clone, ["annex", "whereis", "--json", f"--key={key}"])
        places = [place for place in known.get("whereis", ()) if isinstance(place, dict)]
        urls = [str(url) for place in places for url in place.get("urls", ())]
        named = [place for place in places if place.get("uuid") == access.remote]
        if not (named if access.remote else [url for url in urls if where in url and access.bucket in url]):
            yield f"{name}: git annex whereis does not name the bucket {access.bucket}"
        got = _ask(clone, ["annex", "get", "--json", "--json-error-messages", f"--key={key}"])
        if not got.get("success"):
            said = "; ".join(str(line) for line in got.get("error-messages", ())) or "it cannot be fetched"
            yield printable(f"{name}: {said[:400]}")
            continue
        checked = _ask(clone, ["annex", "fsck", "--json", "--json-error-messages", f"--key={key}"])
        if not checked.get("success"):
            yield f"{name}: git annex fsck refuses what was fetched"
            continue
        result.files += 1
        result.bytes += int(key.partition("-s")[2].partition("-")[0] or 0)
        _ask(clone, ["annex", "drop", "--force", "--json", f"--key={key}"])


def _ask(clone: Path, arguments: list[str]) -> dict[str, Any]:
    """Return the last JSON line that git-annex prints, also when it fails."""
    said = run(arguments, clone, fine=(0, 1))
    lines = [line for line in said.splitlines() if line.startswith(b"{")]
    try:
        found = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
