"""Judge that asks a vision-language model, behind any OpenAI-compatible endpoint."""

import asyncio
import base64
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import aiohttp
from PIL import Image

from rasterloom.filtering.judges.base import Judgement, Mark, Pixels, Question, SuitePrompt

INSTRUCTION = "Answer in one word."
WHOLE = 'Does this image show "{prompt}"? Answer yes or no.'
TRIES, PAUSE_S = 4, 1.0
BUSY = {408, 409, 429, 500, 502, 503, 504}  # answers to ask again after
LIKELIEST = 20  # tokens whose probability an endpoint tells at most
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class VqaJudge:
    """The probability of the right answer to each question.

    It is that of Soft-TIFA (GenEval 2). A prompt without questions is asked as a whole, as in VQAScore.

    Args:
        url: of the endpoint up to ``/v1``; ``/chat/completions`` is added
        model: name of the model there
        key: name of the environment variable that holds the key; it is read where the judge works
        at_once: questions on their way at once
        timeout_s: for one answer
    """

    name = "vqa"
    version = "1"

    def __init__(self, url: str, model: str, key: str = "", at_once: int = 4, timeout_s: int = 120) -> None:
        if not re.match(r"https?://", url):
            raise ValueError(f"the judge vqa takes a URL as http://127.0.0.1:8000/v1, not {url}")
        self.url, self.model, self.key = url.rstrip("/"), model, key
        self.at_once, self.timeout_s = at_once, timeout_s
        self.digest = hashlib.sha256(json.dumps([self.url, model, INSTRUCTION, WHOLE]).encode()).hexdigest()

    def __call__(self, images: Sequence[Pixels], prompts: Sequence[SuitePrompt]) -> list[Judgement]:
        return asyncio.run(self._judge(images, prompts))

    async def _judge(self, images: Sequence[Pixels], prompts: Sequence[SuitePrompt]) -> list[Judgement]:
        headers = {"Authorization": f"Bearer {self._secret()}"} if self.key else {}
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        slots = asyncio.Semaphore(self.at_once)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:

            async def probability(picture: str, question: Question) -> float:
                async with slots:
                    return await self._probability(session, picture, question)

            async def of_image(image: Pixels, prompt: SuitePrompt) -> Judgement:
                picture = _data_url(image)
                asked = [replace(q, text=f"{q.text} {INSTRUCTION}") for q in prompt.questions]
                asked = asked or [Question(WHOLE.format(prompt=prompt.text))]
                scores = await asyncio.gather(*(probability(picture, question) for question in asked))
                return judgement(prompt, scores)

            pairs = zip(images, prompts, strict=True)
            return list(await asyncio.gather(*(of_image(image, prompt) for image, prompt in pairs)))

    def _secret(self) -> str:
        secret = os.environ.get(self.key)
        if not secret:
            raise ValueError(f"the judge vqa finds no key in the environment variable {self.key}")
        return secret

    async def _probability(self, session: aiohttp.ClientSession, picture: str, question: Question) -> float:
        body = {
            "model": self.model,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": picture}},
                        {"type": "text", "text": question.text},
                    ],
                }
            ],
            "temperature": 0,
            "max_tokens": 8,
            "logprobs": True,
            "top_logprobs": LIKELIEST,
        }
        answer = await self._ask(session, body)
        try:
            return answer_probability(answer["choices"][0], question.answer)
        except (LookupError, TypeError, AttributeError, ValueError):
            raise ValueError(f"{self.url} answers in no form of chat completions") from None

    async def _ask(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> Any:
        """Post a question, again while the endpoint is busy.

        It is asked without log-probabilities if the endpoint has none.
        """
        why = ""
        for number in range(TRIES):
            await asyncio.sleep(number and PAUSE_S * 2 ** (number - 1))
            try:
                async with session.post(f"{self.url}/chat/completions", json=body) as response:
                    if response.status == 200:
                        return await response.json(content_type=None)
                    why = f"HTTP {response.status}: {(await response.text())[:200]}"
                    if response.status == 400 and body.pop("logprobs", None):
                        body.pop("top_logprobs")
                    elif response.status not in BUSY:
                        break
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                why = f"{type(error).__name__} {error}".strip()
        raise ValueError(f"the judge vqa gets no answer from {self.url}: {' '.join(why.split())}")


def judgement(prompt: SuitePrompt, scores: Sequence[float]) -> Judgement:
    """Marks of a prompt's questions, with their arithmetic and geometric mean.

    A question that needs others is at 0 where one of these is not right.
    """
    if not prompt.questions:
        return Judgement(totals={"VQAScore": scores[0]})
    held = [
        0.0 if any(scores[place] < 0.5 for place in question.needs) else score
        for question, score in zip(prompt.questions, scores, strict=True)
    ]
    marks = tuple(Mark(q.skill, score, q.text) for q, score in zip(prompt.questions, held, strict=True))
    geometric = math.exp(sum(map(math.log, held)) / len(held)) if all(held) else 0.0
    return Judgement(marks, {"Soft-TIFA AM": sum(held) / len(held), "Soft-TIFA GM": geometric})


def answer_probability(choice: Mapping[str, Any], answer: str) -> float:
    """Probability of an answer: of its first token, or of the text where that is the answer.

    Without log-probabilities it is 1 or 0.
    """
    said = plain(choice["message"]["content"] or "")
    tokens = (choice.get("logprobs") or {}).get("content") or []
    if not tokens:
        return float(said == plain(answer))
    likely = {one["token"]: one["logprob"] for one in [tokens[0], *(tokens[0].get("top_logprobs") or [])]}
    chance = sum(math.exp(value) for token, value in likely.items() if plain(token) == plain(answer))
    if chance == 0 and said == plain(answer):  # of several tokens
        chance = math.exp(sum(one["logprob"] for one in tokens))
    return min(1.0, chance)


def plain(text: str) -> str:
    """An answer as it is compared: lower case, letters and digits, numbers in words."""
    words = re.findall(r"[^\W_]+", text.lower())
    return " ".join(NUMBERS[int(w)] if w.isdecimal() and int(w) < len(NUMBERS) else w for w in words)


def _data_url(image: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
