"""Files that are no whole GGUF, and what is said about each."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from gguf_files import few_tokens, gguf, write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm2vec_pl.decoder.gguf_header import read_header
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    write_gguf(few_tokens(), file, "Q8_0")
    return file


def test_the_header_is_what_the_package_gguf_reads(whole):
    header = read_header(whole, "x")
    expected = gguf.GGUFReader(whole)
    assert header.architecture == "llama"
    assert header.tensors == tuple(tensor.name for tensor in expected.tensors)
    for key, value in header.metadata.items():
        content = expected.fields[key].contents()
        assert value == (len(content) if isinstance(content, list) else content), key


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.0, 1.0, exclude_max=True))
def test_a_file_that_is_cut_off_anywhere_is_an_error(whole, tmp_path, share):
    content = whole.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="cut.gguf is not a (whole )?GGUF"):
        read_header(cut, cut.name)


def test_the_last_byte_counts(whole, tmp_path):
    """The writer pads the end of the file, which nobody needs."""
    content = whole.read_bytes()
    tensor = gguf.GGUFReader(whole).tensors[-1]
    end = int(tensor.data_offset + tensor.n_bytes)
    file = tmp_path / "x.gguf"
    file.write_bytes(content[:end])
    read_header(file, "x")
    file.write_bytes(content[: end - 1])
    with pytest.raises(UserError, match=f"it has {end - 1:,} bytes instead of {end:,}"):
        Encoder(str(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a GGUF file: it begins with b''"),
        (b"PK\x03\x04 a zip", r"begins with b'PK.x03.x04' instead of b'GGUF'"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "of version 1, but 2 and 3 can be read"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "is not a whole GGUF"),
    ],
)
def test_what_is_no_gguf_is_an_error(content, message, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Encoder(str(file))


def test_a_number_format_that_is_too_new_asks_for_an_update(whole, tmp_path):
    content = whole.read_bytes()
    name = b"output_norm.weight"
    place = (
        content.index(name) + len(name) + 4 + 8
    )  # after the number of dimensions and one of them
    file = tmp_path / "new.gguf"
    file.write_bytes(content[:place] + struct.pack("<I", 9999) + content[place + 4 :])
    with pytest.raises(UserError, match="format 9999, .* pip install --upgrade gguf"):
        Encoder(str(file))


def test_a_split_gguf_asks_to_be_joined(whole, tmp_path):
    for name in ("model-00001-of-00003.gguf", "model-00002-of-00003.gguf"):
        file = tmp_path / name
        file.write_bytes(whole.read_bytes())
        command = "--merge model-00001-of-00003.gguf model.gguf"
        with pytest.raises(UserError, match=rf"split into 3 files\. Join them .*{command}"):
            Encoder(str(file))


def test_a_split_gguf_that_was_renamed_asks_to_be_joined(tmp_path):
    file = tmp_path / "model.gguf"
    write_gguf(few_tokens(), file, entries={"split.count": 3})
    with pytest.raises(UserError, match="one of 3 files that a GGUF is split into"):
        Encoder(str(file))
