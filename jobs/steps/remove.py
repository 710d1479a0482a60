"""Source deletion: off unless asked for, listed first, and only what the bucket is proven to hold.

Input: the job's lineages and manifests, and the bucket's listing of this
moment. Output: ``removable.json`` with every file that may go and every one
that stays with its reason; after ``dry_run: false`` the files are gone.
Invariant: a file goes only if it is a regular file inside the source of its
own modality, with no link on the way to it, is unchanged since it was read, and every object that
stands for it is listed by the bucket now with the size and ETag of its
manifest row. An upload that is not proven whole frees nothing.
"""

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from jobs.lineage import Proven, Source, removable
from jobs.steps.checks import store_of
from jobs.steps.ship import MANIFEST, STAGED
from jobs.steps.transform import behavior_folder
from jobs.work import Work
from lading.errors import ItemsFailed, UsageError
from lading.files import replacing
from lading.formats.manifest import Row, read_manifest


def sources(work: Work) -> dict[str, object]:
    """List what may go; delete it when the task's ``dry_run`` is false."""
    free, kept = _judge(work)
    _write(work, free, kept)
    if work.options.get("dry_run", True):
        work.say(
            f"{len(free)} source files could go, {len(kept)} would stay: {work.place.directory / 'removable.json'}; "
            "nothing was deleted (set remove_source_folders.dry_run to false)"
        )
        return {"removable": len(free), "kept": kept[:20], "removed": 0}
    gone = _delete(work, free)
    for sentence in kept:
        work.say(sentence)
    facts = {"removed": gone, "kept": kept[:20]}
    if kept:
        raise ItemsFailed(f"{gone} source files were removed, {len(kept)} stay: {'; '.join(kept[:3])}")
    return facts


def preview(work: Work) -> dict[str, object]:
    """Say that nothing was sent, so nothing may go."""
    work.say("would list the source files that the bucket is proven to hold; a dry run sends none, so none may go")
    return {"removed": 0}


def _judge(work: Work) -> tuple[list[tuple[Source, Path]], list[str]]:
    """Return what may go, each with the source it lies in, and a sentence for each file that stays."""
    rows: dict[str, Row] = {}
    prefix = f"{work.job.prefix}/"
    for manifest in sorted((work.place.directory / "upload").glob(f"*/{MANIFEST}")):
        found = read_manifest(manifest)
        if found.header.bucket != work.job.s3_bucket or not found.header.prefix.startswith(prefix):
            raise UsageError(f"{manifest} is of another job; remove {manifest.parent} and upload again")
        if not found.end.complete:
            # What is not proven has no row, so that its absence shows nowhere but here.
            raise UsageError(
                f"{manifest} does not prove every object that was to be sent, so no source may go; upload again"
            )
        name = manifest.parent.name
        # The path below the prefix, not the key: a key may spell odd bytes differently.
        rows.update((row.path if name == STAGED else f"{name}/{row.path}", row) for row in found.rows())
    if not rows:
        raise UsageError(f"{work.job.prefix} has no manifest: only what was uploaded and proven may be deleted")
    listed = store_of(work).find(row.key for row in rows.values())
    proven = {
        path: Proven(row.size, row.md5, row.mtime_ns)
        for path, row in rows.items()
        if row.key in listed and (listed[row.key].size, listed[row.key].etag) == (row.size, row.etag)
    }
    free: list[tuple[Source, Path]] = []
    kept: list[str] = []
    roots = {entry.folder: entry.source for entry in work.job.modalities}
    if work.job.behavior_dir:
        roots[behavior_folder(work.job)] = work.job.behavior_dir
    for lineage in sorted(work.place.lineage.glob("*.json")):
        may, stays = removable(lineage, proven, rows, accept_loss=work.options.get("accept_loss", False) is True)
        kept += stays
        root = roots.get(lineage.stem)
        for source in may:
            if root is not None and _belongs(root, source.path):
                free.append((source, root))
            else:
                kept.append(f"{source.path} stays: it is no plain file inside the source of {lineage.stem}")
    return free, kept


def _belongs(root: Path, path: str) -> bool:
    """Tell whether a path is (or was) a regular file inside a source, with no link between the two."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return True
    below = os.path.relpath(path, root)
    if below.split(os.sep)[0] == os.pardir:
        return False
    return os.path.realpath(path) == os.path.normpath(os.path.join(os.path.realpath(root), below))


def _write(work: Work, free: Iterable[tuple[Source, Path]], kept: Iterable[str]) -> None:
    with replacing(work.place.directory / "removable.json") as stream:
        json.dump({"removable": [source.path for source, _ in free], "kept": list(kept)}, stream, indent=1)
        stream.write("\n")


def _delete(work: Work, sources: Iterable[tuple[Source, Path]]) -> int:
    """Delete files, then the directories that this left empty, up to the sources themselves."""
    count = 0
    folders: set[Path] = set()
    for source, root in sources:
        work.check_cancelled()
        if source.changed() or not _belongs(root, source.path):
            raise UsageError(
                f"{source.path} changed while sources were being deleted; {count} are gone, the rest stays"
            )
        try:
            os.unlink(source.path)
        except FileNotFoundError:
            continue
        count += 1
        folders.add(Path(source.path).parent)
    roots = [entry.source for entry in work.job.modalities]
    for folder in sorted(folders, key=lambda one: len(one.parts), reverse=True):
        current = folder
        while any(root == current or root in current.parents for root in roots):
            try:
                current.rmdir()
            except OSError:
                break  # not empty: something stays there
            current = current.parent
    return count
