"""REST catalog with time-outs, by private methods of pyiceberg 0.12.

Its client takes 0.13 s of CPU to import, which a catalog in a file does without.
"""

from typing import Any

from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.rest.auth import AuthManager
from requests import PreparedRequest, Response, Session
from requests.adapters import HTTPAdapter

from rasterloom.storage import s3


class _GivesUp(HTTPAdapter):
    def send(self, request: PreparedRequest, *arguments: Any, **options: Any) -> Response:
        options["timeout"] = options.get("timeout") or (s3.CONNECT_S, s3.REQUEST_S)
        return super().send(request, *arguments, **options)


class TimedRestCatalog(RestCatalog):
    """REST catalog with S3's time-outs.

    pyiceberg's own waits for an answer for ever.
    """

    def _create_session(self) -> Session:
        return _timed(super()._create_session())

    def _create_legacy_oauth2_auth_manager(self, session: Session) -> AuthManager:
        return super()._create_legacy_oauth2_auth_manager(_timed(session))  # asks for a token at once


def _timed(session: Session) -> Session:
    for scheme in ("http://", "https://"):
        session.mount(scheme, _GivesUp())
    return session
