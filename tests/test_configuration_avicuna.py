"""The configuration: defaults, saving and loading, and errors."""

import json

import pytest
from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig, Qwen3Config, Siglip2VisionConfig

from modeling_avicuna import AVicunaConfig
from tests.tiny_models import TINY_AUDIO, TINY_TEXT, TINY_VISION, tiny_config


def test_defaults_are_the_values_of_the_paper_without_towers():
    config = AVicunaConfig()
    assert (config.num_av_tokens, config.audio_interleaving_rate, config.interleaving) == (100, 0.25, "uniform")
    assert (config.vision_config, config.audio_config) == (None, None)
    assert (config.vision_feature_size, config.audio_feature_size) == (768, 512)
    assert isinstance(config.text_config, LlamaConfig)
    assert max(config.video_token_id, config.audio_token_id) < config.text_config.vocab_size
    assert (config.time_unit, config.num_time_bins, config.projector_hidden_act) == ("relative", 100, None)


def test_sub_configs_are_dicts_or_configs():
    config = AVicunaConfig(
        vision_config={"hidden_size": 24, "projection_dim": 24},
        audio_config={key: value for key, value in TINY_AUDIO.items() if key != "model_type"},
        text_config=Qwen3Config(vocab_size=40, hidden_size=32, num_hidden_layers=1),
        video_token_id=38,
        audio_token_id=39,
    )
    assert isinstance(config.vision_config, CLIPVisionConfig)
    assert config.audio_config.model_type == "clap_audio_model"
    assert config.text_config.model_type == "qwen3"
    assert (config.vision_feature_size, config.audio_feature_size) == (24, 20)


def test_the_feature_size_of_a_tower_takes_precedence():
    siglip = Siglip2VisionConfig(hidden_size=48, num_attention_heads=4)
    assert tiny_config(vision_config=siglip, vision_feature_size=768).vision_feature_size == 48
    assert tiny_config(vision_config=None, vision_feature_size=1152).vision_feature_size == 1152
    assert tiny_config(vision_config=None).vision_feature_size == 768
    # the same for an edited copy of a saved configuration
    fields = tiny_config().to_dict()
    fields["vision_config"] = {**TINY_VISION, "projection_dim": 12}
    assert AVicunaConfig(**fields).vision_feature_size == 12


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"vision_config": None, "vision_feature_size": 33},
        {"audio_config": None},
        {"interleaving": "published", "audio_interleaving_rate": 0.5, "projector_hidden_act": "gelu"},
        {"time_unit": "seconds", "num_time_bins": 1000, "unused_token_ids": [96]},
    ],
)
def test_a_saved_configuration_loads_with_equal_fields(tmp_path, overrides):
    config = tiny_config(**overrides)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is AVicunaConfig
    set_by_loading = {"transformers_version": loaded.transformers_version, "_name_or_path": loaded.name_or_path}
    assert loaded.to_dict() == {**config.to_dict(), **set_by_loading}
    for name, value in overrides.items():
        assert getattr(loaded, name) == value


def test_the_saved_configuration_refers_to_the_remote_code(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["auto_map"]["AutoConfig"] == "configuration_avicuna.AVicunaConfig"
    for auto_class in ("AutoModel", "AutoModelForCausalLM", "AutoModelForMultimodalLM"):
        assert saved["auto_map"][auto_class] == "modeling_avicuna.AVicunaForConditionalGeneration"
    assert saved["auto_map"]["AutoProcessor"] == "processing_avicuna.AVicunaProcessor"
    assert "audio-visual-event-localization" in saved["custom_pipelines"]
    assert (tmp_path / "configuration_avicuna.py").is_file()


def test_other_entries_of_the_auto_map_are_kept():
    config = tiny_config(auto_map={"AutoTokenizer": ["mine.Tokenizer", None]})
    assert config.auto_map["AutoTokenizer"] == ["mine.Tokenizer", None]
    assert "AutoModel" in config.auto_map


def test_tied_embeddings_follow_the_language_model():
    assert tiny_config(text_config={**TINY_TEXT, "tie_word_embeddings": True}).tie_word_embeddings
    assert not tiny_config().tie_word_embeddings


@pytest.mark.parametrize(
    "overrides",
    [
        {"audio_interleaving_rate": 1.5},
        {"num_av_tokens": 0},
        {"num_time_bins": 1},
        {"audio_token_id": 97},
        {"interleaving": "random"},
        {"time_unit": "minutes"},
        {"num_av_tokens": "many"},
    ],
)
def test_a_wrong_field_is_an_error_that_names_it(overrides):
    with pytest.raises(Exception) as raised:
        tiny_config(**overrides)
    assert "ValidationError" in type(raised.value).__name__ or isinstance(raised.value, ValueError)
    assert next(iter(overrides)) in str(raised.value)
