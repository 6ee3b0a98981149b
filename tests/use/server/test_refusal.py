import json
import pickle

from llm2vec_pl.use.server.refusal import Refusal


def test_the_body_has_openai_s_form():
    response = Refusal(429, "Later.", code="queue_full").response()
    error = {"message": "Later.", "type": "rate_limit_error", "param": None, "code": "queue_full"}
    assert json.loads(response.body) == {"error": error}
    assert response.headers["retry-after"] == "1"


def test_a_refusal_crosses_processes_whole():
    refusal = pickle.loads(pickle.dumps(Refusal(400, "Why", "input", "word")))
    assert vars(refusal) == {"status": 400, "message": "Why", "param": "input", "code": "word"}
