"""The language model of a checkpoint: a causal language model of transformers, and the scaling of its logits.

The base model and the head are kept apart, because trainers compute the loss from the base model's hidden states and
from the head's weight and bias. A head is therefore one linear layer, a factor and a soft cap, as in TRL's loss; every
other kind is refused by name.
"""

import inspect
from collections.abc import Hashable
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)


# unsupported types that pass the other checks; each was found by comparing logits and answers
_REFUSED = {
    **dict.fromkeys(
        ("bert-generation", "jamba", "moshi", "mpt"),
        "a cache that several questions share is not continued by several tokens at once",
    ),
    "deepseek_v4": "their layers read token ids, which audio-visual features do not have",
    "inkling_text": "they scale their logits by a setting of another name",
    "minimax": "they have a cache of another kind",
    "recurrent_gemma": "they keep their state inside the model and cap their logits by a setting of another name",
}


def embedding_size(config: PreTrainedConfig) -> int:
    """
    Width of one row of the input embeddings; OPT's can be smaller than its hidden states.

    Raises:
        ValueError: `config` is of a model that contains a language model and other parts.
    """
    if config.get_text_config() is not config:
        raise _unsupported(config, "they have other parts beside the language model")
    return getattr(config, "word_embed_proj_dim", config.hidden_size)


def build_language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The model of `config` without its head, with random weights.

    Raises:
        ValueError: the model takes no embeddings or no key-value cache, needs token ids beside the embeddings, or its
            embeddings do not have `embedding_size(config)` columns.
    """
    model = AutoModel.from_config(config)
    taken = set(inspect.signature(model.forward).parameters)
    if "per_layer_inputs" in taken and getattr(config, "hidden_size_per_layer_input", None):  # Gemma 3n and 4
        raise _unsupported(config, "each of their layers looks up token ids, which audio-visual features do not have")
    missing = {"inputs_embeds", "past_key_values"} - taken
    if missing:
        raise _unsupported(config, f"their forward does not take {sorted(missing)}")
    num_columns = model.get_input_embeddings().embedding_dim
    if num_columns != embedding_size(config):
        raise _unsupported(config, f"their embeddings have {num_columns} columns instead of {embedding_size(config)}")
    return model


def build_head(config: PreTrainedConfig, language_model: PreTrainedModel) -> nn.Linear:
    """A new head of the same shape as that of the causal language model of `config`, with random weights.

    Args:
        language_model: of `build_language_model`.

    Raises:
        ValueError: transformers has no causal language model for `config`, or the one that it has does not consist of
            this `language_model` and one linear layer over the vocabulary.
    """
    if config.model_type in _REFUSED:
        raise _unsupported(config, _REFUSED[config.model_type])
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _unsupported(config, "transformers has no causal language model of this type")
    with torch.device("meta"):  # no weights: only names and shapes are read
        source = AutoModelForCausalLM.from_config(config)
    head = source.get_output_embeddings()
    if type(head) is not nn.Linear or head.out_features != config.vocab_size:
        raise _unsupported(config, f"their head is not one linear layer over the {config.vocab_size} tokens")
    names = {name for name, _ in source.base_model.named_parameters(remove_duplicate=False)}
    if names != {name for name, _ in language_model.named_parameters(remove_duplicate=False)}:
        raise _unsupported(config, "their causal language model is built around another base model")
    known = {id(parameter) for part in (source.base_model, head) for parameter in part.parameters()}
    extra = sorted(name for name, parameter in source.named_parameters() if id(parameter) not in known)
    if extra:
        raise _unsupported(config, f"their head has further weights {extra}")
    return nn.Linear(head.in_features, head.out_features, bias=head.bias is not None)


def _unsupported(config: PreTrainedConfig, reason: str) -> ValueError:
    return ValueError(f"language models of type {config.model_type!r} are not supported: {reason}")


def logit_scaling(config: PreTrainedConfig) -> tuple[float, float | None]:
    """The factor and the soft cap of the logits of the causal language model of `config`, for `scale_logits`.

    The settings are those that TRL's `add_fused_lm_head` reads, so that a model answers with the logits that it was
    trained with.
    """
    return _logit_factor(config), getattr(config, "final_logit_softcapping", None)


def scale_logits(logits: torch.Tensor, factor: float, cap: float | None) -> torch.Tensor:
    """Applies what `logit_scaling` returns."""
    if factor != 1.0:
        logits = logits * factor
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _logit_factor(config: PreTrainedConfig) -> float:
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return getattr(config, name)
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return scaling if config.model_type == "hyperclovax" else 1.0 / scaling


def find_tied_weight(language_model: PreTrainedModel) -> str:
    """Name of the input embeddings' weight inside `language_model`: "embed_tokens.weight", "wte.weight", ..."""
    embeddings = language_model.get_input_embeddings()
    return next(f"{name}.weight" for name, module in language_model.named_modules() if module is embeddings)


def num_learned_positions(language_model: PreTrainedModel) -> int | None:
    """Rows of the table of learned positions (GPT-2, OPT, BioGPT, ...); None where positions are computed."""
    limit = getattr(language_model.config, "max_position_embeddings", None)
    embeddings = language_model.get_input_embeddings()
    tables = [module for module in language_model.modules() if isinstance(module, nn.Embedding)]
    has_table = limit and any(table.num_embeddings >= limit for table in tables if table is not embeddings)
    return limit if has_table else None


def check_num_positions(
    limit: int, num_tokens: int, *, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
) -> None:
    """Raises ValueError for a prompt that is longer than a table of `limit` learned positions.

    Args:
        num_tokens: of one row, those in the cache included. Padding and further samples in a row need no positions.
    """
    if num_tokens <= limit:
        return
    if position_ids is not None:
        num_tokens = int(position_ids.max()) + 1
    elif attention_mask is not None and attention_mask.ndim == 2:
        num_tokens = int(attention_mask.sum(-1).max())
    if num_tokens > limit:
        raise ValueError(
            f"the language model has {limit} learned positions; the prompt and the answer so far have {num_tokens} "
            "tokens: shorten the text, or ask about fewer media or for a shorter answer"
        )


def takes_position_ids(config: PreTrainedConfig) -> bool:
    """Whether the language model of `config` is given positions: models with ALiBi or a recurrent state have none."""
    return _takes_position_ids(cast(Hashable, type(config)))


@cache
def _takes_position_ids(config_type: Any) -> bool:
    return "position_ids" in inspect.signature(MODEL_MAPPING[config_type].forward).parameters
