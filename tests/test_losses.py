"""The loss: each part of it against its published form or torch, and the same however an update is cut up."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings, strategies

from crycli.errors import ConfigError
from crycli.losses import ClassificationLoss, log_prior_of_labels, weights_of_labels

SKEWED = (382, 27, 24, 16, 8)
NAMES = ("hungry", "discomfort", "tired", "belly_pain", "burping")
LABELS = len(NAMES)


def batch(clips: int = 12, seed: int = 0, soft: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that want gradients, and targets: class numbers, or shares."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(clips, LABELS, generator=generator) * 3
    shares = torch.rand(clips, LABELS, generator=generator).softmax(dim=1)
    numbers = torch.randint(LABELS, (clips,), generator=generator)
    return logits.requires_grad_(), shares if soft else numbers


def plain(
    weights: npt.ArrayLike = (1.0,) * LABELS, prior: npt.ArrayLike = (0.0,) * LABELS, **options: float
) -> ClassificationLoss:
    return ClassificationLoss(np.asarray(weights), np.asarray(prior), **options)


@pytest.mark.parametrize("setting", ["none", "balanced", "effective", {name: 1.0 + len(name) for name in NAMES}])
def test_the_mean_weight_of_the_training_clips_is_1(setting: str | dict[str, float]) -> None:
    weights = weights_of_labels(SKEWED, NAMES, setting)
    assert np.average(weights, weights=SKEWED) == pytest.approx(1.0)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    truth = np.repeat(np.arange(LABELS), SKEWED)
    expected = compute_class_weight("balanced", classes=np.arange(LABELS), y=truth)
    np.testing.assert_allclose(weights_of_labels(SKEWED, NAMES, "balanced"), expected)


def test_effective_weights_are_those_of_the_paper_and_lie_between_none_and_balanced() -> None:
    clips = sum(SKEWED)
    beta = 1 - 1 / clips
    published = np.array([(1 - beta) / (1 - beta**count) for count in SKEWED])
    weights = weights_of_labels(SKEWED, NAMES, "effective")
    np.testing.assert_allclose(weights / weights[0], published / published[0])
    balanced = weights_of_labels(SKEWED, NAMES, "balanced")
    assert 1 < weights[-1] / weights[0] < balanced[-1] / balanced[0]


def test_given_weights_keep_their_proportions() -> None:
    weights = weights_of_labels((30, 10), ("a", "b"), {"b": 6.0, "a": 2.0})
    assert weights.tolist() == pytest.approx([2 / 3, 2.0])


@pytest.mark.parametrize(
    ("given_weights", "words"),
    [
        ({"hungry": 1.0}, "no weight for discomfort, tired, belly_pain, burping"),
        ({**dict.fromkeys(NAMES, 1.0), "sleepy": 1.0}, "sleepy"),
    ],
)
def test_a_label_without_a_weight_or_a_weight_without_a_label_is_named(
    given_weights: dict[str, float], words: str
) -> None:
    with pytest.raises(ConfigError, match=rf"train\.class_weights: .*{words}"):
        weights_of_labels(SKEWED, NAMES, given_weights)


@pytest.mark.parametrize("setting", ["none", "balanced", "effective"])
def test_a_label_without_clips_does_no_harm(setting: str) -> None:
    weights = weights_of_labels((3, 0, 1), ("a", "b", "c"), setting)
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights[[0, 2]], weights_of_labels((3, 1), ("a", "c"), setting))
    assert np.isfinite(log_prior_of_labels((3, 0, 1))).all()


@pytest.mark.parametrize("setting", ["none", "balanced", "effective"])
def test_a_single_clip_weighs_1(setting: str) -> None:
    assert weights_of_labels((0, 1), ("a", "b"), setting)[1] == pytest.approx(1.0)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("setting", ["none", "balanced"])
def test_it_is_the_cross_entropy_of_torch_divided_by_the_clips(setting: str, smoothing: float, soft: bool) -> None:
    logits, targets = batch(soft=soft)
    weights = weights_of_labels(SKEWED, NAMES, setting)
    found = plain(weights, label_smoothing=smoothing)(logits, targets, len(targets))
    total = torch.nn.functional.cross_entropy(
        logits, targets, torch.tensor(weights, dtype=torch.float32), label_smoothing=smoothing, reduction="sum"
    )
    torch.testing.assert_close(found, total / len(targets))
    gradients = [torch.autograd.grad(value, logits)[0] for value in (found, total / len(targets))]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_focal_loss_is_that_of_the_paper(gamma: float) -> None:
    logits, targets = batch()
    weights = weights_of_labels(SKEWED, NAMES, "balanced")
    p = torch.softmax(logits.double(), dim=1)[torch.arange(len(targets)), targets]
    published = -torch.tensor(weights)[targets] * (1 - p) ** gamma * p.log()
    found = plain(weights, focal_gamma=gamma)(logits, targets, len(targets))
    torch.testing.assert_close(found.double(), published.mean(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("size", [0.0, 30.0, 1e4])
def test_the_focal_loss_of_certain_answers_has_a_finite_gradient(gamma: float, size: float) -> None:
    logits = (torch.eye(LABELS) * size).requires_grad_()
    for targets in (torch.arange(LABELS), torch.arange(LABELS).flip(0)):
        loss = plain(focal_gamma=gamma, label_smoothing=0.1)(logits, targets, LABELS)
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


def test_logit_adjustment_adds_the_log_prior_as_in_the_paper() -> None:
    logits, targets = batch()
    prior = np.array(SKEWED) / sum(SKEWED)
    adjusted = logits.double() + 1.5 * torch.tensor(np.log(prior))
    expected = torch.nn.functional.cross_entropy(adjusted, targets)
    found = plain(prior=log_prior_of_labels(SKEWED), logit_adjustment=1.5)(logits, targets, len(targets))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_without_evidence_logit_adjustment_leaves_nothing_to_learn_from_the_shares_of_the_labels() -> None:
    logits = torch.zeros(sum(SKEWED), LABELS, requires_grad=True)
    targets = torch.repeat_interleave(torch.arange(LABELS), torch.tensor(SKEWED))
    loss = plain(prior=log_prior_of_labels(SKEWED), logit_adjustment=1.0)(logits, targets, len(targets))
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient.sum(0), torch.zeros(LABELS), atol=1e-6, rtol=0)


def test_half_precision_logits_are_computed_in_float32() -> None:
    logits, targets = batch()
    halved = logits.detach().to(torch.bfloat16)
    loss = plain(focal_gamma=2.0)
    found = loss(halved, targets, 12)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(halved.float(), targets, 12))


def test_hard_targets_are_shares_of_one_label() -> None:
    logits, targets = batch()
    loss = plain(weights_of_labels(SKEWED, NAMES, "balanced"), label_smoothing=0.1, focal_gamma=1.0)
    torch.testing.assert_close(loss(logits, targets, 12), loss(logits, torch.eye(LABELS)[targets], 12))


def test_a_batch_of_one_rare_clip_weighs_more_than_one_of_a_common_clip() -> None:
    loss = plain(weights_of_labels(SKEWED, NAMES, "balanced"))
    values = [float(loss(torch.zeros(1, LABELS), torch.tensor([label]), 1)) for label in (0, 4)]
    assert values == pytest.approx([math.log(LABELS) * sum(SKEWED) / LABELS / count for count in (382, 8)], rel=1e-5)


def test_its_state_is_not_saved_with_a_model() -> None:
    assert plain().state_dict() == {}


@given(
    data=strategies.data(),
    clips=strategies.integers(1, 24),
    gamma=strategies.sampled_from([0.0, 2.0]),
    smoothing=strategies.sampled_from([0.0, 0.2]),
    soft=strategies.booleans(),
)
@settings(max_examples=40)
def test_any_cut_into_batches_and_processes_gives_the_same_total_gradient(
    data: strategies.DataObject, clips: int, gamma: float, smoothing: float, soft: bool
) -> None:
    logits, targets = batch(clips, seed=clips, soft=soft)
    weights, prior = weights_of_labels(SKEWED, NAMES, "balanced"), log_prior_of_labels(SKEWED)
    loss = plain(weights, prior, focal_gamma=gamma, label_smoothing=smoothing, logit_adjustment=1.0)
    (whole,) = torch.autograd.grad(loss(logits, targets, clips), logits)
    processes = data.draw(strategies.integers(1, 3))
    owner = torch.tensor(data.draw(strategies.lists(strategies.integers(0, 5), min_size=clips, max_size=clips)))
    # Each number is a batch; batch n is computed by process n % processes, and gradients are averaged over these.
    gradients = torch.zeros(processes, *logits.shape)
    for number in range(6):
        mine = (owner == number).nonzero()[:, 0]
        if len(mine):
            part = loss(logits[mine], targets[mine], torch.tensor(clips)) * processes
            gradients[number % processes] += torch.autograd.grad(part, logits)[0]
    torch.testing.assert_close(gradients.mean(0), whole, rtol=1e-4, atol=1e-6)
