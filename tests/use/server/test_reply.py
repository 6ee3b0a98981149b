import base64
import json

import numpy as np

from llm2vec_pl.use.server.reply import Answer, reply

EMBEDDINGS = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


def test_numbers_are_those_of_the_embeddings():
    content = json.loads(reply(Answer(EMBEDDINGS, 17), "a model", as_base64=False))
    rows = content.pop("data")
    usage = {"prompt_tokens": 17, "total_tokens": 17}
    assert content == {"object": "list", "model": "a model", "usage": usage}
    assert [(row["object"], row["index"]) for row in rows] == [("embedding", i) for i in range(3)]
    np.testing.assert_array_equal(np.float32([row["embedding"] for row in rows]), EMBEDDINGS)


def test_base64_holds_the_same_bytes():
    content = json.loads(reply(Answer(EMBEDDINGS, 17), "a model", as_base64=True))
    decoded = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in content["data"]]
    np.testing.assert_array_equal(decoded, EMBEDDINGS)
