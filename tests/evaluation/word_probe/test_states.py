import numpy as np
import pytest
import torch

from llm2vec_pl.encoder import pad_words, word_states, word_tokens
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.word_probe import states as states_module
from llm2vec_pl.evaluation.word_probe.frozen import open_frozen
from llm2vec_pl.evaluation.word_probe.states import kept_states

SENTENCES = [["Lakes", "are", "deep"], ["Yes"], ["A", "green-eyed", "dog", "", "sees", "rivers"]]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path))
    return open_frozen("tiny", bidirectional=True)


def rows_of(model):
    return word_tokens(model.tokenize, SENTENCES)


def test_kept_states_are_those_of_the_encoder(tiny):
    rows = rows_of(tiny)
    kept = kept_states(tiny, rows, [0, 2, 4])
    for layer, found in kept.items():
        for i, row in enumerate(rows):
            batch = pad_words([row])
            with torch.no_grad():
                alone = tiny.encoder.layer_states(
                    {key: batch[key] for key in ("input_ids", "attention_mask")}
                )[layer]
            expected = [word_states(alone, batch["word_index"], shift) for shift in (0, 1)]
            torch.testing.assert_close(found.of([i]), torch.stack(expected), atol=0.1, rtol=0.05)


def test_sentences_may_be_taken_in_any_order(tiny):
    kept = kept_states(tiny, rows_of(tiny), [4])[4]
    both = kept.of([2, 0])
    assert both.shape == (2, 5 + 3, 256)  # an empty word has no state
    assert torch.equal(both, torch.cat([kept.of([2]), kept.of([0])], dim=1))


def test_what_is_there_is_not_computed_again_and_the_rest_is(tiny, monkeypatch):
    rows = rows_of(tiny)
    first = kept_states(tiny, rows, [1, 4])
    passes = []
    compute = tiny.states
    monkeypatch.setattr(tiny, "states", lambda batch: passes.append(0) or compute(batch))
    again = kept_states(tiny, rows, [4, 1])
    assert not passes
    assert np.array_equal(first[4].states, again[4].states)
    kept_states(tiny, rows, [1, 3, 4])
    assert len(passes) == 1


def test_an_interrupted_pass_leaves_no_layer_behind(tiny, tmp_path, monkeypatch):
    def fail(batch):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tiny, "states", fail)
        with pytest.raises(KeyboardInterrupt):
            kept_states(tiny, rows_of(tiny), [2])
    assert not list(tmp_path.rglob("layer-*"))
    assert kept_states(tiny, rows_of(tiny), [2])[2].states.shape == (9, 2, 256)


def test_other_models_sentences_and_settings_have_other_states(tiny, tmp_path):
    rows = rows_of(tiny)
    kept_states(tiny, rows, [4])
    kept_states(open_frozen("tiny", bidirectional=False), rows, [4])
    kept_states(tiny, rows[:2], [4])
    assert len(list(tmp_path.rglob("layer-4.npy"))) == 3


def test_states_that_would_fill_the_disk_are_refused_before_they_are_written(tiny, monkeypatch):
    monkeypatch.setattr(states_module, "LEFT_FREE", 2**62)
    with pytest.raises(UserError, match="LLM2VEC_PL_CACHE"):
        kept_states(tiny, rows_of(tiny), [2])


def test_states_beyond_the_range_of_float16_are_cut_to_it(tiny, monkeypatch):
    compute = tiny.states
    monkeypatch.setattr(tiny, "states", lambda batch: tuple(1e9 * each for each in compute(batch)))
    found = kept_states(tiny, rows_of(tiny), [4])[4].states
    assert np.isfinite(found).all()
    assert np.abs(found).max() == np.finfo(np.float16).max
