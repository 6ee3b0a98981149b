import pytest
import torch
from trained import quiet_trainer, small_data, small_mntp

from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import MNTP
from llm2vec_pl.training.checkpoints import Checkpoints
from llm2vec_pl.training.finite import FiniteGradients


class Breaks(MNTP):
    """Its loss, or only its gradient, is not a number from the fourth step on."""

    part = "loss"

    def loss(self, batch):
        loss = super().loss(batch)
        if not self.training or self.global_step < 3:
            return loss
        if self.part == "loss":
            return loss * torch.inf
        return loss + (self.weight() * 0).sqrt().sum()  # 0, with the derivative 0 * inf

    def weight(self):
        return next(p for p in self.parameters() if p.requires_grad)


@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_a_gradient_that_is_not_finite_ends_the_run_with_good_checkpoints(
    llama_folder, tmp_path, part
):
    model = small_mntp(llama_folder, Breaks)
    model.part = part
    checkpoints = Checkpoints(every_n_steps=1)
    trainer = quiet_trainer(tmp_path, FiniteGradients(), checkpoints, max_steps=8)
    with pytest.raises(UserError, match="gradient of step 4 is not finite.*learning_rate"):
        trainer.fit(model, small_data(tmp_path))
    (last,) = tmp_path.rglob("last.ckpt")
    saved = torch.load(last, weights_only=True)
    assert saved["global_step"] == 3
    assert all(weight.isfinite().all() for weight in saved["state_dict"].values())


def test_the_norm_is_logged(llama_folder, tmp_path):
    trainer = quiet_trainer(tmp_path, FiniteGradients(), max_steps=2, limit_val_batches=0)
    trainer.fit(small_mntp(llama_folder), small_data(tmp_path))
    assert trainer.callback_metrics["train/gradient_norm"] > 0


def test_a_run_that_breaks_in_its_last_step_fails_too(llama_folder, tmp_path):
    trainer = quiet_trainer(tmp_path, FiniteGradients(), max_steps=4, limit_val_batches=0)
    with pytest.raises(UserError, match="not finite"):
        trainer.fit(small_mntp(llama_folder, Breaks), small_data(tmp_path))
