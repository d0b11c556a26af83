"""AVicuna for transformers: importing this package registers its classes with the auto classes.

    from transformers import AutoModelForCausalLM, AutoProcessor
    import modeling_avicuna

Checkpoints carry copies of these files, so `from_pretrained(..., trust_remote_code=True)` works without the package.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
)

from .configuration_avicuna import AVicunaConfig
from .interleaving_avicuna import interleave_order, num_modality_tokens, resample_rows
from .modeling_avicuna import AVicunaForConditionalGeneration, AVicunaModel, AVicunaPreTrainedModel


AutoConfig.register("avicuna", AVicunaConfig, exist_ok=True)
for _auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoModelForImageTextToText):
    _auto_class.register(AVicunaConfig, AVicunaForConditionalGeneration, exist_ok=True)
# save_pretrained copies the code of classes marked so into the checkpoint
AVicunaConfig.register_for_auto_class()
AVicunaForConditionalGeneration.register_for_auto_class("AutoModelForCausalLM")

__all__ = [
    "AVicunaConfig",
    "AVicunaForConditionalGeneration",
    "AVicunaModel",
    "AVicunaPreTrainedModel",
    "interleave_order",
    "num_modality_tokens",
    "resample_rows",
]
