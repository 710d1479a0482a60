"""How requests are made: by which form of the bucket's name, signed or not, and what each object is stored with.

Input: what the command line asked for. Output: a ``Manner``, which every client
follows, and a sentence for an engine that cannot.
Invariant: what was asked for is sent by each client, or said to be beyond it:
an engine that cannot is never replaced in silence, and nothing is sent without
the headers that were asked for.
"""

import argparse
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from lading.core.errors import UsageError, usage_errors

STYLES = ("path", "virtual")
ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
CHECKSUM_ALGORITHMS = ("CRC64NVME", "CRC32", "CRC32C", "SHA1", "SHA256")
OF_OBSTORE = ("CRC64NVME", "SHA256")
# Amazon S3 User Guide, "Canned ACL"; without log-delivery-write, which is of buckets alone.
ACLS = (
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
)
# What s5cmd reaches by the bucket's name before the host, whatever is wanted: AWS, and these two.
_BY_HOST = ("s3-accelerate.amazonaws.com", "storage.googleapis.com")


@dataclass(frozen=True)
class Manner:
    """``style``: path or virtual, None as the profile says, else path for a server with an endpoint.

    ``unsigned``: no credentials are looked for, and nothing is signed. ``sse``, ``kms_key`` and ``acl`` go with each
    object that is written; ``checksum`` is the algorithm whose value goes with it, for the server to check and keep.
    ``payer``: who asks pays, where the bucket's owner wants that.
    """

    style: str | None = None
    unsigned: bool = False
    sse: str | None = None
    kms_key: str | None = None
    acl: str | None = None
    payer: bool = False
    checksum: str | None = None

    def headers(self) -> dict[str, str]:
        """Return the same as the headers that S3 knows."""
        encryption = "x-amz-server-side-encryption"
        named = {encryption: self.sse, f"{encryption}-aws-kms-key-id": self.kms_key, "x-amz-acl": self.acl}
        return {name: value for name, value in named.items() if value}

    def parameters(self) -> dict[str, str]:
        """Return what botocore is told with each new object."""
        named = {"ServerSideEncryption": self.sse, "SSEKMSKeyId": self.kms_key, "ACL": self.acl}
        return {name: value for name, value in named.items() if value}

    def describe(self) -> dict[str, str]:
        """Return what each object is stored with, for records."""
        named = {"sse": self.sse, "sse_kms_key_id": self.kms_key, "acl": self.acl, "checksum_algorithm": self.checksum}
        return {name: value for name, value in named.items() if value}


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of each stage that speaks to a bucket."""
    parser.add_argument(
        "--addressing-style",
        choices=[*STYLES, "auto"],
        help="where URLs have the bucket's name: path (host/bucket), virtual (bucket.host), auto (AWS profile)",
    )
    parser.add_argument("--no-sign-request", action="store_true", help="use no credentials: for public buckets")


def add_payer_argument(parser: argparse.ArgumentParser) -> None:
    """Add the flag of what asks a bucket whose owner has those pay who ask."""
    parser.add_argument(
        "--request-payer", action="store_true", help="pay for the requests: for buckets whose readers pay"
    )


def add_writing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of what writes objects, for buckets whose policies demand them."""
    parser.add_argument("--sse", metavar="|".join(ENCRYPTIONS), help="have the server encrypt each object")
    parser.add_argument("--sse-kms-key-id", metavar="ID", help="encrypt with this key; needs --sse=aws:kms")
    parser.add_argument("--acl", choices=ACLS, help="the canned ACL of each object")
    parser.add_argument(
        "--checksum-algorithm",
        metavar="NAME",
        help=f"send a checksum with each object: {', '.join(CHECKSUM_ALGORITHMS)}",
    )


def find_manner_errors(arguments: argparse.Namespace) -> list[str]:
    """Return a sentence for each flag of these that says what cannot be."""
    errors = []
    sse, key = getattr(arguments, "sse", None), getattr(arguments, "sse_kms_key_id", None)
    if sse and sse not in ENCRYPTIONS:
        errors.append(f"sse: {sse!r} is not an encryption of S3; one of {', '.join(ENCRYPTIONS)}")
    elif key and not (sse or "").startswith("aws:kms"):
        errors.append("--sse-kms-key-id needs --sse=aws:kms or --sse=aws:kms:dsse; add one of them")
    checksum = getattr(arguments, "checksum_algorithm", None)
    if checksum and checksum.upper() not in CHECKSUM_ALGORITHMS:
        errors.append(f"checksum_algorithm: {checksum!r} is not one of {', '.join(CHECKSUM_ALGORITHMS)}")
    if getattr(arguments, "request_payer", False) and arguments.no_sign_request:
        errors.append("--request-payer needs credentials, so that somebody pays; leave --no-sign-request out")
    return errors


def read_manner(arguments: argparse.Namespace) -> Manner:
    """Return what the flags ask for; ``UsageError`` when they contradict each other."""
    if errors := find_manner_errors(arguments):
        raise usage_errors(errors)
    style = arguments.addressing_style if arguments.addressing_style in STYLES else None
    checksum = getattr(arguments, "checksum_algorithm", None)
    return Manner(
        style,
        arguments.no_sign_request,
        getattr(arguments, "sse", None) or None,
        getattr(arguments, "sse_kms_key_id", None) or None,
        getattr(arguments, "acl", None),
        bool(getattr(arguments, "request_payer", None)),
        checksum.upper() if checksum else None,
    )


def check_style(style: str | None, bucket: str, endpoint: str | None) -> None:
    """Refuse names before the host where no such name can be."""
    host = (urlsplit(endpoint).hostname or "") if endpoint else ""
    if style != "virtual" or not host:
        return
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if bucket == bucket.lower() and "_" not in bucket and ":" not in bucket:
            return
        raise UsageError(
            f"the bucket {bucket!r} cannot be part of a host name; leave --addressing-style=virtual out"
        ) from None
    raise UsageError(
        "--addressing-style=virtual (or addressing_style of the AWS profile) puts the bucket's name before the host's, "
        f"and {host} is an address; name the server in endpoint=, or use path"
    )


def unable(engine: str, manner: Manner, style: str | None, endpoint: str | None) -> str | None:
    """Return what an engine cannot send of what is asked for, or None; ``style`` is the one that was chosen."""
    if engine == "obstore" and manner.acl:
        return "obstore cannot send --acl"
    if manner.checksum and (engine == "s5cmd" or (engine == "obstore" and manner.checksum not in OF_OBSTORE)):
        return f"{engine} cannot send --checksum-algorithm={manner.checksum}"
    if engine == "s5cmd" and style:
        host = (urlsplit(endpoint).hostname or "") if endpoint else None
        own = "virtual" if host is None or host.endswith(_BY_HOST) else "path"
        if style != own:
            return f"s5cmd can only address {host or 'AWS'} in {own} style, and {style} was requested"
    return None


def refuse_engine(engine: str, manner: Manner, tags: bool) -> str | None:
    """Return why an engine that was asked for by name cannot do what was asked for beside it, or None."""
    lacks = unable(engine, Manner(checksum=manner.checksum), None, None)
    if engine == "s5cmd" and tags:
        lacks = "s5cmd cannot send --tags" + (f" nor --checksum-algorithm={manner.checksum}" if lacks else "")
    return f"{lacks}; say --engine=crt, or leave --engine out" if lacks else None
