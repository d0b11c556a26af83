"""Causal language models inside AVicuna give the logits and tokens they give on their own, or raise a clear error."""

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from modeling_avicuna import AVicunaConfig, AVicunaForConditionalGeneration
from modeling_avicuna.answering_avicuna import generate_shared
from modeling_avicuna.generation_avicuna import generated_ids


VOCAB_SIZE, VIDEO_ID, AUDIO_ID = 99, 97, 98
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT2_SIZES = {"n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": 64}
STATE_SPACE = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
LATENT |= {"num_key_value_heads": 4}
PLAIN = ("arcee", "apertus", "ernie4_5", "gpt_neox", "internlm3", "llama", "mistral", "nemotron")
PLAIN += ("olmo", "olmo2", "olmo3", "persimmon", "phi", "phi3", "qwen2", "seed_oss", "smollm3", "stablelm")
PLAIN += ("starcoder2",)
FAMILIES = {
    **dict.fromkeys(PLAIN, SIZES),
    "biogpt": {**SIZES, "scale_embedding": True},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "codegen": {**GPT2_SIZES, "rotary_dim": 4},
    "cohere": {**SIZES, "logit_scale": 0.25},
    "cohere2": {**SIZES, "logit_scale": 0.25},
    "falcon": {**SIZES, "ffn_hidden_size": 48},
    "falcon_h1": {**SIZES, **STATE_SPACE, "mamba_d_ssm": 64, "lm_head_multiplier": 3.0},
    "gemma": {**SIZES, "head_dim": 8},
    "gemma2": {**SIZES, "head_dim": 8, "final_logit_softcapping": 3.0, "sliding_window": 8},
    "gemma3_text": {**SIZES, "head_dim": 8, "final_logit_softcapping": 3.0, "sliding_window": 8},
    "glm4": {**SIZES, "head_dim": 8},
    "gpt2": GPT2_SIZES,
    "gpt_bigcode": GPT2_SIZES,
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "gptj": {**GPT2_SIZES, "rotary_dim": 4},
    "granite": {**SIZES, "logits_scaling": 8.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "granitemoehybrid": {**SIZES, **STATE_SPACE, "layer_types": ["mamba", "attention"], "logits_scaling": 3.0},
    "helium": {**SIZES, "head_dim": 8},
    "hyperclovax": {**SIZES, "logits_scaling": 3.0},
    "lfm2": {**SIZES, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "minicpm3": {**SIZES, **LATENT, "dim_model_base": 16},
    "mixtral": {**SIZES, "num_local_experts": 4},
    "opt": {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 16},
    "qwen3": {**SIZES, "head_dim": 8},
    "qwen3_next": {
        **{**SIZES, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        **{"shared_expert_intermediate_size": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4},
        **{"linear_key_head_dim": 8, "linear_value_head_dim": 8},
        "layer_types": ["linear_attention", "full_attention"],
    },
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 64},
}
REFUSED = {
    "bart": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8},
    "bert": {**SIZES, "is_decoder": True},
    "bert-generation": {**SIZES, "is_decoder": True},
    "big_bird": {**SIZES, "is_decoder": True, "attention_type": "original_full"},
    "clip_text_model": SIZES,
    "deepseek_v4": {**SIZES, **LATENT},
    "electra": {**SIZES, "is_decoder": True, "embedding_size": 16},
    "gemma3n_text": {**SIZES, "layer_types": ["full_attention"] * 2, "num_kv_shared_layers": 0},
    "gemma4_text": {**SIZES, "layer_types": ["full_attention"] * 2},
    "inkling_text": SIZES,
    "jamba": {**SIZES, "attn_layer_offset": 1, "attn_layer_period": 2, "num_experts": 2},
    "mamba": {**SIZES, "state_size": 4},
    "minimax": {**SIZES, "num_local_experts": 2},
    "moshi": SIZES,
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    "recurrent_gemma": {**SIZES, "lru_width": 32, "block_types": ["recurrent", "attention"]},
    "t5": {"d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 4},
}


def language_config(name: str, fields: dict):
    ids = {"vocab_size": VOCAB_SIZE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return CONFIG_MAPPING[name](**ids, **fields)


def source_model(name: str):
    """The causal language model of a family; all weights, including biases and norms, differ from their defaults."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(language_config(name, FAMILIES[name])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def inside_avicuna(source) -> AVicunaForConditionalGeneration:
    config = AVicunaConfig(text_config=source.config, video_token_id=VIDEO_ID, audio_token_id=AUDIO_ID)
    model = AVicunaForConditionalGeneration(config).eval()
    model.model.language_model.load_state_dict(source.base_model.state_dict())
    model.lm_head.load_state_dict(source.get_output_embeddings().state_dict())
    return model


@pytest.fixture(scope="module", params=list(FAMILIES))
def source_and_model(request):
    source = source_model(request.param)
    return source, inside_avicuna(source)


def left_padded_ids() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, VIDEO_ID, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[1, :4], mask[1, :4] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def test_logits_of_text_equal_those_of_the_source_model(source_and_model):
    source, model = source_and_model
    ids = left_padded_ids()["input_ids"][:1]
    expected, logits = source(input_ids=ids).logits, model(input_ids=ids).logits
    torch.testing.assert_close(logits[..., :VIDEO_ID], expected[..., :VIDEO_ID], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gemma2", "gemma3_text"])
def test_a_soft_cap_can_be_switched_off_after_loading(name):
    source = source_model(name)
    model = inside_avicuna(source)
    ids = left_padded_ids()["input_ids"][:1]
    capped = model(input_ids=ids).logits
    source.config.final_logit_softcapping = model.config.text_config.final_logit_softcapping = None
    expected, logits = source(input_ids=ids).logits, model(input_ids=ids).logits
    torch.testing.assert_close(logits[..., :VIDEO_ID], expected[..., :VIDEO_ID], atol=1e-5, rtol=0)
    assert not torch.allclose(capped, logits)


def test_a_padded_batch_generates_the_tokens_of_the_source_model(source_and_model):
    source, model = source_and_model
    settings = {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": [VIDEO_ID, AUDIO_ID]}
    expected = source.generate(**left_padded_ids(), **settings)
    assert torch.equal(model.generate(**left_padded_ids(), **settings), expected)


def test_prompts_that_share_a_beginning_generate_the_tokens_of_the_source_model(source_and_model):
    source, model = source_and_model
    first, second = left_padded_ids()["input_ids"]
    prompts = [torch.cat([first, second[4 : 4 + length]]) for length in (2, 4, 4)]
    settings = {"max_new_tokens": 3, "do_sample": False, "suppress_tokens": [VIDEO_ID, AUDIO_ID]}
    for numbers, outputs in generate_shared(model, prompts=prompts, media={}, output_logits=True, **settings):
        for number, answer in zip(numbers, generated_ids(outputs)):
            prompt = prompts[number][None]
            expected = source.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **settings)
            tokens = expected[0, prompt.shape[1] :].tolist()
            assert answer[: len(tokens)].tolist() == tokens  # padded after an end token


@pytest.mark.parametrize("name", ["biogpt", "gpt2", "gpt_bigcode", "opt"])
def test_more_tokens_than_learned_positions_are_an_error_that_says_so(name):
    model = inside_avicuna(source_model(name))
    ids = torch.randint(3, VIDEO_ID, (1, 65), generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="has 64 learned positions; the prompt and the answer so far have 65 tokens"):
        model(input_ids=ids)
    with pytest.raises(ValueError, match="have 65 tokens"):
        model.generate(input_ids=ids[:, :60], max_new_tokens=9, min_new_tokens=9)


def test_padding_and_several_samples_in_a_row_may_exceed_the_learned_positions():
    model = inside_avicuna(source_model("biogpt"))
    ids = torch.randint(3, VIDEO_ID, (1, 70), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[:, :10] = 0
    assert model(input_ids=ids, attention_mask=mask).logits.isfinite().all()
    assert model(input_ids=ids, position_ids=torch.arange(35).repeat(2)[None]).logits.isfinite().all()


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_computed_positions_have_no_limit(name):
    model = inside_avicuna(source_model(name))
    ids = torch.randint(3, VIDEO_ID, (1, 65), generator=torch.Generator().manual_seed(0))
    assert model(input_ids=ids).logits.isfinite().all()


@torch.no_grad()
def test_a_vocabulary_may_be_cut_before_the_placeholders():
    model = inside_avicuna(source_model("llama"))
    model.resize_token_embeddings(50)
    assert model(input_ids=torch.tensor([[3, 4]])).logits.shape[-1] == 50


def test_the_fused_loss_of_trl_equals_that_of_the_source_model(source_and_model):
    """TRL computes the loss from hidden states, weight and bias of the head, and its scale and soft cap."""
    source, model = source_and_model
    ids = left_padded_ids()["input_ids"][:1]
    expected = source(input_ids=ids, labels=ids).loss
    forward = model.forward
    add_fused_lm_head(model)
    try:
        loss = model(input_ids=ids, labels=ids, fused_lm_head=True).loss
    finally:
        model.forward = forward
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_saved_model_loads_with_equal_logits(source_and_model, tmp_path):
    _, model = source_and_model
    model.save_pretrained(tmp_path)
    loaded = AVicunaForConditionalGeneration.from_pretrained(tmp_path)
    ids = left_padded_ids()
    assert torch.equal(loaded(**ids).logits, model(**ids).logits)
    tied = model.config.tie_word_embeddings
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("name", list(REFUSED))
def test_an_unsupported_language_model_is_an_error_that_names_it(name):
    config = AVicunaConfig(
        text_config=language_config(name, REFUSED[name]), video_token_id=VIDEO_ID, audio_token_id=AUDIO_ID
    )
    with pytest.raises(ValueError, match=f"type '{name}' are not supported"):
        AVicunaForConditionalGeneration(config)
