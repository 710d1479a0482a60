"""With which password an archive was made, without keeping the password.

Input: a password, and the record of an earlier one. Output: a record, and
whether a password is that of a record.
Invariant: a record has a salt of its own and a slow digest (scrypt, RFC 7914,
32 MiB and about 0.1 s a guess): whoever reads it learns less, and slower, than
from the archive, whose key takes 1000 rounds of HMAC-SHA1 (WinZip AE-2) a
guess, or none (ZipCrypto). It stays in the state of a job or a compression,
which is not uploaded. Records of other costs are refused, not obeyed.
"""

import functools
import hashlib
import hmac
import os

_NAME = "scrypt-32768-8-1"
_SALT = 16


def note_password(password: str) -> str:
    """Return a new record of a password."""
    salt = os.urandom(_SALT)
    return f"{_NAME}${salt.hex()}${_digest(password, salt).hex()}"


def is_noted(record: str, password: str) -> bool:
    """Tell whether a password is the one of a record; ``ValueError`` when the record is none of this program."""
    name, salt, digest = [*record.split("$"), "", ""][:3]
    if name != _NAME or len(salt) != 2 * _SALT or len(digest) != 64:
        raise ValueError("the record of its password has another form")
    return hmac.compare_digest(_digest(password, bytes.fromhex(salt)), bytes.fromhex(digest))


@functools.lru_cache(maxsize=8)
def _digest(password: str, salt: bytes) -> bytes:
    # An archive's password is asked for once a file: the digest is computed once a process.
    secret = password.encode("utf-8", "surrogateescape")
    return hashlib.scrypt(secret, salt=salt, n=1 << 15, r=8, p=1, maxmem=1 << 26, dklen=32)
