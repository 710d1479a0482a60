"""The second client: boto3 in threads, for names s5cmd cannot carry and for what it failed to send.

Input: tasks. Output: outcomes (``lading.upload.engines.base.Engine``).
Invariant: each body carries its Content-MD5, so the server refuses other
bytes than were read; a multipart upload that fails is aborted.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from lading.objectstore.target import Target
from lading.upload.engines.multipart import MultipartEngine

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore

THREADS = 8


class BotoEngine(MultipartEngine):
    """See ``base.Engine``; a file's parts go one after the other, and a broken file starts from its first byte."""

    name = "boto3"

    def __init__(self, target: Target, store: "ObjectStore") -> None:
        super().__init__(replace(target, workers=min(THREADS, target.workers)), store, parts_at_once=1)
