"""AVicuna for transformers: importing this package registers its classes with the auto classes.

    from transformers import AutoModelForCausalLM, AutoProcessor
    import modeling_avicuna

Checkpoints carry copies of these files, so `from_pretrained(..., trust_remote_code=True)` works without the package.
Without torch and transformers only the functions on text and token order are there (`parse_events`, ...).
"""

from importlib.util import find_spec

from .interleaving_avicuna import interleave_order, num_modality_tokens, resample_rows
from .prompt_avicuna import PLAIN_CHAT_TEMPLATE, VICUNA_CHAT_TEMPLATE
from .timestamp_avicuna import Event, TimeCodec, format_events, parse_events


__all__ = [
    "Event",
    "PLAIN_CHAT_TEMPLATE",
    "TimeCodec",
    "VICUNA_CHAT_TEMPLATE",
    "format_events",
    "interleave_order",
    "num_modality_tokens",
    "parse_events",
    "resample_rows",
]

if find_spec("torch") is not None and find_spec("transformers") is not None:
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
        AutoProcessor,
        AutoVideoProcessor,
    )

    from .configuration_avicuna import AVicunaConfig
    from .feature_extraction_avicuna import AVicunaFeatureExtractor
    from .generation_avicuna import TimeSpanLogitsProcessor, presence_scores, score_events
    from .media_avicuna import MediaError, load_audio
    from .modeling_avicuna import (
        FULL_PRECISION_MODULES,
        AVicunaForConditionalGeneration,
        AVicunaModel,
        AVicunaPreTrainedModel,
    )
    from .pipeline_avicuna import AVicunaPipeline
    from .processing_avicuna import AVicunaProcessor, build_processor
    from .video_processing_avicuna import AVicunaVideoProcessor, load_video_frames

    AutoConfig.register("avicuna", AVicunaConfig, exist_ok=True)
    for _auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoModelForImageTextToText):
        _auto_class.register(AVicunaConfig, AVicunaForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(AVicunaConfig, AVicunaProcessor, exist_ok=True)
    AutoVideoProcessor.register(AVicunaConfig, AVicunaVideoProcessor, exist_ok=True)
    AutoFeatureExtractor.register(AVicunaConfig, AVicunaFeatureExtractor, exist_ok=True)
    # save_pretrained copies the code of classes marked so into the checkpoint
    AVicunaConfig.register_for_auto_class()
    AVicunaForConditionalGeneration.register_for_auto_class("AutoModelForCausalLM")
    AVicunaProcessor.register_for_auto_class()
    AVicunaVideoProcessor.register_for_auto_class("AutoVideoProcessor")
    AVicunaFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")

    __all__ += [
        "AVicunaConfig",
        "AVicunaFeatureExtractor",
        "AVicunaForConditionalGeneration",
        "AVicunaModel",
        "AVicunaPipeline",
        "AVicunaPreTrainedModel",
        "AVicunaProcessor",
        "AVicunaVideoProcessor",
        "FULL_PRECISION_MODULES",
        "MediaError",
        "TimeSpanLogitsProcessor",
        "build_processor",
        "load_audio",
        "load_video_frames",
        "presence_scores",
        "score_events",
    ]
