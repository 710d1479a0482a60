"""The address of an object for readers who have no account.

Input: a manifest's header, perhaps the base that its public address begins with. Output: URLs.
Invariant: a key's bytes come through: what is no unreserved character is percent-encoded.
"""

from dataclasses import dataclass
from urllib.parse import quote

from lading.verification.manifest import ManifestHeader


@dataclass(frozen=True)
class Addresses:
    """URLs below ``base``, which ends in ``/`` and stands for the top of the bucket.

    ``name`` and ``license``: what a form that describes the data says of it.
    """

    base: str
    name: str = ""
    license: str = ""

    @classmethod
    def of(
        cls, header: ManifestHeader, base: str | None = None, name: str | None = None, licence: str = ""
    ) -> "Addresses":
        """Return the addresses of a manifest's bucket; ``base`` replaces what the header would give.

        Without an endpoint the bucket is at AWS: by its virtual host, or by
        path where a dot in its name would break the certificate.
        """
        if base is None and header.endpoint is not None:
            base = f"{header.endpoint.rstrip('/')}/{header.bucket}"
        if base is None:
            dotted = "." in header.bucket
            host = "s3.amazonaws.com/" + header.bucket if dotted else header.bucket + ".s3.amazonaws.com"
            base = f"https://{host}"
        shown = name or f"{header.bucket}/{header.prefix}".rstrip("/")
        return cls(base.rstrip("/") + "/", shown, licence)

    def url(self, key: str) -> str:
        """Return the URL of a key."""
        return self.base + quote(key.encode("utf-8", "surrogateescape"), safe="/-._~")
