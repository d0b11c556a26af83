"""The checkpoint before stage I: a tiny random one, or one assembled from pretrained parts."""

import json
import re

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    ClapAudioModelWithProjection,
    ClapFeatureExtractor,
    CLIPVisionModelWithProjection,
    LlamaConfig,
    LlamaForCausalLM,
)

from modeling_avicuna import AVicunaFeatureExtractor
from modeling_avicuna.feature_extraction_avicuna import clap_settings
from modeling_avicuna.origin_avicuna import ORIGIN_FILE, RANDOM
from tests.media_files import pictures, tone, write_media
from tests.tiny_models import tiny_model
from tests.train_fixtures import CAPTIONS
from train.checkpoint import load_model
from train.initialize import TINY_TEXTS, assemble, build_tiny, main, train_tokenizer
from train.whitening import whiten_towers, whitening_map


def test_each_digit_is_one_token_and_text_is_decoded_unchanged():
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=500)
    text = f"From 07 to 93, {CAPTIONS[0]}"
    pieces = tokenizer.tokenize(text)
    assert [piece for piece in pieces if piece.strip("\u0120").isdigit()] == ["0", "7", "9", "3"]
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("language_model", list(TINY_TEXTS))
def test_a_seed_gives_the_same_model_for_any_state_of_the_generator(language_model):
    first, _ = build_tiny(CAPTIONS, vocab_size=400, language_model=language_model, seed=5)
    torch.rand(3)
    second, processor = build_tiny(CAPTIONS, vocab_size=400, language_model=language_model, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    assert first.config.video_token_id == processor.video_token_id
    assert first.generation_config.eos_token_id == processor.tokenizer.eos_token_id


def test_assembled_parts_are_bit_identical_and_only_adapters_are_new(tmp_path):
    parts = tiny_model()
    parts.model.vision_tower.save_pretrained(tmp_path / "clip")
    parts.model.audio_tower.save_pretrained(tmp_path / "clap")
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=400)
    text = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
        )
    )
    text.save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    output = tmp_path / "out"
    line = {"language_model": "llama", "vision_tower": "clip", "audio_tower": "clap"}
    main(
        [w for name, folder in line.items() for w in (f"--{name}", str(tmp_path / folder))] + ["--output", str(output)]
    )
    model, processor = load_model(str(output)), AutoProcessor.from_pretrained(str(output))
    for name, tensor in AutoModelForCausalLM.from_pretrained(tmp_path / "llama").model.layers.state_dict().items():
        assert torch.equal(model.model.language_model.layers.state_dict()[name], tensor)
    for kind, folder, tower in (
        (CLIPVisionModelWithProjection, "clip", model.model.vision_tower),
        (ClapAudioModelWithProjection, "clap", model.model.audio_tower),
    ):
        own = kind.from_pretrained(tmp_path / folder).state_dict()
        assert all(torch.equal(tower.state_dict()[name], tensor) for name, tensor in own.items())
    assert model.get_input_embeddings().num_embeddings == len(processor.tokenizer)
    assert model.model.vision_adapter.weight.std() > 0
    origin = json.loads((output / ORIGIN_FILE).read_text(encoding="utf-8"))
    assert origin["parts"] == {**line, "vision_adapter": RANDOM, "audio_adapter": RANDOM}


def test_a_checkpoint_may_have_no_towers(tmp_path):
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=400)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4
        )
    ).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = assemble(language_model=str(tmp_path), vision_tower=None, audio_tower=None)
    assert model.model.vision_tower is None and model.model.vision_adapter.in_features == 768


def test_alignment_and_windows_are_options_of_the_command(tmp_path, capsys):
    captions, output = tmp_path / "captions.json", tmp_path / "out"
    captions.write_text(json.dumps([{"video_id": "a", "desc": text} for text in CAPTIONS]), encoding="utf-8")
    made = ["--size", "tiny", "--captions-file", str(captions), "--output", str(output)]
    main([*made, "--alignment", "centred", "--window-seconds", "2", "--stride-seconds", "1", "--num-av-tokens", "8"])
    processor, model = AutoProcessor.from_pretrained(str(output)), load_model(str(output)).eval()
    expected = {"alignment": "centred", "window_seconds": 2.0, "stride_seconds": 1.0, "mel_scale": "htk"}
    assert processor.feature_settings == expected
    windows = processor.feature_extractor.extract_windows(np.zeros(480_000, np.float32))
    with torch.no_grad():
        rows = model.model.encode_audio(windows[None]).pooler_output[0]
    assert rows.shape == (9, 64)
    with pytest.raises(SystemExit, match="2"):
        main([*made, "--alignment", "centered"])
    assert "invalid choice: 'centered'" in capsys.readouterr().err


@pytest.mark.parametrize(("truncation", "mel_scale"), [("rand_trunc", "slaney"), ("fusion", "htk"), (None, "slaney")])
def test_the_mel_scale_is_that_of_the_audio_tower(tmp_path, truncation, mel_scale):
    """From the saved extractor of CLAP; without one, from whether the tower is fused (this one is not)."""
    tiny_model().model.audio_tower.save_pretrained(tmp_path / "clap")
    if truncation is not None:
        own = ClapFeatureExtractor(frequency_min=50, frequency_max=12_000, truncation=truncation)
        own.save_pretrained(tmp_path / "clap")
    extractor = AVicunaFeatureExtractor(**clap_settings(tmp_path / "clap", is_fused=False))
    assert extractor.mel_scale == mel_scale
    if truncation == "rand_trunc":
        sound = np.random.default_rng(0).normal(0, 0.1, 480_000).astype(np.float32)
        expected = own(sound, sampling_rate=48_000, return_tensors="np")["input_features"][0, 0]
        assert np.abs(extractor.extract_windows(sound)[0].numpy() - expected).mean() < 1e-3  # dB


def test_whitened_rows_have_zero_mean_and_no_correlation():
    torch.manual_seed(0)
    rows = torch.randn(500, 6) @ torch.randn(6, 6) + 10
    weight, bias = whitening_map(rows, 4)
    white = rows @ weight.T + bias
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(4) / 4, atol=1e-4, rtol=0)


def test_the_command_needs_captions_for_a_tiny_model(tmp_path):
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps([{"video_id": "a", "desc": text} for text in CAPTIONS]), encoding="utf-8")
    with pytest.raises(ValueError, match="--size tiny with --captions"):
        main(["--size", "tiny", "--output", str(tmp_path / "out")])
    main(
        [
            "--size",
            "tiny",
            "--captions-file",
            str(captions),
            "--output",
            str(tmp_path / "out"),
            "--num_av_tokens",
            "12",
        ]
    )
    assert AutoProcessor.from_pretrained(str(tmp_path / "out")).num_av_tokens == 12
    parts = json.loads((tmp_path / "out" / ORIGIN_FILE).read_text(encoding="utf-8"))["parts"]
    assert len(parts) == 5 and set(parts.values()) == {RANDOM}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--window-seconds 1000", "window_seconds=1000 is too long"),
        ("--audio-interleaving-rate 3", "audio_interleaving_rate must be at least 0 and at most 1, got 3.0"),
        ("--num_av_tokens 0", "num_av_tokens must be at least 1, got 0"),
        ("--interleaving foo", "--interleaving: invalid choice: 'foo'"),
        ("--alignment foo", "--alignment: invalid choice: 'foo'"),
        ("--language-model foo", "language_model must be one of .*, got 'foo'"),
        ("--size big", "--size: invalid choice: 'big'"),
    ],
)
def test_a_wrong_option_is_named(tmp_path, capsys, words, message):
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps([{"video_id": "a", "desc": "A dog barks loudly."}]))
    options = ["--size", "tiny", "--captions-file", str(captions), "--output", str(tmp_path / "out")]
    with pytest.raises((ValueError, SystemExit)) as error:
        main([*options, *words.split()])
    assert re.search(message, f"{error.value} {capsys.readouterr().err}")


def test_a_model_that_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot load the model nowhere/none"):
        main(["--language-model", "nowhere/none", "--output", str(tmp_path / "out")])


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_tower_without_tokens_is_not_whitened(tmp_path, rate):
    path = write_media(tmp_path / "clip.mp4", frames=pictures(40), waveform=tone(4.0))
    model, processor = build_tiny(["A dog barks."], num_av_tokens=8, audio_interleaving_rate=rate)
    projections = {
        "vision": model.model.vision_tower.visual_projection.weight,
        "audio": model.model.audio_tower.audio_projection.linear2.weight,
    }
    before = {name: weight.clone() for name, weight in projections.items()}
    whiten_towers(model, processor, [path])
    unused = "audio" if rate == 0 else "vision"
    assert {name: torch.equal(weight, before[name]) for name, weight in projections.items()} == {
        "vision": unused == "vision",
        "audio": unused == "audio",
    }
