"""FetchFailure: why a pair has no image."""

from rasterloom.schema import ErrorClass
from rasterloom.utils.redact import cut

ERRORS = {
    ErrorClass.BAD_URL: "not a URL",
    ErrorClass.BAD_CAPTION: "no usable caption",
    ErrorClass.BAD_ROW: "a record that is no pair",
    ErrorClass.BLOCKED_SCHEME: "neither http nor https",
    ErrorClass.BLOCKED_ADDRESS: "a private address",
    ErrorClass.OPT_OUT: "on the opt-out list",
    ErrorClass.TAKEN_DOWN: "taken down",
    ErrorClass.ROBOTS: "forbidden by the site",
    ErrorClass.DNS: "host not found",
    ErrorClass.CONNECT: "no connection",
    ErrorClass.TLS: "no trustworthy certificate",
    ErrorClass.TIMEOUT: "took too long",
    ErrorClass.HTTP_4XX: "refused or gone",
    ErrorClass.HTTP_429: "too many requests",
    ErrorClass.HTTP_5XX: "the server failed",
    ErrorClass.BAD_RESPONSE: "an answer that cannot be read",
    ErrorClass.HOST_DOWN: "the host was down",
    ErrorClass.HOST_BUSY: "the host asked for patience",
    ErrorClass.TOO_MANY_REDIRECTS: "too many redirects",
    ErrorClass.TOO_MANY_BYTES: "too many bytes",
    ErrorClass.TOO_MANY_PIXELS: "too many pixels",
    ErrorClass.INCOMPLETE: "cut off on the way",
    ErrorClass.MISSING_FILE: "the file is gone",
    ErrorClass.UNREADABLE_FILE: "the file cannot be read",
    ErrorClass.BLOCKED_PATH: "outside the source's folder",
    ErrorClass.HASH_MISMATCH: "another file than expected",
    ErrorClass.NOT_AN_IMAGE: "not an image",
    ErrorClass.BROKEN_IMAGE: "an image that cannot be decoded",
    ErrorClass.NO_FIELD: "nothing in the field",
    ErrorClass.NO_ANSWER: "no answer",
    ErrorClass.CUT_ANSWER: "an answer cut off at its limit",
    ErrorClass.BAD_ANSWER: "an answer of another form",
    ErrorClass.BUDGET: "the budget was spent",
    ErrorClass.KILLED_WORKER: "it ends its worker",
    ErrorClass.INTERNAL: "an error of ours",
}


def error(name: str | None) -> str:
    """Return the meaning of an error class. An unknown one gives its own name."""
    return ERRORS.get(name or "", name or "unknown")  # type: ignore[call-overload, no-any-return]


class FetchFailure(Exception):
    """A pair cannot become an image.

    Attributes:
        error: the class of what happened, as it stands in ``images.error``.
        detail: what happened, for a person.
        may_pass: a further attempt may succeed.
        retry_after: seconds that the server asked to wait before that attempt, None if it did not say.
    """

    def __init__(
        self, error: ErrorClass, detail: str, *, may_pass: bool = False, retry_after: float | None = None
    ) -> None:
        detail = cut(detail)  # it may quote a server, and is stored and shown
        super().__init__(detail)
        self.error = error
        self.detail = detail
        self.may_pass = may_pass
        self.retry_after = retry_after
