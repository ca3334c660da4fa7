"""Adapters: what is trained, that they start at nothing, and that nothing of them is left but what they have learnt."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_model import KINDS, network, padded

from crycli.errors import ConfigError
from crycli.lora import ADAPTED, add_lora, merge_lora
from crycli.model import FAMILIES, SpeechClassification

pytest.importorskip("peft")


def logits(model: SpeechClassification) -> torch.Tensor:
    """Of two clips, one of them padded: (2, 3)."""
    model.eval()
    with torch.no_grad():
        answer: torch.Tensor = model(*padded(8_000, 6_000)).logits
    return answer


def trained(model: SpeechClassification, steps: int = 3) -> SpeechClassification:
    """The network after some updates."""
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(*padded(8_000, 6_000), labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize(("family", "norm"), KINDS)
def test_merged_adapters_leave_a_plain_network_with_the_same_answers(family: str, norm: str) -> None:
    model = network(family, norm)
    names, start = list(model.state_dict()), logits(model)
    add_lora(model, 4)
    torch.testing.assert_close(logits(model), start)
    before = logits(trained(model))
    assert (before - start).abs().max() > 0.01
    merge_lora(model)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("family", FAMILIES)
def test_the_adapters_and_the_head_are_trained_and_nothing_else(family: str) -> None:
    model = network(family)
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    add_lora(model, 2)
    trained(model)
    merge_lora(model)
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, weights[name])}
    adapted = {name for name in weights if name.endswith(tuple(f"{module}.weight" for module in ADAPTED))}
    head = {name for name in weights if name.startswith("classifier.")}
    assert changed == adapted | head
    assert len(adapted - head) == len(ADAPTED) * len(model.layers_from_top())


def test_the_backbone_is_in_training_mode_while_it_is_adapted() -> None:
    model = network().train()
    add_lora(model, 2)
    assert model.backbone.encoder.training


def test_a_checkpoint_in_training_holds_the_adapters(tmp_path: Path) -> None:
    model = network()
    add_lora(model, 2)
    trained(model).save_pretrained(tmp_path)  # as the Trainer does
    other = network()
    add_lora(other, 2)
    assert not torch.equal(logits(other), logits(model))
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(logits(other), logits(model))


def test_a_backbone_without_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="mini, has no transformer layers"):
        add_lora(network(num_hidden_layers=0), 2)


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r'pip install "crycli\[lora\]"'):
        add_lora(network(), 2)
