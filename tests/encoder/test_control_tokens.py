"""Control tokens that a text spells out are plain characters, those of a template are not."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_tokenizer import REAL, pooled_text
from tokenizers import AddedToken, Tokenizer, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llm2vec_pl.data.blocks.blocks import tokens_and_lengths
from llm2vec_pl.decoder.source import TINY
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.encoder.tokenizer import TextTokenizer

QUICK = ("tiny", "mistral")


@pytest.fixture(
    params=[pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in ["tiny", *REAL]],
    scope="module",
)
def tokenizer(request):
    if request.param == "tiny":
        return AutoTokenizer.from_pretrained(TINY)
    path = Path(__file__).parents[3] / "shared/data/tokenizers" / REAL[request.param]
    if not path.exists():
        pytest.skip(f"needs the real tokenizer in {path}")
    if path.is_dir():
        return AutoTokenizer.from_pretrained(path)
    return PreTrainedTokenizerFast(tokenizer_file=str(path))


@pytest.fixture(scope="module")
def text(tokenizer):
    return TextTokenizer(tokenizer)


def control_tokens(tokenizer) -> list[str]:
    added = tokenizer.added_tokens_decoder.values()
    return sorted(token.content for token in added if token.special)[:8]


def control_ids(tokenizer) -> set[int]:
    return {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def ids(batch, row=0) -> list[int]:
    return batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()


def test_a_spelled_control_token_is_plain_text(tokenizer, text):
    texts = [f"before {token} after" for token in control_tokens(tokenizer)]
    batch = text(["nothing special", *texts, "nothing special"])
    assert ids(batch, 0) == ids(batch, -1)
    for row, each in enumerate(texts, start=1):
        # As MNTP's blocks have it.
        assert ids(batch, row) == tokenizer(each, split_special_tokens=True)["input_ids"]
        assert pooled_text(tokenizer, batch, row).strip() == each
        pooled = batch["input_ids"][row][batch["pooling_mask"][row].bool()]
        assert not control_ids(tokenizer) & set(pooled.tolist())


def test_encoding_contrastive_data_and_blocks_follow_one_rule(tokenizer, text):
    texts = [f"a {token} b" for token in control_tokens(tokenizer)] + ["plain"]
    stream, lengths = tokens_and_lengths(tokenizer, texts)
    rows = [ids(text(texts), row) for row in range(len(texts))]
    assert np.concatenate(rows).tolist() == stream.tolist()
    assert text.lengths(texts) == lengths.tolist() == [len(row) for row in rows]


def test_those_who_want_control_tokens_in_texts_can_have_them(tokenizer):
    token = control_tokens(tokenizer)[0]
    batch = TextTokenizer(tokenizer, control_tokens=True)([f"a {token} b"])
    assert ids(batch) == tokenizer(f"a {token} b")["input_ids"]
    assert tokenizer.convert_tokens_to_ids(token) in ids(batch)


def test_a_template_and_an_instruction_keep_theirs(tokenizer):
    token = control_tokens(tokenizer)[-1]
    number = tokenizer.convert_tokens_to_ids(token)
    text = TextTokenizer(tokenizer, template=f"{token}user: {{text}}{token} end{token}")
    batch = text(["cats", f"cats {token} dogs"], f"Find {token}: ")
    expected = tokenizer(f"{token}user: Find {token}: cats{token} end{token}")["input_ids"]
    assert ids(batch, 0) == expected
    assert ids(batch, 1).count(number) == expected.count(number) >= 4
    assert pooled_text(tokenizer, batch, 1).strip() == f"cats {token} dogs"
    assert text.lengths(["cats", f"cats {token} dogs"], f"Find {token}: ") == [
        len(ids(batch, 0)),
        len(ids(batch, 1)),
    ]


def test_a_control_token_across_the_border_of_a_text_is_plain(tokenizer):
    token = control_tokens(tokenizer)[0]
    text = TextTokenizer(tokenizer, template=f"a{token[0]}{{text}}{token[-1]}b")
    batch = text([f"{token[1:]} and {token[:-1]}"])
    assert tokenizer.convert_tokens_to_ids(token) not in ids(batch)[1:]
    assert pooled_text(tokenizer, batch).replace(" ", "") in f"a{token} and {token}b".replace(
        " ", ""
    )


def test_the_chat_template_keeps_its_control_tokens(tokenizer):
    if not tokenizer.chat_template:
        pytest.skip("has no chat template")
    text = TextTokenizer(tokenizer, template="chat")
    token = control_tokens(tokenizer)[0]
    plain, spelled = ids(text(["cats"])), ids(text([f"cats {token} dogs"]))
    control = control_ids(tokenizer)
    assert [i for i in spelled if i in control] == [i for i in plain if i in control] != []
    assert pooled_text(tokenizer, text([f"cats {token} dogs"])).strip() == f"cats {token} dogs"


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_neighbours_that_spell_control_tokens_change_nothing(tokenizer, text, data):
    words = st.sampled_from(["hello ", " world", "<", "日本 ", "\n", *control_tokens(tokenizer)])
    texts = data.draw(st.lists(st.lists(words, max_size=5).map("".join), min_size=1, max_size=4))
    batch = text(texts, "Say: ")
    assert text.lengths(texts, "Say: ") == batch["attention_mask"].sum(dim=1).tolist()
    for row, each in enumerate(texts):
        alone = text([each], "Say: ")
        assert ids(batch, row) == ids(alone)
        length = len(ids(alone))
        assert batch["pooling_mask"][row, :length].tolist() == alone["pooling_mask"][0].tolist()
        begin = 1 if ids(alone)[0] in control_ids(tokenizer) else 0
        assert not control_ids(tokenizer) & set(ids(alone)[begin:-1])


def test_truncation_follows_the_rule(tokenizer, text):
    spelled = [control_tokens(tokenizer)[0] + " word" * 50]
    text = copy.copy(text)
    whole, text.max_length = ids(text(spelled)), 12
    assert len(ids(text(spelled))) == 12
    assert ids(text(spelled))[:8] == whole[:8]


def test_copies_follow_the_rule():
    text = TextTokenizer(AutoTokenizer.from_pretrained(TINY))
    expected = ids(text(["one </s> two"]))
    for each in (copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert ids(each(["one </s> two"])) == expected


def test_a_unigram_model_and_names_that_are_normalised():
    """Its vocabulary could compose a control token by itself, from whatever case."""
    pieces = ["<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz<>/ "]
    backend = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=2))
    backend.normalizer = normalizers.Lowercase()
    backend.add_special_tokens([AddedToken(n, normalized=n == "</s>") for n in pieces[:3]])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    text = TextTokenizer(tokenizer, template="<s>{text}</s>")
    for spelled in ("a<s>b", "a</S>b", "</s>"):
        found = ids(text([spelled]))
        assert [i for i in found if i < 3] == [0, 1]
        assert tokenizer.decode(found[1:-1]).replace(" ", "") == spelled.lower()


def test_an_encoder_takes_the_rule_along(llama_folder, tmp_path):
    encoder = Encoder(llama_folder, control_tokens=True).load()
    reopened = Encoder.from_pretrained(save_encoder(encoder, tmp_path / "stage"))
    number = encoder.tokenizer.convert_tokens_to_ids("</s>")
    for each in (encoder, reopened):
        assert ids(each.tokenize(["one </s> two"]))[:-1].count(number) == 1
    assert not torch.allclose(
        encoder.encode("one </s> two"), Encoder(llama_folder).encode("one </s> two")
    )
