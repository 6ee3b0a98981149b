import json

import pytest

from llm2vec_pl.use.server.refusal import Refusal
from llm2vec_pl.use.server.request import Asked, Limits, parse

LIMITS = Limits(texts=3, characters=10)


def asked(limits: Limits = LIMITS, **fields: object) -> Asked:
    return parse(json.dumps(fields).encode(), "tiny", limits)


def refusal(body: bytes | None = None, **fields: object) -> Refusal:
    with pytest.raises(Refusal) as caught:
        parse(body if body is not None else json.dumps(fields).encode(), "tiny", LIMITS)
    return caught.value


def test_one_text_is_a_list_of_one():
    assert asked(input="a") == Asked(["a"])


def test_all_fields_are_read():
    fields = {"model": "tiny", "encoding_format": "base64", "dimensions": 4, "user": "me"}
    assert asked(input=["a", "b"], input_type="query", **fields) == Asked(
        ["a", "b"], "query", 4, True
    )


def test_null_is_as_good_as_nothing():
    assert asked(input="a", dimensions=None, encoding_format=None) == Asked(["a"])


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        (7, 422, "`input` is a string or a list of strings, but got a number"),
        (None, 422, "got null"),
        ({"text": "a"}, 422, "got an object"),
        (["a", 7], 422, "`input[1]` is a string, but got a number"),
        (["a", ["b"]], 422, "`input[1]` is a string, but got a list"),
        ([[]], 422, "`input[0]` is a string"),
        ([True], 422, "got a boolean"),
        ([], 400, "empty list"),
        ("", 400, "`input` is an empty string"),
        (["a", ""], 400, "`input[1]` is an empty string"),
        ([1, 2, 3], 400, "check_embedding_ctx_length=False"),
        ([[1, 2], [3]], 400, "token numbers"),
        (["a"] * 4, 400, "4 texts, but one request may have 3"),
        (["a", "b" * 11], 400, "`input[1]` has 11 characters, but a text may have 10"),
    ],
)  # fmt: skip
def test_input_that_is_no_text_is_refused_by_its_place(given, status, words):
    found = refusal(input=given)
    assert (found.status, found.param) == (status, "input")
    assert words in found.message


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"dimensions": "4"}, 422, "dimensions"),
        ({"dimensions": 4.5}, 422, "dimensions"),
        ({"dimensions": 0}, 400, "dimensions"),
        ({"user": 7}, 422, "user"),
        ({"model": ["tiny"]}, 422, "model"),
        ({"model": "large"}, 404, "model"),
        ({"encoding_format": "hex"}, 400, "encoding_format"),
        ({"imput_type": "query"}, 400, "imput_type"),
    ],
)
def test_a_wrong_type_is_422_and_a_wrong_value_400(fields, status, param):
    found = refusal(input="a", **fields)
    assert (found.status, found.param) == (status, param)


def test_a_request_without_input_is_refused():
    assert refusal(model="tiny").message == "`input` is missing."


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"input": "\xff"}', rb'{"input": "\ud800"}', b"[" * 100_000]
)
def test_what_is_not_json_is_400(body):
    assert (refusal(body).status, refusal(body).code) == (400, "invalid_json")


def test_json_that_is_no_object_is_422():
    assert refusal(b'["a"]').status == 422
