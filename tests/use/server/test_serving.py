"""The server as a process, asked by OpenAI's client and by hand."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import openai
import pytest
from servers import Served, serving, start_server

from llm2vec_pl import UserError
from llm2vec_pl.decoder import TINY
from llm2vec_pl.use.server import serve


@pytest.fixture(scope="module")
def client(server) -> openai.OpenAI:
    return client_of(server, server.key)


def client_of(server: Served, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def fetched(server: Served, path: str, body: bytes | None = None, with_key: bool = True, **headers):
    """A status, headers, and a body."""
    request = urllib.request.Request(server.url + path, body, headers)
    if body is not None:
        request.add_header("Content-Type", "application/json")
    if with_key and server.key:
        request.add_header("Authorization", f"Bearer {server.key}")
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.headers, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def metric(server: Served, name: str) -> float:
    _, _, text = fetched(server, "/metrics")
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


# What is served ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["float", "base64", None])
def test_openai_s_client_gets_the_encoder_s_embeddings(client, encoder, form):
    texts = ["a text", "another, longer text", "NUL \0, ½ and 🙂"]
    how = {} if form is None else {"encoding_format": form}
    response = client.embeddings.create(model="tiny", input=texts, **how)
    rows = [one.embedding for one in response.data]
    if form == "base64":  # which the client decodes only if it was not asked for
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    expected = encoder.encode(texts, normalize_embeddings=True, convert_to_numpy=True)
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert response.usage.prompt_tokens == sum(encoder.tokenize.lengths(texts))
    assert response.model == "tiny"


def test_dimensions_and_prompts_reach_the_encoder(client, encoder):
    response = client.embeddings.create(
        model="tiny", input="where?", dimensions=16, extra_body={"input_type": "query"}
    )
    expected = encoder.encode_query("where?", truncate_dim=16, normalize_embeddings=True)
    np.testing.assert_allclose(response.data[0].embedding, expected, atol=1e-5)


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_many_clients_at_once_each_get_their_own(client, encoder):
    texts = [f"text number {i} {'word ' * (i % 5)}" for i in range(40)]
    expected = encoder.encode(texts, normalize_embeddings=True, convert_to_numpy=True)

    def one(i: int) -> list[float]:
        return client.embeddings.create(model="tiny", input=texts[i]).data[0].embedding

    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(one, range(len(texts))))
    np.testing.assert_allclose(rows, expected, atol=1e-5)


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"input": [1, 2]}, openai.BadRequestError, "input"),
        ({"input": ["a"] * 101}, openai.BadRequestError, "input"),
        ({"input": "a" * 50_001}, openai.BadRequestError, "input"),
        ({"input": "a", "dimensions": 999}, openai.BadRequestError, "dimensions"),
        ({"input": "a", "extra_body": {"input_type": "x"}}, openai.BadRequestError, "input_type"),
        ({"input": [{"a": 1}]}, openai.UnprocessableEntityError, "input"),
        ({"input": "a", "model": "large"}, openai.NotFoundError, "model"),
    ],
)
def test_openai_s_client_raises_its_own_errors(client, fields, error, param):
    with pytest.raises(error) as caught:
        client.embeddings.create(**{"model": "tiny", **fields})
    assert caught.value.param == param
    assert caught.value.message


@pytest.mark.parametrize("key", ["none", "a-secre", "a-secret!"])
def test_another_key_is_401(server, key):
    with pytest.raises(openai.AuthenticationError, match="API key"):
        client_of(server, key).embeddings.create(model="tiny", input="a")


def test_without_a_key_nothing_but_the_page_health_and_metrics_can_be_read(server):
    codes = {
        path: fetched(server, path, with_key=False)[0]
        for path in ("/", "/page.js", "/health", "/metrics", "/v1/models")
    }
    assert codes == {"/": 200, "/page.js": 200, "/health": 200, "/metrics": 200, "/v1/models": 401}
    assert fetched(server, "/v1/embeddings", b'{"input": "a"}', with_key=False)[0] == 401


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_413(server, announced):
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    content = json.dumps({"input": ["a" * 40_000] * 30}).encode()
    body = content if announced else iter([content[:600_000], content[600_000:]])
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    with suppress(BrokenPipeError, ConnectionResetError):  # the answer may come before the end
        connection.request("POST", "/v1/embeddings", body, headers, encode_chunked=not announced)
    response = connection.getresponse()
    assert response.status == 413
    assert "1 MiB" in json.loads(response.read())["error"]["message"]


def test_a_full_queue_is_429(server, client):
    texts = ["word " * 40] * 100
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(client.embeddings.create, model="tiny", input=texts) for _ in range(3)]
        errors = [future.exception() for future in asked]
    full = [error for error in errors if error is not None]
    assert full
    assert all(isinstance(error, openai.RateLimitError) for error in full)
    assert full[0].response.headers["retry-after"] == "1"
    assert client.embeddings.create(model="tiny", input="a").data  # and afterwards it is not


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/../serving.py",
        "/%2e%2e/serving.py",
        "/page/index.html",
        "//etc/passwd",
        "/docs",
    ],
)
def test_other_paths_are_404_in_the_same_form(server, path):
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.status == 404
    assert json.loads(response.read())["error"]["type"] == "not_found_error"


def test_a_wrong_method_is_405(server):
    assert fetched(server, "/v1/embeddings")[0] == 405


# What can be seen from outside -------------------------------------------------------------------


def test_metrics_count_requests_texts_and_tokens(server, client):
    names = ["requests_total", "request_texts_sum", "tokens_total", "request_seconds_count"]
    before = [metric(server, f"llm2vec_pl_{name}") for name in names]
    used = client.embeddings.create(model="tiny", input=["a", "b"]).usage.total_tokens
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="tiny", input=[])
    after = [metric(server, f"llm2vec_pl_{name}") for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 2, used, 2]
    assert metric(server, 'llm2vec_pl_requests_total{code="400"}') >= 1
    assert metric(server, "llm2vec_pl_waiting_texts") == 0


def test_the_page_may_load_nothing_from_elsewhere(server):
    _, headers, page = fetched(server, "/")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
    assert "http" not in page.replace("http-equiv", "")
    for name in ("page.css", "page.js", "map.js", "icon.svg"):
        code, headers, content = fetched(server, f"/{name}")
        assert (code, headers["X-Content-Type-Options"]) == (200, "nosniff")
        assert "//" not in content.replace("http://www.w3.org/2000/svg", "").replace("// ", "")


def test_the_server_listens_on_this_machine_only(server):
    (address,) = {
        line.split()[1].split(":")[0]
        for line in Path("/proc/net/tcp").read_text().splitlines()
        if line.split()[1].endswith(f":{server.port:04X}")
    }
    assert address == "0100007F"


# How it ends -------------------------------------------------------------------------------------


def test_a_server_that_is_stopped_answers_first_and_leaves_no_process(tmp_path):
    with serving(tmp_path, "tiny") as server:
        answers = []
        texts = ["word " * 100] * 60
        body = json.dumps({"input": texts}).encode()
        asking = threading.Thread(
            target=lambda: answers.append(fetched(server, "/v1/embeddings", body))
        )
        asking.start()
        while not metric(server, "llm2vec_pl_waiting_texts"):
            time.sleep(0.01)
        for pid in server.processes():  # as systemd does
            os.kill(pid, signal.SIGTERM)
        server.process.join(60)
        asking.join(60)
        assert server.process.exitcode == 0
        assert answers[0][0] == 200
        assert len(json.loads(answers[0][2])["data"]) == 60
        assert server.processes() == []
        assert "Traceback" not in server.printed


@pytest.mark.slow
def test_several_processes_that_encode_answer_as_one_and_end_with_the_server(encoder, tmp_path):
    texts = [f"text number {i} {'word ' * (i % 5)}" for i in range(40)]
    expected = encoder.encode(texts, normalize_embeddings=True, convert_to_numpy=True)
    with serving(tmp_path, "tiny", "--dtype", "float32", "--workers", "2") as server:
        client = client_of(server, "none")

        def one(i: int) -> list[float]:
            return client.embeddings.create(model="tiny", input=texts[i]).data[0].embedding

        with ThreadPoolExecutor(8) as pool:
            rows = list(pool.map(one, range(len(texts))))
        np.testing.assert_allclose(rows, expected, atol=1e-5)
        assert server.stop() == 0
        assert server.processes() == []


@pytest.mark.slow
def test_when_the_encoder_s_process_is_killed_the_server_ends_and_says_so(tmp_path):
    with serving(tmp_path, "tiny") as server:
        os.kill(worker_of(server), signal.SIGKILL)
        server.process.join(60)
        assert server.process.exitcode == 2
        assert "ended by SIGKILL" in server.printed
        assert server.processes() == []
        assert "Traceback" not in server.printed


@pytest.mark.slow
def test_when_the_server_is_killed_its_processes_end(tmp_path):
    with serving(tmp_path, "tiny") as server:
        server.process.kill()
        end = time.monotonic() + 30
        while server.processes():
            assert time.monotonic() < end
            time.sleep(0.1)


def worker_of(server: Served) -> int:
    """The process that encodes is the newest but the one of HTTP, which is started when it is
    ready."""
    return sorted(server.processes())[-2]


def test_an_encoder_that_cannot_be_loaded_ends_the_server_with_what_to_do(tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    server = start_server(tmp_path, str(folder))
    server.process.join(120)
    assert server.process.exitcode == 2
    assert "weights" in server.printed
    assert server.printed.count("error:") == 1
    assert "Traceback" not in server.printed
    assert server.processes() == []


# What cannot be started --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"model_name": "runs/nothing"}, "runs/nothing"),
        ({"port": 80}, "`port` is from 1024 to 65535, but got 80"),
        ({"max_texts": 0}, "`max_texts` is more than 0"),
        ({"timeout": -1}, "`timeout` is more than 0"),
        ({"batch_tokens": 0}, "`batch_tokens` is more than 0"),
        ({"workers": 0}, "`workers` is more than 0"),
        ({"accelerator": "cpu", "devices": 2}, "`devices` is from 1 to 1"),
        ({"max_texts": 10, "max_waiting": 9}, "`max_waiting` (9) is smaller than `max_texts` (10)"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_starts(how, words):
    with pytest.raises(UserError) as caught:
        serve(**{"model_name": "tiny", **how})
    assert words in str(caught.value)


def test_a_port_that_is_taken_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"Cannot listen on port {port}.*in use"):
            serve("tiny", port=port)


@pytest.mark.parametrize("key", ["", " ", "secret\n", "two words", "schlüssel"])
def test_a_key_that_was_set_by_mistake_is_refused(key, monkeypatch):
    monkeypatch.setenv("LLM2VEC_PL_API_KEY", key)
    with pytest.raises(UserError, match="LLM2VEC_PL_API_KEY"):
        serve("tiny", port=8999)


def test_litserve_s_own_key_is_refused(monkeypatch):
    monkeypatch.setenv("LIT_SERVER_API_KEY", "secret")
    with pytest.raises(UserError, match="Set LLM2VEC_PL_API_KEY in its place"):
        serve("tiny", port=8999)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "litserve", None)
    with pytest.raises(UserError, match=r'pip install "llm2vec_pl\[serve\]"'):
        serve("tiny")
