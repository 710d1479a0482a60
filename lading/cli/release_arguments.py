"""The flags that upload and verify share: which release goes to which bucket, by which plan.

Input: a parser, and later what it read. Output: flags; the objects of the plan and where they go.
Invariant: both stages name one release alike.
"""

import argparse
from pathlib import Path

from lading.core.command_line import parse_size
from lading.core.errors import usage_errors
from lading.objectstore.capacity import find_capacity
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.keys import parse_key_prefix
from lading.objectstore.manner import add_payer_argument, add_reading_arguments, find_manner_errors, read_manner
from lading.objectstore.target import Target
from lading.plan.object_settings import ObjectSettings, read_object_settings
from lading.plan.objects import PlannedObjects
from lading.plan.planned_object import AdoptLevel
from lading.tree.json_reader import TreeReader, read_tree


def add_release_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that upload and verify share."""
    parser.add_argument("root", metavar="ROOT", help="the directory that maps to the top of the bucket")
    parser.add_argument("--bucket", required=True, metavar="S3URL", help="s3://bucket or s3://bucket/prefix")
    parser.add_argument("--batch", type=Path, default=Path("batch.json"), metavar="FILE", help="the plan (batch.json)")
    parser.add_argument("--remap", default="{}", metavar="JSON", help='{"path in the release": "path in the bucket"}')
    parser.add_argument("--endpoint-url", metavar="URL", help="S3 server (default: AWS_ENDPOINT_URL, else AWS)")
    add_reading_arguments(parser)
    add_payer_argument(parser)
    parser.add_argument(
        "--adopt",
        type=AdoptLevel,
        choices=list(AdoptLevel),
        default=AdoptLevel.MD5,
        help="how an object that is already in the bucket is compared before it counts as verified",
    )
    parser.add_argument(
        "--max-object-size",
        type=parse_size,
        metavar="50T",
        help="the largest object that the server stores, if it is not the known one",
    )
    parser.add_argument(
        "--max-key-bytes", type=int, metavar="N", help="the longest key in bytes that the server accepts (1024)"
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON line on stdout")
    parser.add_argument(
        "--same-release",
        action="store_true",
        help="take what is below ROOT for the plan's release even if it differs",
    )


def open_release(arguments: argparse.Namespace) -> tuple[PlannedObjects, Target]:
    """Return the objects of the plan and the target that a command line names."""
    inventory, endpoint = _open_plan(arguments)
    bucket, capacity = inventory.place.bucket, inventory.capacity
    return inventory, Target(bucket, endpoint, capacity=capacity, manner=read_manner(arguments))


def open_to_send(
    arguments: argparse.Namespace, read: TreeReader = read_tree
) -> tuple[PlannedObjects, Target, ObjectSettings]:
    """Return as ``open_release``, and what objects are to be stored with; raises every error of that at once.

    ``read`` is how the plan's tree is read.
    """
    objects, errors = read_object_settings(arguments)
    errors += find_manner_errors(arguments)
    inventory, endpoint = _open_plan(arguments, read)
    errors += objects.find_unmatched(inventory.paths())
    if errors:
        raise usage_errors(errors)
    manner = read_manner(arguments)
    inventory.stored_with = objects.describe() | manner.describe()
    return inventory, Target(inventory.place.bucket, endpoint, capacity=inventory.capacity, manner=manner), objects


def _open_plan(arguments: argparse.Namespace, read: TreeReader = read_tree) -> tuple[PlannedObjects, str | None]:
    endpoint = resolve_endpoint(arguments.endpoint_url)
    capacity = find_capacity(endpoint, arguments.max_object_size, arguments.max_key_bytes)
    place = parse_key_prefix(arguments.bucket)
    inventory = PlannedObjects(arguments.root, place, arguments.batch, arguments.remap, capacity, read=read)
    return inventory, endpoint
