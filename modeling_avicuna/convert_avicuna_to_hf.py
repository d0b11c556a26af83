"""Turns the published release (base LLM, two projector files, two LoRA folders) into one safetensors checkpoint.

    python -m modeling_avicuna.convert_avicuna_to_hf --base vicuna-7b-v1.5 --vision-adapter mm_projector.bin \
        --audio-adapter mm_projector_a.bin --stage3 DIR --stage4 DIR --vision-tower clip-vit-large-patch14 \
        --audio-tower clap-htsat-fused --output avicuna-7b

The result has everything that `from_pretrained` needs, code included. Without a tower it takes features in place of
that tower's input. All keys and shapes are checked before anything is written. All paths are local; nothing is
downloaded.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    HfArgumentParser,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .configuration_avicuna import AVicunaConfig
from .feature_extraction_avicuna import AVicunaFeatureExtractor, clap_settings
from .modeling_avicuna import AVicunaForConditionalGeneration
from .origin_avicuna import check_new_folder, write_origin
from .processing_avicuna import build_processor
from .published_weights_avicuna import (
    check_keys,
    check_shapes,
    merge_lora,
    read_language_model,
    read_projector,
    read_tuned_projectors,
)
from .towers_avicuna import build_audio_tower, build_vision_tower


MADE_BY = "modeling_avicuna.convert_avicuna_to_hf"
PROGRAM = f"python -m {MADE_BY}"


def convert_checkpoint(
    base: str | Path,
    *,
    vision_adapter: str | Path,
    audio_adapter: str | Path,
    output: str | Path,
    stage3: str | Path | None = None,
    stage4: str | Path | None = None,
    vision_tower: str | Path | None = None,
    audio_tower: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes the published release as one transformers checkpoint.

    LoRA is merged in the published order, stage 3 before stage 4, in float32. Projectors that a LoRA stage tuned take
    precedence over those of the projector files, and those of stage 4 over those of stage 3.

    Args:
        base: Folder of the language model (Vicuna), tokenizer included.
        vision_adapter: `mm_projector.bin` of stage 1, either as its own saver writes it, with the untrained audio
            projector inside, or with its own two tensors only.
        audio_adapter: `mm_projector_a.bin` of stage 2.
        output: Folder to write.
        stage3, stage4: LoRA folders. None: not merged.
        vision_tower, audio_tower: Folders of CLIP and CLAP. None: a checkpoint without that tower.
        dtype: Type of the saved weights; float32 does not round.

    Raises:
        ValueError: `stage4` without `stage3` (it was trained on top of it), an `output` that is one of the input
            folders or holds other files, or a file, key or shape that is not as expected; the message names it.
    """
    if stage4 is not None and stage3 is None:
        raise ValueError(f"--stage4 {stage4} needs --stage3: its LoRA was trained on the merged weights of stage 3")
    base, output = Path(base), Path(output)
    for source in (base, stage3, stage4, vision_tower, audio_tower):
        if source is not None and output.resolve() == Path(source).resolve():
            raise ValueError(f"--output {output} is also an input folder, whose files would be overwritten")
    check_new_folder(output, made_by=MADE_BY)
    language_model = read_language_model(base)
    adapters = read_projector(Path(vision_adapter), "mm_projector", others=["mm_projector_a"])
    adapters |= read_projector(Path(audio_adapter), "mm_projector_a")
    stages = [Path(stage) for stage in (stage3, stage4) if stage is not None]
    for folder in stages:
        language_model = merge_lora(language_model, folder)
        adapters |= read_tuned_projectors(folder)
    vision_config, vision_weights = _read_tower(vision_tower, "vision_config", build_vision_tower)
    audio_config, audio_weights = _read_tower(audio_tower, "audio_config", build_audio_tower)
    processor = build_processor(
        AutoTokenizer.from_pretrained(base, trust_remote_code=False),
        image_size=None if vision_config is None else vision_config.image_size,
        feature_extractor=None
        if audio_tower is None or audio_config is None
        else AVicunaFeatureExtractor(**clap_settings(audio_tower, is_fused=audio_config.enable_fusion)),
    )
    config = _build_config(base, processor.tokenizer, adapters, vision_config, audio_config)
    weights = {
        **{f"model.{name}": tensor for name, tensor in adapters.items()},
        **{f"model.vision_tower.{name}": tensor for name, tensor in vision_weights.items()},
        **{f"model.audio_tower.{name}": tensor for name, tensor in audio_weights.items()},
        **_place_language_model(language_model, num_rows=config.text_config.vocab_size),
    }
    model = _assemble(config, weights, dtype)
    model.generation_config = _build_generation_config(config)
    write_origin(
        output,
        made_by=MADE_BY,
        language_model=base,
        vision_tower=vision_tower,
        audio_tower=audio_tower,
        vision_adapter=vision_adapter,
        audio_adapter=audio_adapter,
        merged=stages,
    )
    model.save_pretrained(output)
    processor.save_pretrained(output)


def _read_tower(
    folder: str | Path | None, config_name: str, build: Callable[[PreTrainedConfig], PreTrainedModel]
) -> tuple[PreTrainedConfig | None, dict[str, torch.Tensor]]:
    """The config and weights of one tower, from a folder of the whole CLIP or CLAP or of the tower alone."""
    if folder is None:
        return None, {}
    if not Path(folder).is_dir():
        form = "a file; give the tower as a transformers folder" if Path(folder).is_file() else "not a folder"
        raise ValueError(f"the tower {folder} is {form}, for example of openai/clip-vit-large-patch14")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    config = getattr(config, config_name, config)
    with torch.device("meta"):
        tower_class = type(build(config))
    tower, report = tower_class.from_pretrained(folder, config=config, output_loading_info=True, dtype=torch.float32)
    # a folder of the whole model has a text tower as well: missing keys are an error here, unknown ones are not
    check_keys((), report["missing_keys"], where=str(folder))
    return config, tower.state_dict()


def _build_config(
    base: Path,
    tokenizer: PreTrainedTokenizerBase,
    adapters: dict[str, torch.Tensor],
    vision_config: PreTrainedConfig | None,
    audio_config: PreTrainedConfig | None,
) -> AVicunaConfig:
    text_config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    published_vocab_size = text_config.vocab_size
    text_config.vocab_size = max(len(tokenizer), published_vocab_size)
    text_config.pad_token_id = tokenizer.pad_token_id
    text_config.architectures = None
    video_token_id, audio_token_id = tokenizer.convert_tokens_to_ids(["<video>", "<audio>"])
    added = range(published_vocab_size, text_config.vocab_size)
    return AVicunaConfig(
        text_config=text_config,
        vision_config=vision_config,
        audio_config=audio_config,
        vision_feature_size=adapters["vision_adapter.weight"].shape[1],
        audio_feature_size=adapters["audio_adapter.weight"].shape[1],
        video_token_id=video_token_id,
        audio_token_id=audio_token_id,
        # the padding token is ours: masked, it does not change the distribution over the published vocabulary
        unused_token_ids=[token_id for token_id in added if token_id not in (video_token_id, audio_token_id)],
    )


def _place_language_model(weights: dict[str, torch.Tensor], *, num_rows: int) -> dict[str, torch.Tensor]:
    """Renames the weights of the language model and adds rows for the added tokens: zeros in the head.

    The added embeddings differ from each other, so that placeholders can be found in a prompt given as embeddings.
    Their values do not matter, because features replace them.
    """
    placed = {}
    for name, tensor in weights.items():
        if name in ("lm_head.weight", "model.embed_tokens.weight"):
            added = tensor.new_zeros(num_rows - len(tensor), tensor.shape[1])
            if name == "model.embed_tokens.weight":
                added += 1e-3 * torch.arange(1, len(added) + 1).unsqueeze(-1)
            tensor = torch.cat([tensor, added])
        inner = name.removeprefix("model.")
        placed[name if inner == name else f"model.language_model.{inner}"] = tensor
    return placed


def _assemble(config: AVicunaConfig, weights: dict, dtype: torch.dtype) -> AVicunaForConditionalGeneration:
    with torch.device("meta"):
        model = AVicunaForConditionalGeneration(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        weights.setdefault("lm_head.weight", weights["model.language_model.embed_tokens.weight"])
    check_keys(weights, expected, where="the given weights")
    check_shapes(weights, expected, where="the given weights")
    for name, tensor in weights.items():
        weights[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    for part in (config, config.text_config, config.vision_config, config.audio_config):
        if part is not None:
            part.dtype, part.name_or_path = dtype, ""  # instead of the source's type and local path
    return model


def _build_generation_config(config: AVicunaConfig) -> GenerationConfig:
    text_config = config.text_config
    return GenerationConfig(
        bos_token_id=text_config.bos_token_id,
        eos_token_id=text_config.eos_token_id,
        pad_token_id=text_config.pad_token_id,
    )


@dataclass
class ConvertArguments:
    """Command line of `python -m modeling_avicuna.convert_avicuna_to_hf`."""

    base: str = field(metadata={"help": "Folder of the language model with its tokenizer."})
    vision_adapter: str = field(metadata={"help": "mm_projector.bin of stage 1."})
    audio_adapter: str = field(metadata={"help": "mm_projector_a.bin of stage 2."})
    output: str = field(metadata={"help": "Folder to write."})
    stage3: str | None = field(default=None, metadata={"help": "LoRA folder of stage 3."})
    stage4: str | None = field(default=None, metadata={"help": "LoRA folder of stage 4; needs --stage3."})
    vision_tower: str | None = field(
        default=None, metadata={"help": "Folder of CLIP; without it the checkpoint takes video_features only."}
    )
    audio_tower: str | None = field(
        default=None, metadata={"help": "Folder of CLAP; without it the checkpoint takes audio_features only."}
    )
    dtype: str = field(
        default="float32",
        metadata={"help": "Type of the saved weights.", "choices": ["float32", "bfloat16", "float16"]},
    )


class OneLineParser(HfArgumentParser):
    """`HfArgumentParser` whose errors are one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: error: {message}\n")
        sys.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line, by default that of this process; a mistake is one line on stderr."""
    description = __doc__.split("\n")[0]
    parser = OneLineParser(ConvertArguments, prog=PROGRAM, description=description, allow_abbrev=False)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if any(not word.strip() or (word.startswith("--") and word.endswith("=")) for word in words):
        parser.error("the value of an option is empty")
    options, unknown = parser.parse_args_into_dataclasses(
        words, look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    values = asdict(options)
    try:
        convert_checkpoint(values.pop("base"), **{**values, "dtype": getattr(torch, options.dtype)})
    except (ValueError, OSError) as error:
        parser.error(" ".join(str(error).split()))


if __name__ == "__main__":
    main()
