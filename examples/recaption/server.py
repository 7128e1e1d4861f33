"""Stand-in for a vision-language model: chat completions on loopback that tell of colours and shapes.

It answers as vLLM, SGLang or `transformers serve` do, and looks at the image that it is sent: its captions
are true, if plain. ``python examples/recaption/server.py --port 8765`` serves until it is ended.
"""

import argparse
import base64
import io
import json

import numpy as np
from aiohttp import web
from PIL import Image

COLOURS = {
    "black": (20, 20, 20),
    "white": (240, 240, 240),
    "grey": (128, 128, 128),
    "red": (200, 40, 40),
    "green": (40, 160, 60),
    "blue": (50, 80, 200),
    "yellow": (230, 210, 60),
    "brown": (120, 80, 40),
}


def describe(data: bytes) -> dict[str, str | list[str]]:
    """Caption an image by its two most frequent colours and its shape."""
    with Image.open(io.BytesIO(data)) as image:
        shape = "wide" if image.width > image.height else "tall" if image.height > image.width else "square"
        pixels = np.asarray(image.convert("RGB").resize((32, 32))).reshape(-1, 1, 3).astype(int)
    nearest = np.abs(pixels - np.array(list(COLOURS.values()))).sum(axis=2).argmin(axis=1)
    counts = np.bincount(nearest, minlength=len(COLOURS))
    first, second = (list(COLOURS)[i] for i in np.argsort(-counts, kind="stable")[:2])
    share = round(100 * counts.max() / counts.sum())
    return {
        "short": f"a {shape} picture in {first}",
        "long": f"a {shape} picture, {share} percent of it {first}, with some {second} beside it",
        "tags": [shape, first, second],
    }


async def complete(request: web.Request) -> web.Response:
    """Answer one chat completion."""
    body = await request.json()
    content = body["messages"][-1]["content"]
    (picture,) = (part["image_url"]["url"] for part in content if part["type"] == "image_url")
    asked = " ".join(part["text"] for part in content if part["type"] == "text")
    captions = describe(base64.b64decode(picture.partition("base64,")[2]))
    text = json.dumps(captions) if "JSON" in asked else str(captions["short"])
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 64 + len(asked) // 4, "completion_tokens": len(text) // 4}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return web.json_response({"object": "chat.completion", "choices": [choice], "usage": usage})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8765)
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/v1/chat/completions", complete)
    web.run_app(app, host="127.0.0.1", port=parser.parse_args().port)


if __name__ == "__main__":
    main()
