"""What the error codes of S3 and the messages of s5cmd mean for a run.

Input: a code or a message. Output: a failure class, and for what ends a run
the sentence to show. Codes: Amazon S3 API reference, "Error responses".
Invariant: what is not known counts against the object alone.
"""

import re

from lading.objectstore.target import FailureKind

_STOP = {
    "AccessDenied": "the credentials do not allow this (AccessDenied); ask the owner of the bucket for the right to",
    "AllAccessDisabled": "all access to the bucket is disabled",
    "AccountProblem": "the account behind the credentials has a problem",
    "AuthorizationHeaderMalformed": "the region is wrong; set AWS_REGION to the bucket's",
    "ExpiredToken": "the credentials have expired; renew them and run the same command again",
    "ExpiredTokenException": "the credentials have expired; renew them and run the same command again",
    "TokenRefreshRequired": "the credentials have expired; renew them and run the same command again",
    "RequestExpired": "the credentials or this machine's clock have expired; renew the credentials and check the clock",
    "InvalidAccessKeyId": "the endpoint does not know the access key; check AWS_PROFILE or AWS_ACCESS_KEY_ID",
    "InvalidToken": "the session token is wrong; renew the credentials",
    "SignatureDoesNotMatch": "the secret key is wrong for this access key; check AWS_PROFILE or AWS_SECRET_ACCESS_KEY",
    "RequestTimeTooSkewed": "this machine's clock is wrong by more than the endpoint allows; set it (ntp)",
    "NoSuchBucket": "the bucket does not exist; create it, or check bucket= and endpoint=",
    "InvalidBucketName": "the endpoint refuses the bucket's name",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION, and endpoint= if it names one, to that",
    "IllegalLocationConstraintException": "the bucket is in another region; set AWS_REGION to that",
    "BucketRegionError": "the bucket is in another region; set AWS_REGION to that",
    "QuotaExceeded": "the bucket's quota is full",
    "UserSuspended": "the account is suspended",
    "KMS.DisabledException": "the bucket's encryption key is disabled",
    "KMS.NotFoundException": "the bucket's encryption key does not exist",
    "KMS.KMSInvalidStateException": "the bucket's encryption key cannot be used now",
}
# Which right each request needs: Amazon S3 User Guide, "Required permissions for Amazon S3 API operations".
_RIGHTS = {
    "ListObjectsV2": "s3:ListBucket",
    "ListObjectVersions": "s3:ListBucketVersions",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListParts": "s3:ListMultipartUploadParts",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CopyObject": "s3:PutObject there and s3:GetObject of the source",
    "UploadPartCopy": "s3:PutObject there and s3:GetObject of the source",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "GetObject of a version": "s3:GetObjectVersion",
    "GetObjectTagging": "s3:GetObjectTagging",
    "RestoreObject": "s3:RestoreObject",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObject of a version": "s3:DeleteObjectVersion",
    "GetBucketVersioning": "s3:GetBucketVersioning",
    "GetBucketEncryption": "s3:GetEncryptionConfiguration",
}
NO_CREDENTIALS = (
    "no AWS credentials found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
    "(a public bucket is read with --no-sign-request)"
)
DENIED = ("AccessDenied", "403", "AllAccessDisabled")
_SAID = ("AccessDenied", "AllAccessDisabled", "AccountProblem", "QuotaExceeded", "InvalidRequest")
_TRANSIENT = {
    "InternalError",
    "ServiceUnavailable",
    "Unavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestTimeout",
    "RequestTimeoutException",
    "OperationAborted",
    "BadDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "XMinioServerNotInitialized",
    "500",
    "502",
    "503",
    "504",
}
_REFUSED = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
# Of aws-sdk-go and the Go runtime, for failures below HTTP.
_NETWORK = re.compile(
    r"RequestError|RequestCanceled|SerializationError|connection (?:refused|reset)|broken pipe|\bEOF\b|"
    r"i/o timeout|TLS handshake|no such host|network is unreachable|status code: 5\d\d|too many open files"
)
_CREDENTIALS = re.compile(r"NoCredentialProviders|EmptyStaticCreds|CredentialRequiresARNError")
_CODE = re.compile(
    r"\b(" + "|".join(sorted(map(re.escape, _STOP.keys() | _TRANSIENT | _REFUSED), key=len, reverse=True)) + r")\b"
)


def classify(code: str) -> FailureKind:
    """Return the failure class of an S3 error code."""
    if code in _STOP:
        return FailureKind.STOP
    if code in _REFUSED:
        return FailureKind.REFUSED
    return FailureKind.TRANSIENT if code in _TRANSIENT else FailureKind.OBJECT


def explain(code: str, words: str = "", operation: str = "") -> str | None:
    """Return the sentence for an S3 error code that ends a run, or None.

    ``words`` are the server's own: which action, which resource, which rule
    denies it, or which key may not be used is told by nothing else.
    ``operation`` is the request, as S3 calls it.
    """
    sentence = _STOP.get(code)
    if sentence is None:
        return None
    if code == "AccessDenied" and operation:
        right = f", which needs {_RIGHTS[operation]}" if operation in _RIGHTS else ""
        sentence = f"the credentials do not allow {operation}{right} (AccessDenied); ask the owner of the bucket for it"
    elif code == "AccessDenied":
        sentence = f"{_STOP[code]} list, read and write"
    said = " ".join(words.split())[:300]
    return f"{sentence}; the server says: {said}" if said and (code in _SAID or code.startswith("KMS.")) else sentence


def read_message(message: str) -> tuple[FailureKind, str, bool]:
    """Return the class of an s5cmd error message, the sentence to show for it, and whether the server answered."""
    if _CREDENTIALS.search(message):
        return FailureKind.STOP, NO_CREDENTIALS, False
    codes = [code for code in _CODE.findall(message) if not code.isdigit()]
    for code in codes:
        if code in _STOP:
            return FailureKind.STOP, explain(code, message.partition(f"{code}:")[2]) or code, True
    line = " ".join(message.split())[:300]
    for code in codes:
        return classify(code), line, True
    failure = FailureKind.TRANSIENT if _NETWORK.search(message) else FailureKind.OBJECT
    return failure, line, "status code: " in message
