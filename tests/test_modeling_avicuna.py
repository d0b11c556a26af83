"""The model on tiny random weights: merge, batching, errors, gradients.

test_convert_avicuna_to_hf.py compares with golden numbers.
"""

import pytest
import torch
from transformers.trainer_pt_utils import LabelSmoother

from modeling_avicuna import AVicunaForConditionalGeneration
from tests.tiny_models import (
    AUDIO_TOKEN_ID,
    BOS_ID,
    FRAME_SHAPE,
    TINY_AUDIO,
    TINY_TEXT,
    VIDEO_TOKEN_ID,
    WINDOW_SHAPE,
    left_pad,
    pad_rows,
    prompt_ids,
    random_features,
    tiny_config,
    tiny_model,
)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def frames(num_frames, seed=0):
    return torch.randn(num_frames, *FRAME_SHAPE, generator=torch.Generator().manual_seed(seed))


def windows(num_windows, seed=0):
    return torch.randn(num_windows, *WINDOW_SHAPE, generator=torch.Generator().manual_seed(100 + seed))


# kind: prompt, frames, windows, window of each audio placeholder; all lengths and rates differ
SAMPLES = {
    "video with sound": (prompt_ids(6, 2, 5, seed=1), frames(6, 1), windows(1, 1), [0, 0]),
    "another rate": (prompt_ids(4, 4, 3, seed=2), frames(4, 2), windows(3, 2), [0, 0, 1, 2]),
    "silent video": (prompt_ids(8, 0, 9, seed=3), frames(8, 3), windows(0), []),
    "audio only": (prompt_ids(0, 3, 4, seed=4), frames(0), windows(2, 4), [0, 0, 1]),
    "image": (prompt_ids(1, 0, 6, seed=5), frames(1, 5), windows(0), []),
    "text only": (prompt_ids(0, 0, 7, seed=6), frames(0), windows(0), []),
    "image, then two videos": (
        prompt_ids(1, 0, 2, seed=7) + prompt_ids(3, 1, 2, seed=8)[1:] + prompt_ids(6, 2, 3, seed=9)[1:],
        frames(10, 7),
        windows(2, 7),
        [0, 1, 1],
    ),
}


def batch_of(names):
    """Padded raw-media inputs of some of SAMPLES."""
    prompts, pictures, sounds, shown = zip(*(SAMPLES[name] for name in names))
    pixel_values_videos, video_lengths = pad_rows(list(pictures))
    input_features, audio_lengths = pad_rows(list(sounds))
    row_ids = [torch.tensor(rows, dtype=torch.long) for rows in shown]
    return left_pad(list(prompts)) | {
        "pixel_values_videos": pixel_values_videos,
        "video_lengths": video_lengths,
        "input_features": input_features,
        "audio_lengths": audio_lengths,
        "audio_row_ids": torch.nn.utils.rnn.pad_sequence(row_ids, batch_first=True, padding_value=-1),
    }


@torch.no_grad()
def as_features(model, inputs):
    """The same inputs with the outputs of the towers in place of raw media."""
    features = {name: value for name, value in inputs.items() if name not in ("pixel_values_videos", "input_features")}
    encoded = model.model.encode_video(inputs["pixel_values_videos"], inputs["video_lengths"])
    features["video_features"] = encoded.pooler_output
    encoded = model.model.encode_audio(inputs["input_features"], inputs["audio_lengths"])
    features["audio_features"] = encoded.pooler_output
    return features


@torch.no_grad()
def logits_of(model, **inputs):
    return model(**inputs).logits


# ---- batching ----


@pytest.mark.parametrize("cached", [False, True], ids=["raw media", "cached features"])
def test_a_mixed_batch_equals_single_samples(model, cached):
    batch = batch_of(SAMPLES)
    batch = as_features(model, batch) if cached else batch
    batched_logits = logits_of(model, **batch)
    batched_tokens = model.generate(**batch, max_new_tokens=8, do_sample=False)[:, batch["input_ids"].shape[1] :]
    for index, name in enumerate(SAMPLES):
        single = batch_of([name])
        single = as_features(model, single) if cached else single
        length = single["input_ids"].shape[1]
        torch.testing.assert_close(
            batched_logits[index, -length:], logits_of(model, **single)[0], atol=1e-5, rtol=0, msg=name
        )
        tokens = model.generate(**single, max_new_tokens=8, do_sample=False)[0, length:]
        assert batched_tokens[index, : len(tokens)].tolist() == tokens.tolist(), name


def test_right_padding_gives_the_same_logits(model):
    names = ["video with sound", "audio only", "silent video"]
    batch = batch_of(names)
    longest = batch["input_ids"].shape[1]
    for name in ("input_ids", "attention_mask"):
        turned = [row.roll(-int((batch["attention_mask"][i] == 0).sum())) for i, row in enumerate(batch[name])]
        batch[name] = (
            torch.stack(turned) if name == "input_ids" else torch.stack([m.sort(descending=True)[0] for m in turned])
        )
    logits = logits_of(model, **batch)
    for index, name in enumerate(names):
        single = batch_of([name])
        length = single["input_ids"].shape[1]
        assert length <= longest
        torch.testing.assert_close(logits[index, :length], logits_of(model, **single)[0], atol=1e-5, rtol=0)


def test_raw_media_and_their_features_give_the_same_logits(model):
    batch = batch_of(SAMPLES)
    torch.testing.assert_close(
        logits_of(model, **batch), logits_of(model, **as_features(model, batch)), atol=1e-6, rtol=0
    )


def test_values_in_the_padding_are_not_used(model):
    batch = as_features(model, batch_of(SAMPLES))
    expected = logits_of(model, **batch)
    for name, lengths in (("video_features", "video_lengths"), ("audio_features", "audio_lengths")):
        spoilt = batch[name].clone()
        for row, length in enumerate(batch[lengths]):
            spoilt[row, length:] = torch.nan
        torch.testing.assert_close(logits_of(model, **{**batch, name: spoilt}), expected, atol=0, rtol=0)


def test_packed_samples_equal_single_samples(model):
    """Padding-free training: one row with restarting positions; the lengths are those of the whole row."""
    names = ["video with sound", "audio only", "silent video"]
    singles = [as_features(model, batch_of([name])) for name in names]
    packed = {
        "input_ids": torch.cat([single["input_ids"] for single in singles], dim=1),
        "position_ids": torch.cat([torch.arange(single["input_ids"].shape[1]) for single in singles])[None],
        "video_features": torch.cat([single["video_features"] for single in singles], dim=1),
        "audio_features": torch.cat([single["audio_features"][0, single["audio_row_ids"][0]] for single in singles])[
            None
        ],
    }
    packed["video_lengths"] = torch.tensor([packed["video_features"].shape[1]])
    # as in training: without a cache, transformers detects packed samples by their positions
    logits = logits_of(model, **packed, use_cache=False)[0]
    expected = torch.cat([logits_of(model, **single)[0] for single in singles])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


# ---- the merge ----


def test_features_replace_the_placeholders_in_order():
    model = tiny_model(vision_config=None, audio_config=None, vision_feature_size=32, audio_feature_size=32)
    for adapter in (model.model.vision_adapter, model.model.audio_adapter):
        torch.nn.init.eye_(adapter.weight)
        torch.nn.init.zeros_(adapter.bias)
    ids = torch.tensor([prompt_ids(6, 2), prompt_ids(5, 3, seed=1)])
    video, audio = random_features(12, 32).view(2, 6, 32), random_features(6, 32, seed=1).view(2, 3, 32)
    lengths = {"video_lengths": torch.tensor([6, 5]), "audio_lengths": torch.tensor([2, 3])}
    with torch.no_grad():
        output = model(ids, video_features=video, audio_features=audio, output_hidden_states=True, **lengths)
    merged = output.hidden_states[0]
    assert merged.shape == (2, ids.shape[1], 32)
    for sample, (num_video, num_audio) in enumerate(((6, 2), (5, 3))):
        assert torch.equal(merged[sample, ids[sample] == VIDEO_TOKEN_ID], video[sample, :num_video])
        assert torch.equal(merged[sample, ids[sample] == AUDIO_TOKEN_ID], audio[sample, :num_audio])
        is_text = ids[sample] < VIDEO_TOKEN_ID
        assert torch.equal(merged[sample, is_text], model.get_input_embeddings()(ids[sample, is_text]))


def test_a_repeated_row_id_equals_a_repeated_row(model):
    inputs = as_features(model, batch_of(["another rate"]))
    repeated = dict(inputs)
    repeated["audio_features"] = inputs["audio_features"][:, [0, 0, 1, 2]]
    del repeated["audio_row_ids"], repeated["audio_lengths"]
    torch.testing.assert_close(logits_of(model, **inputs), logits_of(model, **repeated), atol=0, rtol=0)


def test_without_lengths_a_sample_uses_all_rows_or_none(model):
    inputs = left_pad([prompt_ids(6, 2), prompt_ids(0, 0, 9), prompt_ids(6, 0)])
    features = {
        "video_features": random_features(18, 24).view(3, 6, 24),
        "audio_features": random_features(6, 20).view(3, 2, 20),
    }
    explicit = {"video_lengths": torch.tensor([6, 0, 6]), "audio_lengths": torch.tensor([2, 0, 0])}
    torch.testing.assert_close(
        logits_of(model, **inputs, **features), logits_of(model, **inputs, **features, **explicit), atol=0, rtol=0
    )


def test_input_embeddings_equal_input_ids(model):
    inputs = as_features(model, batch_of(["video with sound", "audio only"]))
    expected = logits_of(model, **inputs)
    ids = inputs.pop("input_ids")
    with torch.no_grad():
        inputs["inputs_embeds"] = model.get_input_embeddings()(ids)
    torch.testing.assert_close(logits_of(model, **inputs), expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="exactly one"):
        model(input_ids=ids, **inputs)


def test_audio_and_video_both_change_the_logits(model):
    inputs = batch_of(["video with sound"])
    expected = logits_of(model, **inputs)[0, -1]
    for name, other in (("input_features", windows(1, 55)), ("pixel_values_videos", frames(6, 55))):
        assert (logits_of(model, **{**inputs, name: other[None]})[0, -1] - expected).abs().max() > 1e-3


def test_the_audio_adapter_does_not_affect_a_silent_video(model):
    inputs = batch_of(["silent video"])
    expected = logits_of(model, **inputs)
    saved = model.model.audio_adapter.bias.data.clone()
    model.model.audio_adapter.bias.data += 100
    torch.testing.assert_close(logits_of(model, **inputs), expected, atol=0, rtol=0)
    model.model.audio_adapter.bias.data = saved


# ---- errors ----


@pytest.mark.parametrize(
    "change, message",
    [
        ({"video_features": random_features(10, 24).view(2, 5, 24)}, "sample 0 .* 6 video placeholders but 5 video"),
        ({"video_lengths": torch.tensor([6, 5])}, "sample 1 .* 6 video placeholders but 5 video feature rows"),
        ({"audio_lengths": torch.tensor([2, 2])}, "sample 1 .* 0 audio placeholders but 2 audio feature rows"),
        ({"audio_row_ids": torch.tensor([[0, 2], [-1, -1]])}, "sample 0 .* audio row 2 but has 2 rows"),
        ({"audio_row_ids": torch.tensor([[0, -1], [-1, -1]])}, "sample 0 .* 2 audio placeholders but 1 audio"),
        ({"video_features": None}, "sample 0 .* 6 video placeholders but no video features"),
        ({"audio_features": None}, "sample 0 .* 2 audio placeholders but no audio features"),
        ({"pixel_values_videos": torch.zeros(2, 6, *FRAME_SHAPE)}, "pixel_values_videos or video_features, not both"),
        ({"input_features": torch.zeros(2, 2, *WINDOW_SHAPE)}, "input_features or audio_features, not both"),
    ],
)
@pytest.mark.parametrize("call", ["forward", "generate"])
def test_media_that_do_not_match_the_prompt_are_an_error(model, change, message, call):
    inputs = left_pad([prompt_ids(6, 2), prompt_ids(6, 0)])
    inputs["video_features"] = random_features(12, 24).view(2, 6, 24)
    inputs["audio_features"] = random_features(4, 20).view(2, 2, 20)
    with pytest.raises(ValueError, match=message):
        model(**{**inputs, **change}) if call == "forward" else model.generate(**{**inputs, **change})


def test_features_with_lengths_for_a_prompt_without_placeholders_are_an_error(model):
    with pytest.raises(ValueError, match="0 video placeholders but 3 video feature rows"):
        model(torch.tensor([[BOS_ID, 5]]), video_features=torch.zeros(1, 3, 24), video_lengths=torch.tensor([3]))


def test_an_unsupported_audio_tower_is_an_error():
    with pytest.raises(ValueError, match="clap_audio_model, got 'whisper'"):
        tiny_model(audio_config={"model_type": "whisper"}, audio_feature_size=20)


# ---- generation ----


def test_placeholders_are_never_generated(model):
    model = tiny_model(unused_token_ids=[90])
    with torch.no_grad():
        model.lm_head.weight[[VIDEO_TOKEN_ID, AUDIO_TOKEN_ID, 90]] = 50 * model.lm_head.weight[5].sign()
        model.lm_head.weight[5] = model.lm_head.weight[5].sign()
    inputs = batch_of(["video with sound", "text only"])
    unused = {VIDEO_TOKEN_ID, AUDIO_TOKEN_ID, 90}
    for settings in ({"do_sample": False}, {"num_beams": 3}, {"do_sample": True, "temperature": 5.0, "top_k": 0}):
        torch.manual_seed(0)
        tokens = model.generate(**inputs, max_new_tokens=30, **settings)[:, inputs["input_ids"].shape[1] :]
        assert not unused & set(tokens.flatten().tolist()), settings
    logits = logits_of(model, **inputs)
    assert (logits[..., sorted(unused)].log_softmax(-1).exp() > 0).all()  # the logits are finite
    assert (logits.softmax(-1)[..., sorted(unused)] == 0).all()  # among all tokens the probability is 0


@pytest.mark.parametrize("training", [False, True])
def test_losses_on_the_prompt_and_with_label_smoothing_are_finite(training):
    """Placeholders in `labels` contribute no loss; log-probabilities can be summed over the vocabulary."""
    inputs = batch_of(["video with sound", "text only"])
    model = tiny_model().requires_grad_(False).train(training)
    loss = model(**inputs, labels=inputs["input_ids"]).loss
    without = inputs["input_ids"].masked_fill(inputs["input_ids"] >= VIDEO_TOKEN_ID, -100)
    assert loss == model(**inputs, labels=without).loss and loss.isfinite() and loss < 50
    smoother = LabelSmoother(epsilon=0.1)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        logits = model(**inputs).logits.to(dtype)
        smoothed = smoother({"logits": logits}, without, shift_labels=True)
        assert smoothed.isfinite() and 0 < smoothed < 60


def test_towers_run_once_for_all_beams_and_steps(model, monkeypatch):
    calls = []
    for tower in (model.model.vision_tower, model.model.audio_tower):
        forward = tower.forward
        monkeypatch.setattr(tower, "forward", lambda *a, _f=forward, _t=tower, **k: calls.append(_t) or _f(*a, **k))
    inputs = batch_of(["video with sound", "silent video"])
    model.generate(**inputs, max_new_tokens=5, num_beams=3, num_return_sequences=2)
    assert calls == [model.model.vision_tower, model.model.audio_tower]


def test_generation_from_a_cached_prefix_equals_the_whole_prompt(model):
    """With and without the media, which the cache already contains."""
    inputs = as_features(model, batch_of(["video with sound"]))
    question = torch.tensor([[11, 12, 13]])
    whole = torch.cat([inputs["input_ids"], question], dim=1)
    expected = model.generate(
        **{**inputs, "input_ids": whole, "attention_mask": torch.ones_like(whole)}, max_new_tokens=6
    )
    for media in ({}, {name: inputs[name] for name in inputs if name not in ("input_ids", "attention_mask")}):
        with torch.no_grad():
            cache = model(**inputs, use_cache=True).past_key_values
        tokens = model.generate(
            whole, attention_mask=torch.ones_like(whole), past_key_values=cache, max_new_tokens=6, **media
        )
        assert torch.equal(tokens, expected)


# ---- training ----


def test_hidden_states_have_the_length_of_the_prompt(model):
    """Trainers that compute the loss themselves shift the hidden states of the base model against the labels."""
    inputs = batch_of(["video with sound", "text only"])
    with torch.no_grad():
        hidden_states = model.base_model(**inputs).last_hidden_state
    assert hidden_states.shape[:2] == inputs["input_ids"].shape
    torch.testing.assert_close(
        model.get_output_embeddings()(hidden_states)[..., :VIDEO_TOKEN_ID],
        logits_of(model, **inputs)[..., :VIDEO_TOKEN_ID],
    )


def test_the_loss_is_the_mean_over_the_labelled_tokens(model):
    inputs = batch_of(["video with sound", "silent video"])
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -3:] = inputs["input_ids"][:, -3:]
    with torch.no_grad():
        output = model(**inputs, labels=labels)
    log_probabilities = output.logits[:, -4:-1].log_softmax(-1)
    expected = -log_probabilities.gather(-1, labels[:, -3:, None]).mean()
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_frozen_towers_stay_in_eval_mode_with_unchanged_buffers():
    model = tiny_model()
    model.model.audio_tower.requires_grad_(False)
    model.train()
    assert not model.model.audio_tower.training and model.model.vision_tower.training
    assert model.model.audio_adapter.training and model.model.language_model.training
    before = {name: buffer.clone() for name, buffer in model.model.audio_tower.named_buffers()}
    assert any("running_mean" in name for name in before)
    model(
        **batch_of(["video with sound"]), labels=batch_of(["video with sound"])["input_ids"].clamp(max=90)
    ).loss.backward()
    for name, buffer in model.model.audio_tower.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_adapters_have_gradients_in_a_batch_without_media():
    """ZeRO-3 gathers an adapter in all processes at once, so a batch without its modality must use it too."""
    model = tiny_model().train()
    inputs = batch_of(["text only"])
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    for adapter in (model.model.vision_adapter, model.model.audio_adapter):
        assert torch.equal(adapter.weight.grad, torch.zeros_like(adapter.weight))
    with pytest.raises(ValueError, match="6 video placeholders but 0 video feature rows"):
        model(torch.tensor([prompt_ids(6, 0)]))


def test_gradients_reach_adapters_towers_and_language_model():
    model = tiny_model().train()
    inputs = batch_of(["video with sound", "another rate"])
    model(**inputs, labels=inputs["input_ids"].clamp(max=90)).loss.backward()
    for part in ("vision_adapter", "audio_adapter", "vision_tower", "audio_tower", "language_model"):
        gradients = [p.grad for p in getattr(model.model, part).parameters() if p.grad is not None]
        assert gradients and any(gradient.abs().max() > 0 for gradient in gradients), part


# ---- other parts by configuration ----


def test_an_adapter_with_activation_is_a_two_layer_perceptron():
    model = tiny_model(projector_hidden_act="gelu")
    names = [name for name, _ in model.model.vision_adapter.named_parameters()]
    assert names == ["linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias"]
    batch = batch_of(SAMPLES)
    single = batch_of(["audio only"])
    length = single["input_ids"].shape[1]
    index = list(SAMPLES).index("audio only")
    torch.testing.assert_close(
        logits_of(model, **batch)[index, -length:], logits_of(model, **single)[0], atol=1e-5, rtol=0
    )


BACKBONES = {
    "qwen3": {
        "text_config": {
            "model_type": "qwen3", "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,  # noqa: E501
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True,
        }
    },
    "siglip2": {
        "vision_config": {
            "model_type": "siglip2_vision_model", "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2,
            "num_attention_heads": 4, "patch_size": 8, "num_patches": 16,
        }
    },
    "siglip": {
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2,
            "num_attention_heads": 4, "patch_size": 8, "image_size": 32,
        }
    },
    "fused clap": {
        "audio_config": {**TINY_AUDIO, "enable_fusion": True}
    },
}  # fmt: skip


@pytest.mark.parametrize("name", BACKBONES)
def test_other_backbones_are_selected_by_configuration(name, tmp_path):
    model = tiny_model(**BACKBONES[name])
    batch = batch_of(SAMPLES)
    logits = logits_of(model, **batch)
    for index, sample in enumerate(SAMPLES):
        single = batch_of([sample])
        length = single["input_ids"].shape[1]
        torch.testing.assert_close(logits[index, -length:], logits_of(model, **single)[0], atol=1e-5, rtol=0)
    tokens = model.generate(**batch, max_new_tokens=4, do_sample=False)
    model.save_pretrained(tmp_path)
    loaded = AVicunaForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(logits_of(loaded, **batch), logits)
    assert torch.equal(loaded.generate(**batch, max_new_tokens=4, do_sample=False), tokens)


def test_siglip2_patches_equal_those_of_its_image_processor():
    from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

    from modeling_avicuna.towers_avicuna import _patchify

    pictures = torch.randn(2, 3, 32, 48)
    inputs = _patchify(pictures, patch_size=8)
    expected = torch.stack([convert_image_to_patches(picture, 8) for picture in pictures])
    assert torch.equal(inputs["pixel_values"], expected)
    assert inputs["spatial_shapes"].tolist() == [[4, 6], [4, 6]]


def test_audio_features_have_unit_length(model):
    features = model.model.encode_audio(windows(3)[None]).pooler_output
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(1, 3))


def test_a_model_without_towers_takes_features_only():
    model = AVicunaForConditionalGeneration(tiny_config(vision_config=None, audio_config=None, text_config=TINY_TEXT))
    assert model.model.vision_tower is None and model.model.audio_tower is None
    assert model.model.vision_adapter.in_features == 768 and model.model.audio_adapter.in_features == 512
    ids = torch.tensor([prompt_ids(6, 2)])
    with pytest.raises(ValueError, match="no vision tower: pass video_features"):
        model(ids, pixel_values_videos=torch.zeros(1, 6, *FRAME_SHAPE))
    with pytest.raises(ValueError, match="no audio tower: pass audio_features"):
        model.generate(ids, input_features=torch.zeros(1, 2, *WINDOW_SHAPE))
