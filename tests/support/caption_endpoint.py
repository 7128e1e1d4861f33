"""Endpoint on loopback that captions images, and misbehaves on demand."""

import asyncio
import base64
import contextlib
import io
import json
import threading

import numpy as np
from aiohttp import web
from PIL import Image


class CaptionEndpoint:
    """Chat completions. ``misbehave`` is given the number of each request, and may return a response."""

    def __init__(self):
        self.bodies, self.headers, self.at_once, self.most_at_once = [], [], 0, 0
        self.times = []
        self.misbehave = lambda number, body: None
        self.answer = None  # text in place of a caption, or a function of the body
        self.usage = {"prompt_tokens": 100, "completion_tokens": 10}
        self.finish = "stop"
        self.seconds = 0.0

    async def complete(self, request):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            body = await request.json()
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
            self.times.append(asyncio.get_running_loop().time())
            if self.seconds:
                await asyncio.sleep(self.seconds)
            response = self.misbehave(len(self.bodies), body)
            if asyncio.iscoroutine(response):
                response = await response
            if isinstance(response, web.StreamResponse):
                return response
            text = self.answer(body) if callable(self.answer) else self.answer
            return self.completion(caption_of(body) if text is None else text)
        finally:
            self.at_once -= 1

    def completion(self, text, **message):
        choice = {
            "message": {"role": "assistant", "content": text, **message},
            "finish_reason": self.finish,
        }
        return web.json_response({"choices": [choice], **({"usage": self.usage} if self.usage else {})})


def image_of(body):
    """The image of a request."""
    picture, _ = body["messages"][0]["content"]
    data = base64.b64decode(picture["image_url"]["url"].partition("base64,")[2])
    return Image.open(io.BytesIO(data))


def prompt_of(body):
    return body["messages"][0]["content"][1]["text"]


def caption_of(body):
    """Caption of a request: a JSON object if the prompt asks for one."""
    with image_of(body) as image:
        mean = np.asarray(image.convert("RGB")).reshape(-1, 3).mean(axis=0)
        shape = "wide" if image.width > image.height else "tall" if image.height > image.width else "square"
    colour = ("red", "green", "blue")[int(mean.argmax())]
    short = f"a {shape} scene in {colour}"
    if "JSON" not in prompt_of(body):
        return short
    long = f"a {shape} scene whose main colour is {colour}, with a level of {mean.max():.0f}"
    return json.dumps({"short": short, "long": long, "tags": [shape, colour]})


@contextlib.contextmanager
def serving(endpoint=None, port=0):
    """Serve an endpoint in a thread; gives it and its URL."""
    endpoint, loop = endpoint or CaptionEndpoint(), asyncio.new_event_loop()
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/chat/completions", endpoint.complete)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", port).start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield endpoint, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
