import json

import pytest
import torch
import torch.nn.functional as F
from conll_files import write_conll2003
from forked import spawn
from lightning.pytorch import Trainer, seed_everything
from test_word_objective import QUIET

from llm2vec_pl.data import WordTask
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.encoder import encoder as encoder_module
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import TokenClassification


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_conll2003(tmp_path_factory.mktemp("words") / "conll2003"))


@pytest.fixture(scope="module")
def encoder():
    return Encoder("tiny", lora_rank=0, max_length=64).load()


def trained(encoder, folder, task="ner", steps=60, **arguments):
    seed_everything(0, verbose=False)
    tagger = TokenClassification(encoder, **{"learning_rate": 1e-2, **arguments})
    data = WordTask(folder, task, batch_size=16)
    trainer = Trainer(max_steps=steps, **QUIET)
    trainer.fit(tagger, data)
    trainer.validate(tagger, data, verbose=False)
    return tagger, data, trainer


@pytest.fixture(scope="module")
def tagger_and_run(encoder, folder):
    return trained(encoder, folder)


def test_it_learns_and_reports_both_shifts(tagger_and_run):
    tagger, data, trainer = tagger_and_run
    found = trainer.test(tagger, data, verbose=False)[0]
    assert found["test/f1"] == 1.0
    names = ("loss", "accuracy", "micro_precision", "f1", "precision", "recall")
    expected = {f"test/{shift}{name}" for name in names for shift in ("", "shift_0/", "shift_1/")}
    assert expected == found.keys()
    assert found["test/f1"] == found[f"test/shift_{tagger.shift}/f1"]


def test_the_better_shift_of_the_validation_is_chosen(encoder, folder):
    tagger, data, trainer = trained(encoder, folder, steps=1)
    for better in (0, 1):
        for shift in (0, 1):
            head = tagger.heads[str(shift)]
            torch.nn.init.zeros_(head.weight)
            head.bias.data = torch.tensor([0.0, 1.0] if shift == better else [1.0, 0.0])
        found = trainer.validate(tagger, data, verbose=False)[0]  # everything a LOC, or nothing
        assert tagger.shift == better
        assert found["val/f1"] > found[f"val/shift_{1 - better}/f1"] == 0.0


def test_the_loss_is_the_cross_entropy_of_known_labels(tagger_and_run):
    tagger, data, _ = tagger_and_run
    batch = next(iter(data.val_dataloader()))
    batch["labels"][:3] = -100
    tagger.eval()
    expected = [F.cross_entropy(each[3:], batch["labels"][3:]) for each in tagger.logits(batch)]
    torch.testing.assert_close(tagger.loss(batch), torch.stack(expected).mean())


def test_two_shifts_at_once_learn_what_each_learns_alone(encoder, folder):
    both, _, _ = trained(encoder, folder, steps=5, dropout=0.0, learning_rate=1e-3)
    for shift in (0, 1):
        seed_everything(0, verbose=False)
        alone = TokenClassification(encoder, shift, dropout=0.0, learning_rate=1e-3)
        data = WordTask(folder, "ner", batch_size=16)
        start = TokenClassification(encoder, dropout=0.0)
        seed_everything(0, verbose=False)
        trainer = Trainer(max_steps=5, limit_val_batches=0, **QUIET)
        data.attach(encoder).setup()
        start.has_spans = alone.has_spans = True
        start.build(data.labels)
        alone.build_for(data.labels)
        alone.heads[str(shift)].load_state_dict(start.heads[str(shift)].state_dict())
        trainer.fit(alone, data)
        torch.testing.assert_close(
            alone.heads[str(shift)].weight, both.heads[str(shift)].weight, rtol=1e-3, atol=1e-5
        )


def test_dropout_is_on_in_training_and_off_in_measuring(tagger_and_run):
    tagger, data, trainer = tagger_and_run
    batch = next(iter(data.val_dataloader()))
    tagger.eval()
    torch.testing.assert_close(tagger.logits(batch)[0], tagger.logits(batch)[0])
    once = trainer.validate(tagger, data, verbose=False)
    assert once == trainer.validate(tagger, data, verbose=False)
    tagger.begin_training()
    assert not torch.equal(tagger.logits(batch)[0], tagger.logits(batch)[0])
    assert tagger.training
    assert not tagger.encoder.training


def test_a_frozen_encoder_may_be_quantized(folder):
    encoder = Encoder("tiny", lora_rank=0, quantization="nf4", max_length=64)
    _, _, trainer = trained(encoder, folder, steps=2)
    assert trainer.global_step == 2
    assert not any(weight.requires_grad for weight in encoder.parameters())


def test_sentences_are_tagged_and_words_without_a_token_get_none(tagger_and_run):
    tagger, _, _ = tagger_and_run
    words = ["The", "train", "from", "", "Oslo", "left", "."]
    long = ["The"] * 100
    found = tagger.tag([words, [], long], batch_size=2)
    assert found[0] == ["O", "O", "O", None, "B-LOC", "O", "O"]
    assert found[1] == []
    assert len(found[2]) == 100
    assert found[2][-1] is None


def test_a_saved_tagger_tags_as_before(tagger_and_run, tmp_path, monkeypatch):
    tagger, data, _ = tagger_and_run
    folder = tagger.save(tmp_path / "tagger")
    monkeypatch.setattr(encoder_module, "multiplies_in_bfloat16", lambda: True)
    opened = TokenClassification.from_pretrained(folder)
    assert opened.encoder.dtype == "float32"  # as it was trained, not as this CPU is fastest
    words = [s.words for s in data.sentences["test"]]
    assert opened.tag(words) == tagger.tag(words)
    assert opened.shift == tagger.shift
    record = json.loads((folder / "tagger.json").read_text())
    assert record["labels"] == ["O", "B-LOC"]
    with pytest.raises(UserError, match=r"is no folder of a tagger"):
        TokenClassification.from_pretrained(tmp_path)


def measure_on_a_rank(rank, tagger, data, results):
    opened = TokenClassification.from_pretrained(tagger)
    trainer = Trainer(devices=2, strategy="ddp", **QUIET)
    found = trainer.test(opened, WordTask(data, "ner"), verbose=False)[0]
    (results / f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_two_ranks_measure_what_one_does(tagger_and_run, tmp_path):
    tagger, _, trainer = tagger_and_run
    data = str(write_conll2003(tmp_path / "conll2003", sentences=3 * 65))
    test = tmp_path / "conll2003" / "eng.testb"  # not all of it will be right
    test.write_text(test.read_text().replace("Lima NNP I-NP I-LOC", "Lima NNP I-NP O"))
    expected = trainer.test(tagger, WordTask(data, "ner"), verbose=False)[0]
    assert 0.5 < expected["test/f1"] < 1.0
    spawn(measure_on_a_rank, (tagger.save(tmp_path / "tagger"), data, tmp_path), nprocs=2)
    for rank in (0, 1):  # of the second batch of 64, one sentence is left for both
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for name in ("loss", "accuracy", "f1", "precision", "recall", "micro_precision"):
            both = found[f"test/{name}"], expected[f"test/{name}"]
            assert both[0] == pytest.approx(both[1], rel=1e-5), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shift": "both"}, "`shift` is auto, 0 or 1"),
        ({"train_encoder": "full"}, "Set `shift=0` or `shift=1`"),
        ({"dropout": 1.0}, "`dropout` is at least 0 and below 1"),
    ],
)
def test_arguments_are_checked(encoder, arguments, message):
    with pytest.raises(UserError, match=message):
        TokenClassification(encoder, **arguments)


def test_data_without_labels_and_with_other_labels_is_refused(tagger_and_run, folder, encoder):
    tagger, _, trainer = tagger_and_run
    with pytest.raises(UserError, match="These layers are for the labels O, B-LOC"):
        trainer.validate(tagger, WordTask(folder, "pos"), verbose=False)
    untrained = TokenClassification(encoder)
    with pytest.raises(UserError, match="needs data with `labels`"):
        Trainer(max_steps=1, **QUIET).fit(untrained, [{}])
