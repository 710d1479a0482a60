"""What the error codes of S3 and the messages of s5cmd mean for a run.

Input: a code or a message. Output: a failure class, and for what ends a run
the sentence to show. Codes: Amazon S3 API reference, "Error responses".
Invariant: what is not known counts against the object alone.
"""

import re

from lading.transfer.engine import Failure

_STOP = {
    "AccessDenied": "the credentials may not do this (AccessDenied); ask for list, read and write on the bucket",
    "AllAccessDisabled": "all access to the bucket is disabled",
    "AccountProblem": "the account behind the credentials has a problem",
    "AuthorizationHeaderMalformed": "the region is wrong; set AWS_DEFAULT_REGION to the bucket's",
    "ExpiredToken": "the credentials have expired; renew them and run the same command again",
    "ExpiredTokenException": "the credentials have expired; renew them and run the same command again",
    "TokenRefreshRequired": "the credentials have expired; renew them and run the same command again",
    "RequestExpired": "the credentials or this machine's clock have expired; renew the first, check the second",
    "InvalidAccessKeyId": "the endpoint does not know the access key; check AWS_PROFILE or AWS_ACCESS_KEY_ID",
    "InvalidToken": "the session token is wrong; renew the credentials",
    "SignatureDoesNotMatch": "the secret key is wrong for this access key; check AWS_PROFILE or AWS_SECRET_ACCESS_KEY",
    "RequestTimeTooSkewed": "this machine's clock is wrong by more than the endpoint allows; set it (ntp)",
    "NoSuchBucket": "the bucket does not exist; create it, or check bucket= and endpoint=",
    "InvalidBucketName": "the endpoint refuses the bucket's name",
    "PermanentRedirect": "the bucket lies in another region; set AWS_DEFAULT_REGION and endpoint to it",
    "QuotaExceeded": "the bucket's quota is full",
    "UserSuspended": "the account is suspended",
    "KMS.DisabledException": "the bucket's encryption key is disabled",
}
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


def classify(code: str) -> Failure:
    """Return the failure class of an S3 error code."""
    if code in _STOP:
        return Failure.STOP
    if code in _REFUSED:
        return Failure.REFUSED
    return Failure.TRANSIENT if code in _TRANSIENT else Failure.OBJECT


def explain(code: str) -> str | None:
    """Return the sentence for an S3 error code that ends a run, or None."""
    return _STOP.get(code)


def read_message(message: str) -> tuple[Failure, str, bool]:
    """Return the class of an s5cmd error message, the sentence to show for it, and whether the server answered."""
    if _CREDENTIALS.search(message):
        advice = "no AWS credentials found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return Failure.STOP, advice, False
    codes = [code for code in _CODE.findall(message) if not code.isdigit()]
    for code in codes:
        if code in _STOP:
            return Failure.STOP, _STOP[code], True
    line = " ".join(message.split())[:300]
    for code in codes:
        return classify(code), line, True
    failure = Failure.TRANSIENT if _NETWORK.search(message) else Failure.OBJECT
    return failure, line, "status code: " in message
