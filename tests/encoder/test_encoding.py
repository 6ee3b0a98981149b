"""What `Encoder.encode` promises: any order and batch, any thread, ordinary tensors."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_packed_attention import _process_group  # noqa: F401 - a fixture
from torch import nn
from torch.distributed.fsdp import fully_shard

from llm2vec_pl.decoder.layers import evaluating
from llm2vec_pl.distributed.sharding import is_sharded
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError

TEXTS = ["a text", "", "another text, somewhat longer than the first one", "three small words"]
INSTRUCTIONS = ["Find animals: ", "", "Retrieve the answer to this question: ", "A short one: "]
ANY_TEXT = st.lists(st.tuples(st.text(max_size=40), st.sampled_from(INSTRUCTIONS)), max_size=9)


@pytest.fixture(scope="module")
def encoder(llama_folder):
    """In training mode, where its LoRA drops much of what it sees."""
    torch.manual_seed(0)
    encoder = Encoder(llama_folder, lora_dropout=0.5).load()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    return encoder


# Ordinary tensors -------------------------------------------------------------------------------


def test_embeddings_can_be_changed_in_place(encoder):
    embeddings = encoder.encode(TEXTS)
    embeddings /= embeddings.norm(dim=1, keepdim=True)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4))
    encoder.encode("one text").mul_(2)


def test_a_head_can_be_trained_on_embeddings(encoder):
    head = nn.Linear(32, 2)
    head(encoder.encode(TEXTS)).sum().backward()
    assert head.weight.grad.any()


def test_embeddings_can_want_a_gradient(encoder):
    embeddings = encoder.encode(TEXTS).requires_grad_()
    embeddings.square().sum().backward()
    assert embeddings.grad.any()


@pytest.mark.parametrize("inference", [True, False])
def test_embeddings_are_ordinary_whoever_asks(encoder, inference):
    with torch.inference_mode(inference):
        embeddings = encoder.encode(TEXTS)
    assert not embeddings.is_inference()
    assert not embeddings.requires_grad


def test_nothing_in_an_encoder_is_an_inference_tensor_after_encoding(llama_folder):
    encoder = Encoder(llama_folder)
    with torch.inference_mode():
        encoder.load()  # by Lightning, in a validation
        encoder.encode(TEXTS)
    tensors = [*encoder.parameters(), *encoder.buffers()]
    assert not any(tensor.is_inference() for tensor in tensors)
    encoder(encoder.tokenize(TEXTS)).sum().backward()


# Any order, any batch ---------------------------------------------------------------------------


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=ANY_TEXT, batch_size=st.integers(1, 12), data=st.data())
def test_a_text_embeds_alike_in_any_order_and_batch(encoder, rows, batch_size, data):
    order = data.draw(st.permutations(range(len(rows))))
    shuffled = [rows[i] for i in order]
    found = encoder.encode([t for t, _ in shuffled], [i for _, i in shuffled], batch_size)
    assert found.shape == (len(rows), 32)
    for place, i in enumerate(order):
        text, instruction = rows[i]
        alone = encoder.encode(text, instruction)
        torch.testing.assert_close(found[place], alone, atol=1e-5, rtol=0)


def test_each_text_has_the_instruction_that_stands_beside_it(encoder):
    together = encoder.encode(TEXTS, INSTRUCTIONS)
    alone = [encoder.encode(t, i) for t, i in zip(TEXTS, INSTRUCTIONS, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode("a text", ["A short one: "]), encoder.encode("a text", "A short one: "))  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TEXTS, INSTRUCTIONS[:3]), "3 instructions for 4 texts"),
        ((TEXTS, []), "0 instructions for 4 texts"),
        (([], INSTRUCTIONS), "4 instructions for 0 texts"),
        (("one text", INSTRUCTIONS), "4 instructions for 1 texts"),
        ((TEXTS, ["", None, "", ""]), "instruction 1 is None"),
        ((TEXTS, "", 0), "batch_size is .* at least 1 .* got 0"),
        ((TEXTS, "", -1), "batch_size is .* at least 1 .* got -1"),
        ((TEXTS, None), "list of instructions, but got None"),
        ((None,), "list of texts, but got None"),
        (([], "", -1), "batch_size is .* at least 1 .* got -1"),
        ((TEXTS, "", 2.5), "batch_size is .* got 2.5"),
        ((["long " * 9, None, "short"],), "text 1 is None"),
        ((["a", "much longer text", 3],), "text 2 is 3"),
    ],
)
def test_what_cannot_be_embedded_is_named_as_the_caller_knows_it(encoder, arguments, message):
    with pytest.raises(UserError, match=message):
        encoder.encode(*arguments)


# Threads ----------------------------------------------------------------------------------------


def test_threads_see_no_dropout_and_leave_the_mode_as_it_was(encoder):
    expected = encoder.encode(TEXTS * 2)
    modes = {name: module.training for name, module in encoder.named_modules()}
    assert all(modes.values())
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(encoder.encode, TEXTS * 2, "", 1 + i % 5) for i in range(40)]
    for job in jobs:
        torch.testing.assert_close(job.result(), expected, atol=1e-5, rtol=0)
    assert modes == {name: module.training for name, module in encoder.named_modules()}


@pytest.mark.usefixtures("_process_group")
def test_threads_take_turns_with_a_sharded_encoder_which_can_be_trained_afterwards(llama_folder):
    torch.manual_seed(0)
    encoder = Encoder(llama_folder, lora_rank=0).load()
    expected = encoder.encode(TEXTS)
    mesh = dist.init_device_mesh("cpu", (1,))
    for layer in encoder.decoder.layers:
        fully_shard(layer, mesh=mesh)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(encoder.encode, TEXTS, "", 1 + i % 3) for i in range(8)]
    for job in jobs:
        torch.testing.assert_close(job.result(), expected, atol=1e-5, rtol=0)
    assert all(module.training for module in encoder.modules())
    encoder(encoder.tokenize(TEXTS)).square().sum().backward()
    assert encoder.decoder.layers[0].self_attn.q_proj.weight.grad is not None


@pytest.mark.usefixtures("_process_group")
def test_an_encoder_is_known_as_sharded_while_its_weights_are_gathered(llama_folder):
    """As they are in the middle of another thread's pass."""
    encoder = Encoder(llama_folder, lora_rank=0).load()
    assert not is_sharded(encoder)
    for layer in encoder.decoder.layers:
        fully_shard(layer, mesh=dist.init_device_mesh("cpu", (1,)))
        layer.unshard()
    assert is_sharded(encoder)


def test_an_encoder_that_several_threads_ask_first_is_loaded_once(llama_folder):
    encoder = Encoder(llama_folder, lora_rank=0)
    together = threading.Barrier(4)

    def ask(_: int) -> torch.Tensor:
        together.wait()
        return encoder.encode(TEXTS)

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(ask, range(4))
    for other in others:
        torch.testing.assert_close(other, first, atol=1e-5, rtol=0)
    assert encoder.training


def test_a_module_is_in_eval_mode_until_the_last_is_done_with_it():
    model = nn.Sequential(nn.Sequential(nn.Dropout()), nn.Dropout())
    model[1].eval()
    first, second, part = evaluating(model), evaluating(model), evaluating(model[0])
    first.__enter__()
    part.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert (model.training, model[0].training, model[0][0].training) == (True, False, False)
    part.__exit__(None, None, None)
    assert [m.training for m in model.modules()] == [True, True, True, False]


def test_a_model_that_serves_is_not_switched_for_each_text(encoder, monkeypatch):
    encoder.eval()
    switched = []
    monkeypatch.setattr(nn.Module, "train", lambda module, mode=True: switched.append(module))
    encoder.encode(TEXTS)
    assert not switched
    assert not any(module.training for module in encoder.modules())


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64])
def test_a_batch_size_of_numpy_is_a_number_like_any_other(encoder, kind):
    expected = encoder.encode(TEXTS)
    torch.testing.assert_close(encoder.encode(TEXTS, "", kind(8)), expected, atol=1e-5, rtol=0)
