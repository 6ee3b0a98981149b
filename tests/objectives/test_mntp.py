import math

import lightning
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import MNTP
from llm2vec_pl.objectives.masking import IGNORED

TEXTS = [
    "The cat sat on the mat and looked at the dog.",
    "A short one.",
    "Numbers: 1, 2, 3, 4.",
] * 4
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture
def encoder(llama_folder):
    return Encoder(llama_folder, lora_rank=4, lora_dropout=0.0)


@pytest.fixture
def batch(encoder):
    return {k: v for k, v in encoder.tokenize(TEXTS).items() if k != "pooling_mask"}


def loaders(encoder):
    blocks = [encoder.tokenize([text]) for text in TEXTS]
    rows = [{k: v[0] for k, v in block.items() if k != "pooling_mask"} for block in blocks]
    return DataLoader(rows, batch_size=1)


def test_special_tokens_and_padding_are_never_hidden(encoder, batch):
    masked = MNTP(encoder, mask_probability=1.0, masking="all").masked(batch)
    special = torch.isin(batch["input_ids"], torch.tensor(encoder.tokenizer.all_special_ids))
    untouchable = special | (batch["attention_mask"] == 0)
    assert (masked["labels"][untouchable] == IGNORED).all()
    assert (masked["labels"][~untouchable][1:] != IGNORED).any()


def test_the_loss_is_plain_cross_entropy_on_the_masked_positions(encoder, batch):
    mntp = MNTP(encoder, mask_probability=0.5)
    mntp.configure_model()
    masked = mntp.masked(batch)
    logits = encoder.logits(encoder.hidden_states(masked))[:, :-1]
    expected = F.cross_entropy(logits.flatten(0, 1), masked["labels"][:, 1:].flatten())
    torch.testing.assert_close(mntp.loss(masked), expected, atol=1e-5, rtol=0)


def test_a_batch_in_which_nothing_got_hidden_costs_nothing(encoder, batch):
    mntp = MNTP(encoder)
    mntp.configure_model()
    labels = torch.full_like(batch["input_ids"], IGNORED)
    loss, accuracy = mntp.predict({**batch, "labels": labels})
    loss.backward()
    assert (loss, accuracy) == (0, 0)
    assert all(p.grad is None or not p.grad.any() for p in mntp.parameters())


@pytest.mark.parametrize(("lora_rank", "times"), [(4, 1), (0, 2)])
def test_only_a_head_that_is_trained_computes_logits_twice(lora_rank, times, llama_folder, batch):
    mntp = MNTP(Encoder(llama_folder, lora_rank=lora_rank), mask_probability=0.5)
    mntp.configure_model()
    mntp.encoder.lm_head.requires_grad_(lora_rank == 0)
    mntp.logits_at_once = 2 * mntp.encoder.config.vocab_size
    rows = []
    mntp.encoder.lm_head.register_forward_hook(lambda head, states, _: rows.append(len(states[0])))
    masked = mntp.masked(batch)
    mntp.loss(masked).backward()
    assert sum(rows) == times * (masked["labels"][:, 1:] != IGNORED).sum()
    assert max(rows) == 2


def test_validation_hides_the_same_tokens_each_time(encoder, batch):
    mntp = MNTP(encoder)
    mntp.eval()
    first, second = (mntp.labelled(batch)["labels"] for _ in range(2))
    assert torch.equal(first, second)
    mntp.train()
    first, second = (mntp.labelled(batch)["labels"] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("mask_token", ["_", "eos", "mask", "the"])
def test_the_mask_token_is_a_choice(encoder, mask_token):
    tokenizer = encoder.tokenizer
    names = {"eos": tokenizer.eos_token, "mask": tokenizer.mask_token}
    mntp = MNTP(encoder, mask_token=mask_token)
    assert tokenizer.convert_ids_to_tokens(mntp.mask_token_id) == names.get(mask_token, mask_token)


def test_a_mask_token_that_the_tokenizer_lacks_is_an_error(encoder):
    with pytest.raises(UserError, match="`mask_token='nonsense'`: .* has no such token"):
        MNTP(encoder, mask_token="nonsense")
    encoder.tokenizer.mask_token = None
    with pytest.raises(UserError, match="`mask_token='mask'`"):
        MNTP(encoder, mask_token="mask")


def fit(encoder, **options):
    lightning.seed_everything(0)
    mntp = MNTP(encoder, learning_rate=1e-2, mask_probability=0.5)
    losses = []
    mntp.on_train_batch_end = lambda outputs, *_: losses.append(outputs["loss"].item())
    trainer = Trainer(max_steps=24, num_sanity_val_steps=0, **QUIET, **options)
    trainer.fit(mntp, loaders(encoder), loaders(encoder))
    return losses, trainer


def test_training_lowers_the_loss_and_logs_loss_accuracy_and_perplexity(encoder):
    losses, trainer = fit(encoder)
    metrics = trainer.callback_metrics
    names = {
        f"{stage}/{m}" for stage in ("train", "val") for m in ("loss", "accuracy", "perplexity")
    }
    assert names <= set(metrics)
    assert sum(losses[-6:]) < sum(losses[:6])
    assert math.exp(metrics["val/loss"]) == pytest.approx(
        metrics["val/perplexity"].item(), rel=1e-4
    )


def test_training_goes_on_after_a_validation_of_its_own(encoder):
    trainer = Trainer(max_steps=4, val_check_interval=2, **QUIET)
    mntp = MNTP(encoder)
    trainer.validate(mntp, loaders(encoder), verbose=False)
    trainer.fit(mntp, loaders(encoder), loaders(encoder))
    assert trainer.callback_metrics["val/perplexity"] > 1


def test_the_same_seed_gives_the_same_losses_to_the_last_bit(llama_folder):
    first, _ = fit(Encoder(llama_folder, lora_rank=4))
    second, _ = fit(Encoder(llama_folder, lora_rank=4))
    assert first == second


def learning_rates(encoder, **options):
    """Of each step, over the highest."""
    mntp = MNTP(encoder, learning_rate=1e-3, **options)
    rates = []
    mntp.on_train_batch_start = lambda *_: rates.append(
        mntp.optimizers().param_groups[0]["lr"] / 1e-3
    )
    Trainer(max_steps=12, limit_val_batches=0, **QUIET).fit(mntp, loaders(encoder))
    return rates


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.25, 3])
def test_the_learning_rate_warms_up_whatever_the_schedule(encoder, schedule, warmup):
    rates = learning_rates(encoder, warmup_steps=warmup, schedule=schedule)
    assert rates[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert max(rates) == 1.0


def test_the_learning_rate_falls_to_zero_or_not_at_all(encoder):
    assert learning_rates(encoder, warmup_steps=3)[-1] == pytest.approx(1 / 9)
    assert learning_rates(encoder, warmup_steps=3, schedule="cosine")[-1] < 1 / 9
    assert learning_rates(encoder, warmup_steps=0, schedule="constant") == [1.0] * 12


def test_a_run_of_unknown_length_has_no_schedule(encoder):
    with pytest.raises(UserError, match=r"`Trainer\(max_steps=N\)` or `Trainer\(max_epochs=N\)`"):
        Trainer(max_epochs=-1, limit_val_batches=0, **QUIET).fit(MNTP(encoder), loaders(encoder))


def test_a_checkpoint_holds_the_trained_weights_only(encoder, tmp_path):
    trainer = Trainer(max_steps=2, limit_val_batches=0, **QUIET)
    mntp = MNTP(encoder)
    trainer.fit(mntp, loaders(encoder))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert state
    assert all("lora_" in name for name in state)


class Shouting(MNTP):
    """A user's own objective: MNTP, and embeddings should be long."""

    def __init__(self, encoder: Encoder, weight: float = 0.1) -> None:
        super().__init__(encoder, mask_probability=0.5)
        self.weight = weight

    def loss(self, batch):
        embeddings = self({**batch, "pooling_mask": batch["attention_mask"]})  # (B, D)
        return super().loss(batch) - self.weight * embeddings.norm(dim=-1).mean()


def test_a_users_own_objective_trains_on_its_own_loss(encoder):
    trainer = Trainer(max_steps=24, **QUIET)
    trainer.fit(Shouting(encoder, weight=100.0), loaders(encoder), loaders(encoder))
    assert trainer.callback_metrics["train/loss"] < 0
    assert trainer.callback_metrics["val/loss"] < 0 < trainer.callback_metrics["val/perplexity"]


class Watched(MNTP):
    """Keeps what it is asked to label, and what its loss gets."""

    def __init__(self, encoder: Encoder, change=lambda batch: batch) -> None:
        super().__init__(encoder, mask_probability=0.5)
        self.change, self.asked, self.given, self.predicted = change, [], [], []

    def labelled(self, batch):
        self.asked.append(batch)
        return super().labelled(batch)

    def loss(self, batch):
        self.given.append(dict(batch))
        return super().loss(self.change(batch))

    def predict(self, batch):
        self.predicted.append(batch)
        return super().predict(batch)


def watch(encoder, steps=3, stage="fit", **options):
    lightning.seed_everything(0)
    module = Watched(encoder, **options)
    trainer = Trainer(max_steps=steps, limit_val_batches=steps * (stage == "validate"), **QUIET)
    getattr(trainer, stage)(module, loaders(encoder))
    return module


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_a_loss_gets_the_hidden_tokens_as_labels_and_the_lengths_of_the_texts(encoder, stage):
    module = watch(encoder, stage=stage)
    assert len(module.asked) == len(module.given) == 3
    for asked, given in zip(module.asked, module.given, strict=True):
        labels, mask = given["labels"], given["attention_mask"]
        hidden = labels != IGNORED
        assert hidden.any()
        assert torch.equal(torch.where(hidden, labels, given["input_ids"]), asked["input_ids"])
        assert torch.equal(given["label_places"], hidden.flatten().nonzero()[:, 0])
        assert given["text_lengths"] == tuple(mask.sum(dim=1).tolist())


def test_the_batch_of_a_loader_stays_as_it_is(encoder):
    batch = loaders(encoder).dataset[0]
    batches = [{key: value[None] for key, value in batch.items()}] * 2
    kept = {key: value.clone() for key, value in batches[0].items()}
    loader = DataLoader(batches, batch_size=None)
    Trainer(max_steps=2, limit_val_batches=0, **QUIET).fit(MNTP(encoder), loader)
    assert batches[0].keys() == kept.keys()
    assert all(torch.equal(batches[0][key], kept[key]) for key in kept)


def test_a_batch_that_a_loss_changes_is_the_one_that_the_decoder_sees(encoder):
    def change(batch):
        batch["input_ids"] = batch["input_ids"].clamp(max=70)  # another tensor in its place
        batch["input_ids"][:, 0] = 71  # and its own content
        return batch

    module = watch(encoder, change=change)
    for given, predicted in zip(module.given, module.predicted, strict=True):
        assert (predicted["input_ids"][:, 1:] <= 70).all()
        assert (predicted["input_ids"][:, 0] == 71).all()
        assert torch.equal(predicted["labels"], given["labels"])


def test_a_loss_may_bring_labels_of_its_own(encoder):
    def change(batch):
        return {**batch, "labels": batch["input_ids"], "label_places": None}

    for predicted in watch(encoder, change=change).predicted:
        assert torch.equal(predicted["labels"], predicted["input_ids"])


def test_a_loss_may_cut_the_batch(encoder):
    def change(batch):
        tensors = ("input_ids", "attention_mask", "labels")
        return {key: batch[key][:, :5] for key in tensors}

    for predicted in watch(encoder, change=change).predicted:
        assert predicted["input_ids"].shape[1] <= 5


def no_labels(batch):
    return {**batch, "labels": torch.full_like(batch["labels"], IGNORED)}


def all_labels(batch):
    return {**batch, "labels": batch["input_ids"]}


@pytest.mark.parametrize("change", [no_labels, all_labels])
def test_places_of_other_labels_are_an_error(encoder, change):
    with pytest.raises(RuntimeError, match="take label_places out of the batch"):
        watch(encoder, change=change)


def without_first_token(batch):
    mask = batch["attention_mask"].clone()
    mask[:, 0] = 0
    return {**batch, "attention_mask": mask}


@pytest.mark.parametrize("padding_free", [True, False])
def test_lengths_of_another_mask_are_an_error(llama_folder, padding_free):
    encoder = Encoder(llama_folder, lora_rank=4, padding_free=padding_free)
    with pytest.raises(RuntimeError, match="change text_lengths too, or take it out of the batch"):
        watch(encoder, change=without_first_token)
    watch(encoder, change=lambda batch: {**without_first_token(batch), "text_lengths": None})


def test_a_batch_as_a_tokenizer_gives_it_has_a_loss(encoder):
    mntp = MNTP(encoder, mask_probability=0.5)
    mntp.configure_model()
    assert mntp.loss(encoder.tokenize(TEXTS)).item() > 0


def test_texts_to_embed_are_not_masked(encoder):
    mntp = MNTP(encoder, mask_probability=1.0)
    rows = encoder.tokenize(TEXTS[:1])
    loader = DataLoader([rows], batch_size=None)
    (embeddings,) = Trainer(**QUIET).predict(mntp, loader)
    torch.testing.assert_close(embeddings, encoder.eval()(rows))


class WithHook(lightning.LightningDataModule):
    """Takes the place of the objective's own hook."""

    def __init__(self, loader: DataLoader) -> None:
        super().__init__()
        self.train_dataloader = lambda: loader

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return {**batch, "input_ids": batch["input_ids"].clamp(max=70)}


def test_a_data_module_may_have_a_hook_of_its_own(encoder):
    module = Watched(encoder)
    trainer = Trainer(max_steps=3, limit_val_batches=0, **QUIET)
    trainer.fit(module, WithHook(loaders(encoder)))
    assert len(module.given) == len(module.asked) == 3
    for given, predicted in zip(module.given, module.predicted, strict=True):
        assert set(given) == {"input_ids", "attention_mask"}
        assert (predicted["labels"] <= 70).all()


def test_each_step_hides_other_tokens_and_the_same_ones_in_another_run(encoder, monkeypatch):
    batch = loaders(encoder).dataset[0]
    monkeypatch.setattr("test_mntp.loaders", lambda _: DataLoader([batch] * 3, batch_size=1))
    first, second = (
        [batch["labels"] for batch in watch(encoder).predicted] for _ in range(2)
    )  # fmt: skip
    assert not torch.equal(first[0], first[1])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_validation_in_a_trainer_hides_the_same_tokens_each_time(encoder):
    first, second = (watch(encoder, stage="validate").predicted for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one["labels"], other["labels"])
        assert torch.equal(one["input_ids"], other["input_ids"])
