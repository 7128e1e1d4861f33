"""Notices that a worker has from Ray while it trains."""

import threading
import time

import ray.train

from rasterloom.train import ray_worker
from rasterloom.train.job import Request
from rasterloom.train.ray_worker import PreemptionWatch


def test_an_answer_that_fails_is_asked_for_again(monkeypatch):
    """It does when workers are late to meet; a thread that ends by it would print, and hear no more."""
    answers, ended = iter([None, TimeoutError("others did not come"), "a machine will go"]), []

    def answer():
        given = next(answers)
        if isinstance(given, Exception):
            raise given
        return given

    monkeypatch.setattr(ray.train, "get_preemption_info", answer)
    monkeypatch.setattr(ray_worker, "PREEMPTION_S", 0.01)
    monkeypatch.setattr(threading, "excepthook", ended.append)
    watch = PreemptionWatch()
    until = time.monotonic() + 300
    while (request := watch.request()) == Request.NOTHING and not ended and time.monotonic() < until:
        time.sleep(0.01)
    assert (request, ended) == (Request.SAVE, [])
    assert watch.request() == Request.NOTHING  # once
