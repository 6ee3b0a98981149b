import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.objectives import MNTP
from llm2vec_pl.objectives.optimizer import adamw, can_fuse

TEXTS = ["The cat sat on the mat.", "A short one.", "Numbers: 1, 2, 3, 4."]


def trained(folder, steps=4, resume=None, save=None, **options):
    """The weights after some steps, and the optimizer."""
    torch.manual_seed(0)
    module = MNTP(Encoder(folder, lora_rank=4), learning_rate=1e-2, warmup_steps=0)
    batch = {k: v for k, v in module.encoder.tokenize(TEXTS).items() if k != "pooling_mask"}
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, DataLoader([batch] * steps, batch_size=None), ckpt_path=resume)
    if save:
        trainer.save_checkpoint(save)
    return [p.detach() for p in module.parameters() if p.requires_grad], trainer.optimizers[0]


@pytest.mark.parametrize(("precision", "clip"), [("32-true", None), ("bf16-mixed", 0.01)])
def test_fused_trains_as_unfused_does(precision, clip, llama_folder, monkeypatch):
    options = {"precision": precision, "gradient_clip_val": clip}
    fused, optimizer = trained(llama_folder, **options)
    assert all(group["fused"] for group in optimizer.param_groups)
    monkeypatch.setattr("llm2vec_pl.objectives.optimizer.FUSED_ON", ())
    plain, optimizer = trained(llama_folder, **options)
    assert not any(group["fused"] for group in optimizer.param_groups)
    for got, expected in zip(fused, plain, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_gradients_of_a_scaled_loss_are_unscaled_before_they_are_clipped():
    """As under 16-mixed precision, which needs a GPU."""
    weights = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    for weight, scale in zip(weights, (1.0, 1024.0), strict=True):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale > 1)
        optimizer = adamw([{"params": [weight]}], lr=0.1)
        scaler.scale((weight * torch.tensor([3.0, 4.0])).sum()).backward()
        scaler.unscale_(optimizer)
        assert nn.utils.clip_grad_norm_([weight], 1.0) == 5.0
        scaler.step(optimizer)
    assert torch.equal(*weights)


def test_a_checkpoint_of_an_unfused_optimizer_goes_on_fused(llama_folder, tmp_path, monkeypatch):
    whole, _ = trained(llama_folder)
    with monkeypatch.context() as patch:
        patch.setattr("llm2vec_pl.objectives.optimizer.FUSED_ON", ())
        trained(llama_folder, steps=2, save=tmp_path / "plain.ckpt")
        _, plain = trained(llama_folder, resume=tmp_path / "plain.ckpt")
    _, fused = trained(llama_folder, resume=tmp_path / "plain.ckpt")
    assert [group["fused"] for group in fused.param_groups] == [True]
    assert [group["fused"] for group in plain.param_groups] == [None]
    assert {state["step"].item() for state in fused.state.values()} == {4.0}
    assert len(whole) == len(fused.state)


def test_a_kernel_takes_weights_of_one_kind():
    assert can_fuse([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, 2).bfloat16())])
    assert not can_fuse([nn.Parameter(torch.ones(2, device="meta"))])
    assert not can_fuse([])


def test_each_group_has_its_own_settings():
    groups = [
        {"params": [nn.Parameter(torch.ones(2, 2))], "weight_decay": 0.1},
        {"params": [nn.Parameter(torch.ones(2))], "weight_decay": 0.0},
    ]
    optimizer = adamw(groups, lr=0.5)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


class Rates(Callback):
    """Notes the learning rate of each step."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append(optimizer.param_groups[0]["lr"])


def test_a_run_that_goes_on_to_more_steps_has_the_rates_of_its_new_schedule(llama_folder, tmp_path):
    checkpoint = str(tmp_path / "saved.ckpt")
    trained(llama_folder, steps=2, save=checkpoint)  # at the end the rate is 0
    rates = Rates()
    trained(llama_folder, resume=checkpoint, callbacks=[rates])
    assert rates.seen == pytest.approx([0.005, 0.0025])
