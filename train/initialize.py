"""Creates the checkpoint that stage I starts from: a tiny random AVicuna, or one assembled from pretrained parts.

    python -m train.initialize --size tiny --captions-file captions.json --media-dir clips --output outputs/stage0
    python -m train.initialize --language-model lmsys/vicuna-7b-v1.5 --vision-tower openai/clip-vit-large-patch14 \
        --audio-tower laion/clap-htsat-fused --output outputs/stage0

The adapters are initialized at random. The tiny model is for tests and the demo.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ClapAudioModelWithProjection,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from dataset_builders import wordings
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_positive, check_range
from dataset_builders.pretrained import PROCESSOR_FILES, load_weights, name_model
from dataset_builders.sources.captions import read_records
from modeling_avicuna import AVicunaConfig, AVicunaFeatureExtractor, AVicunaForConditionalGeneration
from modeling_avicuna.feature_extraction_avicuna import clap_settings
from modeling_avicuna.interleaving_avicuna import INTERLEAVING_RULES
from modeling_avicuna.origin_avicuna import RANDOM, check_new_folder, write_origin
from modeling_avicuna.processing_avicuna import build_processor
from modeling_avicuna.prompt_avicuna import SYSTEM_PROMPT
from modeling_avicuna.tokenization_avicuna import add_placeholder_tokens
from train.extract_features import list_media
from train.whitening import spread, whiten_towers


MADE_BY = "train.initialize"
PROGRAM = f"python -m {MADE_BY}"
NUM_WHITENING_CLIPS = 96
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
# our choice: small enough for two CPU cores, large enough to distinguish the sandbox's pictures and sounds
TINY_VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 128,
    "projection_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 48,
    "patch_size": 8,
    "initializer_factor": 3.0,
}
TINY_AUDIO = {
    "model_type": "clap_audio_model",
    "patch_embeds_hidden_size": 16,
    "hidden_size": 32,
    "projection_dim": 64,
    "depths": [1, 1],
    "num_hidden_layers": 2,
    "num_attention_heads": [2, 2],
    "patch_size": 8,
    "patch_stride": [8, 8],
    "num_mel_bins": 64,
    "window_size": 8,
}
# Tiny language models by name. Llama is the architecture of the paper's Vicuna. The others were compared by how fast
# they learn to predict the position of a token, which determines a time.
TINY_TEXTS = {
    "llama": {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
    },
    # GPT-2's architecture, with learned positions
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 64,
        "n_inner": 128,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 2048,
        "initializer_range": 0.04,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    # learned positions as well: with Muon it learns to predict times within minutes on one CPU core
    "biogpt": {
        "model_type": "biogpt",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 1024,
        "scale_embedding": False,
        "initializer_range": 0.04,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "activation_dropout": 0.0,
        "layerdrop": 0.0,
    },
    "lfm2": {
        "model_type": "lfm2",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "conv_L_cache": 12,  # spans the tokens between an event's name in a question and the time in the answer
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "block_auto_adjust_ff_dim": False,
        "tie_word_embeddings": False,
        "initializer_range": 0.04,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    },
}


def train_tokenizer(texts: list[str], *, vocab_size: int = 1000) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with one token per digit, as LLaMA's, trained on `texts`.

    The training texts include the system prompt and the wordings of all questions, so that prompts have few tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *known_texts()], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=2048
    )


def known_texts() -> list[str]:
    """The system prompt, the roles and the wordings of all questions, as in the conversations."""
    questions = [q for name, value in vars(wordings).items() if name.endswith("_QUESTIONS") for q in value]
    spans = ["From 01 to 23, ", "from 45 to 67 and from 89 to 90. ", "No event."]
    # repeated so that each of these words becomes one token among a few hundred captions
    return [f"{SYSTEM_PROMPT} USER: {question} ASSISTANT: {span}" for question in questions for span in spans] * 4


def build_tiny(
    texts: list[str],
    *,
    seed: int = 0,
    language_model: str = "llama",
    vocab_size: int = 1000,
    vision: dict | None = None,
    audio: dict | None = None,
    text: dict | None = None,
    alignment: str = "published",
    window_seconds: float = 10.0,
    stride_seconds: float = 4.0,
    **config: Any,
) -> tuple[AVicunaForConditionalGeneration, ProcessorMixin]:
    """A random tiny AVicuna with a tokenizer trained on `texts`.

    Args:
        texts: captions, for the tokenizer.
        seed: of the weights.
        language_model: a key of TINY_TEXTS.
        vision, audio, text: fields of the sub-configurations to change (TINY_VISION, ...).
        alignment, window_seconds, stride_seconds: see `InitializeOptions`.
        config: fields of `AVicunaConfig`, for example `num_av_tokens`.
    """
    tokenizer = add_placeholder_tokens(train_tokenizer(texts, vocab_size=vocab_size))
    text_config = {**TINY_TEXTS[language_model], **token_ids(tokenizer), "vocab_size": len(tokenizer), **(text or {})}
    avicuna = AVicunaConfig(
        vision_config={**TINY_VISION, **(vision or {})},
        audio_config={**TINY_AUDIO, "spec_size": tiny_spec_size(window_seconds), **(audio or {})},
        text_config=text_config,
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        audio_token_id=tokenizer.convert_tokens_to_ids("<audio>"),
        **config,
    )
    torch.manual_seed(seed)
    model = AVicunaForConditionalGeneration(avicuna).eval()
    set_generation_ids(model, tokenizer)
    extractor = AVicunaFeatureExtractor(window_seconds=window_seconds, stride_seconds=stride_seconds)
    return model, build_processor(tokenizer, config=avicuna, alignment=alignment, feature_extractor=extractor)


def tiny_spec_size(window_seconds: float) -> int:
    """The smallest `spec_size` of the tiny audio tower at which no frame of a window is lost.

    CLAP arranges `spec_size / num_mel_bins` pieces of `spec_size` frames (10 ms each) as a square image, and stretches
    a window to fill it.
    """
    num_frames = round(100 * window_seconds) + 1
    num_mel_bins = int(str(TINY_AUDIO["num_mel_bins"]))
    sizes = [size for size in (128, 256, 512, 1024) if size * size // num_mel_bins >= num_frames]
    if not sizes:
        raise ValueError(f"window_seconds={window_seconds:g} is too long for the tiny audio tower")
    return sizes[0]


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def set_generation_ids(model: AVicunaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast):
    for name, value in token_ids(tokenizer).items():
        setattr(model.generation_config, name, value)


def assemble(
    *,
    language_model: str,
    vision_tower: str | None,
    audio_tower: str | None,
    dtype: str = "auto",
    alignment: str = "published",
    window_seconds: float = 10.0,
    stride_seconds: float = 4.0,
    **config: Any,
) -> tuple[AVicunaForConditionalGeneration, ProcessorMixin]:
    """An AVicuna with a pretrained language model and pretrained towers; the adapters are random.

    Args:
        language_model: any causal language model with a fast tokenizer.
        vision_tower: a CLIP model; its vision encoder and projection are used. None: no tower.
        audio_tower: a CLAP model; its audio encoder and projection are used. None: no tower.
        alignment, window_seconds, stride_seconds: see `InitializeOptions`.
        config: fields of `AVicunaConfig`.

    Raises:
        ValueError: the tokenizer is not backed by `tokenizers`, or a part cannot be loaded or lacks weights.
    """
    with name_model(language_model, files=PROCESSOR_FILES):
        tokenizer = add_placeholder_tokens(AutoTokenizer.from_pretrained(language_model, trust_remote_code=False))
    text = load_weights(AutoModelForCausalLM, language_model, dtype=dtype)
    if len(tokenizer) > text.get_input_embeddings().num_embeddings:
        text.resize_token_embeddings(len(tokenizer))
    vision = audio = None
    if vision_tower is not None:
        vision = load_weights(CLIPVisionModelWithProjection, vision_tower, dtype=dtype)
    if audio_tower is not None:
        audio = load_weights(ClapAudioModelWithProjection, audio_tower, dtype=dtype)
    text.config.pad_token_id = tokenizer.pad_token_id
    avicuna = AVicunaConfig(
        vision_config=vision.config if vision else None,
        audio_config=audio.config if audio else None,
        text_config=text.config,
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        audio_token_id=tokenizer.convert_tokens_to_ids("<audio>"),
        **config,
    )
    with torch.device("meta"):  # all parts but the adapters are replaced below, so they need no memory
        model = AVicunaForConditionalGeneration(avicuna)
    model.model.language_model, model.lm_head = text.base_model, text.get_output_embeddings()
    model.model.vision_tower, model.model.audio_tower = vision, audio
    for name in ("vision_adapter", "audio_adapter"):
        adapter = getattr(model.model, name).to_empty(device="cpu").to(text.dtype)
        for layer in adapter.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.reset_parameters()
    model.tie_weights()
    model.generation_config = text.generation_config
    set_generation_ids(model, tokenizer)
    check_text_logits(model.eval(), text.eval())
    preprocessing = clap_settings(audio_tower, is_fused=audio.config.enable_fusion) if audio_tower and audio else {}
    extractor = AVicunaFeatureExtractor(**preprocessing, window_seconds=window_seconds, stride_seconds=stride_seconds)
    return model, build_processor(tokenizer, config=avicuna, alignment=alignment, feature_extractor=extractor)


@torch.no_grad()
def check_text_logits(model: AVicunaForConditionalGeneration, source: PreTrainedModel):
    """Compares the logits of a short text with those of the language model that `model` contains.

    Raises:
        ValueError: they differ by more than 1e-5 of the largest one (in 16-bit types: the machine epsilon).
    """
    ids = torch.arange(8)[None] % model.config.video_token_id  # any tokens but the placeholders
    used = [i for i in range(source.config.vocab_size) if i not in model.config.masked_token_ids]
    expected, logits = (m(input_ids=ids).logits[..., used].float() for m in (source, model))
    tolerance = max(1e-5, torch.finfo(source.dtype).eps) * expected.abs().max().clamp(min=1.0)
    if (logits - expected).abs().max() > tolerance:
        raise ValueError(
            f"language models of type {source.config.model_type!r} are not supported: inside AVicuna the logits of a "
            f"text differ by {float((logits - expected).abs().max()):.2g} from those of the original model"
        )


@dataclass
class InitializeOptions:
    """Command line of `python -m train.initialize`."""

    output: str = field(metadata={"help": "Folder for the checkpoint."})
    size: str | None = field(
        default=None, metadata={"choices": ["tiny"], "help": "tiny: a small model with random weights."}
    )
    captions_file: str | None = field(
        default=None,
        metadata={"aliases": ["--captions"], "help": "Captioned clips whose captions the tiny tokenizer learns from."},
    )
    language_model: str | None = field(
        default=None,
        metadata={"help": 'Pretrained causal language model; with --size tiny, "llama", "lfm2", "biogpt" or "gpt2".'},
    )
    vision_tower: str | None = field(default=None, metadata={"help": "Pretrained CLIP model."})
    audio_tower: str | None = field(default=None, metadata={"help": "Pretrained CLAP model."})
    media_dir: str | None = field(
        default=None,
        metadata={"aliases": ["--clips_dir", "--clips-dir"], "help": "Media that the tiny towers are whitened on."},
    )
    num_av_tokens: int = field(default=100, metadata={"help": "Audio-visual tokens of a video (published: 100)."})
    audio_interleaving_rate: float = field(default=0.25, metadata={"help": "Share of audio (published best: 0.25)."})
    interleaving: str = field(
        default="uniform", metadata={"choices": INTERLEAVING_RULES, "help": "Rule of the token order."}
    )
    alignment: str = field(
        default="published",
        metadata={
            "choices": ["published", "centred"],
            "help": "centred: each token represents the middle of its part of the video.",
        },
    )
    window_seconds: float = field(default=10.0, metadata={"help": "Length of a sound window (published: 10)."})
    stride_seconds: float = field(default=4.0, metadata={"help": "Distance of sound windows (published: 4)."})
    dtype: str = field(
        default="auto",
        metadata={"choices": ["auto", "float32", "bfloat16", "float16"], "help": "Data type of the pretrained parts."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of all random weights."})

    def __post_init__(self):
        check_range(self, 1, "num_av_tokens")
        check_range(self, 0, "seed")
        check_positive(self, "window_seconds", "stride_seconds")
        check_range(self, 0, "audio_interleaving_rate", high=1)
        if self.size == "tiny" and self.language_model not in (None, *TINY_TEXTS):
            known = list(TINY_TEXTS)
            raise ValueError(f"with --size tiny, language_model must be one of {known}, got {self.language_model!r}")


def main(arguments: list[str] | None = None):
    args = parse_options(InitializeOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    names = "num_av_tokens audio_interleaving_rate interleaving alignment window_seconds stride_seconds"
    settings = {name: getattr(args, name) for name in names.split()}
    check_new_folder(args.output, made_by=MADE_BY)
    torch.manual_seed(args.seed)
    if args.size == "tiny" and args.captions_file:
        captions = [str(record["caption"]) for record in read_records(args.captions_file) if record["caption"]]
        language_model = args.language_model or "llama"
        model, processor = build_tiny(captions, seed=args.seed, language_model=language_model, **settings)
        if args.media_dir:
            whiten_towers(model, processor, spread(list_media(args.media_dir, []), NUM_WHITENING_CLIPS))
    elif args.size is None and args.language_model:
        model, processor = assemble(
            language_model=args.language_model,
            vision_tower=args.vision_tower,
            audio_tower=args.audio_tower,
            dtype=args.dtype,
            **settings,
        )
    else:
        raise ValueError("give either --size tiny with --captions-file FILE, or --language_model (and towers)")
    adapters = {"vision_adapter": RANDOM, "audio_adapter": RANDOM}
    loaded = ("language_model", "vision_tower", "audio_tower")
    parts = {name: RANDOM if args.size == "tiny" else getattr(args, name) for name in loaded}
    write_origin(args.output, made_by=MADE_BY, **parts, **adapters)
    model.save_pretrained(args.output)
    processor.save_pretrained(args.output)
    print(f"wrote {args.output}: {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
