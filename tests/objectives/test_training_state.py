import pytest
import torch
from torch import nn

from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives.training_state import (
    named_state,
    numbered_state,
    require_same_weights,
)


def stepped(module: nn.Module, by_dimension: bool) -> torch.optim.Optimizer:
    parameters = list(module.parameters())
    if by_dimension:
        groups = [[p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() <= 1]]
    else:
        groups = [parameters[::-1]]
    optimizer = torch.optim.AdamW([{"params": group} for group in groups], lr=0.1)
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return optimizer


def test_a_state_finds_its_parameters_in_another_order():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    first, second = stepped(module, True), stepped(module, False)
    named = named_state(first.state_dict(), first, module)
    assert set(named["state"]) == {name for name, _ in module.named_parameters()}
    second.load_state_dict(numbered_state(named, second, module))
    for parameter in module.parameters():
        expected, found = first.state[parameter], second.state[parameter]
        assert torch.equal(found["exp_avg"], expected["exp_avg"])


def test_named_and_back_is_the_same():
    module = nn.Linear(2, 3)
    optimizer = stepped(module, True)
    state = optimizer.state_dict()
    again = numbered_state(named_state(state, optimizer, module), optimizer, module)
    assert again["param_groups"] == state["param_groups"]
    assert again["state"].keys() == state["state"].keys()


def test_a_state_that_is_numbered_already_stays_as_it_is():
    module = nn.Linear(2, 3)
    optimizer = stepped(module, True)
    state = optimizer.state_dict()
    assert numbered_state(state, optimizer, module) is state


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("weight"), "it lacks weight"),
        (lambda state: state.update(other=torch.ones(1)), "it has other, which is not trained"),
        (
            lambda state: state.update(weight=torch.ones(4, 2)),
            r"weight has shape \(4, 2\) in it and",
        ),
    ],
)
def test_the_weights_of_another_model_are_refused(change, expected):
    module = nn.Linear(2, 3)
    state = dict(module.state_dict())
    require_same_weights(state, module)
    change(state)
    with pytest.raises(UserError, match=expected):
        require_same_weights(state, module)
