"""Pages of a small corpus, served as `rasterloom serve` does."""

import http.client
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import urlsplit

import pytest
from made_workspace import WITH_EMBEDDINGS, Item, Workspace, made_items

from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.sources import Source
from rasterloom.serve.index import Index, opened
from rasterloom.serve.server import serving


@pytest.fixture(scope="session")
def items() -> list[Item]:
    return made_items()


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, items: list[Item]) -> Workspace:
    """A corpus with embeddings, not to be changed."""
    made = Workspace(tmp_path_factory.mktemp("served"), score_schema=WITH_EMBEDDINGS)
    made.fill(items)
    return made


@pytest.fixture(scope="session")
def index(workspace: Workspace) -> Iterator[Index]:
    with opened(workspace.corpus, workspace.inputs().snapshots) as found:
        yield found


@dataclass
class Answer:
    status: int
    headers: Message
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Client:
    """Asks a server as a browser does that has its cookie, unless told otherwise."""

    url: str
    cookie: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    @property
    def token(self) -> str:
        return urlsplit(self.url).query.removeprefix("token=")

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Send a request as it is: a path is not tidied up. An empty header is left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in {"Cookie": self.cookie, **headers}.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders()
        got = connection.getresponse()
        found = Answer(got.status, got.headers, got.read())
        connection.close()
        return found

    def come_in(self) -> "Client":
        """Take the cookie that the address gives."""
        answer = self.ask(f"/?token={self.token}")
        self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        return self


def recipe_of(workspace: Workspace) -> Recipe:
    return Recipe(corpus="scenes", workspace=str(workspace.folder), sources=(Source(path="pairs.parquet"),))


@pytest.fixture(scope="module")  # no longer: others set the clock
def client(workspace: Workspace) -> Iterator[Client]:
    with serving(recipe_of(workspace)) as served:
        thread = threading.Thread(target=served.run)
        thread.start()
        try:
            yield Client(served.url).come_in()
        finally:
            served.server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()
