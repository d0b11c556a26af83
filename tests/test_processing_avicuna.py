"""The processor: token counts and order, mixed batches, length limits, saving, and generation from an mp4 file."""

import base64
import io
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor

from modeling_avicuna import (
    AVicunaFeatureExtractor,
    AVicunaProcessor,
    MediaError,
    build_processor,
    load_audio,
    media_pictures_avicuna,
)
from modeling_avicuna.interleaving_avicuna import interleave_order, resample_rows
from modeling_avicuna.media_sound_avicuna import Sound
from modeling_avicuna.prompt_avicuna import PLAIN_CHAT_TEMPLATE, SLOT_PATTERN
from tests.media_files import count_opens, pictures, tone, write_media, write_ramp
from tests.tiny_models import tiny_config, tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer, sentencepiece_tokenizer


SIZE = 32


@pytest.fixture(scope="module")
def processor():
    return build_processor(byte_level_tokenizer(), image_size=SIZE, num_av_tokens=8)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Paths by name: a 12-s video with sound, a silent video, a 13-s and a 3-s audio file."""
    folder = tmp_path_factory.mktemp("clips")
    return {
        "video": write_media(folder / "-video.mp4", frames=pictures(24), fps=2, waveform=tone(12.0)),
        "silent": write_media(folder / "silent.mp4", frames=pictures(10)),
        "long_sound": write_media(folder / "long.wav", waveform=tone(13.0), audio_codec="pcm_s16le"),
        "short_sound": write_media(folder / "short.wav", waveform=tone(3.0), audio_codec="pcm_s16le"),
    }


def user(*blocks, text="What?"):
    return {"role": "user", "content": [*blocks, {"type": "text", "text": text}]}


def answer(text):
    return {"role": "assistant", "content": text}


def tokenized(processor, messages, **kwargs):
    return processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **kwargs)


def modalities(processor, ids) -> list[str]:
    names = {processor.video_token_id: "video", processor.audio_token_id: "audio"}
    return [names[token_id] for token_id in ids.tolist() if token_id in names]


def test_a_video_with_sound_gives_interleaved_tokens(processor, clips):
    batch = tokenized(processor, [user({"type": "video", "path": str(clips["video"])})], add_generation_prompt=True)
    assert modalities(processor, batch["input_ids"][0]) == interleave_order(6, 2)
    assert batch["pixel_values_videos"].shape == (1, 6, 3, SIZE, SIZE)
    # 12 s have three windows; two tokens show the first and the last
    assert resample_rows(3, 2) == [0, 2] and batch["input_features"].shape == (1, 2, 1001, 64)
    assert (batch["video_lengths"].tolist(), batch["audio_lengths"].tolist()) == ([6], [2])
    assert batch["audio_row_ids"].tolist() == [[0, 1]]
    assert set(batch) <= {"input_ids", "attention_mask", *processor.model_input_names}


def test_the_default_is_75_video_and_25_audio_tokens(clips):
    processor = build_processor(byte_level_tokenizer(), image_size=SIZE)
    ids = processor("<video>", videos=clips["video"])["input_ids"][0]
    order = modalities(processor, ids)
    assert (order.count("video"), order.count("audio")) == (75, 25)
    assert order == interleave_order(75, 25, "published")


@pytest.mark.parametrize(
    "block", [{"path": "silent"}, {"path": "video", "audio": False}, {"path": "video", "audio": None}]
)
def test_a_silent_video_has_video_tokens_only(processor, clips, block):
    batch = tokenized(processor, [user({"type": "video", **block, "path": clips[block["path"]]})])
    assert modalities(processor, batch["input_ids"][0]) == ["video"] * 8
    assert batch["pixel_values_videos"].shape[1] == 8
    assert not {"input_features", "audio_features", "audio_lengths", "audio_row_ids"} & set(batch)


def test_audio_has_audio_tokens_only_and_one_token_for_one_window(processor, clips):
    batch = processor(["<audio>", "<audio>"], audio=[clips["long_sound"], clips["short_sound"]])
    assert [modalities(processor, ids) for ids in batch["input_ids"]] == [["audio"] * 8, ["audio"]]
    assert batch["audio_lengths"].tolist() == [3, 1]
    assert batch["audio_row_ids"].tolist() == [resample_rows(3, 8), [0] + [-1] * 7]


def test_an_image_is_one_video_token(processor, clips):
    picture = np.full((10, 12, 3), 200, np.uint8)
    batch = processor(["<image>", "<image>"], videos=[picture, clips["silent"]])
    assert [modalities(processor, ids) for ids in batch["input_ids"]] == [["video"], ["video"]]
    assert batch["pixel_values_videos"].shape == (2, 1, 3, SIZE, SIZE)
    for same in (picture, PIL.Image.fromarray(picture), np.ascontiguousarray(picture.transpose(2, 0, 1))):
        again = processor("<image>", images=[same])
        assert again["pixel_values_videos"].equal(batch["pixel_values_videos"][:1])


def test_audio_is_padded_to_the_duration_of_the_video(processor, tmp_path):
    """2 s of audio with 12 s of video: the windows are those of 12 s, silent at the end."""
    path = write_media(tmp_path / "a.mp4", frames=pictures(24), fps=2, waveform=tone(2.0))
    batch = processor("<video>", videos=path)
    waveform = np.pad(load_audio(path), (0, 12 * 48_000))[: 12 * 48_000]
    expected = AVicunaFeatureExtractor().extract_windows(waveform)
    assert torch.equal(batch["input_features"][0], expected[[0, 2]]) and len(expected) == 3
    assert expected[2].max() < -90 < expected[0].max()


def test_the_audio_of_another_file_or_array_can_be_given(processor, clips):
    own = processor("<video>", videos=clips["video"])
    other = processor("<video>", videos=clips["video"], audio=[clips["long_sound"]])
    array = processor("<video>", videos=clips["video"], audio=[load_audio(clips["long_sound"])])
    block = {"type": "video", "path": clips["video"], "audio": clips["long_sound"]}
    assert torch.equal(other["input_features"], array["input_features"])
    assert torch.equal(tokenized(processor, [user(block)])["input_features"], other["input_features"])
    assert not torch.equal(own["input_features"], other["input_features"])


def test_waveforms_at_another_rate_are_resampled(processor):
    batch = processor("<audio>", audio=[tone(3.0, sampling_rate=16_000)], sampling_rate=16_000)
    expected = processor("<audio>", audio=[tone(3.0)])
    assert batch["input_features"].shape == expected["input_features"].shape
    loud = expected["input_features"] > -30
    assert (batch["input_features"] - expected["input_features"])[loud].abs().mean() < 0.1


def test_the_processor_can_be_pickled(processor, clips):
    """Data loaders with spawned workers pickle it."""
    copy = pickle.loads(pickle.dumps(processor))
    ours, expected = copy("<video>", videos=clips["video"]), processor("<video>", videos=clips["video"])
    assert all(torch.equal(ours[key], expected[key]) for key in expected)


@pytest.mark.parametrize(("rate", "expected"), [(0.0, (8, 0)), (0.29, (6, 2)), (0.5, (4, 4)), (1.0, (0, 8))])
def test_the_rate_can_be_set_per_call(processor, clips, rate, expected):
    order = modalities(
        processor, processor("<video>", videos=clips["video"], audio_interleaving_rate=rate)["input_ids"][0]
    )
    assert (order.count("video"), order.count("audio")) == expected
    assert order == interleave_order(*expected)


def test_rates_may_differ_in_one_batch(processor, clips):
    batch = processor(
        ["<video>"] * 2, videos=[clips["video"]] * 2, audio_interleaving_rate=[0.25, 0.5], num_av_tokens=4
    )
    assert [modalities(processor, ids) for ids in batch["input_ids"]] == [
        interleave_order(3, 1),
        interleave_order(2, 2),
    ]
    with pytest.raises(ValueError, match="2 audio_interleaving_rate values for 1 texts"):
        processor("<video>", videos=[clips["video"]], audio_interleaving_rate=[0.25, 0.5])


def mixed_conversations(clips):
    video, silent = {"type": "video", "path": clips["video"]}, {"type": "video", "path": clips["silent"]}
    sound, picture = {"type": "audio", "path": clips["long_sound"]}, {"type": "image", "image": pictures(1)[0]}
    return [
        [user(video), answer("rain")],
        [user(silent, text="Which bird?"), answer("none")],
        [user(sound), answer("a tone")],
        [user(picture), answer("grey")],
        [{"role": "user", "content": "Hi"}, answer("Hello")],
        [user(video, sound, silent), answer("a"), user(picture), answer("b")],
    ]


def test_a_mixed_batch_equals_single_samples(processor, clips):
    conversations = mixed_conversations(clips)
    batch = tokenized(processor, conversations, return_assistant_tokens_mask=True)
    for row, conversation in enumerate(conversations):
        single = tokenized(processor, conversation, return_assistant_tokens_mask=True)
        keep = batch["attention_mask"][row].bool()
        assert torch.equal(batch["input_ids"][row][keep], single["input_ids"][0])
        assert torch.equal(batch["assistant_masks"][row][keep], single["assistant_masks"][0])
        order = modalities(processor, single["input_ids"][0])
        assert batch["video_lengths"][row] == order.count("video") == len(single.get("pixel_values_videos", [[]])[0])
        num_windows = int(batch["audio_lengths"][row])
        row_ids = batch["audio_row_ids"][row]
        assert (row_ids >= 0).sum() == order.count("audio")
        if num_windows:
            assert torch.equal(batch["input_features"][row, :num_windows], single["input_features"][0])
            assert sorted(set(row_ids[row_ids >= 0].tolist())) == list(range(num_windows))


def test_all_answers_of_a_mixed_batch_are_supervised(processor, clips):
    batch = tokenized(processor, mixed_conversations(clips), return_assistant_tokens_mask=True)
    supervised = [
        processor.tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(batch["input_ids"], batch["assistant_masks"])
    ]
    assert supervised == [
        *(" rain</s>", " none</s>", " a tone</s>", " grey</s>", " Hello</s>"),
        " a</s> b</s>",
    ]


WORDS = st.text(alphabet="aZ 09.,:\n\t\u00e9\u2615\u4ed6<>/", max_size=12).filter(
    lambda words: not SLOT_PATTERN.search(words)
)
MEDIA = st.lists(st.sampled_from(["video", "audio", "image"]), max_size=3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(st.tuples(MEDIA, WORDS, WORDS), min_size=1, max_size=3), before=st.booleans())
def test_the_mask_covers_exactly_the_answers(processor, turns, before):
    """For any media before or after any text in any turn, the supervised tokens decode to the answers."""
    messages = []
    for kinds, question, reply in turns:
        media, words = [{"type": kind} for kind in kinds], {"type": "text", "text": question}
        messages += [{"role": "user", "content": [*media, words] if before else [words, *media]}, answer(reply)]
    kinds = [kind for turn in turns for kind in turn[0]]
    features = {
        "video_features": [np.ones((3, 4))] * (len(kinds) - kinds.count("audio")),
        "audio_features": [np.ones((2, 5))] * (len(kinds) - kinds.count("image")),
    }
    batch = tokenized(processor, messages, return_assistant_tokens_mask=True, processor_kwargs=features)
    supervised = processor.tokenizer.decode(batch["input_ids"][0][batch["assistant_masks"][0].bool()])
    assert supervised == "".join(f" {reply}</s>" if reply else "</s>" for _, _, reply in turns)
    order = modalities(processor, batch["input_ids"][0])
    assert order.count("video") == batch.get("video_lengths", [0])[0]
    assert order.count("audio") == batch.get("audio_lengths", [0])[0]


@pytest.mark.parametrize("num_rows", [1, 5, 6, 30])
def test_features_are_resampled_to_the_tokens(processor, num_rows):
    rows, sound = np.arange(num_rows * 4.0).reshape(num_rows, 4), np.arange(15.0).reshape(3, 5).astype(np.float16)
    batch = processor("<video>", video_features=[rows], audio_features=[sound])
    expected = rows[[k * num_rows // 6 for k in range(6)]]
    np.testing.assert_array_equal(batch["video_features"][0], expected)
    np.testing.assert_array_equal(batch["audio_features"][0], sound[resample_rows(3, 2)])
    assert batch["video_features"].dtype == batch["audio_features"].dtype == torch.float32
    assert "audio_row_ids" not in batch


def test_published_resampling_of_the_golden_rows(golden_dir):
    """Intended differences: no zero rows, and no dropped end of the audio."""
    golden = json.loads((golden_dir / "resample" / "resample.json").read_text())
    processor = build_processor(byte_level_tokenizer(), num_av_tokens=100)
    for row in golden["video"]:
        if row["av_ratio"] == 0.25 and row["n_in"] >= row["n_out"]:
            features = processor(
                "<video>", video_features=[np.arange(row["n_in"])[:, None]], audio_features=[np.ones((1, 1))]
            )
            assert features["video_features"].flatten().tolist() == row["index"]
    for row in golden["inference_audio"]:
        if row["n_audio_feats"] == 25:
            features = processor(
                "<video>", video_features=[np.ones((75, 1))], audio_features=[np.arange(row["m_in"])[:, None]]
            )
            ours = features["audio_features"].flatten().tolist()
            if row["m_in"] <= 25:
                assert ours == row["index"]
            else:
                assert row["index"] == list(range(25)), "published: the end is dropped"
                assert ours[0] == 0 and ours[-1] >= row["m_in"] - row["m_in"] / 25 - 1
                assert resample_rows(row["m_in"], 25, "published") == row["index"]


def test_published_rows_of_a_single_modality(golden_dir):
    """
    An image or audio of one row is one token, as published. Intended differences: of several rows of an image the
    middle one is shown (published: one token per row); audio of several windows has all tokens, so that positions
    encode time as in a video (published: one token per window).
    """
    rows = json.loads((golden_dir / "resample" / "resample.json").read_text())["single_modality"]
    assert len(rows) == 7
    processor = build_processor(byte_level_tokenizer(), num_av_tokens=100)
    for row in rows:
        kind, num_rows = row["placeholder"], row["in_shape"][0] if len(row["in_shape"]) == 2 else 1
        features = np.arange(float(num_rows))[:, None] * np.ones(row["in_shape"][-1])
        features = features.reshape(row["in_shape"])
        name = "video_features" if kind == "<image>" else "audio_features"
        ours = processor(kind, **{name: [features]})[name][0, :, 0].tolist()
        if num_rows == 1:
            assert ours == row["index"] == [0]
        elif kind == "<image>":
            assert ours == [num_rows // 2]
        else:
            assert ours == resample_rows(num_rows, 100) and row["index"] == list(range(num_rows))


def test_empty_audio_features_and_features_of_one_row(processor):
    batch = processor(
        ["<video>", "<image>"], video_features=[np.ones((3, 4)), np.ones(4)], audio_features=[np.ones((0, 5))]
    )
    assert [modalities(processor, ids) for ids in batch["input_ids"]] == [["video"] * 8, ["video"]]
    with pytest.raises(ValueError, match=r"video_features must have shape .* got \(1, 2, 3\)"):
        processor("<video>", video_features=[np.ones((1, 2, 3))])


def test_too_long_text_is_an_error_or_truncated_but_media_are_not(processor):
    media = {"video_features": np.ones((8, 4))}
    text = "<video> one two three four five"
    length = processor(text, **media)["input_ids"].shape[1]
    with pytest.raises(
        ValueError, match=f"text 0 has {length} tokens, media included, more than max_length={length - 2}"
    ):
        processor(text, **media, max_length=length - 2)
    cut = processor(text, **media, max_length=length - 2, truncation=True)
    assert torch.equal(cut["input_ids"], processor(text, **media)["input_ids"][:, : length - 2])
    with pytest.raises(ValueError, match="would cut its media"):
        processor(text, **media, max_length=5, truncation=True)
    assert processor(text, **media, max_length=length + 3, padding="max_length")["input_ids"].shape[1] == length + 3


def test_literal_placeholders_in_messages_are_errors(processor, clips):
    with pytest.raises(ValueError, match="'<video>'"):
        tokenized(processor, [user({"type": "video", "path": clips["video"]}, text="Is <video> a word?")])


def test_unusable_media_are_errors_that_name_them(processor, clips, tmp_path):
    for block in ({"type": "video", "path": tmp_path / "gone.mp4"}, {"type": "audio", "path": tmp_path / "gone.mp4"}):
        with pytest.raises(MediaError, match="gone.mp4"):
            tokenized(processor, [user(block)])
    with pytest.raises(MediaError, match="long.wav: no video stream"):
        tokenized(processor, [user({"type": "video", "path": clips["long_sound"]})])
    with pytest.raises(ValueError, match="without sound: .*silent.mp4"):
        tokenized(processor, [user({"type": "audio", "path": clips["silent"]})])
    with pytest.raises(ValueError, match="videos has 0 entries"):
        tokenized(processor, [user({"type": "video"})])
    with pytest.raises(ValueError, match=r"must be mono.* got \(2, 100\)"):
        tokenized(processor, [user({"type": "audio", "audio": np.zeros((2, 100))})])


def test_a_misspelt_argument_is_an_error(processor):
    with pytest.raises(ValueError, match="audio_interleavng_rate"):
        processor.apply_chat_template([user()], audio_interleavng_rate=0.5)
    assert processor.apply_chat_template([user()], tools=None) == processor.apply_chat_template([user()])


@pytest.mark.parametrize("form", ["file object", "bytes", "data URL", "video_url", "base64"])
def test_a_video_may_be_a_file_object_bytes_or_url(processor, clips, form):
    content = clips["video"].read_bytes()
    url = "data:video/mp4;base64," + base64.b64encode(content).decode()
    block = {
        "file object": {"type": "video", "video": io.BytesIO(content)},
        "bytes": {"type": "video", "video": content},
        "data URL": {"type": "video", "url": url},
        "video_url": {"type": "video_url", "video_url": {"url": url}},
        "base64": {"type": "video", "base64": base64.b64encode(content).decode()},
    }[form]
    ours, expected = (tokenized(processor, [user(b)]) for b in (block, {"type": "video", "path": clips["video"]}))
    assert all(torch.equal(ours[key], expected[key]) for key in expected)


@pytest.mark.parametrize("form", ["input_audio", "image_url"])
def test_audio_and_images_in_openai_formats(processor, clips, form):
    picture = io.BytesIO()
    PIL.Image.fromarray(pictures(3)[1]).save(picture, format="PNG")
    data = base64.b64encode(picture.getvalue() if form == "image_url" else clips["short_sound"].read_bytes()).decode()
    block, expected = {
        "input_audio": (
            {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
            {"type": "audio", "path": clips["short_sound"]},
        ),
        "image_url": (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
            {"type": "image", "image": pictures(3)[1]},
        ),
    }[form]
    ours, theirs = (tokenized(processor, [user(b)]) for b in (block, expected))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_the_plain_template_supervises_the_caption(processor, clips):
    messages = [user({"type": "audio", "path": clips["short_sound"]}), answer("a tone")]
    batch = tokenized(processor, messages, chat_template=PLAIN_CHAT_TEMPLATE, return_assistant_tokens_mask=True)
    assert processor.tokenizer.decode(batch["input_ids"][0]) == "<s><audio>\na tone\n"
    assert processor.tokenizer.decode(batch["input_ids"][0][batch["assistant_masks"][0].bool()]) == "a tone\n"


@pytest.mark.parametrize("make", [byte_level_tokenizer, sentencepiece_tokenizer])
@pytest.mark.parametrize("words", ["", "From 03 to 17.", "ASSISTANT: ok", "Yes</s>No", " two  spaces \n", "\n"])
def test_every_answer_is_supervised_and_has_a_finite_loss(make, words):
    processor = build_processor(make(), num_av_tokens=4)
    messages = [user({"type": "video"}, text="Say ASSISTANT: now</s>?"), answer(words)]
    features = {"video_features": [np.ones((4, 24))], "audio_features": [np.ones((1, 20))]}
    batch = tokenized(processor, messages, return_assistant_tokens_mask=True, processor_kwargs=features)
    mask = batch.pop("assistant_masks").bool()
    assert processor.tokenizer.decode(batch["input_ids"][mask]).lstrip(" ") == words.lstrip(" ") + "</s>"
    model = tiny_model(**vocabulary(processor))
    labels = batch["input_ids"].masked_fill(~mask, -100)
    assert torch.isfinite(model(**batch, labels=labels).loss)


def vocabulary(processor) -> dict:
    """Fields of a tiny configuration for the tokenizer of the processor."""
    text_config = {**tiny_config().text_config.to_dict(), "vocab_size": len(processor.tokenizer)}
    return {
        "text_config": text_config,
        "video_token_id": processor.video_token_id,
        "audio_token_id": processor.audio_token_id,
    }


def test_mp4_to_generated_events(processor, clips):
    model = tiny_model(**vocabulary(processor))
    conversations = [conversation[:1] for conversation in mixed_conversations(clips)]
    batch = tokenized(processor, conversations, add_generation_prompt=True)
    ids = model.generate(**batch, max_new_tokens=6, do_sample=False)
    new = ids[:, batch["input_ids"].shape[1] :]
    assert new.shape == (6, 6)
    for row, conversation in enumerate(conversations):
        single = tokenized(processor, conversation, add_generation_prompt=True)
        separate = model.generate(**single, max_new_tokens=6, do_sample=False)[0, single["input_ids"].shape[1] :]
        assert torch.equal(new[row], separate)
    events = processor.post_process_events(["From 00 to 50, a dog barks.", "nothing"], [10.0, 5.0])
    assert [[(event.start, event.end, event.label) for event in row] for row in events] == [
        [(0.0, 5.0, "a dog barks")],
        [],
    ]


def test_audio_changes_the_logits(processor, clips):
    model = tiny_model(**vocabulary(processor))
    with_sound = tokenized(processor, [user({"type": "video", "path": clips["video"]})])
    other = tokenized(
        processor, [user({"type": "video", "path": clips["video"], "audio": 0.1 * tone(12.0, frequency=3000)})]
    )
    logits = [model(**batch).logits[0, -1] for batch in (with_sound, other)]
    assert (logits[0] - logits[1]).abs().max() > 1e-4


def test_events_need_a_duration_each(processor):
    with pytest.raises(ValueError, match="2 texts and 1 durations"):
        processor.post_process_events(["a", "b"], [1.0])


def test_a_saved_processor_gives_the_same_inputs_without_the_project(clips, tmp_path):
    processor = build_processor(
        sentencepiece_tokenizer(), image_size=SIZE, num_av_tokens=12, audio_interleaving_rate=0.5, num_time_bins=1000
    )
    processor.save_pretrained(tmp_path / "saved")
    messages = [user({"type": "video", "path": str(clips["video"])}), answer("rain")]
    torch.save(dict(tokenized(processor, messages, return_assistant_tokens_mask=True)), tmp_path / "expected.pt")
    script = f"""
import torch
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained({str(tmp_path / "saved")!r}, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules."), type(processor)
batch = processor.apply_chat_template({messages!r}, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
expected = torch.load({str(tmp_path / "expected.pt")!r})
assert set(batch) == set(expected)
assert all(torch.equal(batch[key], expected[key]) for key in expected)
print(processor.num_av_tokens, processor.audio_interleaving_rate, processor.time_codec.num_bins)
"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-3:] == ["12", "0.5", "1000"]
    assert type(AutoProcessor.from_pretrained(tmp_path / "saved")) is AVicunaProcessor


@pytest.fixture(scope="module")
def longer_sound(tmp_path_factory):
    """A file with 4 s of video and 8 s of audio; its duration is 4 s."""
    path = tmp_path_factory.mktemp("longer") / "longer_sound.mp4"
    return write_media(path, frames=pictures(40), fps=10, waveform=tone(8.0))


def test_the_metadata_have_the_duration_of_the_video_stream(processor, clips, longer_sound):
    """In reading order, one per video slot; for a part, its duration."""
    blocks = [
        {"type": "video", "path": longer_sound},
        {"type": "image", "image": pictures(1)[0]},
        {"type": "video", "path": clips["video"], "start": 2.0, "end": 5.5},
        {"type": "video", "video": pictures(6), "fps": 4},
        {"type": "video", "video": pictures(6)},
    ]
    batch = tokenized(processor, [[user(*blocks)], [user()]], return_metadata=True)
    first, part, array, unknown = batch["video_metadata"]
    assert [first.duration, part.duration, array.duration] == pytest.approx([4.0, 3.5, 1.5], abs=0.01)
    assert unknown.duration is None and unknown.fps is None
    assert (first.total_num_frames, first.fps) == (40, pytest.approx(10)) and array.fps == 4
    assert first.frames_indices == np.linspace(0, 39, 6, dtype=int).tolist()
    assert 2.0 <= min(part.timestamps) and max(part.timestamps) <= 5.5
    assert "video_metadata" not in tokenized(processor, [user(*blocks)])
    cached = processor("<video>", video_features=[np.ones((3, 4))], return_metadata=True)
    assert cached["video_metadata"] == [None]


def test_a_processor_of_another_checkpoint_is_an_error(processor):
    config = tiny_config(
        num_av_tokens=8, video_token_id=processor.video_token_id, audio_token_id=processor.audio_token_id
    )
    processor.check_configuration(config)
    changes = {"num_av_tokens": 12, "audio_interleaving_rate": 0.5, "interleaving": "published"}
    changes |= {"time_unit": "seconds", "num_time_bins": 1000, "audio_token_id": 5}
    for name, value in changes.items():
        original = getattr(config, name)
        setattr(config, name, value)
        with pytest.raises(ValueError, match=f"{name}={value!r}, but the processor has {name}={original!r}"):
            processor.check_configuration(config)
        setattr(config, name, original)


@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "float16", "float64"]
)
def test_waveforms_of_every_type_have_the_same_level(processor, dtype):
    sound = tone(1.0)
    samples = sound.astype(dtype)
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        middle, half = (info.max + info.min + 1) // 2, (int(info.max) - int(info.min) + 1) // 2
        samples = (np.round(sound.astype(np.float64) * half) + middle).clip(info.min, info.max).astype(dtype)
    ours, expected = (processor("<audio>", audio=[s])["input_features"] for s in (samples, sound))
    loud = expected > expected.max() - 20
    assert (ours - expected)[loud].abs().max() < (0.1 if dtype in ("int8", "uint8") else 0.01)  # dB
    if dtype == "int16":
        assert torch.equal(processor("<audio>", audio=[torch.from_numpy(samples)])["input_features"], ours)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.array([0.0, np.nan]), "finite"),
        (np.zeros(5, bool), "integers or floats, got bool"),
        (np.zeros(5, complex), "integers or floats, got complex128"),
        (np.zeros((2, 100)), r"mono, of shape \(num_samples,\), got \(2, 100\)"),
    ],
)
def test_an_invalid_waveform_is_an_error(processor, samples, message):
    with pytest.raises(ValueError, match=message):
        tokenized(processor, [user({"type": "audio", "audio": samples})])


def test_a_part_of_a_file_is_a_part_of_video_and_audio(processor, tmp_path):
    """The brightness of the video encodes the time, and there is a beep at 14 s."""
    frames = pictures(200)
    sound = np.zeros(20 * 48_000, np.float32)
    sound[14 * 48_000 : 15 * 48_000] = tone(1.0, frequency=1000.0)
    path = write_media(tmp_path / "ramp.mp4", frames=frames, fps=10, waveform=sound)
    part = tokenized(processor, [user({"type": "video", "path": path, "start": 12.0, "end": 18.0})])
    same = processor("<video>", videos=path, start=12.0, end=18.0)
    array = {"video": frames[120:181], "fps": 10, "audio": sound[12 * 48_000 : 18 * 48_000]}
    expected = tokenized(processor, [user({"type": "video", **array})])
    assert torch.equal(part["pixel_values_videos"], same["pixel_values_videos"])
    assert torch.equal(part["input_features"], same["input_features"])
    assert (part["pixel_values_videos"] - expected["pixel_values_videos"]).abs().max() < 0.2
    loud = expected["input_features"][0, 0].max(dim=1).values > -30  # frames of 10 ms
    assert 199 <= int(loud.nonzero()[0]) <= 201 and 299 <= int(loud.nonzero()[-1]) <= 301
    assert ((part["input_features"][0, 0].max(dim=1).values > -30) == loud).float().mean() > 0.99
    separate = tokenized(processor, [user({"type": "audio", "path": path, "audio_start": 12, "audio_end": 18})])
    assert torch.equal(separate["input_features"][0, 0], part["input_features"][0, 0])
    for block in ({"type": "video", "path": path, "start": 25}, {"type": "audio", "path": path, "start": 25}):
        with pytest.raises(ValueError, match="25"):
            tokenized(processor, [user(block)])


def test_only_the_part_of_a_file_that_is_asked_about_is_decoded(processor, tmp_path, monkeypatch):
    """Four of 40 seconds, with a keyframe each second: frames and blocks of samples."""
    options = {"x264-params": "scenecut=0:keyint=10:bframes=0"}
    path = write_ramp(tmp_path / "long.ts", audio_codec="aac", seconds=40, options=options)
    decoded = {"frames": 0, "blocks": 0}
    decode_packet, decode_sound = media_pictures_avicuna.decode_packet, Sound._decode

    def count_frames(packet):
        decoded["frames"] += len(frames := decode_packet(packet))
        return frames

    def count_blocks(*arguments):
        for block in decode_sound(*arguments):
            decoded["blocks"] += 1
            yield block

    monkeypatch.setattr(media_pictures_avicuna, "decode_packet", count_frames)
    monkeypatch.setattr(Sound, "_decode", count_blocks)
    processor("<video>", videos=path, start=30.0, end=34.0)
    # 40 frames and 188 blocks are shown and heard; the whole file has 400 and 1875. A sound is also decoded where a
    # seek ends before it, and where it begins.
    assert 0 < decoded["frames"] <= 60 and 188 <= decoded["blocks"] <= 563


def test_blocks_with_arrays_have_a_rate_and_blocks_with_files_have_not(processor):
    slow, fast = tone(3.0, sampling_rate=16_000), tone(3.0)
    batch = tokenized(processor, [user({"type": "audio", "audio": slow, "sampling_rate": 16_000})])
    assert torch.equal(
        batch["input_features"], processor("<audio>", audio=[slow], sampling_rate=16_000)["input_features"]
    )
    assert batch["input_features"].shape == processor("<audio>", audio=[fast])["input_features"].shape
    for block in (
        {"type": "video", "path": "a.mp4", "fps": 2},
        {"type": "audio", "path": "a.wav", "sampling_rate": 8000},
    ):
        with pytest.raises(ValueError, match="does not apply to this"):
            tokenized(processor, [user(block)])


@pytest.mark.parametrize("form", ["arrays", "pil", "files", "sizes"])
def test_a_list_of_images_is_one_video(processor, tmp_path, form):
    frames = pictures(8)
    if form == "arrays":
        items = list(frames)
    else:
        items = [PIL.Image.fromarray(frame) for frame in frames]
    if form == "files":
        for number, picture in enumerate(items):
            picture.save(tmp_path / f"{number}.png")
        items = sorted(tmp_path.glob("*.png"))
    if form == "sizes":
        items[3] = items[3].resize((100, 80))
    block = {"type": "video", "video": items, "fps": 2}
    batch = tokenized(processor, [user(block)], return_metadata=True)
    expected = processor("<video>", videos=[frames])
    assert torch.allclose(batch["pixel_values_videos"], expected["pixel_values_videos"], atol=1e-5)
    assert batch["video_metadata"][0].duration == 4.0
    part = tokenized(processor, [user({**block, "start": 2.0})], return_metadata=True)
    assert part["video_metadata"][0].duration == 2.0 and min(part["video_metadata"][0].frames_indices) == 4
    if form != "files":  # in `videos` a list of paths is one path per slot
        again = processor("<video>", videos=[items], fps=2)
        assert torch.equal(again["pixel_values_videos"], batch["pixel_values_videos"])


def test_no_second_bos_is_added(processor):
    bos = processor.tokenizer.bos_token_id
    batch = processor(["<s>one", "two", "<s>three"])
    assert [(row == bos).sum().item() for row in batch["input_ids"]] == [1, 1, 1]


def test_wrong_arguments_are_errors_that_name_them(processor):
    with pytest.raises(ValueError, match="num_av_tokens must be at least 1, got 0"):
        processor("<video>", videos=[pictures(3)], num_av_tokens=0)
    with pytest.raises(ValueError, match="the conversation is empty"):
        processor.apply_chat_template([])
    with pytest.raises(ValueError, match="a conversation must be a list of messages"):
        processor.apply_chat_template({"role": "user", "content": "Hi"})


def test_arguments_of_transformers_serve_are_accepted(processor, clips):
    """`num_frames` has no effect; `load_audio_from_video` is the default of "audio" in a video block."""
    conversation = [user({"type": "video", "path": clips["video"]})]
    plain = tokenized(processor, conversation)
    served = tokenized(processor, conversation, num_frames=32, load_audio_from_video=True)
    assert all(torch.equal(served[name], plain[name]) for name in plain)
    assert "input_features" not in tokenized(processor, conversation, load_audio_from_video=False)


def test_prepared_media_give_the_inputs_of_their_file(processor, clips):
    for kind, name in (("video", "video"), ("video", "silent"), ("audio", "long_sound"), ("image", "silent")):
        block = {"type": kind, "path": clips[name]}
        prepared = processor.prepare_media(block)
        ours, expected = (tokenized(processor, [user(b)]) for b in ({"type": kind, kind: prepared}, block))
        assert all(torch.equal(ours[key], expected[key]) for key in expected)
    for changed in ({"start": 1.0}, {"audio": False}):
        block = {"type": "video", "video": processor.prepare_media({"type": "video", "path": clips["silent"]})}
        with pytest.raises(ValueError, match="a prepared medium is decoded already"):
            tokenized(processor, [user({**block, **changed})])
    with pytest.raises(ValueError, match="<video> slot got a prepared medium of kind 'image'"):
        tokenized(processor, [user({"type": "video", "video": prepared})])
    with pytest.raises(ValueError, match="no medium"):
        processor.prepare_media({"type": "video"})


def test_the_duration_without_video_tokens_is_that_of_the_video_stream(processor, longer_sound):
    batch = processor("<video>", videos=longer_sound, audio_interleaving_rate=1.0, return_metadata=True)
    assert batch["video_metadata"][0].duration == pytest.approx(4.0, abs=0.01) and "pixel_values_videos" not in batch
    assert batch["input_features"][0, 0, 450:].max() < -90 < batch["input_features"][0, 0, :350].max()


@pytest.mark.parametrize("return_metadata", [False, True])
@pytest.mark.parametrize(
    "name", ["a.mp4", "a.mkv", "a.ts", "a.avi", "large.mp4", "silent.mp4", "a.wav", "a.mp3", "image.mp4"]
)
def test_a_file_is_opened_once(processor, tmp_path, name, return_metadata):
    """By decord and by PyAV, for pictures, sound and a picture of a video."""
    codec = {".wav": "pcm_s16le", ".mp3": "libmp3lame", ".avi": "libmp3lame"}.get(name[-4:], "aac")
    kind = "audio" if name.endswith(("wav", "mp3")) else "image" if name == "image.mp4" else "video"
    size = {"width": 1280, "height": 720} if name == "large.mp4" else {}
    frames = None if kind == "audio" else pictures(10, **size)
    waveform = None if name == "silent.mp4" else tone(13.0)
    path = write_media(tmp_path / name, frames=frames, waveform=waveform, audio_codec=codec)
    with count_opens(path) as num_opens:
        processing = {"return_metadata": return_metadata}
        batch = tokenized(processor, [user({"type": kind, "path": path})], processor_kwargs=processing)
    assert len(batch.get("video_metadata", [])) == (kind == "video" and return_metadata)
    assert num_opens == [1]


def test_only_the_shown_windows_of_long_audio_are_read(processor, tmp_path, monkeypatch):
    from modeling_avicuna import media_sound_avicuna

    spans, original = [], media_sound_avicuna.Sound.read
    monkeypatch.setattr(
        media_sound_avicuna.Sound, "read", lambda self, wanted: spans.extend(wanted) or original(self, wanted)
    )
    path = write_media(
        tmp_path / "long.wav", waveform=tone(300.0, sampling_rate=8000), sampling_rate=8000, audio_codec="pcm_s16le"
    )
    batch = processor("<audio>", audio=[path])
    assert len(spans) == 8 and all(end - start <= 480_000 for start, end in spans)
    waveform = load_audio(path)
    expected = AVicunaFeatureExtractor().extract_windows(waveform)[resample_rows(73, 8)]
    loud = expected > expected.max() - 40
    assert (batch["input_features"][0] - expected)[loud].abs().max() < 0.05  # dB; spans are resampled separately
