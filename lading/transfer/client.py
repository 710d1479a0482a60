"""The second client: boto3 in threads, for names s5cmd cannot carry and for what it failed to send.

Input: tasks. Output: outcomes (``lading.transfer.engine.Engine``).
Invariant: each body carries its Content-MD5, so the server refuses other
bytes than were read; a multipart upload that fails is aborted.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from lading.transfer.engine import Target
from lading.transfer.multipart import Multipart

if TYPE_CHECKING:
    from lading.transfer.store import Store

THREADS = 8


class Client(Multipart):
    """See ``lading.transfer.engine.Engine``; a file's parts go one after the other, and a broken file begins anew."""

    name = "boto3"

    def __init__(self, target: Target, store: "Store") -> None:
        super().__init__(replace(target, workers=min(THREADS, target.workers)), store, parts_at_once=1)
