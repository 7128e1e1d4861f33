"""The client of endpoints, against one that does all that servers were seen to do."""

import asyncio
import io
import time

import pytest
from aiohttp import web
from caption_endpoint import image_of, prompt_of, serving
from PIL import Image

from rasterloom.captions.answers import Answer, Request
from rasterloom.captions.endpoint import EndpointClient, data_url
from rasterloom.schema import ErrorClass


def request(prompt="What is this?", size=(32, 24), key="k"):
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    return Request(key, buffer.getvalue(), "png", *size, prompt, "d")


def asked(captioner, requests):
    async def ask_all():
        async with EndpointClient(captioner) as client:
            return await asyncio.gather(*map(client.ask, requests)), client

    return asyncio.run(ask_all())


def test_an_image_and_its_prompt_are_sent_and_the_answer_is_counted(endpoint, captioner):
    (answer,), _ = asked(captioner(options={"top_p": 0.5}), [request()])
    assert answer == Answer("a wide scene in red", 100, 10)
    body = endpoint[0].bodies[0]
    assert prompt_of(body) == "What is this?"
    assert image_of(body).size == (32, 24)
    assert (body["model"], body["max_tokens"], body["temperature"], body["top_p"]) == ("eye-1", 512, 0, 0.5)
    assert "response_format" not in body and "Authorization" not in endpoint[0].headers[0]


def test_large_images_are_scaled_down(endpoint, captioner):
    asked(captioner(max_side=64), [request(size=(200, 100))])
    assert image_of(endpoint[0].bodies[0]).size == (64, 32)
    assert data_url(request(), 1024).startswith(b"data:image/png;base64,")


def test_answers_can_be_constrained(endpoint, captioner):
    asked(captioner(answers=["short", "tags"], constrain=True), [request()])
    schema = endpoint[0].bodies[0]["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["short", "tags"] and schema["additionalProperties"] is False


def test_so_many_are_asked_at_once(endpoint, captioner):
    endpoint[0].seconds = 0.05
    asked(captioner(concurrency=3), [request() for _ in range(12)])
    assert endpoint[0].most_at_once == 3


def test_a_rate_is_kept(endpoint, captioner):
    asked(captioner(per_minute=1200, concurrency=8), [request() for _ in range(6)])
    times = sorted(endpoint[0].times)
    assert times[-1] - times[0] >= 5 * 0.05 - 0.02  # what arrives may have been delayed, the first too


def test_retry_after_is_kept_by_all_requests(endpoint, captioner, quick_retries):
    async def once(number, body):
        if number == 1:
            return web.Response(status=429, headers={"Retry-After": "1"})
        await asyncio.sleep(0.3 if number == 2 else 0)  # until the first has its answer
        return None

    endpoint[0].misbehave = once
    answers, _ = asked(captioner(concurrency=2), [request() for _ in range(3)])
    assert [answer.text for answer in answers] == ["a wide scene in red"] * 3
    assert sorted(answer.attempts for answer in answers) == [1, 1, 2]
    assert endpoint[0].times[2] - endpoint[0].times[0] >= 0.99, "the third had not asked yet, and waits, too"


def test_who_asks_for_more_patience_than_there_is_fails_at_once(endpoint, captioner):
    endpoint[0].misbehave = lambda number, body: web.Response(status=429, headers={"Retry-After": "3600"})
    started = time.monotonic()
    (answer,), _ = asked(captioner(patience_s=5), [request()])
    assert (answer.error, answer.attempts) == (ErrorClass.HTTP_429, 1)
    assert "3600 s" in answer.detail
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("misbehave", "error", "tries"),
    [
        (lambda n, b: web.Response(status=500, text="boom"), ErrorClass.HTTP_5XX, 3),
        (lambda n, b: web.Response(status=400, text="no images here"), ErrorClass.HTTP_4XX, 1),
        (lambda n, b: web.Response(status=401, text="bad key"), ErrorClass.HTTP_4XX, 1),
        (
            lambda n, b: web.Response(status=307, headers={"Location": "http://169.254.169.254/"}),
            ErrorClass.HTTP_4XX,
            1,
        ),
        (
            lambda n, b: web.Response(text='{"choices": [{"message": {"content": "a r'),
            ErrorClass.BAD_RESPONSE,
            3,
        ),
        (
            lambda n, b: web.json_response({"object": "error", "message": "overloaded"}),
            ErrorClass.BAD_RESPONSE,
            3,
        ),
        (lambda n, b: web.json_response({"choices": []}), ErrorClass.BAD_RESPONSE, 3),
        (lambda n, b: web.json_response([1]), ErrorClass.BAD_RESPONSE, 3),
        (lambda n, b: web.Response(text="[" * 100_000), ErrorClass.BAD_RESPONSE, 3),
        (lambda n, b: web.Response(body=b"x" * 10_000_000), ErrorClass.TOO_MANY_BYTES, 1),
        (lambda n, b: asyncio.sleep(30), ErrorClass.TIMEOUT, 3),
    ],
    ids=[
        "500",
        "400",
        "401",
        "redirect",
        "cut JSON",
        "an error with 200",
        "no choices",
        "a list",
        "deep",
        "10 MB",
        "slow",
    ],
)
def test_each_misbehaviour_has_its_class(endpoint, captioner, quick_retries, misbehave, error, tries):
    endpoint[0].misbehave = misbehave
    (answer,), _ = asked(captioner(retries=2, timeout_s=1), [request()])
    assert (answer.error, answer.attempts) == (error, tries)
    assert len(endpoint[0].bodies) == tries
    assert len(answer.detail) <= 500


def test_what_passes_is_asked_again(endpoint, captioner, quick_retries):
    endpoint[0].misbehave = lambda number, body: web.Response(status=503) if number < 3 else None
    (answer,), _ = asked(captioner(), [request()])
    assert (answer.text, answer.attempts) == ("a wide scene in red", 3)


def test_a_stream_without_an_end_is_not_read_to_its_end(endpoint, captioner):
    sent = []

    async def endless(request):
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for _ in range(1000):
                await response.write(b" " * 65536)
                sent.append(65536)
        except ConnectionError:
            pass
        return response

    with serving(_Served(endless)) as (_, url):
        (answer,), _ = asked(captioner(url=url, max_bytes=1_000_000), [request()])
    assert answer.error is ErrorClass.TOO_MANY_BYTES
    assert sum(sent) < 20_000_000


class _Served:
    def __init__(self, complete):
        self.complete = complete


def test_answers_that_a_filter_withheld_or_a_limit_cut_are_told_apart(endpoint, captioner):
    model, _ = endpoint
    model.finish = "content_filter"
    (withheld,), _ = asked(captioner(), [request()])
    assert withheld.error is ErrorClass.NO_ANSWER
    model.finish = "length"
    (cut,), _ = asked(captioner(), [request()])
    assert cut.is_cut
    model.finish = "stop"
    model.misbehave = lambda number, body: model.completion(None, refusal="I will not")
    (refused,), _ = asked(captioner(), [request()])
    assert (refused.error, "I will not" in refused.detail) == (ErrorClass.NO_ANSWER, True)


def test_parts_and_answers_without_counts_are_taken(endpoint, captioner):
    model, _ = endpoint
    model.usage = None
    model.misbehave = lambda number, body: model.completion([{"type": "text", "text": "a cat"}])
    (answer,), _ = asked(captioner(), [request(size=(750, 100))])
    assert (answer.text, answer.tokens_out) == ("a cat", 1)
    assert answer.tokens_in == 3 + 100  # guessed, so that a budget counts something


def test_after_failures_in_a_row_nothing_more_is_asked(endpoint, captioner, quick_retries):
    endpoint[0].misbehave = lambda number, body: web.Response(status=500)
    answers, client = asked(captioner(down_after=5, retries=0, concurrency=1), [request() for _ in range(50)])
    assert len(endpoint[0].bodies) == 5 and client.is_down
    assert [answer.error for answer in answers] == [ErrorClass.HTTP_5XX] * 4 + [ErrorClass.HOST_DOWN] * 46
    assert "answered 500" in answers[-1].detail


def test_a_server_that_limits_many_at_once_is_not_down(endpoint, captioner, quick_retries):
    endpoint[0].misbehave = lambda number, body: web.Response(status=429) if number <= 40 else None
    answers, _ = asked(captioner(concurrency=32, down_after=5), [request() for _ in range(32)])
    assert all(isinstance(answer, Answer) for answer in answers)


def test_an_answer_ends_a_row_of_failures(endpoint, captioner, quick_retries):
    endpoint[0].misbehave = lambda number, body: web.Response(status=400) if number % 3 else None
    answers, _ = asked(captioner(down_after=3, concurrency=1), [request() for _ in range(30)])
    assert sum(isinstance(answer, Answer) for answer in answers) == 10


def test_a_key_comes_from_the_environment_and_is_in_no_error(endpoint, captioner, monkeypatch):
    monkeypatch.setenv("EYE_KEY", "sk-very-secret")
    model, _ = endpoint
    model.misbehave = lambda number, body: web.Response(
        status=401, text=f"invalid: {model.headers[-1]['Authorization']}"
    )
    (answer,), _ = asked(captioner(key="EYE_KEY"), [request()])
    assert model.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert "sk-very-secret" not in answer.detail and "invalid: Bearer …" in answer.detail
    monkeypatch.delenv("EYE_KEY")
    with pytest.raises(ValueError, match="no key in the environment variable EYE_KEY"):
        asked(captioner(key="EYE_KEY"), [request()])


def test_a_private_address_takes_leave(endpoint, captioner):
    here = endpoint[1].replace("127.0.0.1", "0.0.0.0")  # which names no machine, and leads to this one
    for url in ("http://10.255.255.1:8000/v1", "http://169.254.169.254/v1", here):
        (answer,), _ = asked(captioner(url=url, retries=0, timeout_s=5), [request()])
        assert answer.error is ErrorClass.BLOCKED_ADDRESS
        assert "private: true" in answer.detail
    assert not endpoint[0].bodies
    (answer,), _ = asked(captioner(url=here, private=True), [request()])
    assert answer.text == "a wide scene in red"


def test_localhost_by_name_is_allowed(endpoint, captioner):
    url = endpoint[1].replace("127.0.0.1", "localhost")
    (answer,), _ = asked(captioner(url=url), [request()])
    assert answer.text == "a wide scene in red"


def test_nobody_there(captioner, quick_retries):
    (answer,), _ = asked(captioner(url="http://127.0.0.1:9/v1", retries=1), [request()])
    assert (answer.error, answer.attempts) == (ErrorClass.CONNECT, 2)


def test_a_broken_image_is_its_own_fault(endpoint, captioner):
    broken = Request("k", b"no image", "jpeg", 4000, 3000, "What?", "d")
    (answer,), _ = asked(captioner(), [broken])
    assert answer.error is ErrorClass.BROKEN_IMAGE and not endpoint[0].bodies


def test_a_budget_ends_the_asking(endpoint, captioner):
    prices = {"usd_in": 10.0, "usd_out": 100.0, "budget_usd": 0.0205}  # 0.002 each
    answers, client = asked(captioner(concurrency=2, **prices), [request() for _ in range(30)])
    paid = [answer for answer in answers if isinstance(answer, Answer)]
    assert len(paid) == 10 == len(endpoint[0].bodies)
    assert client.spending.usd == pytest.approx(0.02)
    assert {answer.error for answer in answers if not isinstance(answer, Answer)} == {ErrorClass.BUDGET}


def test_a_budget_of_tokens_counts_what_earlier_runs_took(endpoint, captioner):
    client = EndpointClient(captioner(budget_tokens=1000))
    client.spending.begin_with(890, 0.0)
    assert client.spending.has_room()
    client.spending.begin()
    client.spending.end(Answer("", 100, 10))
    assert client.spending.tokens == 1000 and not client.spending.has_room()


def test_any_prompt_comes_as_it_is(endpoint, captioner):
    prompt = 'Wie heißt das? 猫 "<picture>" \\ \n'
    asked(captioner(), [request(prompt)])
    assert prompt_of(endpoint[0].bodies[0]) == prompt
    assert image_of(endpoint[0].bodies[0]).size == (32, 24)
