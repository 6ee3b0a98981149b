import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import matrix_rate, model_flops
from llm2vec_pl import Encoder


def counted(encoder: Encoder, lengths: list[int], training: bool) -> float:
    """By PyTorch, which sees the matrix products that run: a text at a time, so without padding."""
    with FlopCounterMode(display=False) as counter:
        for length in lengths:
            ids = torch.full((1, length), 7)
            ones = torch.ones_like(ids)
            states = encoder.hidden_states({"input_ids": ids, "attention_mask": ones})
            if training:
                states.square().sum().backward()
    return float(counter.get_total_flops())


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_flops_of_a_forward_pass_are_those_that_pytorch_counts(lora_rank):
    encoder = Encoder("tiny", attention="eager", lora_rank=lora_rank).load().eval()
    lengths = [5, 17, 40]
    with torch.no_grad():
        expected = counted(encoder, lengths, training=False)
    assert model_flops(encoder, lengths, 0, training=False) == pytest.approx(expected, rel=0.02)


def test_training_all_weights_takes_three_times_the_forward_pass():
    encoder = Encoder("tiny", attention="eager", lora_rank=0).load()
    flops = [model_flops(encoder, [32], 0, training) for training in (False, True)]
    assert flops[1] == 3 * flops[0]
    expected = counted(encoder, [32], training=True)
    assert flops[1] == pytest.approx(expected, rel=0.05)


def test_a_loras_backward_pass_needs_no_gradients_of_frozen_weights():
    encoder = Encoder("tiny", attention="eager", lora_rank=4).load()
    forward, training = (model_flops(encoder, [32], 0, each) for each in (False, True))
    assert 2 < training / forward < 2.2
    assert training == pytest.approx(counted(encoder, [32], training=True), rel=0.1)


def test_the_head_counts_for_predicted_tokens_only():
    encoder = Encoder("tiny").load()
    without, with_ten = (model_flops(encoder, [32], count, training=False) for count in (0, 10))
    assert with_ten - without == 2 * 10 * 256 * 8192


def test_the_rate_of_this_machine_is_above_a_gigaflop():
    assert matrix_rate("cpu", torch.float32) > 1e9
