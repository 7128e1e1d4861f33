"""Private parts of pyiceberg 0.12 that Rasterloom relies on."""

from typing import Any

import pyarrow as pa
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.rest.auth import AuthManager
from pyiceberg.io.pyarrow import _pyarrow_to_schema_without_ids
from pyiceberg.schema import Schema, assign_fresh_schema_ids
from requests import PreparedRequest, Response, Session
from requests.adapters import HTTPAdapter

from rasterloom.storage import s3

HOLDS_FOR = "0.12"


def iceberg_schema(schema: pa.Schema) -> Schema:
    """Return a pyarrow schema as Iceberg's, with a new table's ids."""
    return assign_fresh_schema_ids(_pyarrow_to_schema_without_ids(schema))


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
