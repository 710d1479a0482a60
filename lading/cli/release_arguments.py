"""The flags that upload and verify share: which release goes to which bucket, by which plan.

Input: a parser, and later what it read. Output: flags; the objects of the plan and where they go.
Invariant: both stages name one release alike.
"""

import argparse
from pathlib import Path

from lading.core.command_line import parse_size
from lading.objectstore.capacity import find_capacity
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.keys import parse_key_prefix
from lading.objectstore.manner import add_reading_arguments, read_manner
from lading.objectstore.target import Target
from lading.plan.objects import PlannedObjects
from lading.plan.planned_object import AdoptLevel


def add_release_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that upload and verify share."""
    parser.add_argument("root", metavar="ROOT", help="the directory that maps to the top of the bucket")
    parser.add_argument("--bucket", required=True, metavar="S3URL", help="s3://bucket or s3://bucket/prefix")
    parser.add_argument("--batch", type=Path, default=Path("batch.json"), metavar="FILE", help="the plan (batch.json)")
    parser.add_argument("--remap", default="{}", metavar="JSON", help='{"path in the release": "path in the bucket"}')
    parser.add_argument("--endpoint-url", metavar="URL", help="S3 server (default: AWS_ENDPOINT_URL, else AWS)")
    add_reading_arguments(parser)
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
    endpoint = resolve_endpoint(arguments.endpoint_url)
    place = parse_key_prefix(arguments.bucket)
    capacity = find_capacity(endpoint, arguments.max_object_size, arguments.max_key_bytes)
    inventory = PlannedObjects(arguments.root, place, arguments.batch, arguments.remap, capacity)
    return inventory, Target(place.bucket, endpoint, capacity=capacity, manner=read_manner(arguments))
