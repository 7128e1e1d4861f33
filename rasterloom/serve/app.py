"""Pages of the server, each from its address."""

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from rasterloom import __version__
from rasterloom.errors import RasterloomError, one_line
from rasterloom.pipelines.inspection.explain import tell
from rasterloom.pipelines.inspection.rule_trial import try_rule
from rasterloom.report.report_page import TEMPLATES, environment
from rasterloom.serve import overview
from rasterloom.serve.filters import KINDS, Filters, find
from rasterloom.serve.guard import REPORT_POLICY
from rasterloom.serve.index import read_place
from rasterloom.serve.rule_counts import count_rule, sliders
from rasterloom.serve.shelf import Shelf
from rasterloom.versions.refs import refs

HERE = Path(__file__).parent
STATIC = {
    "page.css": (TEMPLATES / "page.css", "text/css"),
    "serve.css": (HERE / "static" / "serve.css", "text/css"),
    "serve.js": (HERE / "static" / "serve.js", "text/javascript"),
}

Page = Callable[[Shelf, Request], Response | None]  # None: there is nothing


def application(shelf: Shelf) -> Starlette:
    """Return the application of a corpus. Whoever runs it puts a `Guard` before it."""
    pages = (
        ("/", overview_page),
        ("/images", images_page),
        ("/images/{key}", image_page),
        ("/images/{key}/thumbnail", thumbnail),
        ("/images/{key}/stored/{number:int}", stored),
        ("/rule", rule_page),
        ("/runs", runs_page),
        ("/reports/{fingerprint}", report),
        ("/static/{name}", static),
        ("/{rest:path}", lambda shelf, request: None),
    )
    return Starlette(routes=[Route(path, _answering(shelf, page)) for path, page in pages])


def _answering(shelf: Shelf, page: Page) -> Callable[[Request], Response]:
    """Endpoint of a page. Starlette runs it in a thread; an error is a page, too."""

    def answer(request: Request) -> Response:
        try:
            return page(shelf, request) or _page(shelf, "error.html", 404, error="There is nothing here.")
        except RasterloomError as error:
            return _page(shelf, "error.html", 400, error=str(error))
        except Exception as error:
            logging.getLogger("rasterloom.serve").error("unexpected error", exc_info=error)
            text = f"Unexpected error: {one_line(error, named=True)}. The log file has more."
            return _page(shelf, "error.html", 500, error=text)

    return answer


def overview_page(shelf: Shelf, request: Request) -> Response:
    with shelf.index() as index:
        options = index.options["reason"]
        rows = index.rows
    planned, error = overview.steps(shelf.workflow)
    return _page(
        shelf,
        "overview.html",
        rows=rows,
        reasons=options,
        steps=planned,
        steps_error=error,
        corpora=overview.corpora(shelf.corpus),
        refs=refs(shelf.corpus),
        reports=overview.reports(shelf.corpus),
    )


def images_page(shelf: Shelf, request: Request) -> Response:
    with shelf.index() as index:
        filters = Filters.of(request.query_params, index)
        after = read_place(request.query_params.get("after", ""))
        found = find(index, filters, after)
        return _page(
            shelf,
            "images.html",
            filters=filters,
            bounds={name: (low, high) for name, low, high in filters.bounds},
            found=found,
            after=after,
            index=index,
            kinds=KINDS,
        )


def image_page(shelf: Shelf, request: Request) -> Response | None:
    key = request.path_params["key"]
    with shelf.index() as index:
        entry = index.find(key)
        if entry is None:
            return None
        more = index.images.more(entry["_place"])
        is_embedded = index.embedding is not None
    chapters = tell(shelf.workflow, key)
    return _page(shelf, "image.html", entry=entry, more=more, chapters=chapters, is_embedded=is_embedded)


def thumbnail(shelf: Shelf, request: Request) -> Response | None:
    with shelf.index() as index:
        place = index.place_of(request.path_params["key"], request.query_params.get("at", ""))
        data = None if place is None else index.images.thumbnail(place)
    return Response(data, media_type="image/webp") if data else None


def stored(shelf: Shelf, request: Request) -> Response | None:
    with shelf.index() as index:
        place = index.place_of(request.path_params["key"])
        found = None if place is None else index.images.stored(place, request.path_params["number"])
    return Response(found[0], media_type=found[1]) if found else None


def rule_page(shelf: Shelf, request: Request) -> Response:
    now = shelf.recipe.keep.rule
    rule = request.query_params.get("rule", "").strip() or now
    with shelf.index() as index:
        counts = [count_rule(index, one) for one in (now, rule)]
        parts = sliders(index, rule)
    tried = None
    if "duplicates" in request.query_params:
        with shelf.one_trial:
            tried = try_rule(shelf.recipe, rule)
    return _page(shelf, "rule.html", rule=rule, now=counts[0], counts=counts[1], sliders=parts, tried=tried)


def runs_page(shelf: Shelf, request: Request) -> Response:
    return _page(shelf, "runs.html", runs=overview.runs(shelf.corpus))


def report(shelf: Shelf, request: Request) -> Response | None:
    page = overview.report(shelf.corpus, request.path_params["fingerprint"])
    return HTMLResponse(page, headers={"Content-Security-Policy": REPORT_POLICY}) if page else None


def static(shelf: Shelf, request: Request) -> Response | None:
    if request.path_params["name"] not in STATIC:
        return None
    file, media = STATIC[request.path_params["name"]]
    return Response(file.read_bytes(), media_type=media)


@cache
def _environment() -> Environment:
    return environment("rasterloom.serve")


def _page(shelf: Shelf, template: str, status: int = 200, **shown: Any) -> Response:
    corpus = shelf.corpus
    name = f"{corpus.name}@{corpus.ref}"
    text = _environment().get_template(template).render(corpus=name, version=__version__, **shown)
    return HTMLResponse(text, status)
