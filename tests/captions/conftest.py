import hashlib
import io
import json

import pyarrow as pa
import pytest
from caption_endpoint import serving
from PIL import Image

from rasterloom.captions.endpoint_pool import close_endpoints
from rasterloom.recipe.captions import Captioner
from rasterloom.sources.fetch import backoff

COLOURS = ("red", "green", "blue")


@pytest.fixture
def endpoint():
    """An endpoint that misbehaves on demand, and its URL."""
    with serving() as served:
        yield served
        close_endpoints()


@pytest.fixture
def captioner(endpoint):
    """A function that gives a captioner at the endpoint; settings are of its section."""

    def made(prompt="What is to be seen here, in few words?", answers=(), name="vlm", **settings):
        section = {"url": endpoint[1], "model": "eye-1", **settings}
        return Captioner.model_validate(
            {"name": name, "endpoint": section, "prompt": prompt, "answers": answers}
        )

    return made


@pytest.fixture
def quick_retries(monkeypatch):
    """Pauses before retries that are short, but for those that a server asks for."""
    for error in list(backoff.FIRST_WAIT_S):
        monkeypatch.setitem(backoff.FIRST_WAIT_S, error, 0.01)


def png(colour, size=(32, 24)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def images():
    """A function that gives rows of images, red, green and blue in turn, with their pairs."""

    def made(count=3, caption="found on the web", meta=None):
        rows = []
        for number in range(count):
            data = png(COLOURS[number % 3])
            rows.append(
                {
                    "key": f"{number:032x}",
                    "shard": 7,
                    "url": f"http://example.org/{number}.png",
                    "caption": caption,
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "format": "png",
                    "width": 32,
                    "height": 24,
                    "image": data,
                    "source": "list",
                    "meta": json.dumps(meta or {"title": f"number {number}"}),
                }
            )
        table = pa.Table.from_pylist(rows)
        at = table.column_names.index("shard")
        return table.set_column(at, "shard", table["shard"].cast(pa.int32()))

    return made
