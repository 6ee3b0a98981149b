import pytest
import torch

from llm2vec_pl.objectives.masking import IGNORED, mask_tokens

MASK, VOCABULARY = 0, 1000
IDS = torch.randint(10, VOCABULARY, (64, 256), generator=torch.Generator().manual_seed(1))
ORDINARY = torch.arange(10, VOCABULARY)
ANY = torch.ones_like(IDS, dtype=torch.bool)


def masked(strategy="bert", probability=0.2, maskable=ANY):
    generator = torch.Generator().manual_seed(0)
    return mask_tokens(IDS, maskable, MASK, ORDINARY, probability, strategy, generator)


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.9])
def test_the_share_of_labels_is_the_mask_probability(probability):
    _, labels = masked(probability=probability)
    assert (labels[:, 1:] != IGNORED).float().mean().item() == pytest.approx(probability, abs=0.02)


def test_bert_style_is_80_10_10():
    ids, labels = masked(probability=0.9)
    chosen = labels != IGNORED
    hidden = (ids[chosen] == MASK).float().mean().item()
    kept = (ids[chosen] == IDS[chosen]).float().mean().item()
    assert hidden == pytest.approx(0.8, abs=0.02)
    assert kept == pytest.approx(0.1, abs=0.02)


def test_all_mask_hides_every_chosen_token():
    ids, labels = masked("all", 0.8)
    assert (ids[labels != IGNORED] == MASK).all()


@pytest.mark.parametrize("strategy", ["bert", "all"])
def test_labels_are_the_original_tokens_and_the_rest_is_untouched(strategy):
    ids, labels = masked(strategy, 0.5)
    chosen = labels != IGNORED
    assert (labels[chosen] == IDS[chosen]).all()
    assert (ids[~chosen] == IDS[~chosen]).all()


def test_the_first_token_is_never_chosen_since_no_state_precedes_it():
    assert (masked(probability=1.0)[1][:, 0] == IGNORED).all()


def test_what_may_not_be_masked_is_not():
    maskable = IDS % 2 == 0
    _, labels = masked(probability=1.0, maskable=maskable)
    assert (labels[~maskable] == IGNORED).all()
    assert (labels[:, 1:][maskable[:, 1:]] != IGNORED).all()


def test_random_replacements_come_from_the_ordinary_tokens():
    ids, _ = masked(probability=1.0)
    assert set(ids.unique().tolist()) <= {MASK, *ORDINARY.tolist()}


def test_the_input_is_not_changed_in_place():
    before = IDS.clone()
    masked(probability=1.0)
    assert torch.equal(IDS, before)


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.1])
def test_a_probability_outside_0_1_is_refused(probability):
    with pytest.raises(ValueError, match=r"lies in \(0, 1\]"):
        masked(probability=probability)
