"""`generate` with media under assisted decoding and without a cache: only placeholders of the prompt count."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tiny_models import (
    AUDIO_TOKEN_ID,
    TINY_TEXT,
    VIDEO_TOKEN_ID,
    prompt_ids,
    random_features,
    tiny_model,
)
from train.initialize import build_tiny


class ConstantProposal(LlamaForCausalLM):
    """A text model that always proposes the same token."""

    token_id = VIDEO_TOKEN_ID

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.logits[..., self.token_id] = 1e4
        return outputs


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def inputs() -> dict[str, torch.Tensor]:
    """The token before the placeholders is also the last one, so that prompt lookup proposes placeholders."""
    prompt = prompt_ids(6, 2)
    ids = torch.tensor([[5, *prompt[1:], 5]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "video_features": random_features(6, 24)[None],
        "audio_features": random_features(2, 20, seed=1)[None],
    }


@pytest.mark.parametrize("settings", [{"prompt_lookup_num_tokens": 8}, {"prompt_lookup_num_tokens": 2}], ids=str)
def test_prompt_lookup_gives_the_ids_of_greedy_decoding(model, settings):
    expected = model.generate(**inputs(), max_new_tokens=12, do_sample=False)
    found = model.generate(**inputs(), max_new_tokens=12, do_sample=False, max_matching_ngram_size=1, **settings)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("token_id", [VIDEO_TOKEN_ID, AUDIO_TOKEN_ID])
@pytest.mark.parametrize("kind", ["text model", "same kind"])
def test_an_assistant_that_proposes_placeholders_does_not_change_the_tokens(model, token_id, kind):
    expected = model.generate(**inputs(), max_new_tokens=12, do_sample=False)
    if kind == "text model":
        torch.manual_seed(1)
        assistant = ConstantProposal(LlamaConfig(**{k: v for k, v in TINY_TEXT.items() if k != "model_type"})).eval()
        assistant.token_id = token_id
    else:
        assistant = tiny_model(seed=3)
    found = model.generate(**inputs(), max_new_tokens=12, do_sample=False, assistant_model=assistant)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "settings", [{"use_cache": False}, {"num_beams": 3}, {"use_cache": False, "num_beams": 2}], ids=str
)
def test_tokens_are_the_same_without_a_cache_and_with_beams(model, settings):
    same = {**settings, "use_cache": True}
    expected = model.generate(**inputs(), max_new_tokens=8, do_sample=False, **same)
    assert torch.equal(model.generate(**inputs(), max_new_tokens=8, do_sample=False, **settings), expected)


def test_a_chunked_prefill_with_media_is_an_error(model):
    with pytest.raises(ValueError, match="prefill_chunk_size=4 is not supported with media"):
        model.generate(**inputs(), max_new_tokens=2, prefill_chunk_size=4)
    text = {name: inputs()[name][:, -3:] for name in ("input_ids", "attention_mask")}
    chunked = model.generate(**text, max_new_tokens=4, prefill_chunk_size=2, do_sample=False)
    assert torch.equal(chunked, model.generate(**text, max_new_tokens=4, do_sample=False))


def test_a_full_graph_of_raw_media_is_an_error_that_names_the_cause():
    """The number of feature rows depends on the data: docs/use.md, "Limits"."""
    model, processor = build_tiny(["A dog barks."], vocab_size=400, num_av_tokens=8)
    frames = np.zeros((12, 64, 64, 3), np.uint8)
    with torch.no_grad(), pytest.raises(RuntimeError, match="data-dependent"):
        torch.compile(model, backend="eager", fullgraph=True)(**processor(text="<video>", videos=[frames]))
    torch._dynamo.reset()
