"""Batches: labels of the answers only, mixed media, and flattened batches equal to padded ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoModel, AutoProcessor, MistralConfig

from tests.train_fixtures import CAPTIONS, FEATURE_SIZE, ROWS, composed_row, workshop  # noqa: F401
from train.checkpoint import load_model
from train.collator import IGNORED, AVicunaCollator
from train.media_rows import CachedMedia, MediaFiles, unused_media
from train.packed_attention import PACKED_SDPA, prepare_for_packing


@pytest.fixture(scope="module")
def processor(workshop):  # noqa: F811
    return AutoProcessor.from_pretrained(str(workshop.checkpoint))


@pytest.fixture(scope="module")
def media(workshop, processor):  # noqa: F811
    return CachedMedia([str(workshop.features)], processor=processor)


@pytest.fixture(scope="module")
def model(workshop):  # noqa: F811
    return load_model(str(workshop.checkpoint)).train()


@pytest.fixture(params=["sdpa", "eager", PACKED_SDPA])
def packing_model(request, model):
    """The model with each attention function for flattened batches on a CPU."""
    language_model = model.model.language_model
    language_model.set_attn_implementation("eager" if request.param == "eager" else "sdpa")
    if request.param == PACKED_SDPA:
        prepare_for_packing(model)
    assert language_model.config._attn_implementation == request.param
    yield model
    language_model.set_attn_implementation("sdpa")


def supervised_text(batch: dict, index: int, processor) -> str:
    labels = batch["labels"][index]
    return processor.tokenizer.decode(labels[labels != IGNORED])


def mixed_rows() -> list[dict]:
    """Rows of different lengths: video with and without sound, composed, audio, image and text only."""
    rows = [*ROWS["video"]()[4:6], composed_row(0, [0, 1, 2]), ROWS["audio"]()[0], ROWS["image"]()[1]]
    words = ROWS["image"]()[2]
    words["messages"][0]["content"] = "Say something."
    return [*rows, words]


def test_labels_are_the_answers_only(processor, media):
    batch = AVicunaCollator(processor, media=media)(ROWS["video"]()[:1])
    assert supervised_text(batch, 0, processor) == f" From 00 to 50, {CAPTIONS[0]} </s> No event.</s>"


def test_the_plain_template_supervises_the_caption_only(processor, media):
    batch = AVicunaCollator(processor, media=media, chat_template="plain")(ROWS["image"]()[:2])
    assert [supervised_text(batch, i, processor).strip() for i in (0, 1)] == CAPTIONS[:2]
    assert (batch["input_ids"] == processor.video_token_id).sum(dim=1).tolist() == [1, 1]


def test_one_sound_is_one_token(processor, media):
    batch = AVicunaCollator(processor, media=media, chat_template="plain")(ROWS["audio"]()[:2])
    assert (batch["input_ids"] == processor.audio_token_id).sum(dim=1).tolist() == [1, 1]


def test_logits_of_a_mixed_batch_equal_those_of_single_rows(processor, media, model):
    collate = AVicunaCollator(processor, media=media)
    rows = mixed_rows()
    with torch.no_grad():
        together = model(**without_labels(collate(rows))).logits
        for index, row in enumerate(rows):
            separate = model(**without_labels(collate([row]))).logits[0]
            torch.testing.assert_close(together[index, : len(separate)], separate, rtol=1e-4, atol=1e-4)


def without_labels(batch: dict) -> dict:
    return {name: value for name, value in batch.items() if name != "labels"}


def test_a_composed_row_has_tokens_of_each_clip_by_duration(processor, media, workshop):  # noqa: F811
    batch = AVicunaCollator(processor, media=media)([composed_row(0, [0, 1])])
    rows = batch["video_features"][0].numpy()
    first, second = media.video("clip0"), media.video("clip1")
    owner = [int(not (first == row).all(axis=1).any()) for row in rows]
    assert owner == [0] * 3 + [1] * 3 and (second == rows[-1]).all(axis=1).any()
    assert batch["video_lengths"].tolist() == [6] and batch["audio_lengths"].tolist() == [2]


def test_a_published_composition_of_short_clips_ends_in_zeros(processor, workshop):  # noqa: F811
    row = composed_row(0, [0, 1])
    for number, segment in enumerate(row["segments"]):
        segment |= {"start": 2.0 * number, "end": 2.0 * number + 2.0, "scale": 0.2}  # one visual row per second
    for rule, num_zero_rows in (("even", 0), ("published", 2)):
        media = CachedMedia([str(workshop.features)], processor=processor, composition=rule)
        rows = AVicunaCollator(processor, media=media)([row])["video_features"][0]
        assert len(rows) == 6 and rows.any(dim=1).tolist() == [True] * (6 - num_zero_rows) + [False] * num_zero_rows


def test_a_silent_composition_has_video_tokens_only(processor, media):
    batch = AVicunaCollator(processor, media=media)([composed_row(0, [5, 5])])
    assert batch["video_lengths"].tolist() == [8] and "audio_features" not in batch


def test_a_silent_clip_in_a_composition_has_the_feature_of_silence(processor, media):
    batch = AVicunaCollator(processor, media=media)([composed_row(0, [0, 5])])
    np.testing.assert_array_equal(batch["audio_features"][0, 1].numpy(), media.silence())


def loss_and_gradient(model, batch: dict) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    return loss.item(), model.model.vision_adapter.weight.grad.clone()


@pytest.fixture(scope="module")
def padded_outcome(processor, media, model):
    """Loss and gradient of the padded batch, with SDPA of transformers."""
    return loss_and_gradient(model, AVicunaCollator(processor, media=media)(mixed_rows()))


def test_flattened_batches_have_the_loss_and_gradient_of_padded_ones(processor, media, padded_outcome, packing_model):
    rows = mixed_rows()
    padded = AVicunaCollator(processor, media=media)(rows)
    flat = AVicunaCollator(processor, media=media, flatten=True)(rows)
    assert flat["input_ids"].shape[0] == 1 and "attention_mask" not in flat
    assert flat["input_ids"].shape[1] == int(padded["attention_mask"].sum())
    assert (flat["labels"] != IGNORED).sum() == (padded["labels"] != IGNORED).sum()
    loss, gradient = loss_and_gradient(packing_model, flat)
    assert loss == pytest.approx(padded_outcome[0], rel=1e-5)
    torch.testing.assert_close(gradient, padded_outcome[1], rtol=1e-4, atol=1e-6)


def test_no_token_attends_across_samples_of_a_flattened_batch(processor, media, packing_model):
    collate = AVicunaCollator(processor, media=media, flatten=True)
    one, two, other = ROWS["video"]()[:3]
    with torch.no_grad():
        first = packing_model(**without_labels(collate([one, two])), use_cache=False).logits[0]
        second = packing_model(**without_labels(collate([other, two])), use_cache=False).logits[0]
    length = len(collate([two])["input_ids"][0])
    torch.testing.assert_close(first[-length:], second[-length:], rtol=1e-5, atol=1e-5)


def test_a_flattened_batch_has_the_boundaries_of_its_samples(processor, media):
    rows = mixed_rows()
    lengths = AVicunaCollator(processor, media=media)(rows)["attention_mask"].sum(dim=1)
    flat = AVicunaCollator(processor, media=media, flatten=True)(rows)
    assert flat["cu_seq_lens_q"].diff().tolist() == flat["cu_seq_lens_k"].diff().tolist() == lengths.tolist()
    assert flat["max_length_q"] == flat["max_length_k"] == lengths.max()
    assert (flat["position_ids"][0][flat["cu_seq_lens_q"][:-1].long()] == 0).all()


def test_packed_attention_supports_sliding_windows_and_grouped_heads():
    torch.manual_seed(0)
    config = MistralConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
        sliding_window=5,
    )
    language_model = AutoModel.from_config(config, attn_implementation="sdpa").eval()
    samples = [torch.randint(0, 50, (1, length)) for length in (3, 12, 5)]
    with torch.no_grad():
        separate = [language_model(sample, use_cache=False).last_hidden_state for sample in samples]
        prepare_for_packing(SimpleNamespace(model=SimpleNamespace(language_model=language_model)))
        borders = torch.tensor([0, 3, 15, 20])
        positions = torch.cat([torch.arange(len(sample[0])) for sample in samples])[None]
        packed = {"input_ids": torch.cat(samples, dim=1), "position_ids": positions, "use_cache": False}
        together = language_model(**packed, cu_seq_lens_q=borders).last_hidden_state
        with pytest.raises(ValueError, match="needs cu_seq_lens_q"):
            language_model(**packed)
    torch.testing.assert_close(together, torch.cat(separate, dim=1), rtol=1e-5, atol=1e-5)


def test_recurrent_layers_are_an_error_for_packing():
    layers = {"layer_types": ["full_attention", "linear_attention"], "model_type": "other"}
    language_model = torch.nn.Module()
    language_model.config = SimpleNamespace(**layers)
    with pytest.raises(ValueError, match="type 'other'"):
        prepare_for_packing(SimpleNamespace(model=SimpleNamespace(language_model=language_model)))


def test_unused_media_run_both_towers_and_do_not_change_the_loss(processor, workshop, tmp_path):  # noqa: F811
    model = load_model(str(workshop.checkpoint)).eval()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "clip2.png")
    words, picture = ROWS["image"]()[1:3]
    words["messages"][0]["content"] = "Say something."
    picture["media"]["image"] = "clip2.png"
    media = MediaFiles(str(tmp_path), processor=processor)
    unused = unused_media(model, processor=processor)
    for rows, flatten in (([words, picture], False), ([words, picture], True), ([words], False)):
        plain = AVicunaCollator(processor, media=media, flatten=flatten)(rows)
        full = AVicunaCollator(processor, media=media, flatten=flatten, unused_media=unused)(rows)
        assert {"pixel_values_videos", "input_features"} <= full.keys() and "input_features" not in plain
        with torch.no_grad():
            loss, expected = model(**full).loss, model(**plain).loss
        assert loss.item() == expected.item()


def test_unused_media_run_both_towers_for_text(processor, model):
    ran = []
    batch = {"input_ids": torch.arange(5, 9)[None]}
    batch = AVicunaCollator(
        processor, media=MediaFiles(None, processor=processor), unused_media=unused_media(model, processor=processor)
    ).with_unused_media(batch)
    for tower in (model.model.vision_tower, model.model.audio_tower):
        tower.register_forward_hook(lambda tower, *_: ran.append(tower))
    with torch.no_grad():
        model(**batch)
    assert ran == [model.model.vision_tower, model.model.audio_tower]


def test_long_answers_are_truncated_and_media_are_not(processor, media):
    row = ROWS["video"]()[0]
    length = AVicunaCollator(processor, media=media)([row])["input_ids"].shape[1]
    cut = AVicunaCollator(processor, media=media, max_length=length - 3)([row])
    assert cut["input_ids"].shape[1] == length - 3 and (cut["labels"] != IGNORED).any()
    with pytest.raises(ValueError, match="video-0.*media"):
        AVicunaCollator(processor, media=media, max_length=20)([row])


def test_a_row_with_missing_media_is_an_error_that_names_it(processor, media):
    row = ROWS["video"]()[0]
    row["media"]["video"] = "missing.mp4"
    with pytest.raises(ValueError, match="missing.mp4"):
        AVicunaCollator(processor, media=media)([row])
    row["media"]["video"] = None
    with pytest.raises(ValueError, match="video-0.*no video"):
        AVicunaCollator(processor, media=media)([row])


def test_rows_survive_parquet(workshop):  # noqa: F811
    rows = Dataset.from_parquet(str(workshop.rows("composed")))
    assert rows[0] == ROWS["composed"]()[0]
