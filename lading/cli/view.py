"""``lading view SESSION``: links that open the images of a session in viewers, and whether a browser may read them.

Input: an ``s3://`` prefix with the ``compress.json`` of images, or with folders that have one. Output: links for
neuroglancer, vizarr, the OME-NGFF validator and napari.
Invariant: nothing is written; what a browser is not allowed is a sentence, with the rule that allows it.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lading.compress import viewers
from lading.compress.rebuild.stored_compression import StoredCompression, open_session
from lading.core import exit_codes
from lading.core.command_line import Parser, configure_logging, printable, run_main
from lading.core.errors import UsageError
from lading.objectstore.endpoint import resolve_endpoint


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        prog="lading view",
        description="Print links that open the images of a session in viewers, and check that a browser may read them.",
        codes=(exit_codes.DISAGREE,),
    )
    parser.add_argument("session", metavar="SESSION", help="s3://bucket/prefix of a session or of one compression")
    parser.add_argument("--endpoint-url", help="S3 server (default: AWS_ENDPOINT_URL or the profile's, else AWS)")
    parser.add_argument("--index", metavar="URL", help="public address of the bucket, where it has another name")
    parser.add_argument("--no-check", action="store_true", help="print links only; ask the public address for nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print links and check them; returns the exit code."""
    arguments = make_parser().parse_args(argv)
    configure_logging()
    scheme, _, rest = arguments.session.partition("://")
    bucket, _, prefix = rest.strip("/").partition("/")
    if scheme != "s3" or not bucket:
        raise UsageError(
            f"{arguments.session}: is not in a bucket, where browsers could read it; give s3://bucket/prefix"
        )
    endpoint = resolve_endpoint(arguments.endpoint_url)
    address = viewers.public_address(bucket, prefix.strip("/"), endpoint, arguments.index)
    rows = [
        describe(stored, image, address, check=not arguments.no_check)
        for stored in open_session(arguments.session, arguments.endpoint_url)
        for image in stored.facts.get("images", ())
    ]
    if not rows:
        raise UsageError(f"{arguments.session}: holds no image of a compression; give the session of one")
    errors = [str(error) for row in rows for error in row["errors"]]
    if arguments.json:
        print(json.dumps({"format": 1, "kind": "view", "images": rows}))
    else:
        print_rows(rows, errors)
    return exit_codes.DISAGREE if errors else exit_codes.DONE


def describe(stored: StoredCompression, image: Mapping[str, Any], address: str, *, check: bool) -> dict[str, Any]:
    """Return an image's links, and what keeps a browser from showing it."""
    path = str(image["path"])
    where = "/".join(filter(None, (address, stored.folder, path)))
    documents = viewers.documents_of(str(stored.facts.get("ngff")))
    errors = list(viewers.check_address(where, documents)) if check else []
    found = viewers.links(where, str(image["name"]))
    return {
        "path": f"{stored.folder}/{path}" if stored.folder else path,
        "links": [{"viewer": link.viewer, "target": link.target} for link in found],
        "errors": errors,
    }


def print_rows(rows: Sequence[dict[str, Any]], errors: Sequence[str]) -> None:
    """Print links image by image; on stderr what a browser is not allowed, and the rule that allows it."""
    for row in rows:
        print(printable(row["path"]))
        for link in row["links"]:
            print(f"  {link['viewer']:<13} {link['target']}")
    for error in errors:
        print(f"error: {printable(error)}", file=sys.stderr)
    if errors:
        print(
            f"a rule of the bucket that allows viewers (put-bucket-cors): {json.dumps(viewers.RULE)}", file=sys.stderr
        )


if __name__ == "__main__":
    sys.exit(run_main(main))
