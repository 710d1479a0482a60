"""How a file is split into parts on its way.

Input: a size. Output: the part size, and so the number of parts.
Invariant: what is sent, what its ETag is compared with and what is estimated
follow this one rule.
"""

MIB = 1 << 20
# s5cmd sends parts of -p MiB. Its SDK (aws-sdk-go v1, s3manager) quietly takes size // 10,000 + 1 bytes instead when
# 10,000 or more parts would result, so above that we ask for whole MiB that stay below 10,000 parts.
PART_BYTES = 50 * MIB
PARTS = 10_000


def part_bytes(size: int) -> int:
    """Return the part size we ask of every engine for a file of ``size`` bytes: whole MiB, below 10,000 parts."""
    return (size // (PARTS * MIB) + 1) * MIB if size >= PARTS * PART_BYTES else PART_BYTES


def count_parts(size: int) -> int:
    """Return how many parts a file is sent in; 0 when one request carries it whole."""
    part = part_bytes(size)
    return -(-size // part) if size > part else 0
