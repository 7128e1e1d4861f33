"""Client of an OpenAI-compatible endpoint, with a class of error per outcome."""

import asyncio
import base64
import io
import json
import logging
import os
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import aiohttp
from PIL import Image
from yarl import URL

from rasterloom.captions.answers import Answer, Buffer, Request, Unanswered, answers_schema
from rasterloom.captions.spending import Spending
from rasterloom.recipe.captions import Captioner, Endpoint
from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.fetch.addresses import BlockedAddress, Gate, literal_address
from rasterloom.sources.fetch.aiohttp_compat import connector
from rasterloom.sources.fetch.backoff import wait_before_retry
from rasterloom.sources.fetch.http_errors import check_status, network_failure, read_body
from rasterloom.utils.redact import MASK

logger = logging.getLogger(__name__)
ERROR_BYTES = 2000  # of the body of an error that are read
CHARACTERS_A_TOKEN = 4  # of a server that does not say how many tokens it counted
PIXELS_A_TOKEN = 750
JPEG_QUALITY = 90
_PICTURE = "<picture>"  # in a body, before it has the image; it is the first text there
# Failures of the server, not of one image: so many in a row, and nothing more is asked. Not 429, which all
# requests under way may get at once of a server that is well.
OF_THE_SERVER = frozenset(
    {
        ErrorClass.BLOCKED_ADDRESS,
        ErrorClass.DNS,
        ErrorClass.CONNECT,
        ErrorClass.TLS,
        ErrorClass.TIMEOUT,
        ErrorClass.HTTP_4XX,
        ErrorClass.HTTP_5XX,
        ErrorClass.BAD_RESPONSE,
        ErrorClass.INCOMPLETE,
    }
)


@dataclass
class _Turn:
    """Times that all requests to the endpoint keep."""

    next_turn: float = 0.0
    not_before: float = 0.0  # asked for by Retry-After
    failed_in_a_row: int = 0
    last_failure: str = ""


class EndpointClient:
    """Asks one endpoint. Use it as a context manager, in one event loop."""

    def __init__(self, captioner: Captioner) -> None:
        assert captioner.endpoint
        self.config: Endpoint = captioner.endpoint
        self.spending = Spending(self.config)
        self._names = captioner.answers
        self._url = URL(f"{self.config.url}/chat/completions")
        self._turn = _Turn()

    async def __aenter__(self) -> Self:
        self._key = _secret(self.config.key)
        self._slots = asyncio.Semaphore(self.config.concurrency)
        self._gate = Gate([_host(self._url)] if self.config.private or _is_loopback(self._url) else ())
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._session = aiohttp.ClientSession(
            connector=connector(
                limit=0, resolver=self._gate, socket_factory=self._gate.open_socket, ssl=_ssl_context()
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={**headers, "Content-Type": "application/json", "Accept-Encoding": "identity"},
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._encoder.shutdown(wait=False, cancel_futures=True)
        await self._session.close()
        await self._gate.close()

    @property
    def is_down(self) -> bool:
        """True after too many failures in a row."""
        return self._turn.failed_in_a_row >= self.config.down_after

    @property
    def why_down(self) -> str:
        """The last failure, for a message."""
        turn = self._turn
        return f"the last {turn.failed_in_a_row} requests failed, the last one so: {turn.last_failure}"

    async def ask(self, request: Request) -> Answer | Unanswered:
        """Ask about an image, with retries."""
        async with self._slots:
            if self.is_down:
                return Unanswered(ErrorClass.HOST_DOWN, f"not asked: {self.why_down}")
            if not self.spending.has_room():
                detail = f"not asked: the budget of {self.config.model} is spent ({self.spending.text()})"
                return Unanswered(ErrorClass.BUDGET, detail)
            self.spending.begin()
            answer = None
            try:
                found = await self._with_retries(request)
                answer = found if isinstance(found, Answer) else None
            finally:
                self.spending.end(answer)
        return found

    async def _with_retries(self, request: Request) -> Answer | Unanswered:
        loop = asyncio.get_running_loop()
        try:
            body = await loop.run_in_executor(self._encoder, self._body, request)
        except Exception as error:  # Pillow raises many kinds on broken files
            return Unanswered(ErrorClass.BROKEN_IMAGE, f"{type(error).__name__}: {error}")
        attempts = 0
        while True:
            attempts += 1
            try:
                answer = await self._attempt(request, body, attempts)
            except FetchFailure as failure:
                wait = wait_before_retry(attempts, failure)
                self._learn(failure)
                over = attempts > self.config.retries or wait > self.config.patience_s
                if self.is_down and failure.error in OF_THE_SERVER:
                    return Unanswered(ErrorClass.HOST_DOWN, self.why_down, attempts)
                if over or not failure.may_pass:
                    return Unanswered(failure.error, self._without_key(failure.detail), attempts)
                if failure.error is ErrorClass.HTTP_429 or failure.retry_after:  # it is meant for all
                    self._turn.not_before = max(self._turn.not_before, time.monotonic() + wait)
                await asyncio.sleep(wait)
            else:
                self._turn.failed_in_a_row = 0
                return answer

    def _learn(self, failure: FetchFailure) -> None:
        if failure.error in OF_THE_SERVER:
            self._turn.failed_in_a_row += 1
            self._turn.last_failure = self._without_key(f"{failure.error}, {failure.detail}")

    def _without_key(self, text: str) -> str:
        """Remove the key from a server's text, which may echo it."""
        return text.replace(self._key, MASK) if self._key else text

    def _body(self, request: Request) -> bytes:
        """JSON of a request. The image is put in at the end: of its digits none needs an escape."""
        content = [
            {"type": "image_url", "image_url": {"url": _PICTURE}},
            {"type": "text", "text": request.prompt},
        ]
        form = {"name": "captions", "strict": True, "schema": answers_schema(self._names)}
        constrained = self.config.constrain and self._names
        fields = {
            "messages": [{"role": "user", "content": content}],
            "model": self.config.model,
            "max_tokens": self.config.max_tokens,
            "temperature": self.config.temperature,
            **({"response_format": {"type": "json_schema", "json_schema": form}} if constrained else {}),
            **self.config.options,
        }
        head, mark, tail = json.dumps(fields, ensure_ascii=False).encode().partition(_PICTURE.encode())
        assert mark
        return b"".join((head, data_url(request, self.config.max_side), tail))

    async def _attempt(self, request: Request, body: bytes, attempts: int) -> Answer:
        await self._wait_for_turn()
        try:
            self._gate.check_url(self._url)
            async with (
                asyncio.timeout(self.config.timeout_s),
                self._session.post(self._url, data=body, allow_redirects=False) as response,
            ):
                if not 200 <= response.status < 300:
                    await self._refuse(response)
                data = await read_body(response, self.config.max_bytes)
        except BlockedAddress as error:
            raise FetchFailure(ErrorClass.BLOCKED_ADDRESS, f"{error}; private: true allows it") from None
        except TimeoutError:
            detail = f"no complete answer within timeout_s = {self.config.timeout_s:g}"
            raise FetchFailure(ErrorClass.TIMEOUT, detail, may_pass=True) from None
        except (aiohttp.ClientError, OSError) as error:
            failure = network_failure(error)
            if failure.error is ErrorClass.BLOCKED_ADDRESS:
                failure = FetchFailure(failure.error, f"{failure.detail}; private: true allows it")
            raise failure from None
        return _answer(data, request, attempts)

    async def _refuse(self, response: aiohttp.ClientResponse) -> None:
        """Raise the class of an unsuccessful answer, with its words."""
        if 300 <= response.status < 400:  # a key is sent to the place that the recipe names, and no other
            where = response.headers.get("Location", "nowhere")
            raise FetchFailure(
                ErrorClass.HTTP_4XX, f"answered {response.status}: redirects to {where}; name that"
            )
        try:
            check_status(response)
        except FetchFailure as failure:
            said = (await read_body(response, ERROR_BYTES, cut=True)).decode(errors="replace")
            raise FetchFailure(
                failure.error,
                f"{failure.detail}: {self._without_key(said)}",
                may_pass=failure.may_pass or response.status == 409,
                retry_after=failure.retry_after,
            ) from None

    async def _wait_for_turn(self) -> None:
        """Wait until the rate and the server's Retry-After allow a request."""
        turn = self._turn
        interval = 60 / self.config.per_minute if self.config.per_minute else 0.0
        while True:
            now = time.monotonic()
            at = max(turn.next_turn, turn.not_before)
            if at <= now:
                turn.next_turn = now + interval
                return
            await asyncio.sleep(at - now)


def _answer(data: bytes, request: Request, attempts: int) -> Answer:
    """Read a chat completion. Raises FetchFailure where it is none, or a filter withheld it."""
    try:
        found = json.loads(data)
        choice = found["choices"][0]
        content = choice["message"].get("content")
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content)
        text = content or ""
        assert isinstance(text, str)
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError):
        shown = data[:200].decode(errors="replace")
        raise FetchFailure(ErrorClass.BAD_RESPONSE, f"no chat completion: {shown}", may_pass=True) from None
    reason = choice.get("finish_reason")
    said = choice["message"].get("refusal")
    if reason == "content_filter" or (said and not text):
        raise FetchFailure(ErrorClass.NO_ANSWER, f"the server's filter withheld it: {said or reason}")
    usage = found.get("usage") if isinstance(found.get("usage"), dict) else {}
    pixels = request.width * request.height
    guess_in = len(request.prompt) // CHARACTERS_A_TOKEN + pixels // PIXELS_A_TOKEN
    return Answer(
        text,
        _count(usage.get("prompt_tokens"), guess_in),
        _count(usage.get("completion_tokens"), len(text) // CHARACTERS_A_TOKEN),
        is_cut=reason == "length",
        attempts=attempts,
    )


def _count(value: Any, guess: int) -> int:
    return value if isinstance(value, int) and value >= 0 else guess


def data_url(request: Request, max_side: int | None) -> bytes:
    """Image of a request as a data URL, scaled down."""
    data, kind = request.image, request.format
    if max_side is not None and max(request.width, request.height) > max_side:
        buffer = io.BytesIO()
        opened_image(request.image, max_side).save(buffer, "JPEG", quality=JPEG_QUALITY)
        data, kind = buffer.getvalue(), "jpeg"
    return b"".join((f"data:image/{kind};base64,".encode(), base64.b64encode(data)))


def opened_image(data: Buffer, max_side: int | None) -> Image.Image:
    """Image in RGB, transparency on white, scaled down where it is larger."""
    with Image.open(io.BytesIO(data)) as image:
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            found = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        else:
            found = image.convert("RGB")
    if max_side is not None:
        found.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return found


def _secret(name: str) -> str:
    """Value of the environment variable that holds a key. ValueError if it is not set."""
    value = os.environ.get(name, "").strip() if name else ""
    if name and not value:
        raise ValueError(f"no key in the environment variable {name}, which the captioner names")
    return value


def _host(url: URL) -> str:
    return f"{url.host}:{url.port}"


def _is_loopback(url: URL) -> bool:
    """True of an address that names this machine itself."""
    address = literal_address(url.host or "")
    return url.host == "localhost" or (address or "").startswith("127.") or address == "::1"


@cache
def _ssl_context() -> ssl.SSLContext:
    return ssl.create_default_context()
