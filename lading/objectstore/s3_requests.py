"""One request on the bucket through boto3's lower half, botocore: signed, waited for, its failure explained.

Input: a target; credentials by the AWS chain (``AWS_PROFILE``, environment,
instance role) and nothing else. Output: answers as botocore parsed them.
Invariant: every failure leaves here as a ``StoreError`` with a class and one
sentence that holds no secret; plain http goes to loopback only. A request
waits no longer than ``limits.py`` says, and ends when the leash of its thread
is cut (``worker_threads.py``).
"""

import functools
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import botocore.exceptions
import botocore.loaders
import botocore.parsers
import botocore.session
import botocore.utils
from botocore import UNSIGNED
from botocore.config import Config

from lading.core.limits import LIMITS
from lading.core.worker_threads import WorkersStopped, bound
from lading.objectstore.endpoint import check_endpoint
from lading.objectstore.failures import NO_CREDENTIALS, classify, explain
from lading.objectstore.network import Way, choose_way
from lading.objectstore.object_info import StoreError
from lading.objectstore.profile import unreadable
from lading.objectstore.quick_listing import take_contents
from lading.objectstore.silence import PAUSE_SECONDS, Silence
from lading.objectstore.target import FailureKind, Target

UNREADABLE_CHANCES = 4  # to give an answer that can be read
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_REGION = re.compile(r"[a-z0-9-]{1,40}")


class _Loader(botocore.loaders.Loader):
    """botocore's reader of descriptions, which does not look into the folders of 400 services to use one of them."""

    def list_available_services(self, type_name: str) -> list[str]:
        """Return the names of all folders; one that lacks the type is told of by the reading that follows."""
        return sorted({name for path in self.search_paths if os.path.isdir(path) for name in os.listdir(path)})


@functools.cache
def _share_loader(data_path: str | None) -> botocore.loaders.Loader:
    """Return the one reader of botocore's descriptions of services: to parse them anew costs each client 0.1 s."""
    paths = (data_path or "").split(os.pathsep)
    return _Loader([os.path.expanduser(os.path.expandvars(path)) for path in paths if path])


class S3Requests:
    """Requests on one bucket. Safe to use from many threads."""

    def __init__(self, target: Target, *, attempts: int = 5) -> None:
        check_endpoint(target.endpoint)
        self.bucket = target.bucket
        self.endpoint = target.endpoint
        self.place = f"s3://{self.bucket}" + (f" at {self.endpoint}" if self.endpoint else "")  # as sentences name it
        way = choose_way(target)
        self.region = way.region  # that of the bucket, once the server named another
        self._unsigned = target.manner.unsigned
        self.lacks_credentials = False  # which is why nothing is signed
        self.silence = Silence(target.endpoint or "AWS")
        self._call = threading.local()
        try:
            session = botocore.session.get_session()
            if target.profile:
                session.set_config_variable("profile", target.profile)
            session.register_component("data_loader", _share_loader(session.get_config_variable("data_path")))
            session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_moment)
            self.client: Any = session.create_client(
                "s3",
                endpoint_url=target.endpoint,
                region_name=way.region,
                verify=way.bundle,
                config=_configure(target, way, attempts),
            )
            self.has_credentials = target.manner.unsigned or session.get_credentials() is not None
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise StoreError(FailureKind.STOP, self.sentence(error)) from error
        self._watch_requests()
        if target.manner.payer:
            self.client.meta.events.register("before-sign.s3", _pay)

    def _watch_requests(self) -> None:
        """Take part in each try of each request: whether it may begin, by which connection, what came of it."""
        self.client.meta.events.register("before-send.s3", self._before_send)
        self.client.meta.events.register("before-call.s3.HeadBucket", _not_known)
        self.client.meta.events.register("response-received.s3", self._after_answer)
        # By this name it comes before botocore's own, which parses the whole body to look for an error in it.
        self.client.meta.events.register_first("before-parse.*.*", take_contents)
        with suppress(AttributeError):  # of another botocore: what is cut off then ends by its read timeout
            endpoint: Any = self.client._endpoint
            schemes = endpoint.http_session._manager.pool_classes_by_scheme
            for scheme, pool in list(schemes.items()):
                schemes[scheme] = type(pool.__name__, (pool,), {"ConnectionCls": _leashed(pool.ConnectionCls)})

    def before_signing(self, operation: str, change: Callable[..., None]) -> None:
        """Let ``change(request, **_)`` see each request of an operation before it is signed."""
        self.client.meta.events.register(f"before-sign.s3.{operation}", change)

    def _before_send(self, request: Any, **_: Any) -> None:
        leash, deadline = bound(), getattr(self._call, "deadline", None)
        if leash is not None:
            leash.check()
        body = request.body
        if hasattr(body, "fault"):
            if body.fault is not None:  # the file, not the network: another try meets it again
                raise body.fault
            body.sent = True
        if deadline is not None and time.monotonic() > deadline:
            raise StoreError(FailureKind.TRANSIENT, f"{self.place}: no answer in time")

    def _after_answer(self, response_dict: Any, parsed_response: Any = None, **_: Any) -> None:
        if response_dict is not None:
            self.silence.answered()
            self.region = named_region(parsed_response or {}) or self.region

    def call(self, operation: str, **parameters: Any) -> Any:
        """Do one request on the bucket; every failure becomes a ``StoreError``."""
        # An answer cut short by the network cannot be parsed, nor can a web page: asking again tells them apart.
        # What carries a body is left to the caller, who alone can begin it anew.
        body = parameters.get("Body")
        chances = 1 if body is not None else UNREADABLE_CHANCES
        while True:
            self._call.deadline = time.monotonic() + LIMITS.call
            try:
                with self.silence.waiting():
                    return getattr(self.client, operation)(Bucket=self.bucket, **parameters)
            except (StoreError, WorkersStopped):
                raise
            except Exception as error:  # also what its parser meets in nonsense: ValueError, KeyError …
                fault = getattr(body, "fault", None)
                if fault is not None:
                    raise fault from error
                chances -= 1
                if not _is_unreadable(error) or chances <= 0:
                    raise self.failure(error, of_version="VersionId" in parameters) from error
                self.pause()

    def ask_again(self, operation: str, **parameters: Any) -> Any:
        """Do a request that may be repeated; a server that answered before is not given up at its first failure."""
        until = time.monotonic() + LIMITS.call
        while True:
            try:
                return self.call(operation, **parameters)
            except StoreError as error:
                lost = error.failure is FailureKind.TRANSIENT and not error.code
                if not lost or not self.silence.has_answered or time.monotonic() > until:
                    raise
            self.pause(PAUSE_SECONDS)

    @staticmethod
    def pause(seconds: float = 0.2) -> None:
        """Wait a moment before what failed is tried again; ends when the leash of the thread is cut."""
        leash = bound()
        if leash is None:
            time.sleep(seconds)
        elif leash.stop.wait(seconds):
            leash.check()

    def failure(self, error: Exception, *, of_version: bool = False) -> StoreError:
        """Return what a boto3 exception means; ``of_version``: one version of an object was asked for."""
        if isinstance(error, botocore.exceptions.ClientError):
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            failure = classify(code)
            if failure is FailureKind.OBJECT and (status >= 500 or status == 429):
                failure = FailureKind.TRANSIENT
            message = str(error.response.get("Error", {}).get("Message") or "").split("\n")[0][:300]
            sentence = explain(code, message, error.operation_name + (" of a version" if of_version else ""))
            moved = named_region(error.response) if failure is FailureKind.STOP or status == 400 else None
            if moved:
                failure = FailureKind.STOP
                sentence = f"the bucket is in the region {moved}; set AWS_REGION={moved}, and endpoint= likewise"
            if self._unsigned and status in (401, 403):
                said = f"; the server says: {message}" if message else ""
                sentence = f"{error.operation_name} without credentials is refused; {self._unsigned_advice()}{said}"
            if sentence:
                return StoreError(failure, f"{self.place}: {sentence}", code)
            advice = "; this is an error of the server, so run again later" if failure is FailureKind.TRANSIENT else ""
            return StoreError(failure, f"{self.place}: {code} {message}".rstrip() + advice, code)
        lasting = (
            botocore.exceptions.NoCredentialsError,
            botocore.exceptions.PartialCredentialsError,
            botocore.exceptions.ProfileNotFound,
            botocore.exceptions.CredentialRetrievalError,
            botocore.exceptions.TokenRetrievalError,
            botocore.exceptions.SSOError,
            botocore.exceptions.ParamValidationError,
            botocore.exceptions.SSLError,
            botocore.exceptions.InvalidRegionError,
            botocore.exceptions.NoRegionError,
            botocore.parsers.ResponseParserError,
        )
        lasts = isinstance(error, lasting) or _is_unreadable(error)
        return StoreError(FailureKind.STOP if lasts else FailureKind.TRANSIENT, self.sentence(error))

    def _unsigned_advice(self) -> str:
        return (
            NO_CREDENTIALS if self.lacks_credentials else "leave --no-sign-request out where the bucket is not public"
        )

    def sentence(self, error: Exception) -> str:
        """Return one sentence on what went wrong before there was an answer, or while it was read."""
        exceptions = botocore.exceptions
        if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
            return NO_CREDENTIALS
        if isinstance(error, exceptions.ProfileNotFound):
            return unreadable(error)
        if isinstance(error, exceptions.SSLError):
            return f"{self.endpoint or 'AWS'} has no trusted certificate; for your own one set AWS_CA_BUNDLE"
        if isinstance(error, exceptions.EndpointConnectionError | exceptions.ConnectTimeoutError):
            return f"{self.endpoint or 'AWS'} cannot be reached; check endpoint= and the network"
        if isinstance(error, exceptions.NoRegionError):
            return "no AWS region is set; set AWS_DEFAULT_REGION"
        if _is_unreadable(error):
            return f"{self.endpoint or 'AWS'} answers, but not like S3 (is it a web page?); check endpoint="
        first = str(error).split("\n")[0]
        return f"{self.place}: {type(error).__name__}: {first[:200]}"


def _configure(target: Target, way: Way, attempts: int) -> Config:
    """Return how the client behaves: what the target says, whatever environment and profile would say."""
    style = way.style or ("path" if target.endpoint else None)
    return Config(
        # The target was decided with them in mind; engines do not know them.
        ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]
        connect_timeout=LIMITS.connect,
        read_timeout=LIMITS.read,
        max_pool_connections=target.workers + 16,
        retries={"mode": "standard", "total_max_attempts": attempts},
        signature_version=UNSIGNED if target.manner.unsigned else None,
        s3={"addressing_style": style} if style else {},  # type: ignore[arg-type]
        # Old and small servers reject checksum trailers they do not know.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Decided once for all clients; without this botocore looks for itself.
        proxies={"http": way.proxy, "https": way.proxy} if way.proxy else {},
    )


def _pay(request: Any, **_: Any) -> None:
    """Say in a request that who asks pays for it (Amazon S3 User Guide, "Requester Pays")."""
    request.headers["x-amz-request-payer"] = "requester"


def _leashed(connection: Any) -> Any:
    """Return a class of connections that know the leash of the thread which uses them."""

    def request(self: Any, *arguments: Any, **named: Any) -> Any:
        leash = bound()
        if leash is not None:
            leash.hold(self)
        elif self.leash is not None:
            self.leash.release(self)
        return connection.request(self, *arguments, **named)

    return type(connection.__name__, (connection,), {"leash": None, "request": request})


def _not_known(**_: Any) -> None:
    """Answer what botocore asks by itself after a redirect that names no region; a server that redirects that question
    too would be asked without end.
    """
    answer: Any = {"Error": {"Code": "301"}, "ResponseMetadata": {"HTTPHeaders": {}}}
    raise botocore.exceptions.ClientError(answer, "HeadBucket")


def named_region(answer: Mapping[str, Any]) -> str | None:
    """Return the bucket's region where an answer says that the request went to another, or was signed for it."""
    error, about = answer.get("Error") or {}, answer.get("ResponseMetadata") or {}
    if error.get("Code") not in _ELSEWHERE and about.get("HTTPStatusCode") not in (301, 307):
        return None
    found = str(about.get("HTTPHeaders", {}).get("x-amz-bucket-region") or error.get("Region") or "")
    return found if _REGION.fullmatch(found) else None


def _is_unreadable(error: Exception) -> bool:
    """Tell whether an answer could not be parsed: as XML, or the numbers and times in it."""
    if isinstance(error, botocore.parsers.ResponseParserError):
        return True
    known = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, OSError, MemoryError, RuntimeError)
    return not isinstance(error, known)


def _parse_moment(value: Any) -> Any:
    """Parse a time of an answer; botocore's own way, which takes any form, is half of the cost of a listing."""
    if isinstance(value, str) and value.endswith("Z"):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass
    return botocore.utils.parse_timestamp(value)
