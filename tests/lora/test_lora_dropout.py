from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from llm2vec_pl import Encoder
from llm2vec_pl.lora.dropout import DroppedLinear, draw, fuse_dropout


def dropped_linear(p: float = 0.25) -> DroppedLinear:
    return DroppedLinear(nn.Linear(12, 3, bias=False), p)


def left_by_hand(x: Tensor, p: float, seed: int = 7) -> Tensor:
    torch.manual_seed(seed)
    keep = torch.ones(x.numel())
    keep[draw(x, p)] = 0.0
    return x * keep.view(x.shape) / (1 - p)


@settings(deadline=None, max_examples=20)
@given(p=st.floats(0.01, 0.95))
def test_each_number_is_dropped_with_the_chance_that_was_asked_for(p: float):
    x = torch.ones(200_000)
    share = len(draw(x, p).unique()) / len(x)
    assert share == pytest.approx(p, abs=0.006)  # five standard deviations or more


@pytest.mark.parametrize("shape", [(5, 12), (2, 4, 12)])
def test_the_product_and_its_gradients_are_those_of_the_dropped_input(shape: tuple[int, ...]):
    layer = dropped_linear()
    x = torch.randn(shape, requires_grad=True)
    torch.manual_seed(7)
    product = layer(x)
    upstream = torch.randn_like(product)
    product.backward(upstream)

    own = x.detach().requires_grad_()
    weight = layer.weight.detach().requires_grad_()
    expected = left_by_hand(own, layer.p) @ weight.T
    expected.backward(upstream)
    torch.testing.assert_close(product, expected)
    torch.testing.assert_close(x.grad, own.grad)
    torch.testing.assert_close(layer.weight.grad, weight.grad)


def test_under_autocast_the_product_is_in_half_precision_and_gradients_are_in_float32():
    layer = dropped_linear()
    x = torch.randn(50, 12, requires_grad=True)
    torch.manual_seed(7)
    with torch.autocast("cpu", torch.bfloat16):
        product = layer(x)
    product.float().sum().backward()
    assert product.dtype == torch.bfloat16
    expected = left_by_hand(x.detach(), layer.p) @ layer.weight.T
    torch.testing.assert_close(product.float(), expected, atol=0.05, rtol=0.02)
    assert x.grad.dtype == layer.weight.grad.dtype == torch.float32


def test_nothing_is_dropped_in_evaluation_mode():
    layer = dropped_linear().eval()
    x = torch.randn(5, 12)
    torch.testing.assert_close(layer(x), x @ layer.weight.T)


def test_recomputed_layers_drop_the_same_numbers():
    layer = dropped_linear()
    x = torch.randn(5, 12)
    gradients = []
    for run in (layer, lambda x: checkpoint(layer, x, use_reentrant=False)):
        layer.weight.grad = None
        torch.manual_seed(7)
        run(x).square().sum().backward()
        gradients.append(layer.weight.grad)
    assert torch.equal(*gradients)


def kept_bytes(layers: list[nn.Module], x: Tensor) -> int:
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = [layer(x) for layer in layers]
    del outputs
    return sum(kept.values())


def test_layers_with_one_input_keep_it_once():
    x = torch.randn(500, 64, requires_grad=True)
    matrices = [nn.Linear(64, 4, bias=False) for _ in range(3)]
    ours = kept_bytes([DroppedLinear(matrix, 0.05) for matrix in matrices], x)
    theirs = kept_bytes([nn.Sequential(nn.Dropout(0.05), matrix) for matrix in matrices], x)
    size = x.numel() * x.element_size()
    assert ours < 1.5 * size
    assert theirs > 3 * size


@pytest.mark.parametrize("p", [0.0, 0.05])
def test_an_input_in_half_precision_is_not_kept_in_the_loras_float32(p: float):
    x = torch.randn(500, 64, dtype=torch.bfloat16, requires_grad=True)
    layer = DroppedLinear(nn.Linear(64, 4, bias=False), p)
    weight = layer.weight.numel() * layer.weight.element_size()
    assert kept_bytes([layer], x) - weight < 1.5 * x.numel() * x.element_size()


def test_an_encoder_trains_its_lora_so_and_writes_it_as_any_other():
    encoder = Encoder("tiny", lora_rank=4, lora_dropout=0.1).load()
    fused = [m for m in encoder.decoder.modules() if isinstance(m, DroppedLinear)]
    assert len(fused) == 4 * 7  # all linear layers of four blocks
    assert all(layer.weight.requires_grad and not layer.weight.is_meta for layer in fused)
    assert not any(isinstance(m, nn.Dropout) and m.p for m in encoder.decoder.modules())
    names = [name for name, p in encoder.decoder.named_parameters() if p.requires_grad]
    assert any(name.endswith("q_proj.lora_A.default.weight") for name in names)


def test_dora_keeps_pefts_own_dropout():
    encoder = Encoder("tiny", lora_rank=4, lora_dropout=0.1, dora=True).load()
    assert not any(isinstance(m, DroppedLinear) for m in encoder.decoder.modules())


def test_a_decoder_without_a_lora_stays_as_it_is():
    decoder = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.1))
    fuse_dropout(decoder)
    assert [type(m) for m in decoder] == [nn.Linear, nn.Dropout]
