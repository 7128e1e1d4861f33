"""A REST catalog that gives up on an answer that does not come: pyiceberg's own waits for it for ever."""

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
    """pyiceberg's REST catalog, whose every request has the time-outs of S3's."""

    def _create_session(self) -> Session:
        return _timed(super()._create_session())

    def _create_legacy_oauth2_auth_manager(self, session: Session) -> AuthManager:
        return super()._create_legacy_oauth2_auth_manager(_timed(session))  # asks for a token at once


def _timed(session: Session) -> Session:
    for scheme in ("http://", "https://"):
        session.mount(scheme, _GivesUp())
    return session
