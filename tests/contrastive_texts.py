"""A contrastive batch of texts of unequal lengths, with 0 to 3 hard negatives a query."""

from __future__ import annotations

import zlib

import torch

from llm2vec_pl.encoder.encoder import Encoder

QUERIES = [
    "how to read a file",
    "sort a list",
    "what is the sum of all the numbers that a long list of rows holds in its second column",
    "a cat",
    "open a socket and wait for somebody who wants to talk",
    "lower case",
    "count",
    "the date of today",
]
POSITIVES = [
    "Open the file and return its content as a string.",
    "Return a new list with the items in ascending order, and leave the old one as it is.",
    "sum(values)",
    "An animal that purrs when it is content; it sleeps for most of the day.",
    "listen(backlog)",
    "Return a copy of the string converted to lowercase, which is what most people want.",
    "Return the number of times that a value occurs.",
    "today() gives the current local date",
]
NEGATIVES = [
    ["Write a string to a file."],
    ["Reverse the list.", "Return a shallow copy."],
    [],
    ["A dog."],
    ["Close the socket.", "Send bytes.", "Shut down one or both halves of the connection."],
    ["Return a copy of the string converted to uppercase."],
    [],
    ["The time of day", "A time zone"],
]


def contrastive_batch(encoder: Encoder, rows: slice = slice(None), negatives: object = NEGATIVES):
    """The batch of these rows; without negatives where there are none."""
    queries = QUERIES[rows]
    owned = [(i, text) for i, texts in enumerate(negatives[rows]) for text in texts]
    batch = {"query": tokens(encoder, queries), "positive": tokens(encoder, POSITIVES[rows])}
    if owned:
        index, texts = zip(*owned, strict=True)
        batch["negative"] = tokens(encoder, list(texts))
        batch["negative"]["query_index"] = torch.tensor(index)
    return batch


def tokens(encoder: Encoder, texts: list[str]) -> dict[str, torch.Tensor]:
    ids = torch.tensor([zlib.crc32(text.encode()) for text in texts])
    return {**encoder.tokenize(texts), "text_id": ids}


def assert_same_gradients(got: dict, expected: dict, tolerance: float = 3e-6) -> None:
    """Equal to a share of the largest element that any gradient has: all add up to one step."""
    assert got.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest > 0
    for name, gradient in expected.items():
        difference = (got[name] - gradient).abs().max().item()
        assert difference <= tolerance * largest, f"{name}: {difference / largest:.1e} of {largest}"
