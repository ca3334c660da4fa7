"""Low-rank adaptation of a backbone (LoRA, Hu et al. 2021, arXiv 2106.09685), through peft, the extra `lora`.

The adapters exist while a network is trained. The model that is kept has them merged into its weights and is as any
other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crycli.errors import ConfigError

if TYPE_CHECKING:
    from crycli.model import SpeechClassification

ADAPTED = ("q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense")
"""Of each transformer layer: the projections of the attention, and the feed-forward part."""
ALPHA_OVER_RANK = 2  # by which what the adapters say is multiplied


def add_lora(model: SpeechClassification, rank: int) -> None:
    """Put adapters into the backbone, in place: they and the head are trained, and nothing else.

    The network answers as before: the adapters start at nothing. Its state has other keys until `merge_lora`.

    Args:
        model: a network without adapters.
        rank: of the adapters, above 0.

    Raises:
        ConfigError: peft is not installed, or the backbone has no layers to adapt.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError('model.lora_rank needs peft: pip install "crycli[lora]", or set it to null') from None
    if not model.layers_from_top():
        raise ConfigError(
            "model.lora_rank: this backbone, such as mini, has no transformer layers to adapt: set it to null"
        )

    model.freeze_backbone()
    adapters = LoraConfig(r=rank, lora_alpha=ALPHA_OVER_RANK * rank, target_modules=list(ADAPTED))
    inject_adapter_in_model(adapters, model.backbone)
    model.train(model.training)  # the backbone is not frozen any more


def merge_lora(model: SpeechClassification) -> None:
    """Add what the adapters have learnt to the weights that they stand beside, and take them out, in place."""
    from peft.tuners.lora import LoraLayer

    backbone = model.backbone
    adapted = [(name, module) for name, module in backbone.named_modules() if isinstance(module, LoraLayer)]
    for name, module in adapted:
        module.merge()
        backbone.set_submodule(name, module.get_base_layer())
    del backbone.peft_config
