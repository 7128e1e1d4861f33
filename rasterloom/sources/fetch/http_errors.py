"""Classes of error of HTTP responses and network failures."""

import re
import socket
import time
from collections.abc import Awaitable, Callable
from datetime import UTC
from email.utils import parsedate_to_datetime

import aiohttp

from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.fetch.addresses import BlockedAddress
from rasterloom.sources.fetch.codings import decoded
from rasterloom.utils.redact import cut

REASON = 100  # characters of a status line's words that are kept
LONGEST_WAIT_S = 24 * 3600.0
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)
PASSING_STATUS = (408, 425)  # 4xx that may pass, beside 429


def retry_after(value: str | None) -> float | None:
    """Read a Retry-After header, seconds or a date. None if it is neither.

    A wait of more than a day counts as one of a day.
    """
    text = (value or "").strip()
    try:
        if _SECONDS.fullmatch(text):
            wait = float(text)
        else:
            moment = parsedate_to_datetime(text)
            zone = moment.tzinfo or UTC
            wait = moment.replace(tzinfo=zone).timestamp() - time.time()
    except (ValueError, TypeError, LookupError, OverflowError):
        return None
    return min(max(0.0, wait), LONGEST_WAIT_S)


def check_status(response: aiohttp.ClientResponse) -> None:
    """Return if the answer is a success.

    Raises:
        FetchFailure: HTTP_429, HTTP_5XX, or HTTP_4XX for every other status without a body of its own.
    """
    status = response.status
    if 200 <= status < 300:
        return
    detail = f"answered {status} {cut(response.reason or '', REASON)}".rstrip()
    wait = retry_after(response.headers.get("Retry-After"))
    if wait is not None:
        detail += f", asked to wait {wait:.0f} s"
    if status == 429:
        raise FetchFailure(ErrorClass.HTTP_429, detail, may_pass=True, retry_after=wait)
    if status >= 500:
        raise FetchFailure(ErrorClass.HTTP_5XX, detail, may_pass=True, retry_after=wait)
    raise FetchFailure(ErrorClass.HTTP_4XX, detail, may_pass=status in PASSING_STATUS)


async def read_body(
    response: aiohttp.ClientResponse,
    limit: int,
    *,
    cut: bool = False,
    small: int = 0,
    more: Callable[[], Awaitable[None]] | None = None,
) -> bytes:
    """Read a body without its content codings.

    It may have ``limit`` bytes, as sent and as decoded. Of a longer one only so many are read if ``cut``.
    ``more`` is awaited before more than about ``small`` bytes are held.

    Raises:
        FetchFailure: TOO_MANY_BYTES, INCOMPLETE or BAD_RESPONSE.
    """
    announced = response.content_length or 0
    if announced > limit and not cut:
        raise FetchFailure(ErrorClass.TOO_MANY_BYTES, f"announces {announced} bytes, more than {limit}")
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                if cut:
                    break
                raise FetchFailure(ErrorClass.TOO_MANY_BYTES, f"sent more than {limit} bytes")
            if more and size > small:
                await more()
                more = None
    except (aiohttp.ClientError, ConnectionError):
        of = f" of {announced}" if announced else ""
        detail = f"the connection broke off after {size}{of} bytes"
        raise FetchFailure(ErrorClass.INCOMPLETE, detail, may_pass=True) from None
    body = b"".join(chunks)
    codings = ",".join(response.headers.getall("Content-Encoding", ()))
    return decoded(body, codings, limit, cut=cut) if codings else body[:limit]


def network_failure(error: aiohttp.ClientError | OSError) -> FetchFailure:
    """Return the class of what went wrong before an answer's body."""
    cause = getattr(error, "os_error", error)
    if isinstance(cause, BlockedAddress):
        return FetchFailure(ErrorClass.BLOCKED_ADDRESS, str(cause))
    if isinstance(error, aiohttp.InvalidURL):
        return FetchFailure(ErrorClass.BAD_URL, str(error))
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        passing = getattr(cause, "errno", None) == socket.EAI_AGAIN
        return FetchFailure(ErrorClass.DNS, f"the name does not resolve: {cause}", may_pass=passing)
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return FetchFailure(ErrorClass.TLS, _tls_detail(error, cause))
    if isinstance(error, aiohttp.ClientResponseError):
        said = " ".join(error.message.split()) or "it is no HTTP"
        return FetchFailure(ErrorClass.BAD_RESPONSE, f"the answer cannot be read: {said}")
    return FetchFailure(ErrorClass.CONNECT, str(error) or type(error).__name__, may_pass=True)


def _tls_detail(error: Exception, cause: object) -> str:
    """Explain a certificate's fault in OpenSSL's words, without codes."""
    certificate = getattr(error, "certificate_error", cause)
    said = getattr(certificate, "verify_message", None) or getattr(certificate, "reason", None)
    return f"no trustworthy TLS: {said or error}"
