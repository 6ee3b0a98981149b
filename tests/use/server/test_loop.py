"""The loop of the process that encodes, on queues of this process."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from llm2vec_pl import Encoder
from llm2vec_pl.use.server.api import EncoderAPI
from llm2vec_pl.use.server.refusal import Refusal
from llm2vec_pl.use.server.reply import Answer
from llm2vec_pl.use.server.request import Asked

PROMPTS = {"query": "Find the page: ", "passage": "Page: ", "title": "Title: "}


class Sent:
    """Takes the answers in place of LitServe's transport."""

    def __init__(self) -> None:
        self.answers: queue.Queue[tuple[str, object]] = queue.Queue()

    def send(self, item: tuple, consumer_id: int) -> None:
        uid, (answer, *_) = item
        self.answers.put((uid, answer))


class Loop:
    """An encoder's loop in a thread, which can be held up between two shares."""

    def __init__(self, encoder: Encoder, seconds: float = 60) -> None:
        self.api = EncoderAPI("tiny", {}, batch_tokens=256, seconds=seconds)
        self.api.encoder = encoder
        self.requests: queue.Queue[tuple] = queue.Queue()
        self.sent = Sent()
        self.together: list[int] = []  # texts in each share
        self.free = threading.Event()
        self.predict = self.api.predict
        self.api.predict = self.noted
        arguments = (self.api, "cpu", 0, self.requests, self.sent, {}, None)
        self.thread = threading.Thread(target=self.api.loop, args=arguments)
        self.thread.start()

    def noted(self, share: list) -> None:
        self.free.wait()
        self.together.append(sum(len(places) for _, places in share))
        self.predict(share)

    def ask(self, uid: str, *texts: str, **how: object) -> None:
        self.requests.put((0, uid, time.monotonic(), Asked(list(texts), **how)))

    def answers(self, count: int) -> dict[str, object]:
        self.free.set()
        return dict(self.sent.answers.get(timeout=30) for _ in range(count))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.from_pretrained("tiny", prompts=PROMPTS, dtype="float32")


@pytest.fixture(autouse=True)
def _looks_up_often(monkeypatch):
    monkeypatch.setattr("llm2vec_pl.use.server.loop._LOOKS_UP_EVERY", 0.02)


@pytest.fixture
def loop(encoder: Encoder) -> Iterator[Loop]:
    running = Loop(encoder)
    yield running
    running.free.set()
    running.api._stop()
    running.thread.join(10)
    assert not running.thread.is_alive()


def embedded(encoder: Encoder, *texts: str, **how: object) -> np.ndarray:
    return encoder.encode(list(texts), normalize_embeddings=True, convert_to_numpy=True, **how)


def held_up(loop: Loop) -> None:
    """The loop works on a request of its own while others arrive."""
    loop.ask("first", "a text that comes first")
    while not loop.requests.empty():
        time.sleep(0.01)
    time.sleep(0.05)


def test_requests_that_arrive_meanwhile_are_encoded_together(loop, encoder):
    held_up(loop)
    for i in range(5):
        loop.ask(str(i), f"text number {i}")
    answers = loop.answers(6)
    assert loop.together == [1, 5]
    for i in range(5):
        expected = embedded(encoder, f"text number {i}")
        np.testing.assert_allclose(answers[str(i)].embeddings, expected, atol=1e-5)


def test_a_query_overtakes_the_rest_of_a_large_request(loop, encoder):
    texts = [f"text number {i} of a great many" for i in range(60)]
    loop.ask("large", *texts)
    held_up(loop)
    loop.ask("query", "a query")
    order = list(loop.answers(3))
    assert order[-1] == "large"
    assert max(loop.together) < 60


def test_the_places_of_many_shares_come_together_in_order(loop, encoder):
    texts = [f"text {i} {'word ' * (i % 7)}" for i in range(60)]
    loop.ask("large", *texts)
    answer = loop.answers(1)["large"]
    assert len(loop.together) > 1
    np.testing.assert_allclose(answer.embeddings, embedded(encoder, *texts), atol=1e-5)
    assert answer.tokens == sum(encoder.tokenize.lengths(texts))


def test_each_request_has_its_own_prompt_and_dimensions(loop, encoder):
    held_up(loop)
    loop.ask("query", "where?", input_type="query")
    loop.ask("document", "here", input_type="document", dimensions=8)
    loop.ask("named", "here", input_type="title")
    loop.ask("bare", "here")
    answers = loop.answers(5)
    assert loop.together == [1, 4]
    expected = {
        "query": embedded(encoder, "where?", prompt_name="query"),
        "document": embedded(encoder, "here", prompt_name="passage", truncate_dim=8),
        "named": embedded(encoder, "here", prompt_name="title"),
        "bare": embedded(encoder, "here"),
    }
    for uid, embeddings in expected.items():
        np.testing.assert_allclose(answers[uid].embeddings, embeddings, atol=1e-5)
    assert answers["query"].tokens > encoder.tokenize.lengths(["where?"])[0]


@pytest.mark.parametrize(
    ("how", "param", "words"),
    [
        ({"input_type": "titel"}, "input_type", "document, passage, query, title"),
        ({"dimensions": 257}, "dimensions", "an embedding has 256"),
    ],
)
def test_what_the_encoder_does_not_have_is_refused(loop, how, param, words):
    loop.ask("bad", "a text", **how)
    refusal = loop.answers(1)["bad"]
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.param) == (400, param)
    assert words in refusal.message


def test_a_request_that_fails_does_not_fail_those_beside_it(loop, encoder, monkeypatch):
    encode = encoder.encode

    def fails(texts, *args, **kwargs):
        if "poison" in texts:
            raise RuntimeError("out of memory")
        return encode(texts, *args, **kwargs)

    monkeypatch.setattr(encoder, "encode", fails)
    held_up(loop)
    loop.ask("good", "bread")
    loop.ask("bad", "poison")
    answers = loop.answers(3)
    assert isinstance(answers["good"], Answer)
    assert answers["bad"].status == 500
    assert "memory" not in answers["bad"].message  # that is for the log


def test_a_request_that_nobody_waits_for_is_not_encoded(encoder):
    loop = Loop(encoder, seconds=0.2)
    loop.ask("first", "a text")
    time.sleep(0.1)
    loop.ask("late", "another text")
    time.sleep(0.3)
    loop.free.set()
    loop.api._stop()
    loop.thread.join(10)
    assert [uid for uid, _ in loop.sent.answers.queue] == ["first"]
    assert loop.together == [1]


def test_a_loop_that_is_asked_to_stop_first_answers_what_waits(encoder):
    loop = Loop(encoder)
    held_up(loop)
    loop.ask("second", "another text")
    loop.api._stop()
    assert set(loop.answers(2)) == {"first", "second"}
    loop.thread.join(10)
    assert not loop.thread.is_alive()


def test_a_loop_ends_when_its_queue_is_gone(encoder):
    class Gone:
        def get(self, timeout: float) -> None:
            raise EOFError

    api = EncoderAPI("tiny", {}, batch_tokens=256, seconds=60)
    api.encoder = encoder
    api.loop(api, "cpu", 0, Gone(), Sent(), {}, None)
