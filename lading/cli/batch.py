"""Plan batches of a size tree: ``batch.py ROOT --file-tree find.json -o batch.json``.

With ``--estimate`` it writes nothing and says what uploading batch.json will be.

Input: find.json, with find.meta.json beside it; where there are, the batch.json
to be replaced and the journals of its upload. Output: batch.json, a list of
batches between the bounds, near the least possible number of them.
Invariant: every selected file is in exactly one batch; the same input gives
the same bytes; what is proven keeps its batch.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lading.coordination.signals import leave_hanging
from lading.core.command_line import Parser, configure_logging, parse_size, printable, run_main
from lading.core.errors import ConsistencyError, LadingError, UsageError
from lading.core.exit_codes import DISAGREE
from lading.core.opening import Root
from lading.core.progress import counted, format_bytes, format_count, format_seconds
from lading.journal.index_rows import hash_keys
from lading.journal.journal_index import JournalIndex
from lading.journal.records import read_headers, read_key_prefix
from lading.journal.stage_result import note_counts
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.keys import KeyMap, parse_key_prefix, parse_remap
from lading.objectstore.manner import add_payer_argument, add_reading_arguments, read_manner
from lading.objectstore.target import Target
from lading.plan.batch_plan import Plan, read_plan, write_plan
from lading.plan.bounds import Bounds
from lading.plan.class_prices import TABLE, ClassPrice, cheapest, read_table
from lading.plan.estimate import OBJECTS_PER_SECOND, Prices, describe, estimate, parse_prices, upload_seconds
from lading.plan.history import History, IsVerified, unproven
from lading.plan.mounts import compare, find_release, is_same_directory, refuse
from lading.plan.ownership import coverage_of, load_tree, selected_entries, selected_unreadable, unselected
from lading.plan.planner import BatchPlanner, plan_batches, selected_files
from lading.tree.coverage import ADVICE, Coverage, describe_gap, describe_rest, encode_coverage, make_coverage
from lading.tree.json_reader import ReadTree, read_tree
from lading.tree.size_tree import FlatTree, TreeMeta, meta_path, read_meta
from lading.tree.tree_index import TreeIndex
from lading.upload.dry_run import BucketView


def make_parser() -> Parser:
    """Return the command line of this stage."""
    parser = Parser(
        prog="batch.py",
        description="Plan batches of a size tree; with --estimate, say what uploading them takes.",
        codes=[DISAGREE],
    )
    parser.add_argument("root", metavar="ROOT", help="the directory that was crawled")
    parser.add_argument(
        "--file-tree", type=Path, default="find.json", metavar="FIND.JSON", help="the size tree (find.json); .zst too"
    )
    parser.add_argument("--subdir", action="append", metavar="DIR", help="plan only this subdirectory (repeatable)")
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="leave these out (repeatable)")
    parser.add_argument("--min-batch-size", default="10G", metavar="SIZE", help="smallest batch in bytes (10G)")
    parser.add_argument("--max-batch-size", default="1T", metavar="SIZE", help="largest batch in bytes (1T)")
    parser.add_argument("--max-batch-files", type=int, metavar="N", help="most files in a batch (no limit)")
    parser.add_argument("--fresh", action="store_true", help="ignore an earlier batch.json and its journals")
    parser.add_argument(
        "--same-release",
        action="store_true",
        help="take ROOT for the release of the tree and the journals even if it differs",
    )
    parser.add_argument(
        "--upload-root", metavar="DIR", help="the directory that maps to the top of the bucket, as given to upload.py"
    )
    parser.add_argument(
        "--remap",
        default="{}",
        metavar="JSON",
        help="as given to upload.py; with --upload-root it is needed to read journals",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("batch.json"), metavar="OUT", help="the plan (batch.json)"
    )
    group = parser.add_argument_group(
        "estimate", "what an upload of OUT takes; prices are per 1,000 requests or per GB"
    )
    group.add_argument("--estimate", action="store_true", help="print the estimate and write nothing")
    group.add_argument("--bucket", metavar="S3URL", help="list this bucket, and count apart what is already there")
    group.add_argument("--endpoint-url", metavar="URL", help="S3 server (default: AWS_ENDPOINT_URL, else AWS)")
    add_reading_arguments(parser)
    add_payer_argument(parser)
    group.add_argument("--rate", default="1G", metavar="SIZE", help="assumed bytes per second (1G)")
    group.add_argument(
        "--objects-rate", type=int, default=OBJECTS_PER_SECOND, metavar="N", help="assumed objects per second (500)"
    )
    group.add_argument(
        "--price-request", default="0.005", metavar="P", help="price of 1,000 PUT, POST or LIST requests"
    )
    group.add_argument(
        "--price-storage", default="0.023", metavar="P", help="price of a GB-month, in steps: 0.023 to 50T, 0.022"
    )
    group.add_argument("--price-transfer", default="0", metavar="P", help="price of a GB sent")
    group.add_argument("--class-prices", default="", metavar="JSON", help="{class: {name: price}} of storage classes")
    group.add_argument("--currency", default="USD", help="currency of the prices (USD)")
    group.add_argument("--json", action="store_true", help="one JSON line instead of the text")
    return parser


def parse_bounds(least: str, most: str, most_files: int | None) -> Bounds:
    """Return the bounds; ``UsageError`` when they contradict each other."""
    bounds = Bounds(parse_size(least), parse_size(most), most_files)
    if bounds.most < 1:
        raise UsageError(f"--max-batch-size {most} is too small; give a size like 1T")
    if bounds.least > bounds.most:
        raise UsageError(f"--min-batch-size {least} is above --max-batch-size {most}; lower it or raise the other")
    if most_files is not None and most_files < 1:
        raise UsageError(f"--max-batch-files {most_files} is too small; give at least 1")
    return bounds


def read_file_tree(path: Path) -> ReadTree:
    """Return the whole tree of a find.json."""
    if path.suffix == ".arrays":
        raise UsageError(f"{path.name} is no longer read; give the find.json beside it (--file-tree find.json)")
    meta = meta_path(path)
    # Asked first: to the reader a tree without its lower levels is one whose sums are wrong.
    if meta.exists() and (depth := read_meta(meta).settings.get("depth")) is not None:
        raise ConsistencyError(
            f"{path} holds only the first {depth} levels of the release, and a plan needs all of them; crawl without "
            "--depth "
            "(find_flags=): rm find.json; make find.json find_flags="
        )
    return read_tree(path)


def check_root(root: str, tree_file: Path, found: ReadTree, agreed: bool = False) -> TreeMeta:
    """Return what is known of the tree; ``ConsistencyError`` when it is another release's, edited or not to be cut.

    ``root`` may be another path to what was crawled, and is then the tree's; ``agreed``: somebody said that it is.
    """
    path = meta_path(tree_file)
    if not path.exists():
        raise UsageError(f"{path} is missing beside {tree_file.name}; run: rm find.json; make find.json")
    meta = read_meta(path)
    if meta.sha256 != found.sha256:
        raise ConsistencyError(
            f"{tree_file} is not the file that {path.name} describes; it was edited. Run: rm find.json; make find.json"
        )
    if meta.settings.get("hard_links") == "once":
        raise ConsistencyError(
            f"{tree_file} counts hard links once, and a plan needs each of them; run find.py without --hard-links"
        )
    if os.path.realpath(root) == os.path.realpath(meta.root) or is_same_directory(root, meta.root):
        return meta
    if not os.path.isdir(root):
        what = f"{tree_file} is the tree of {meta.root!r}, not of {root!r}"
        raise ConsistencyError(f"{what}; run: rm find.json; make find.json")
    if not agreed:
        with Root(root, follow=meta.settings.get("links") == "follow") as top:
            differences = compare(found.tree, top, crawled=meta.started_ns, look=True, gone=False)
        if differences.count:
            raise refuse(f"{tree_file} is the tree of {meta.root!r}, not of {root!r}", differences)
    return replace(meta, root=os.path.abspath(root))


def normalize_subdir(subdir: str, root: str) -> str:
    """Return ``a/b`` for ``./a//b/`` and for ``ROOT/a/b``; ``UsageError`` when it leads out of the root."""
    inside = os.path.relpath(subdir, os.path.abspath(root)) if os.path.isabs(subdir) else subdir
    parts = [part for part in inside.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UsageError(f"--subdir {subdir!r} must be below ROOT, {root!r}")
    return "/".join(parts) or "."


@dataclass(frozen=True)
class VerifiedFiles:
    """Knows the proofs in the journals beside a plan; a ``IsVerified``."""

    keys: KeyMap
    journal_index: JournalIndex

    def __call__(self, paths: Sequence[str], sizes: Sequence[int], times: Sequence[int] | None) -> NDArray[np.bool_]:
        """Return which files are verified in this state, or were withdrawn in it: neither is to be sent."""
        found = self.journal_index.find(hash_keys([self.keys.key(path) for path in paths]))
        return found.proven(sizes, times) | found.withdrawn(sizes, times)


def find_verified(output: Path, root: str, upload_root: str, remap: str) -> VerifiedFiles | None:
    """Return what knows the proofs in the journals beside a plan, or None when there are none."""
    journal = output.absolute().parent / "journal"
    place = read_key_prefix(journal)
    if place is None:
        return None
    keys = KeyMap(upload_root, root, parse_key_prefix(place).prefix, parse_remap(remap, upload_root, root))
    return VerifiedFiles(keys, JournalIndex(journal))


def find_upload_root(given: str | None, root: str, output: Path) -> str:
    """Return what maps to the bucket's top: as given, or as the journals record it, else the release itself."""
    if given:
        return os.path.abspath(given)
    for header in read_headers(output.absolute().parent / "journal"):
        inner = str(header.get("inner", ""))
        if inner and root.endswith(f"/{inner}"):
            return root.removesuffix(f"/{inner}") or "/"
    return root


def check_mount(tree: FlatTree, meta: TreeMeta, proofs: VerifiedFiles, told: bool) -> None:
    """Raise ``ConsistencyError`` when a tree that was crawled by a new path is not that of the journals' release.

    ``told``: the directory that maps to the bucket's top is known.
    """
    roots = proofs.journal_index.roots
    if not roots or any(is_same_directory(meta.root, root) for root in roots):
        return
    with ExitStack() as stack:
        follow = meta.settings.get("links") == "follow"
        top = stack.enter_context(Root(meta.root, follow=follow)) if os.path.isdir(meta.root) else None
        found = compare(
            tree,
            top,
            crawled=meta.started_ns,
            keys=proofs.keys,
            journal_index=proofs.journal_index,
            look=False,
            gone=True,
        )
    # Without any key in common the root was not told either; upload, which is told, will say what differs.
    if found.count and (found.known or told):
        raise refuse(f"the journals are of {min(roots)!r}, the tree is of {meta.root!r}", found)


def find_history(output: Path, judge: IsVerified | None) -> History | None:
    """Return the plan to be replaced with what is proven of it, or None when nothing is."""
    if judge is None or not output.exists():
        return None
    try:
        previous = read_plan(output)
    except UsageError as error:
        what = str(error).removesuffix("; run: make batch.json")
        raise UsageError(
            f"{what}; restore it, so that verified files keep their batch, or ignore it with --fresh "
            "(batch_flags=--fresh); verified files are not sent again either way"
        ) from error
    return History(previous, judge)


def summarize(cut: BatchPlanner, bounds: Bounds, seconds: float) -> str:
    """Return the lines that end the stage."""
    kept = f"{format_count(cut.kept)} kept because they hold verified files, and " if cut.kept else ""
    new, mark = len(cut.batches) - cut.kept, "new " if kept else ""
    lines = [
        f"{kept}{counted(new, f'{mark}batch', f'{mark}batches')} (at least {format_count(cut.least)} "
        f"{'is' if cut.least == 1 else 'are'} needed): "
        f"{counted(cut.files, 'file')}, {format_bytes(cut.bytes)}, in {format_seconds(seconds)}"
    ]
    if cut.oversize:
        lines.append(
            f"{counted(len(cut.oversize), 'file is', 'files are')} larger than {format_bytes(bounds.most)}; "
            f"each is a batch "
            "of its own"
        )
    if not cut.files:
        lines.append("no file is selected, so the plan is empty")
    else:
        lines.append("next: make estimate, then make upload")
    return "\n".join(lines)


def print_coverage(coverage: Coverage) -> None:
    """Print what is in no batch."""
    gap, rest = describe_gap(coverage, printable), describe_rest(coverage, printable)
    if gap:
        print(f"incomplete: {gap}; no batch holds them: {ADVICE}")
    if rest:
        print(f"in no batch: {rest}")


def look_at_bucket(
    view: BucketView, bucket: str, arguments: argparse.Namespace, tree_index: TreeIndex, left: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return what of ``left`` the bucket does not hold with its size; all of it where the bucket cannot be listed."""
    from lading.objectstore.client import open_for_reading  # here: a plan alone does without

    target = Target(bucket, resolve_endpoint(arguments.endpoint_url), manner=read_manner(arguments))
    unproven(tree_index, left, view.collect)
    try:
        view.look(open_for_reading(target))
    except LadingError as error:
        view.found.looked = False
        print(f"note: the bucket cannot be listed: {printable(str(error))}", file=sys.stderr)
        return left
    return unproven(tree_index, left, view)


def price_classes(arguments: argparse.Namespace, prices: Prices) -> dict[str, ClassPrice]:
    """Return the prices of storage classes; those of STANDARD are the estimate's own, unless they are among these."""
    table = read_table(arguments.class_prices)
    if table["STANDARD"] == TABLE["STANDARD"]:
        table["STANDARD"] = replace(table["STANDARD"], storage=prices.storage[0][0], put=prices.request)
    return table


def print_estimate(arguments: argparse.Namespace) -> int:
    """Print what uploading the plan will be."""
    prices = parse_prices(
        arguments.price_request, arguments.price_storage, arguments.price_transfer, arguments.currency
    )
    rate = parse_size(arguments.rate)
    if rate < 1:
        raise UsageError(f"--rate {arguments.rate} is too low; give bytes per second like 1G")
    if arguments.objects_rate < 1:
        raise UsageError(f"--objects-rate {arguments.objects_rate} is too low; give objects per second like 500")
    output: Path = arguments.output
    plan = read_plan(output)
    tree_index = TreeIndex(load_tree(plan, output.absolute().parent))
    upload_root = find_upload_root(arguments.upload_root, plan.root, output)
    inner = (str(header["inner"]) for header in read_headers(output.absolute().parent / "journal") if "inner" in header)
    release = find_release(upload_root, plan.root, tree_index.tree, inner)
    judge = find_verified(output, release, upload_root, arguments.remap)
    files = selected_files(tree_index.tree, unselected(tree_index, plan.subdir, plan.settings.get("exclude", ())))
    left = unproven(tree_index, files, judge) if judge else files
    verified = len(files) - len(left)
    view = None
    if arguments.bucket:
        place = parse_key_prefix(arguments.bucket)
        if judge and read_key_prefix(output.absolute().parent / "journal") != str(place):
            raise ConsistencyError(f"the journals beside {output} are of another bucket than {place}")
        keys = KeyMap(upload_root, release, place.prefix, parse_remap(arguments.remap, upload_root, release))
        view = BucketView(keys)
        left = look_at_bucket(view, place.bucket, arguments, tree_index, left)
    found = estimate(tree_index, left, verified, price_classes(arguments, prices))
    coverage = coverage_of(plan, output.absolute().parent)
    if arguments.json:
        seconds = round(upload_seconds(found, rate, arguments.objects_rate), 1)
        bucket = {"bucket": asdict(view.found)} if view else {}
        ranges = cheapest(found.classes)
        best = [{"class": name, "reads": None if most == float("inf") else most} for name, most in ranges]
        more = {"seconds": seconds, "crawl": encode_coverage(coverage), "cheapest": best}
        print(json.dumps(asdict(found) | more | bucket))
        return 0
    print(describe(found, prices, rate, arguments.objects_rate, printable))
    if view and view.found.looked:
        there = view.found
        print(
            f"\nin the bucket, and not counted above: {there.to_read} of the right size, which upload reads and sends "
            f"only if they differ, and {format_count(there.equal.objects)} that are equal; "
            f"{format_count(there.different.objects)} of another size are counted"
        )
    if gap := describe_gap(coverage, printable):
        print(f"\nincomplete: {gap}; what is there is not counted")
    if rest := describe_rest(coverage, printable):
        print(f"\nin no batch: {rest}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    with leave_hanging():
        return _main(make_parser().parse_args(argv))


def _main(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    configure_logging()
    if arguments.estimate:
        return print_estimate(arguments)
    bounds = parse_bounds(arguments.min_batch_size, arguments.max_batch_size, arguments.max_batch_files)
    subdirs = tuple(sorted({normalize_subdir(subdir, arguments.root) for subdir in arguments.subdir or ["."]}))
    found = read_file_tree(arguments.file_tree)
    if arguments.file_tree.suffix == ".arrays":
        arguments.file_tree = arguments.file_tree.with_suffix(".json")
    meta = check_root(arguments.root, arguments.file_tree, found, arguments.same_release)
    root = meta.root
    upload_root = find_upload_root(arguments.upload_root, root, arguments.output)
    proofs = None if arguments.fresh else find_verified(arguments.output, root, upload_root, arguments.remap)
    if proofs and not arguments.same_release:
        check_mount(found.tree, meta, proofs, bool(arguments.upload_root) or upload_root != root)
    history = find_history(arguments.output, proofs)
    # Times serve to judge what is proven and nothing else.
    tree = found.tree if history else replace(found.tree, mtimes=None)
    sha256 = found.sha256
    del found
    cut = plan_batches(tree, bounds, subdirs, arguments.exclude, history)
    settings = {
        "tree": os.path.relpath(arguments.file_tree, arguments.output.parent),
        "tree_sha256": sha256,
        "min_batch_size": bounds.least,
        "max_batch_size": bounds.most,
        "max_batch_files": bounds.most_files,
        "exclude": arguments.exclude,
        "links": meta.settings.get("links", "record"),
    }
    if meta.metadata_file:
        path = arguments.file_tree.with_name(os.path.basename(meta.metadata_file))
        settings["metadata"] = os.path.relpath(path, arguments.output.parent)
    unreadable = selected_unreadable(meta.unreadable, subdirs, arguments.exclude)
    tree_index = TreeIndex(tree)
    unlisted = sum(tree_index.directory(bad.path) is None for bad in unreadable)  # each is a node of the kind "other"
    chosen = selected_entries(meta, arguments.file_tree, subdirs, arguments.exclude)
    coverage = make_coverage(meta, unreadable, cut.links, cut.others - unlisted, chosen)
    write_plan(arguments.output, Plan(root, subdirs, settings, cut.batches, cut.oversize, coverage))
    note_counts(batches=len(cut.batches), objects=cut.files, size=cut.bytes)
    print(summarize(cut, bounds, time.monotonic() - started))
    print_coverage(coverage)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
