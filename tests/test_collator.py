"""Batches: labels on the answers alone, any mixture of media in one batch, and flattened batches equal to padded ones."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from tests.train_fixtures import CAPTIONS, FEATURE_SIZE, ROWS, composed_row, workshop  # noqa: F401
from train.checkpoint import load_model, load_processor
from train.collator import IGNORED, AVicunaCollator
from train.media_rows import CachedMedia


@pytest.fixture(scope="module")
def processor(workshop):  # noqa: F811
    return load_processor(str(workshop.checkpoint))


@pytest.fixture(scope="module")
def media(workshop, processor):  # noqa: F811
    return CachedMedia([str(workshop.features)], processor=processor)


@pytest.fixture(scope="module")
def model(workshop):  # noqa: F811
    return load_model(str(workshop.checkpoint)).train()


def supervised_text(batch: dict, index: int, processor) -> str:
    labels = batch["labels"][index]
    return processor.tokenizer.decode(labels[labels != IGNORED])


def mixed_rows() -> list[dict]:
    """Video with and without sound, composed, sound alone, picture alone, and words alone, of unequal lengths."""
    rows = [*ROWS["video"]()[4:6], composed_row(0, [0, 1, 2]), ROWS["audio"]()[0], ROWS["image"]()[1]]
    words = ROWS["image"]()[2]
    words["messages"][0]["content"] = "Say something."
    return [*rows, words]


def test_labels_are_exactly_the_answers(processor, media):
    batch = AVicunaCollator(processor, media=media)(ROWS["video"]()[:1])
    assert supervised_text(batch, 0, processor) == f" From 00 to 50, {CAPTIONS[0]} </s> No event.</s>"


def test_the_plain_template_supervises_the_caption_alone(processor, media):
    batch = AVicunaCollator(processor, media=media, chat_template="plain")(ROWS["image"]()[:2])
    assert [supervised_text(batch, i, processor).strip() for i in (0, 1)] == CAPTIONS[:2]
    assert (batch["input_ids"] == processor.video_token_id).sum(dim=1).tolist() == [1, 1]


def test_one_sound_is_one_token(processor, media):
    batch = AVicunaCollator(processor, media=media, chat_template="plain")(ROWS["audio"]()[:2])
    assert (batch["input_ids"] == processor.audio_token_id).sum(dim=1).tolist() == [1, 1]


def test_each_row_of_a_mixed_batch_loses_what_it_loses_alone(processor, media, model):
    collate = AVicunaCollator(processor, media=media)
    rows = mixed_rows()
    with torch.no_grad():
        together = model(**without_labels(collate(rows))).logits
        for index, row in enumerate(rows):
            alone = model(**without_labels(collate([row]))).logits[0]
            torch.testing.assert_close(together[index, : len(alone)], alone, rtol=1e-4, atol=1e-4)


def without_labels(batch: dict) -> dict:
    return {name: value for name, value in batch.items() if name != "labels"}


def test_a_composed_row_shows_each_clip_for_its_share_of_the_time(processor, media, workshop):  # noqa: F811
    batch = AVicunaCollator(processor, media=media)([composed_row(0, [0, 1])])
    rows = batch["video_features"][0].numpy()
    first, second = media.video("clip0"), media.video("clip1")
    owner = [int(not (first == row).all(axis=1).any()) for row in rows]
    assert owner == [0] * 3 + [1] * 3 and (second == rows[-1]).all(axis=1).any()
    assert batch["video_lengths"].tolist() == [6] and batch["audio_lengths"].tolist() == [2]


def test_a_silent_composition_fills_every_token_with_pictures(processor, media):
    batch = AVicunaCollator(processor, media=media)([composed_row(0, [5, 5])])
    assert batch["video_lengths"].tolist() == [8] and "audio_features" not in batch


def test_a_silent_clip_among_sounding_ones_gets_the_answer_to_silence(processor, media):
    batch = AVicunaCollator(processor, media=media)([composed_row(0, [0, 5])])
    np.testing.assert_array_equal(batch["audio_features"][0, 1].numpy(), media.silence())


def test_flattened_batches_lose_what_padded_ones_lose(processor, media, model):
    rows = mixed_rows()
    padded = AVicunaCollator(processor, media=media)(rows)
    flat = AVicunaCollator(processor, media=media, flatten=True)(rows)
    assert flat["input_ids"].shape[0] == 1 and "attention_mask" not in flat
    assert flat["input_ids"].shape[1] == int(padded["attention_mask"].sum())
    assert (flat["labels"] != IGNORED).sum() == (padded["labels"] != IGNORED).sum()
    losses, gradients = [], []
    for batch in (padded, flat):
        model.zero_grad()
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append(model.model.vision_adapter.weight.grad.clone())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_no_token_attends_across_samples_of_a_flattened_batch(processor, media, model):
    collate = AVicunaCollator(processor, media=media, flatten=True)
    one, two, other = ROWS["video"]()[:3]
    with torch.no_grad():
        first = model(**without_labels(collate([one, two])), use_cache=False).logits[0]
        second = model(**without_labels(collate([other, two])), use_cache=False).logits[0]
    length = len(collate([two])["input_ids"][0])
    torch.testing.assert_close(first[-length:], second[-length:], rtol=1e-5, atol=1e-5)


def test_long_answers_are_cut_and_media_never(processor, media):
    row = ROWS["video"]()[0]
    length = AVicunaCollator(processor, media=media)([row])["input_ids"].shape[1]
    cut = AVicunaCollator(processor, media=media, max_length=length - 3)([row])
    assert cut["input_ids"].shape[1] == length - 3 and (cut["labels"] != IGNORED).any()
    with pytest.raises(ValueError, match="video-0.*media"):
        AVicunaCollator(processor, media=media, max_length=20)([row])


def test_a_row_without_its_medium_is_named(processor, media):
    row = ROWS["video"]()[0]
    row["media"]["video"] = "missing.mp4"
    with pytest.raises(ValueError, match="missing.mp4"):
        AVicunaCollator(processor, media=media)([row])
    row["media"]["video"] = None
    with pytest.raises(ValueError, match="video-0.*no video"):
        AVicunaCollator(processor, media=media)([row])


def test_features_have_the_size_of_the_towers(media):
    assert media.video("clip0").shape == (6, FEATURE_SIZE)


def test_rows_survive_parquet(workshop):  # noqa: F811
    rows = Dataset.from_parquet(str(workshop.rows("composed")))
    assert rows[0] == ROWS["composed"]()[0]
