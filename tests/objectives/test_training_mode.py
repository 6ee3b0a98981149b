"""A fit trains in training mode, whatever mode the encoder came in."""

import pytest
import torch
from contrastive_texts import QUERIES, tokens
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import MNTP, CausalLM, Contrastive

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class OwnStart(Contrastive):
    """Forgets its parent's beginning."""

    def on_fit_start(self):
        self.began = True


OBJECTIVES = [MNTP, CausalLM, Contrastive, OwnStart]


def opened(folder, kind, **options):
    """An objective on an encoder in evaluation mode, as a user opens it to train further."""
    options = {"lora_rank": 8, "lora_dropout": 0.3, **options}
    encoder = Encoder.from_pretrained(folder, bidirectional=kind is not CausalLM, **options)
    assert not encoder.training
    return kind(encoder)


def batch_of(module):
    view = tokens(module.encoder, QUERIES)
    if isinstance(module, Contrastive):
        return {"query": view, "positive": view}
    return {key: value for key, value in view.items() if key != "pooling_mask"}


def fit(module, steps=2, **options):
    """Trains; for each step, the names of the modules that were in evaluation mode."""
    modes = []
    module.on_train_batch_start = lambda *_: modes.append(
        [name for name, part in module.named_modules() if not part.training]
    )
    loader = DataLoader([batch_of(module)] * steps, batch_size=None)
    options = {"max_steps": steps, "val_check_interval": 1, "num_sanity_val_steps": 1, **options}
    Trainer(**QUIET, **options).fit(module, loader, loader)
    return modes


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("rank", [0, 8])
def test_an_encoder_from_a_folder_is_trained_in_training_mode(llama_folder, kind, rank):
    module = opened(llama_folder, kind, lora_rank=rank, attention_dropout=0.2)
    assert fit(module) == [[], []]


def test_simcse_on_an_opened_encoder_sees_two_views(llama_folder):
    module = opened(llama_folder, Contrastive, lora_dropout=0.0, attention_dropout=0.3)
    distances = []
    embed = module.embed
    module.embed = lambda batch: distances.append(embed(batch)) or distances[-1]
    fit(module)
    training = [texts for texts in distances if texts.queries.requires_grad]
    assert len(training) == 2
    assert all((texts.queries - texts.positives).norm(dim=-1).min() > 1e-3 for texts in training)


@pytest.mark.parametrize("kind", [Contrastive, OwnStart])
def test_simcse_without_dropout_is_refused_on_an_opened_encoder(llama_folder, kind):
    with pytest.raises(UserError, match=r"Set `attention_dropout=0\.3`"):
        fit(opened(llama_folder, kind, lora_dropout=0.0))


def test_validation_encoding_and_a_fit_before_leave_training_mode_to_the_next(llama_folder):
    module = opened(llama_folder, MNTP)
    loader = DataLoader([batch_of(module)], batch_size=None)
    Trainer(**QUIET).validate(module, loader, verbose=False)
    assert fit(module) == [[], []]
    module.encoder.encode(["a text"])
    module.eval()
    assert fit(module) == [[], []]


def test_what_is_frozen_in_an_encoder_that_trains_stays_frozen(llama_folder):
    module = opened(llama_folder, MNTP).train()
    name = next(name for name, part in module.named_modules() if name.endswith("layers.0.mlp"))
    frozen = module.get_submodule(name).eval()
    inside = {part for _, part in frozen.named_modules()}
    modes = fit(module)
    assert [{module.get_submodule(each) for each in step} for step in modes] == [inside, inside]


def test_training_metrics_are_named_so_after_a_module_was_put_in_evaluation_mode(llama_folder):
    module = opened(llama_folder, MNTP).eval()
    names = []
    module.log = lambda name, *_, **__: names.append(name)
    fit(module, limit_val_batches=0)
    assert {name.split("/")[0] for name in names} == {"train"}
    assert torch.is_grad_enabled()


def test_weights_come_home_into_an_objective_that_has_loaded_nothing(llama_folder):
    """As Lightning brings them from the processes of ddp_spawn, and of several in a notebook."""
    trained = MNTP(Encoder(llama_folder, lora_rank=4).load())
    weights = {n: p + torch.ones_like(p) for n, p in trained.named_parameters() if p.requires_grad}
    home = MNTP(Encoder(llama_folder, lora_rank=4))
    home.load_state_dict(weights, strict=False)
    own = dict(home.named_parameters())
    assert all(torch.equal(own[name], weight) for name, weight in weights.items())
