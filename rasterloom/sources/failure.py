"""The one exception that says why a pair has no image."""

from rasterloom.masking import cut
from rasterloom.schema import ErrorClass


class Failure(Exception):
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
