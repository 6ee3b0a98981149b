import os

import pytest
import torch
import torch.distributed as dist
from forked import spawn
from tiny_models import tiny_causal_lm
from torch import nn
from trained import quiet_trainer, small_data, small_mntp
from transformers import AutoTokenizer

from llm2vec_pl.decoder.source import TINY
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import MNTP
from llm2vec_pl.training.self_check import SelfCheck, require_gradients, require_same_start


class Forgets(MNTP):
    """Has a weight that its loss does not use."""

    def configure_model(self):
        super().configure_model()
        self.forgotten = nn.Linear(2, 2)


def test_a_weight_that_the_loss_does_not_reach_is_named(llama_folder, tmp_path):
    trainer = quiet_trainer(tmp_path, SelfCheck())
    with pytest.raises(UserError, match=r"2 of .* get no gradient: forgotten.weight, forgotten"):
        trainer.fit(small_mntp(llama_folder, Forgets), small_data(tmp_path))


def test_weights_that_no_text_reaches_are_named_once_and_not_trained(tmp_path, caplog):
    model = tmp_path / "afmoe"
    tiny_causal_lm("afmoe", vocab_size=8192).save_pretrained(model)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(model)
    objective = MNTP(Encoder(str(model), lora_rank=0, max_length=32))
    trainer = quiet_trainer(tmp_path, SelfCheck(), max_steps=1, limit_val_batches=0)
    with caplog.at_level("INFO"):
        trainer.fit(objective, small_data(tmp_path))
    (line,) = [text for text in caplog.messages if text.startswith("Not trained")]
    assert line.endswith("depend on them: layers.1.mlp.expert_bias.")
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    kept = torch.load(tmp_path / "end.ckpt", weights_only=True)["state_dict"]
    assert not any("expert_bias" in name for name in kept)
    assert any("experts.gate_up_proj" in name for name in kept)


def test_an_expert_without_a_token_in_this_step_is_no_fault_but_experts_without_any_are():
    experts = nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(2, 2) for _ in range(3))})
    with pytest.raises(UserError, match=r"6 of 6 trainable weights get no gradient"):
        require_gradients(experts)
    experts["experts"][1](torch.ones(1, 2)).sum().backward()
    require_gradients(experts)


def test_a_model_with_nothing_to_train_is_an_error(llama_folder, tmp_path):
    class Frozen(MNTP):
        def configure_model(self):
            super().configure_model()
            self.requires_grad_(False)

    trainer = quiet_trainer(tmp_path, SelfCheck())
    with pytest.raises((UserError, ValueError), match="no trainable weight|empty parameter list"):
        trainer.fit(small_mntp(llama_folder, Frozen), small_data(tmp_path))


def begin(rank: int, difference: float, seed: int) -> None:
    os.environ["PL_GLOBAL_SEED"] = str(rank * seed)
    dist.init_process_group("gloo")
    module = nn.Linear(3, 3)
    nn.init.constant_(module.weight, 1.0 + rank * difference)
    nn.init.zeros_(module.bias)
    if not difference and not seed:
        require_same_start(module)
        return
    with pytest.raises(UserError, match="seed" if seed else "sum of the trainable weights"):
        require_same_start(module)


@pytest.mark.slow
@pytest.mark.parametrize(("difference", "seed"), [(0.0, 0), (1e-3, 0), (0.0, 1)])
def test_ranks_that_begin_differently_are_found_on_all_ranks(difference, seed):
    spawn(begin, (difference, seed), nprocs=2)


def test_one_process_has_nothing_to_compare():
    require_same_start(nn.Linear(1, 1))
    assert torch.get_num_threads() >= 1
