import pickle

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.lora.added import AddedLinear, add_in_place
from llm2vec_pl.lora.dropout import fuse_dropout


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(12, 20)
        self.down = nn.Linear(20, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x)))


def adapted(dtype: torch.dtype = torch.float32, **settings) -> nn.Module:
    """Two layers with a LoRA that peft computes."""
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["up", "down"], **settings)
    model = get_peft_model(Block().to(dtype), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape) * 0.3
    return model.train()


def output_and_gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    output = model(x)
    (output.float() ** 2).sum().backward()
    return [output, x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


def ours(model: nn.Module) -> nn.Module:
    fuse_dropout(model)
    add_in_place(model)
    assert sum(type(m) is AddedLinear for m in model.modules()) == 2
    return model


@pytest.mark.parametrize("shape", [(7, 12), (2, 5, 12), (12,), (0, 3, 12)])
def test_output_and_gradients_are_pefts(shape):
    x = torch.randn(shape)
    theirs = output_and_gradients(adapted(), x)
    for one, other in zip(output_and_gradients(ours(adapted()), x), theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("autocast", [True, False])
def test_in_half_precision_it_is_pefts_but_for_rounding(autocast):
    x = torch.randn(6, 12, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        theirs = output_and_gradients(adapted(torch.bfloat16), x)
        mine = output_and_gradients(ours(adapted(torch.bfloat16)), x)
    for one, other in zip(mine, theirs, strict=True):
        assert one.dtype == other.dtype
        assert (one.float() - other.float()).norm() <= 0.03 * other.float().norm()


def test_several_adapters_are_all_added():
    def two() -> nn.Module:
        model = adapted()
        model.add_adapter("more", LoraConfig(r=2, target_modules=["up"]))
        model.base_model.set_adapter(["default", "more"])
        for name, parameter in model.named_parameters():
            if ".more." in name:
                torch.manual_seed(1)
                parameter.data = torch.randn(parameter.shape)
        return model

    x = torch.randn(4, 12)
    torch.testing.assert_close(ours(two())(x), two()(x))


def test_what_peft_treats_in_its_own_way_stays_pefts():
    x = torch.randn(4, 12)
    plain, model = adapted(), ours(adapted())
    with plain.disable_adapter(), model.disable_adapter():
        torch.testing.assert_close(model(x), plain(x))
    biased, other = adapted(lora_bias=True), ours(adapted(lora_bias=True))
    torch.testing.assert_close(other(x), biased(x))
    model.merge_adapter()
    torch.testing.assert_close(model(x), plain(x))
    model.unmerge_adapter()
    torch.testing.assert_close(model(x), plain(x))
    merged = model.merge_and_unload()
    assert not any(isinstance(m, Linear) for m in merged.modules())
    torch.testing.assert_close(merged(x), plain(x))


def test_it_can_be_pickled():
    model = ours(adapted())
    x = torch.randn(4, 12)
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(x), model(x))


def test_an_encoder_trains_its_lora_so_but_not_with_dora():
    plain = Encoder("tiny", lora_rank=4).load()
    assert sum(type(m) is AddedLinear for m in plain.decoder.modules()) == 4 * 7
    dora = Encoder("tiny", lora_rank=4, dora=True).load()
    assert not any(isinstance(m, AddedLinear) for m in dora.decoder.modules())
