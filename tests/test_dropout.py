"""Dropout for CPUs: the law of torch's own, at a fraction of the time."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from crycli.dropout import FastDropout, speed_up_dropout

SHAPE = (8, 50, 301)  # no multiple of the four elements that a random word is good for


def kept_by(dropout: nn.Module, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    """Where a call keeps its elements."""
    mask: torch.Tensor = dropout(torch.ones(shape)) != 0
    return mask


@pytest.mark.parametrize("p", [0.05, 0.1, 0.25, 0.5, 0.9, 1 / 65_536])
def test_elements_are_dropped_with_the_probability_p_and_the_mean_is_preserved(p: float) -> None:
    torch.manual_seed(0)
    output = FastDropout(p)(torch.ones(100, 10_001))
    share, deviation = float((output == 0).float().mean()), math.sqrt(p * (1 - p) / output.numel())
    assert share == pytest.approx(p, abs=5 * deviation + 1e-5)
    assert output.max() == pytest.approx(1 / (1 - p), rel=2e-4)
    assert float(output.double().mean()) == pytest.approx(1.0, abs=6 * deviation / (1 - p) + 1e-5)


def test_neighbouring_elements_are_dropped_independently() -> None:
    torch.manual_seed(0)
    dropped = (~kept_by(FastDropout(0.25), (1_000_003,))).double()
    for distance in (1, 2, 3, 4, 8, 65_536):
        together = float((dropped[distance:] * dropped[:-distance]).mean())
        assert together == pytest.approx(0.25**2, abs=5 * 0.25 / math.sqrt(len(dropped) - distance)), distance


def test_each_call_draws_another_mask_and_the_same_one_again_after_the_same_seed() -> None:
    dropout = FastDropout(0.5)
    torch.manual_seed(7)
    first, second, state = kept_by(dropout), kept_by(dropout), torch.get_rng_state()
    third = kept_by(dropout)
    assert float((first == second).double().mean()) == pytest.approx(0.5, abs=0.01)
    torch.manual_seed(7)
    assert kept_by(dropout).equal(first)
    torch.set_rng_state(state)
    assert kept_by(dropout).equal(third)


def test_the_mask_does_not_depend_on_the_number_of_threads() -> None:
    masks = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        masks.append(kept_by(FastDropout(0.1), (300_001,)))
    torch.set_num_threads(1)
    assert masks[0].equal(masks[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_gradient_is_the_mask_times_the_incoming_one_in_the_type_of_the_input(dtype: torch.dtype) -> None:
    values = torch.randn(SHAPE, dtype=dtype).requires_grad_()
    incoming = torch.randn(SHAPE, dtype=dtype)
    output = FastDropout(0.1)(values)
    output.backward(incoming)
    kept = output.detach() != 0
    assert values.grad is not None
    assert output.dtype == values.grad.dtype == dtype
    scale = 65_536 / (65_536 - 6_554)
    for found, source in ((output.detach(), values.detach()), (values.grad, incoming)):
        torch.testing.assert_close(found, torch.where(kept, source.double() * scale, 0.0).to(dtype))


def test_gradients_agree_with_finite_differences_also_those_of_gradients() -> None:
    dropout = FastDropout(0.3)

    def seeded(values: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        output: torch.Tensor = dropout(values.square())
        return output

    values = torch.randn(5, 7, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(seeded, values)
    assert torch.autograd.gradgradcheck(seeded, values)


def test_gradient_checkpointing_repeats_the_mask() -> None:
    values = torch.randn(SHAPE).requires_grad_()
    network = nn.Sequential(nn.Tanh(), FastDropout(0.5), nn.Tanh())
    results = []
    for run in (network, lambda inputs: checkpoint(network, inputs, use_reentrant=False)):
        torch.manual_seed(0)
        results.append(torch.autograd.grad(run(values).square().sum(), values)[0])
    torch.testing.assert_close(*results)


def test_a_transposed_or_empty_tensor_is_dropped_as_any_other() -> None:
    torch.manual_seed(0)
    values = torch.randn(7, 11).T
    output = FastDropout(0.5)(values)
    kept = output != 0
    assert 10 < int(kept.sum()) < 67
    torch.testing.assert_close(output[kept], values[kept] * 2)
    assert FastDropout(0.5)(torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_in_eval_mode_the_input_comes_out_as_it_is(p: float) -> None:
    values = torch.randn(SHAPE)
    assert FastDropout(p).eval()(values) is values


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (1.0, 0.0)])
def test_nothing_and_everything_can_be_dropped(p: float, expected: float) -> None:
    assert FastDropout(p)(torch.ones(SHAPE)).unique().tolist() == [expected]


def test_every_dropout_of_a_network_is_replaced_where_it_stands_and_nothing_else() -> None:
    shared = nn.Dropout(0.2)
    network = nn.Sequential(nn.Linear(4, 4), shared, nn.Sequential(shared, nn.Dropout(0.3)), nn.Dropout1d(), nn.ReLU())
    network.append(nn.Dropout(0.4, inplace=True))
    seen: list[str] = []
    shared.register_forward_hook(lambda *_: seen.append("hook"))
    network[2].eval()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    speed_up_dropout(network)
    assert [type(module).__name__ for module in network.modules()][1:] == [
        *("Linear", "FastDropout", "Sequential", "FastDropout", "Dropout1d", "ReLU", "Dropout")
    ]
    assert (network[1].p, network[2][1].p, network[2][1].training) == (0.2, 0.3, False)
    assert network[1] is network[2][0]
    network(torch.ones(2, 4))
    assert seen == ["hook", "hook"]
    assert list(network.state_dict()) == list(weights)


def test_a_network_that_is_a_dropout_alone_is_replaced_too() -> None:
    network = nn.Dropout(0.2)
    speed_up_dropout(network)
    assert isinstance(network, FastDropout)


def test_it_can_be_copied_and_pickled() -> None:
    dropout = FastDropout(0.2)
    for copied in (copy.deepcopy(dropout), pickle.loads(pickle.dumps(dropout))):
        assert (type(copied), copied.p, copied.training) == (FastDropout, 0.2, True)


def test_a_network_learns_with_it() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 1))
    speed_up_dropout(network)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    inputs = torch.randn(256, 8)
    targets = inputs[:, :1] * inputs[:, 1:2]
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.mse_loss(network(inputs), targets).backward()
        optimizer.step()
    with torch.no_grad():
        error = nn.functional.mse_loss(network.eval()(inputs), targets)
    assert float(error) < 0.5 * float(targets.var())
