import json
from pathlib import Path

import pytest
import torch
from evaluation_texts import TEXTS
from forked import spawn
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from silent import SILENT
from torch.utils.data import DataLoader

from llm2vec_pl.encoder import MultiVectorEncoder, new_projection, padded
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation import RetrievalEvaluation, STSEvaluation, evaluate_sts
from llm2vec_pl.evaluation.embedding import embedder, encode_on_all_ranks
from llm2vec_pl.objectives import Objective


class Shrink(Objective):
    """A loss for any texts; it moves the embeddings."""

    def loss(self, batch):
        return self(batch).square().mean()

    def on_fit_start(self):
        pass  # the proof of step 1 has tests of its own


def module(folder, **options):
    torch.manual_seed(0)
    return Shrink(Encoder(folder, lora_rank=0), **{"schedule": "constant", **options})


def loader(encoder):
    return DataLoader(TEXTS, batch_size=1, collate_fn=encoder.tokenize)


def fit(objective, **options):
    defaults = {"enable_checkpointing": False, "num_sanity_val_steps": 1, "val_check_interval": 1}
    trainer = Trainer(**{**defaults, **SILENT, **options})
    trainer.fit(objective, loader(objective.encoder), loader(objective.encoder))
    return trainer


class Seen(EarlyStopping):
    """Notes the metrics that were there at the end of each validation."""

    def __init__(self, monitor):
        super().__init__(monitor, mode="max", patience=1000)
        self.values = []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.values.append({k: v.item() for k, v in trainer.callback_metrics.items()})


def test_both_are_logged_at_each_validation_but_the_sanity_check(
    llama_folder, sts_file, retrieval_folder
):
    seen = Seen("val/pairs_dev")
    evaluations = [STSEvaluation(sts_file), RetrievalEvaluation(retrieval_folder)]
    objective = module(llama_folder, learning_rate=1e-2)
    measured = []
    for evaluation in evaluations:
        measure = evaluation.measure
        evaluation.measure = lambda encoder, measure=measure: measured.append(0) or measure(encoder)
    fit(objective, max_steps=3, callbacks=[*evaluations, seen])
    assert len(seen.values) == 3
    assert len(measured) == 2 * 3
    assert {
        "val/loss",
        "val/pairs_dev",
        "val/numbers/ndcg@10",
        "val/numbers/recall@1",
        "val/numbers/recall@10",
        "val/numbers/recall@100",
        "val/numbers/mrr@10",
    } <= seen.values[0].keys()
    assert len({values["val/pairs_dev"] for values in seen.values}) > 1  # the encoder moves
    expected = evaluate_sts(objective.encoder, evaluations[0].task)
    assert seen.values[-1]["val/pairs_dev"] == pytest.approx(expected, abs=1e-6)


def test_dropout_is_off_while_measuring_and_on_afterwards(llama_folder, sts_file):
    evaluation = STSEvaluation(sts_file)
    modes = []
    measure = evaluation.measure

    def watched(encoder):
        hook = encoder.decoder.register_forward_pre_hook(
            lambda decoder, _: modes.append(decoder.training)
        )
        found = measure(encoder)
        hook.remove()
        return found

    evaluation.measure = watched
    objective = module(llama_folder)
    training = []
    objective.on_train_batch_start = lambda *_: training.append(objective.encoder.decoder.training)
    fit(objective, max_steps=2, callbacks=[evaluation])
    assert len(modes) >= 2
    assert not any(modes)
    assert training == [True, True]


def test_best_and_early_stopping_follow_the_metric(llama_folder, sts_file, tmp_path):
    scores = iter([0.1, 0.5, 0.3, 0.2, 0.9])
    evaluation = STSEvaluation(sts_file, name="stsb_dev")
    evaluation.measure = lambda encoder: {"val/stsb_dev": next(scores)}
    best = ModelCheckpoint(tmp_path, "best", monitor="val/stsb_dev", mode="max")
    stop = EarlyStopping("val/stsb_dev", mode="max", patience=2)
    trainer = fit(
        module(llama_folder),
        max_steps=50,
        val_check_interval=2,  # 1 would be taken for 1.0, an epoch, by EarlyStopping
        callbacks=[evaluation, stop, best],
        enable_checkpointing=True,
    )
    assert trainer.global_step == 8  # the second measure is the best, and two are worse
    assert best.best_model_score.item() == pytest.approx(0.5)
    assert torch.load(best.best_model_path, weights_only=True)["global_step"] == 4


def test_validation_alone_measures(llama_folder, sts_file, retrieval_folder):
    callbacks = [STSEvaluation(sts_file), RetrievalEvaluation(retrieval_folder, "x")]
    objective = module(llama_folder)
    trainer = Trainer(callbacks=callbacks, **SILENT)
    (metrics,) = trainer.validate(objective, loader(objective.encoder), verbose=False)
    assert -1 <= metrics["val/pairs_dev"] <= 1
    assert 0 < metrics["val/x/ndcg@10"] <= 1


def test_pythons_documentation_is_the_default_and_is_read_late(monkeypatch, llama_folder):
    read = []

    class Docs:
        def retrieval(self):
            from llm2vec_pl.evaluation import RetrievalTask

            read.append(0)
            texts = {str(i): text for i, text in enumerate(TEXTS)}
            return RetrievalTask("python_docs", texts, texts, {i: {i: 1} for i in texts})

    monkeypatch.setattr("llm2vec_pl.data.PythonDocs", Docs)
    evaluation = RetrievalEvaluation(limit=3)
    assert not read
    found = evaluation.measure(Encoder(llama_folder, lora_rank=0))
    assert found["val/python_docs/recall@1"] == 1.0
    assert (len(read), len(evaluation.task.queries)) == (1, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: STSEvaluation("no/such/file.jsonl"),
            "`STSEvaluation.path`: .*does not exist",
        ),
        (lambda: RetrievalEvaluation("./nowhere"), r"`RetrievalEvaluation.path`: .*corpus\.jsonl"),
        (
            lambda: STSEvaluation("x.jsonl", limit=1),
            "`STSEvaluation.limit` expects at least 2.* got 1",
        ),
        (lambda: RetrievalEvaluation(limit=0), "`RetrievalEvaluation.limit` expects at least 1"),
        (
            lambda: RetrievalEvaluation(batch_size=0),
            "`RetrievalEvaluation.batch_size` expects at least 1",
        ),
    ],
)
def test_a_wrong_option_is_an_error_at_construction(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_what_could_never_be_measured_is_an_error_before_the_weights(llama_folder, sts_file):
    objective = module(llama_folder)
    with pytest.raises(UserError, match=r"there is none.*limit_val_batches"):
        fit(objective, max_steps=1, limit_val_batches=0, callbacks=[STSEvaluation(sts_file)])
    with pytest.raises(UserError, match=r"Two evaluations are called 'pairs_dev'.*name"):
        fit(objective, max_steps=1, callbacks=[STSEvaluation(sts_file) for _ in range(2)])
    with pytest.raises(UserError, match="BoringModel has no Encoder"):
        Trainer(callbacks=[STSEvaluation(sts_file)], **SILENT).validate(BoringModel())
    assert not hasattr(objective.encoder, "decoder")


def test_a_validation_without_batches_is_an_error_before_the_first_step(llama_folder, sts_file):
    objective = module(llama_folder)
    empty = DataLoader([], batch_size=1)
    trainer = Trainer(max_steps=1, callbacks=[STSEvaluation(sts_file)], **SILENT)
    with pytest.raises(UserError, match="validation split is empty"):
        trainer.fit(objective, loader(objective.encoder), empty)
    assert trainer.global_step == 0


STRATEGIES = ("ddp", "fsdp2")


def passes_on_a_rank(rank: int, folder: str, result: str) -> None:
    """Embeds texts on two ranks, trains on two, and notes what each rank saw."""
    sts, retrieval, encoder_folder = json.loads(Path(folder).read_text())
    torch.distributed.init_process_group("gloo")
    encoder, passes = Encoder(encoder_folder, lora_rank=0).load(), []
    encoder.register_forward_pre_hook(lambda *_: passes.append(0))
    embeddings = {}
    for count in range(1, len(TEXTS) + 1):
        embeddings[count] = encode_on_all_ranks(encoder, TEXTS[:count], "Say: ", batch_size=2)
        embeddings[f"{count} passes"] = torch.tensor(len(passes))
    for count in (1, len(TEXTS)):
        embed = embedder(multi_vector(encoder), batch_size=2, on_all_ranks=True)
        embeddings[f"{count} with tokens"] = embed(TEXTS[:count], "Say: ")
    found = {"embeddings": embeddings}
    for strategy in STRATEGIES:
        objective = module(encoder_folder, learning_rate=1e-2)
        callbacks = [
            STSEvaluation(sts, batch_size=2),
            RetrievalEvaluation(retrieval, batch_size=2),
            Seen("val/pairs_dev"),
        ]
        options = {"devices": 2, "callbacks": callbacks, **SILENT}
        trainer = Trainer(strategy=strategy, enable_checkpointing=False, **options)
        data = loader(objective.encoder)
        found[f"{strategy} validate"] = trainer.validate(objective, data, verbose=False)[0]
        fit(objective, strategy=strategy, max_steps=2, **options)
        found[f"{strategy} fit"] = callbacks[-1].values
    torch.save(found, f"{result}-{rank}")


def multi_vector(encoder: Encoder) -> MultiVectorEncoder:
    torch.manual_seed(0)
    return MultiVectorEncoder(encoder, new_projection(encoder.embedding_size, 8))


@pytest.mark.slow
def test_two_ranks_measure_what_one_does_in_equally_many_passes(
    llama_folder, sts_file, retrieval_folder, tmp_path
):
    """With DDP and with FSDP2, where a pass more on one rank would hang."""
    paths = tmp_path / "paths.json"
    paths.write_text(json.dumps([sts_file, retrieval_folder, llama_folder]))
    result = tmp_path / "result"
    spawn(passes_on_a_rank, (str(paths), str(result)), nprocs=2)
    ranks = [torch.load(f"{result}-{rank}", weights_only=True) for rank in range(2)]

    encoder = Encoder(llama_folder, lora_rank=0)
    for count in range(1, len(TEXTS) + 1):
        expected = encoder.encode(TEXTS[:count], "Say: ")
        for rank in ranks:
            torch.testing.assert_close(rank["embeddings"][count], expected, atol=1e-6, rtol=1e-5)
        a, b = (rank["embeddings"][f"{count} passes"] for rank in ranks)
        assert a == b
    for count in (1, len(TEXTS)):
        expected = padded(multi_vector(encoder).encode(TEXTS[:count], "Say: "))
        for rank in ranks:
            vectors = rank["embeddings"][f"{count} with tokens"]
            torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)

    objective = module(llama_folder)
    callbacks = [STSEvaluation(sts_file), RetrievalEvaluation(retrieval_folder)]
    trainer = Trainer(callbacks=callbacks, **SILENT)
    (alone,) = trainer.validate(objective, loader(objective.encoder), verbose=False)
    for name in STRATEGIES:
        for rank in ranks:
            validated = rank[f"{name} validate"]
            assert validated.keys() == alone.keys()
            for metric in alone:
                assert validated[metric] == pytest.approx(alone[metric], abs=1e-5), metric
            assert len(rank[f"{name} fit"]) == 3  # the validation alone, and after each step
        first, second = (rank[f"{name} fit"][-1] for rank in ranks)
        assert first["val/pairs_dev"] == second["val/pairs_dev"]
        assert first["val/pairs_dev"] != validated["val/pairs_dev"]  # it has trained
    # FSDP2 trains as DDP does, with an evaluation after each step.
    ddp, fsdp = (ranks[0][f"{name} fit"][-1]["val/loss"] for name in STRATEGIES)
    assert fsdp == pytest.approx(ddp, rel=1e-4)
