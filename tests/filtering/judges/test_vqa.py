"""The judge that asks, against a real endpoint on loopback."""

import asyncio
import base64
import io
import math
import threading

import numpy as np
import pytest
from aiohttp import web
from PIL import Image

from rasterloom.filtering.judges import vqa
from rasterloom.filtering.judges.base import Question, SuitePrompt
from rasterloom.filtering.judges.vqa import VqaJudge, answer_probability, plain

RED, BLUE = (np.full((8, 8, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))


class Endpoint:
    """A model that sees one colour, says it, and is sure of it to 0.75."""

    def __init__(self):
        self.asked, self.headers, self.busy, self.has_logprobs, self.answer = [], [], 0, True, None

    async def complete(self, request):
        body = await request.json()
        self.headers.append(request.headers.get("Authorization"))
        if self.busy:
            self.busy -= 1
            return web.Response(status=503, text="busy")
        if body.get("logprobs") and not self.has_logprobs:
            return web.json_response({"error": "no logprobs here"}, status=400)
        self.asked.append(body)
        if self.answer is not None:
            return web.json_response(self.answer)
        picture, words = body["messages"][0]["content"]
        data = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,"))
        with Image.open(io.BytesIO(data)) as image:
            is_red = image.getpixel((0, 0)) == (255, 0, 0)
        said = ("Yes" if is_red else "No") if "red" in words["text"] else "2"
        other = {"Yes": "No", "No": "Yes", "2": "three"}[said]
        choice = {"message": {"role": "assistant", "content": said}}
        if body.get("logprobs"):
            top = [
                {"token": said, "logprob": math.log(0.5)},
                {"token": f" {said.lower()}", "logprob": math.log(0.25)},
            ]
            top.append({"token": other, "logprob": math.log(0.125)})
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        return web.json_response({"choices": [choice]})


@pytest.fixture
def endpoint():
    """An endpoint and its URL, served in a thread while a test runs."""
    model, loop = Endpoint(), asyncio.new_event_loop()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", model.complete)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield model, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


COWS = SuitePrompt(
    "cows",
    "two red cows",
    questions=(
        Question("Are they red?", "Yes", "attribute"),
        Question("How many cows?", "two", "count", (0,)),
    ),
)


def test_each_question_is_scored_by_the_probability_of_its_answer(endpoint):
    model, url = endpoint
    red, blue = VqaJudge(url, "a-model")([RED, BLUE], [COWS, COWS])
    assert [(mark.skill, pytest.approx(mark.score)) for mark in red.marks] == [
        ("attribute", 0.75),
        ("count", 0.75),
    ]
    assert red.totals == pytest.approx({"Soft-TIFA AM": 0.75, "Soft-TIFA GM": 0.75})
    # The blue one's cows are not red, so that the count, which needs that, is not asked for.
    assert [mark.score for mark in blue.marks] == pytest.approx([0.125, 0])
    assert blue.totals == pytest.approx({"Soft-TIFA AM": 0.0625, "Soft-TIFA GM": 0})
    body = model.asked[0]
    assert (body["model"], body["temperature"], body["logprobs"]) == ("a-model", 0, True)
    assert body["messages"][0]["content"][1]["text"].endswith("Answer in one word.")
    assert model.headers[0] is None


def test_a_prompt_without_questions_is_asked_as_a_whole(endpoint):
    model, url = endpoint
    red, blue = VqaJudge(url, "m")([RED, BLUE], [SuitePrompt("a", "all is red")] * 2)
    assert (red.marks, red.totals) == ((), {"VQAScore": pytest.approx(0.75)})
    assert blue.totals == {"VQAScore": pytest.approx(0.125)}
    assert 'show "all is red"? Answer yes or no.' in model.asked[0]["messages"][0]["content"][1]["text"]


def test_an_endpoint_without_log_probabilities_is_taken_at_its_word(endpoint):
    model, url = endpoint
    model.has_logprobs = False
    red, blue = VqaJudge(url, "m")([RED, BLUE], [COWS, COWS])
    assert (red.totals["Soft-TIFA AM"], blue.totals["Soft-TIFA AM"]) == (1, 0)


def test_a_busy_endpoint_is_asked_again_and_a_refusal_is_reported(endpoint, monkeypatch):
    model, url = endpoint
    monkeypatch.setattr(vqa, "PAUSE_S", 0.01)
    model.busy = 3
    (red,) = VqaJudge(url, "m", at_once=1)([RED], [COWS])
    assert red.totals["Soft-TIFA AM"] == pytest.approx(0.75)
    model.busy = 99
    with pytest.raises(ValueError, match=r"no answer from http://127.* HTTP 503: busy"):
        VqaJudge(url, "m")([RED], [COWS])
    with pytest.raises(ValueError, match=r"no answer from .*HTTP 404"):
        VqaJudge(f"{url}/elsewhere", "m")([RED], [COWS])
    model.busy, model.answer = 0, {"answer": "yes"}
    with pytest.raises(ValueError, match="answers in no form of chat completions"):
        VqaJudge(url, "m")([RED], [COWS])


def test_nobody_there_is_reported(free_port, monkeypatch):
    monkeypatch.setattr(vqa, "PAUSE_S", 0.01)
    with pytest.raises(ValueError, match=r"no answer from .*(Connect|Cannot connect)"):
        VqaJudge(f"http://127.0.0.1:{free_port()}/v1", "m")([RED], [COWS])


def test_the_key_comes_from_the_environment_and_nowhere_else(endpoint, monkeypatch):
    model, url = endpoint
    judge = VqaJudge(url, "m", key="A_KEY")
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(ValueError, match="no key in the environment variable A_KEY"):
        judge([RED], [COWS])
    monkeypatch.setenv("A_KEY", "s3cret")
    judge([RED], [COWS])
    assert model.headers[-1] == "Bearer s3cret"
    assert "s3cret" not in repr(vars(judge))


def test_what_is_no_url_is_refused():
    with pytest.raises(ValueError, match="takes a URL as"):
        VqaJudge("localhost:8000", "m")


@pytest.mark.parametrize(
    ("said", "asked"), [("Four.", "four"), ("4", "four"), (" YES\n", "yes"), ("ice-cream", "ice cream")]
)
def test_answers_are_compared_by_their_words(said, asked):
    assert plain(said) == plain(asked)


def test_an_answer_of_several_tokens_has_the_probability_of_all():
    tokens = [{"token": "seven", "logprob": math.log(0.5)}, {"token": "teen", "logprob": math.log(0.5)}]
    choice = {"message": {"content": "seventeen"}, "logprobs": {"content": tokens}}
    assert answer_probability(choice, "seventeen") == pytest.approx(0.25)
    assert answer_probability(choice, "eleven") == 0
