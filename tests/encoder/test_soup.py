"""A soup of runs is a folder like theirs, and embeds with the average of their weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from saved_models import save_model, small_llama
from torch import Tensor
from transformers import AutoModel

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.encoder.soup import average_encoders
from llm2vec_pl.errors import UserError

TEXTS = ["a text", "another one that is longer"]
Weights = dict[str, Tensor]


def run(base: str | Path, folder: Path, seed: int = 1, **arguments: Any) -> Path:
    """What a run leaves: an encoder whose trained weights depend on the seed."""
    encoder = Encoder(str(base), **{"lora_rank": 4, **arguments}).load()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    encoder.notes = {"temperature": 0.05 * seed, "instructions": {f"task{seed}": ["Find: "]}}
    encoder.prompts = {f"task{seed}": "Find: ", "query": f"Find {seed}: "}
    return save_encoder(encoder, folder, {"recipe": "mntp", "seed": seed})


def merged(folder: str | Path) -> Weights:
    """The weights that an encoder computes with."""
    encoder = Encoder.from_pretrained(folder, dtype="float32")
    return {key: value.detach() for key, value in encoder.decoder.state_dict().items()}


def require_average(soup: Path, parents: list[Path], shares: list[float]) -> None:
    each = [merged(parent) for parent in parents]
    for key, value in merged(soup).items():
        expected = sum(share * one[key] for share, one in zip(shares, each, strict=True))
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


def embeddings(folder: str | Path) -> Tensor:
    return Encoder.from_pretrained(folder, dtype="float32").encode(TEXTS)


@pytest.fixture(scope="module")
def runs(llama_folder, tmp_path_factory) -> list[Path]:
    """Two runs on top of the same earlier stage."""
    root = tmp_path_factory.mktemp("runs")
    first = run(llama_folder, root / "mntp" / "version_0" / "encoder", seed=9)
    return [run(first, root / f"simcse{seed}" / "encoder", seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def one(llama_folder, tmp_path_factory) -> Path:
    """A run that others are compared with."""
    return run(llama_folder, tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def full_runs(llama_folder, tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("full")
    return [run(llama_folder, root / str(seed), seed, lora_rank=0) for seed in (1, 2)]


@pytest.mark.parametrize("kind", ["runs", "full_runs"])
def test_the_soup_has_the_average_of_the_weights(kind, request, tmp_path):
    parents = request.getfixturevalue(kind)
    soup = average_encoders(parents, tmp_path / "soup", [3, 1])
    require_average(soup, parents, [0.75, 0.25])
    assert not torch.allclose(embeddings(soup), embeddings(parents[0]), atol=1e-3)


@pytest.mark.parametrize("kind", ["runs", "full_runs"])
@pytest.mark.parametrize("slerp", [False, True])
def test_a_soup_of_an_encoder_with_itself_is_itself(kind, slerp, request, tmp_path):
    one, _ = request.getfixturevalue(kind)
    soup = average_encoders([one, one], tmp_path / "soup", [0.3, 0.7], slerp=slerp)
    require_average(soup, [one], [1.0])
    torch.testing.assert_close(embeddings(soup), embeddings(one), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["runs", "full_runs"])
@pytest.mark.parametrize("slerp", [False, True])
def test_all_weight_on_the_first_gives_the_first(kind, slerp, request, tmp_path):
    parents = request.getfixturevalue(kind)
    soup = average_encoders(parents, tmp_path / "soup", [1, 0], slerp=slerp)
    require_average(soup, parents[:1], [1.0])


def test_slerp_of_two_runs_is_another_than_their_average(runs, tmp_path):
    line = average_encoders(runs, tmp_path / "line")
    arc = average_encoders(runs, tmp_path / "arc", slerp=True)
    key = "layers.0.self_attn.q_proj.weight"
    below = merged(runs[0].parents[1] / "mntp")[key]
    lengths = [(merged(folder)[key] - below).norm().item() for folder in (line, arc, *runs)]
    assert lengths[0] < 0.85 * lengths[1]  # the updates are nearly at a right angle
    assert lengths[1] == pytest.approx(sum(lengths[2:]) / 2, rel=0.1)


def test_peft_opens_the_soup_and_has_the_average_of_the_updates(runs, llama_folder, tmp_path):
    soup = average_encoders(runs, tmp_path / "soup", [0.6, 0.4])
    found, *parents = (
        PeftModel.from_pretrained(AutoModel.from_pretrained(llama_folder), folder)
        .merge_and_unload()
        .state_dict()
        for folder in (soup, *runs)
    )
    for key, value in found.items():
        expected = 0.6 * parents[0][key] + 0.4 * parents[1][key]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
    config = json.loads((soup / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 8)


def test_a_reduced_soup_has_the_rank_of_its_parents_and_says_what_it_lost(runs, tmp_path):
    lines: list[str] = []
    soup = average_encoders(runs, tmp_path / "soup", rank=4, report=lines.append)
    weights = load_file(soup / "adapter_model.safetensors")
    assert {len(value) for key, value in weights.items() if "lora_A" in key} == {4}
    assert any("rank 4, reduced to this rank, which leaves out" in line for line in lines)
    record = json.loads((soup / "lineage.json").read_text())["stages"][-1]
    assert 0.01 < record["lost"] < 0.9
    assert f"{record['lost']:.2%}" in "\n".join(lines)


def test_the_folder_is_a_stage_with_all_parents_in_its_lineage(runs, tmp_path):
    lines: list[str] = []
    soup = average_encoders(runs, tmp_path / "soup", [0.25, 0.75], report=lines.append)
    lineage = json.loads((soup / "lineage.json").read_text())
    earlier, record = lineage["stages"]
    assert earlier == {"recipe": "mntp", "seed": 9}
    assert record["recipe"] == "merge"
    assert record["method"] == "average"
    assert [parent["name"] for parent in record["parents"]] == [str(path) for path in runs]
    assert [parent["weight"] for parent in record["parents"]] == [0.25, 0.75]
    assert [parent["stages"][0]["seed"] for parent in record["parents"]] == [1, 2]
    for parent, line in zip(record["parents"], lines, strict=False):
        assert line == f"{parent['weight']} of {parent['name']} ({parent['fingerprint']})"
    assert len({parent["fingerprint"] for parent in record["parents"]}) == 2
    assert (soup / "adapters" / "0" / "adapter_model.safetensors").is_file()
    settings = json.loads((soup / "llm2vec_config.json").read_text())
    assert "temperature" not in settings  # the parents differ in it
    assert settings["instructions"] == {"task1": ["Find: "], "task2": ["Find: "]}
    assert settings["prompts"] == {"task1": "Find: ", "task2": "Find: "}  # not in `query`


def test_a_further_stage_starts_from_the_soup_which_needs_no_other_folder(llama_folder, tmp_path):
    first = run(llama_folder, tmp_path / "a", seed=3)
    parents = [run(first, tmp_path / str(seed), seed) for seed in (1, 2)]
    soup = average_encoders(parents, tmp_path / "soup")
    expected = embeddings(soup)
    for folder in (first, *parents):
        shutil.rmtree(folder)
    torch.testing.assert_close(embeddings(soup), expected)
    encoder = Encoder(str(soup), lora_rank=2).load().eval()
    torch.testing.assert_close(encoder.encode(TEXTS), expected, atol=1e-5, rtol=1e-4)
    after = save_encoder(encoder, tmp_path / "after", {"recipe": "supervised"})
    torch.testing.assert_close(embeddings(after), expected, atol=1e-5, rtol=1e-4)
    stages = json.loads((after / "lineage.json").read_text())["stages"]
    assert [stage["recipe"] for stage in stages] == ["mntp", "merge", "supervised"]


def test_soups_of_one_rank_have_a_soup_again(runs, tmp_path):
    one = average_encoders(runs, tmp_path / "one")
    two = average_encoders(runs, tmp_path / "two", [9, 1])
    require_average(average_encoders([one, two], tmp_path / "three"), runs, [0.7, 0.3])


def test_adapters_on_quantized_weights_lie_on_the_same_ones(tmp_path):
    base = save_model(small_llama(hidden_size=64, intermediate_size=128), tmp_path / "base")
    one, two = (run(base, tmp_path / str(i), i, quantization="nf4") for i in (1, 2))
    same = average_encoders([one, one], tmp_path / "same")
    assert Encoder.from_pretrained(same).quantization == "nf4"
    torch.testing.assert_close(embeddings(same), embeddings(one), atol=1e-4, rtol=1e-3)
    soup = average_encoders([one, two], tmp_path / "soup")
    assert not torch.allclose(embeddings(soup), embeddings(one), atol=1e-2)


# Full weights -------------------------------------------------------------------------------------


def test_full_weights_keep_dtype_names_and_files_of_the_first(llama_folder, tmp_path, monkeypatch):
    """However the files of the others are cut, and however little is read at once."""
    monkeypatch.setattr("llm2vec_pl.encoder.soup_weights.AT_ONCE", 1000)
    parents = []
    for seed in (1, 2):
        arguments = {"lora_rank": 0, "dtype": "bfloat16"}
        parents.append(run(llama_folder, tmp_path / str(seed), seed, **arguments))
    sharded = tmp_path / "sharded"
    encoder = Encoder(str(parents[0]), lora_rank=0, dtype="bfloat16").load()
    shutil.copytree(parents[0], sharded)
    (sharded / "model.safetensors").unlink()
    encoder.causal_lm.save_pretrained(sharded, max_shard_size="300KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    soup = average_encoders([sharded, parents[1]], tmp_path / "soup")
    assert {path.name for path in soup.iterdir()} == {path.name for path in sharded.iterdir()}
    one, two = (load_file(parent / "model.safetensors") for parent in parents)
    found = {k: v for file in soup.glob("*.safetensors") for k, v in load_file(file).items()}
    assert found.keys() == one.keys()
    for key, value in found.items():
        expected = (0.5 * one[key].float() + 0.5 * two[key].float()).bfloat16()
        assert torch.equal(value, expected)
    other = average_encoders([parents[1], sharded], tmp_path / "other")
    assert [path.name for path in other.glob("*.safetensors")] == ["model.safetensors"]
    assert torch.equal(embeddings(other), embeddings(soup))


def test_slerp_of_full_weights_keeps_their_length_where_the_average_is_shorter(full_runs, tmp_path):
    arc = merged(average_encoders(full_runs, tmp_path / "arc", slerp=True))
    for key in ("layers.0.self_attn.q_proj.weight", "norm.weight"):
        a, b = (merged(run)[key].flatten().double() for run in full_runs)
        angle = torch.acos(torch.dot(a, b) / a.norm() / b.norm())
        expected = torch.sin(angle / 2) / torch.sin(angle) * (a + b)
        torch.testing.assert_close(arc[key].flatten().double(), expected, atol=1e-6, rtol=1e-4)


def test_dora_runs_are_averaged_as_full_weights(llama_folder, tmp_path):
    parents = [run(llama_folder, tmp_path / str(i), i, dora=True) for i in (1, 2)]
    with pytest.raises(UserError, match="use_dora.*save_encoder"):
        average_encoders(parents, tmp_path / "soup")
    assert not (tmp_path / "soup").exists()
    full = [
        save_encoder(Encoder.from_pretrained(path, dtype="float32"), tmp_path / f"full{i}")
        for i, path in enumerate(parents)
    ]
    require_average(average_encoders(full, tmp_path / "soup"), parents, [0.5, 0.5])


# Errors -------------------------------------------------------------------------------------------


DIFFERENT = {
    "`pooling` is 'mean' in .*/one, but 'last' in .*/two": {"pooling": "last"},
    "`bidirectional` is True": {"bidirectional": False},
    "`max_length` is 512 .*, but 64": {"max_length": 64},
    "`template` is None .*, but '<{text}>'": {"template": "<{text}>"},
    "`dtype` is 'float32' .*, but 'bfloat16'": {"dtype": "bfloat16"},
    "`lora_rank` is 4 .*, but 2": {"lora_rank": 2},
    "`lora_alpha` is 8 .*, but 3": {"lora_alpha": 3.0},
    "`rslora` is False .*, but True": {"rslora": True},
    "has an adapter's weight .*down_proj.*, and .*/two has none": {"lora_targets": ["q_proj"]},
    "kind of weights is 'an adapter' .*, but 'full weights'": {"lora_rank": 0},
}


@pytest.mark.parametrize("expected", DIFFERENT)
def test_runs_of_another_form_are_refused_with_the_first_difference(
    one, llama_folder, tmp_path, expected
):
    two = run(llama_folder, tmp_path / "two", **DIFFERENT[expected])
    with pytest.raises(UserError, match=expected):
        average_encoders([one, two], tmp_path / "soup")
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


@pytest.mark.parametrize("lora_rank", [4, 0])
def test_runs_on_other_weights_are_refused(llama_folder, tmp_path, lora_rank):
    base = save_model(small_llama(rope_theta=5000.0), tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] += 0.01
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    one = run(llama_folder, tmp_path / "one", lora_rank=lora_rank)
    two = run(base, tmp_path / "two", lora_rank=lora_rank)
    with pytest.raises(UserError, match="The fingerprint of the weights that it was trained from"):
        average_encoders([one, two], tmp_path / "soup")


def test_runs_on_other_earlier_adapters_are_refused(llama_folder, tmp_path):
    below = [run(llama_folder, tmp_path / f"mntp{i}", i) for i in (1, 2)]
    one, two = (run(base, tmp_path / base.name / "next") for base in below)
    with pytest.raises(UserError, match=r"list of the earlier adapters' fingerprints is \['"):
        average_encoders([one, two], tmp_path / "soup")
    with pytest.raises(UserError, match="fingerprints is \\[\\] in .*mntp1, but"):
        average_encoders([below[0], one], tmp_path / "soup")


def test_full_weights_that_began_with_other_adapters_are_refused(full_runs, tmp_path):
    """The adapters are merged: the record of the run alone tells them apart."""
    for path, began in zip(full_runs, ("0a0a", "0b0b"), strict=True):
        shutil.copytree(path, tmp_path / began)
        lineage = json.loads((path / "lineage.json").read_text())
        lineage["stages"][-1]["config"] = {"encoder": {"fingerprint": began}}
        (tmp_path / began / "lineage.json").write_text(json.dumps(lineage))
    with pytest.raises(UserError, match="what the last stage began with is '0a0a'"):
        average_encoders([tmp_path / "0a0a", tmp_path / "0b0b"], tmp_path / "soup")


def test_full_weights_that_were_drawn_at_random_are_refused(llama_folder, tmp_path):
    one = run(llama_folder, tmp_path / "one", lora_rank=0, random_weights=True)
    with pytest.raises(UserError, match="does not say from which ones.*drawn at random"):
        average_encoders([one, one], tmp_path / "soup")


def test_another_tokenizer_is_refused(runs, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop()
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="The tokenizer is"):
        average_encoders([runs[0], other], tmp_path / "soup")


def test_another_configuration_of_full_weights_is_refused(full_runs, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(full_runs[1], other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    with pytest.raises(UserError, match="`rms_norm_eps` in config.json is .*, but 0.5"):
        average_encoders([full_runs[0], other], tmp_path / "soup")


def change_dtype(weights: Weights) -> None:
    weights["model.norm.weight"] = weights["model.norm.weight"].half()


def change_shape(weights: Weights) -> None:
    weights["model.norm.weight"] = weights["model.norm.weight"][:3].clone()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda weights: weights.pop("model.norm.weight"), "model.norm.weight is 'there'.*missing"),
        (change_shape, r"shape of model.norm.weight is \[32\] in .*, but \[3\]"),
        (change_dtype, "dtype of model.norm.weight is 'F32'.*'F16'"),
    ],
    ids=["missing", "shape", "dtype"],
)
def test_full_weights_with_other_tensors_are_refused(full_runs, tmp_path, change, expected):
    other = tmp_path / "other"
    shutil.copytree(full_runs[1], other)
    weights = load_file(other / "model.safetensors")
    change(weights)
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=expected):
        average_encoders([full_runs[0], other], tmp_path / "soup")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_whole_numbers_are_kept_where_they_are_equal(full_runs, tmp_path):
    folders = []
    for i, path in enumerate(full_runs):
        folders.append(tmp_path / str(i))
        shutil.copytree(path, folders[i])
        weights = load_file(path / "model.safetensors")
        weights["positions"], weights["count"] = torch.arange(5), torch.tensor(3)
        save_file(weights, folders[i] / "model.safetensors", metadata={"format": "pt"})
    soup = average_encoders(folders, tmp_path / "soup")
    found = load_file(soup / "model.safetensors")
    assert torch.equal(found["positions"], torch.arange(5))
    weights["count"] = torch.tensor(4)
    save_file(weights, folders[1] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="count holds no fractions, and differs between"):
        average_encoders(folders, tmp_path / "soup")
    assert torch.equal(load_file(soup / "model.safetensors")["count"], torch.tensor(3))


@pytest.mark.parametrize(
    ("count", "options", "expected"),
    [
        (1, {}, "two encoders or more, but got 1"),
        (2, {"weights": [1.0]}, "`weights` has 1 numbers, but there are 2 encoders"),
        (2, {"weights": [0.0, 0.0]}, "`weights` are finite, at least 0, and not all 0"),
        (2, {"weights": [1.5, -0.5]}, "`weights` are finite, at least 0.*got 1.5 -0.5"),
        (2, {"weights": [float("nan"), 1]}, "`weights` are finite"),
        (3, {"slerp": True}, "`slerp` interpolates between two encoders, but got 3"),
        (2, {"rank": 0}, "`rank` is at least 1, but got 0"),
    ],
)
def test_a_wrong_argument_is_an_error(runs, tmp_path, count, options, expected):
    with pytest.raises(UserError, match=expected):
        average_encoders([*runs, *runs][:count], tmp_path / "soup", **options)


def test_full_weights_have_no_rank(full_runs, tmp_path):
    with pytest.raises(UserError, match="`rank` is for adapters"):
        average_encoders(full_runs, tmp_path / "soup", rank=4)


def test_what_no_recipe_has_written_is_refused(llama_folder, tmp_path):
    with pytest.raises(UserError, match=r"has no lineage\.json.*version_0/encoder"):
        average_encoders([llama_folder, llama_folder], tmp_path / "soup")


def test_no_parent_and_nothing_but_an_encoder_is_replaced(runs, tmp_path):
    parents = [tmp_path / "runs" / str(i) for i in range(2)]
    for parent, run_folder in zip(parents, runs, strict=True):
        shutil.copytree(run_folder, parent)
    for out in (parents[0], tmp_path / "runs"):
        with pytest.raises(UserError, match="`out`: .* holds .*Choose another folder"):
            average_encoders(parents, out)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="`out`: .*notes exists, and is not an encoder"):
        average_encoders(parents, tmp_path / "notes")
    (tmp_path / "empty").mkdir()
    average_encoders(parents, tmp_path / "empty")
    average_encoders(parents, tmp_path / "empty", [1, 0])  # an encoder may be replaced
    require_average(tmp_path / "empty", parents[:1], [1.0])


def test_a_disk_that_cannot_be_written_is_said_so(runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written to .*file/soup"):
        average_encoders(runs, tmp_path / "file" / "soup")
