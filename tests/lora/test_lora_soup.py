"""The average of adapters is that of their updates, as peft itself applies them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from peft_adapters import train_lora
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from llm2vec_pl.errors import UserError
from llm2vec_pl.lora.soup import Pair, Soup, average_adapters, reduced, stacked

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "lora_alpha": 5},
    "patterns": {
        "rank_pattern": {"model.layers.0.self_attn.q_proj": 2},
        "alpha_pattern": {"model.layers.1.self_attn.q_proj": 32},
    },
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "bias and head": {"bias": "lora_only", "modules_to_save": ["lm_head"]},
}


def adapters(base: str, folder: Path, count: int = 2, **options: Any) -> list[str]:
    """Adapters of one form whose weights differ."""
    made = []
    for i in range(count):
        model = AutoModelForCausalLM.from_pretrained(base)
        path = train_lora(model, base, folder / str(i), **options)
        file = path / "adapter_model.safetensors"
        torch.manual_seed(i)
        weights = {key: torch.randn_like(value) * 0.3 for key, value in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
        made.append(str(path))
    return made


def written(soup: Soup, like: str, folder: Path) -> str:
    folder.mkdir()
    config = json.loads((Path(like) / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | soup.config))
    save_file(soup.weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return str(folder)


def updates(base: str, adapter: str) -> dict[str, Tensor]:
    """What peft's own merge adds to each weight."""
    plain = AutoModelForCausalLM.from_pretrained(base)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    merged = PeftModel.from_pretrained(plain, adapter).merge_and_unload().state_dict()
    return {key: merged[key] - before[key] for key in before}


@pytest.mark.parametrize("form", FORMS)
def test_the_update_is_the_weighted_average_of_the_updates(llama_folder, tmp_path, form):
    parents = adapters(llama_folder, tmp_path, count=3, **FORMS[form])
    shares = [0.5, 0.2, 0.3]
    soup = written(average_adapters(parents, shares), parents[0], tmp_path / "soup")
    each = [updates(llama_folder, parent) for parent in parents]
    found = updates(llama_folder, soup)
    assert any(value.abs().max() > 0.1 for value in found.values())
    for key, value in found.items():
        expected = sum(share * one[key] for share, one in zip(shares, each, strict=True))
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-4)


def test_it_is_not_the_product_of_the_averaged_matrices(llama_folder, tmp_path):
    parents = adapters(llama_folder, tmp_path)
    soup = written(average_adapters(parents, [0.5, 0.5]), parents[0], tmp_path / "soup")
    one, other = (load_file(Path(parent, "adapter_model.safetensors")) for parent in parents)
    mixed = {key: (one[key] + other[key]) / 2 for key in one}
    config = json.loads(Path(parents[0], "adapter_config.json").read_text())
    naive = written(Soup(config, mixed, 4, 6, 0, (0, "")), parents[0], tmp_path / "naive")
    key = "model.layers.0.self_attn.q_proj.weight"
    found, wrong = updates(llama_folder, soup)[key], updates(llama_folder, naive)[key]
    assert (found - wrong).norm() > 0.3 * found.norm()


def test_with_all_weight_on_one_its_rank_and_its_matrices_stay(llama_folder, tmp_path):
    parents = adapters(llama_folder, tmp_path)
    soup = average_adapters(parents, [1.0, 0.0])
    assert soup.rank == 4
    expected, found = updates(llama_folder, parents[0]), written(soup, parents[0], tmp_path / "s")
    for key, value in updates(llama_folder, found).items():
        torch.testing.assert_close(value, expected[key], atol=1e-6, rtol=1e-5)


def test_a_rank_that_is_large_enough_loses_nothing(llama_folder, tmp_path):
    (parent,) = adapters(llama_folder, tmp_path, count=1)
    soup = average_adapters([parent, parent], [0.3, 0.7], rank=4)
    assert soup.rank == 4
    assert soup.lost < 1e-6
    expected = updates(llama_folder, parent)
    for key, value in updates(llama_folder, written(soup, parent, tmp_path / "soup")).items():
        torch.testing.assert_close(value, expected[key], atol=1e-5, rtol=1e-4)


def test_a_smaller_rank_says_what_it_leaves_out(llama_folder, tmp_path):
    parents = adapters(llama_folder, tmp_path)
    exact = updates(
        llama_folder, written(average_adapters(parents, [0.5, 0.5]), parents[0], tmp_path / "e")
    )
    soup = average_adapters(parents, [0.5, 0.5], rank=3)
    found = updates(llama_folder, written(soup, parents[0], tmp_path / "soup"))
    assert soup.config["r"] == soup.rank == 3
    lost = sum((found[key] - exact[key]).square().sum() for key in exact)
    whole = sum(value.square().sum() for value in exact.values())
    assert soup.lost == pytest.approx((lost / whole).sqrt().item(), rel=1e-3)
    worst, layer = soup.most_lost
    key = f"{layer}.weight"
    share = (found[key] - exact[key]).norm() / exact[key].norm()
    assert worst == pytest.approx(share.item(), rel=1e-3)
    assert 0 < soup.lost < worst < 1


def test_slerp_of_an_adapter_with_itself_is_itself(llama_folder, tmp_path):
    (parent,) = adapters(llama_folder, tmp_path, count=1)
    soup = average_adapters([parent, parent], [0.4, 0.6], slerp=True)
    expected = updates(llama_folder, parent)
    for key, value in updates(llama_folder, written(soup, parent, tmp_path / "soup")).items():
        torch.testing.assert_close(value, expected[key], atol=1e-5, rtol=1e-4)


def test_slerp_goes_along_the_arc_between_the_updates(llama_folder, tmp_path):
    """On the arc, a third of the way: the angles to both ends are in this ratio."""
    parents = adapters(llama_folder, tmp_path, bias="lora_only")
    soup = average_adapters(parents, [2 / 3, 1 / 3], slerp=True)
    one, other = (updates(llama_folder, parent) for parent in parents)
    found = updates(llama_folder, written(soup, parents[0], tmp_path / "soup"))
    for key in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        a, b, c = (each[key].flatten().double() for each in (one, other, found))
        cosine = torch.dot(a, b) / (a.norm() * b.norm())
        angle = torch.acos(cosine)
        expected = (torch.sin(2 * angle / 3) * a + torch.sin(angle / 3) * b) / torch.sin(angle)
        torch.testing.assert_close(c, expected, atol=1e-5, rtol=1e-4)


@settings(max_examples=50)
@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=4).filter(lambda each: sum(each) > 0.01),
    st.integers(1, 5),
    st.integers(0, 2**31),
)
def test_whatever_the_weights_the_product_is_their_sum(shares, rank, seed):
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    pairs = [Pair(drawn(rank, 6), drawn(9, rank)) for _ in shares]
    expected = sum(share * pair.b @ pair.a for share, pair in zip(shares, pairs, strict=True))
    pair = stacked(pairs, shares)
    torch.testing.assert_close(pair.b @ pair.a, expected)
    assert len(pair.a) == rank * max(1, sum(share > 0 for share in shares))
    for smaller in (1, 3, 50):
        near, lost, whole = reduced(pair, smaller)
        _, s, _ = torch.linalg.svd(expected)
        assert whole == pytest.approx(s.square().sum().item(), rel=1e-6, abs=1e-12)
        assert lost == pytest.approx(s[smaller:].square().sum().item(), rel=1e-6, abs=1e-9)
        missing = (near.b @ near.a - expected).square().sum().item()
        assert missing == pytest.approx(lost, rel=1e-6, abs=1e-9)


def test_an_update_of_zero_has_an_average_too():
    nothing = Pair(torch.zeros(2, 3).double(), torch.zeros(4, 2).double())
    pair, lost, whole = reduced(stacked([nothing, nothing], [0.5, 0.5]), 1)
    assert (pair.b @ pair.a).count_nonzero() == 0
    assert lost == whole == 0


DIFFERENCES = {
    "`lora_rank` is 4 in .*0, but 2 in .*1": {"r": 2},
    "`lora_alpha` is 8 in .*0, but 9 in": {"lora_alpha": 9},
    "`rslora` is False": {"use_rslora": True},
    "`bias` is 'none'": {"bias": "all"},
    "0 has an adapter's weight .*v_proj.*, and .*1 has none": {"target_modules": ["q_proj"]},
}


@pytest.mark.parametrize("expected", DIFFERENCES)
def test_an_adapter_of_another_form_is_named_with_the_difference(llama_folder, tmp_path, expected):
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    form = {"target_modules": ["q_proj", "v_proj"]}
    one = train_lora(model, llama_folder, tmp_path / "0", **form)
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    other = train_lora(model, llama_folder, tmp_path / "1", **form | DIFFERENCES[expected])
    with pytest.raises(UserError, match=expected):
        average_adapters([str(one), str(other)], [0.5, 0.5])


def test_other_dropout_and_other_names_are_no_difference(llama_folder, tmp_path):
    (one,) = adapters(llama_folder, tmp_path / "a", count=1)
    (other,) = adapters(llama_folder, tmp_path / "b", count=1, lora_dropout=0.2)
    average_adapters([one, other], [0.5, 0.5])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"use_dora": True}, "has use_dora"),
        ({"lora_bias": True}, "has lora_bias"),
        ({"init_lora_weights": "pissa"}, "was initialised by pissa"),
    ],
)
def test_an_adapter_that_is_no_product_is_refused(llama_folder, tmp_path, options, expected):
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    folder = str(train_lora(model, llama_folder, tmp_path / "lora", **options))
    with pytest.raises(UserError, match=f"{expected}.*save_encoder"):
        average_adapters([folder, folder], [0.5, 0.5])
