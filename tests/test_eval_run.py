"""The evaluation command: output files, resuming, missing and unreadable media, batches, several processes."""

import json
import os
import runpy
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataset_builders.features.feature_store import FeatureStore, FeatureWriter
from dataset_builders.release.provenance import git_commit
from dataset_builders.sandbox.world import make_world
from eval import run
from eval.generation import GenerationSettings, Generator
from eval.media import SAMPLING_RATE, MediaSource, draw_shift
from eval.records import AnswerLog, read_answers
from eval.task import Answer, Example, read_examples
from modeling_avicuna.media_avicuna import load_audio
from modeling_avicuna.timestamp_avicuna import Event
from tests.tiny_models import save_random_checkpoint


NUM_CACHED = 5  # videos of the annotation file that have cached features; one more has none
LABELS = ("dog barking", "rain", "bell ringing")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_random_checkpoint(folder, labels=LABELS)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Annotations of six videos with cached features of five (one silent), and one video file next to a broken one."""
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, num_clips=0, num_test_videos=1, seed=3)
    made = json.loads((folder / "annotations.json").read_text())["database"]
    real_id = next(iter(made))
    database = {}
    for index in range(NUM_CACHED + 1):
        labels = [LABELS[index % 3], LABELS[(index + 1) % 3]]
        annotations = [
            {"segment": [5.0 * n, 5.0 * n + 8], "label": label, "label_id": LABELS.index(label)}
            for n, label in enumerate(labels)
        ]
        database[f"-video_{index}"] = {"duration": 30.0 + index, "annotations": annotations, "subset": "test"}
    write_annotations(folder / "cached.json", database)
    write_annotations(folder / "files.json", {real_id: made[real_id], "broken": database["-video_0"]})
    (folder / "test" / "broken.mp4").write_bytes(b"not a video")
    rng = np.random.default_rng(0)
    with FeatureWriter(folder / "features") as writer:
        for index in range(NUM_CACHED):
            windows = rng.standard_normal((0 if index == 1 else 7, 64))
            writer.add(f"-video_{index}", video=rng.standard_normal((20, 64)), audio=windows, duration=30.0 + index)
    return folder


def write_annotations(path, database):
    path.write_text(json.dumps({"version": "test", "database": database}))


def evaluate(world, checkpoint, output, *more, task="sandbox", annotations="cached.json", media=None):
    media = media or ["--features-dir", str(world / "features")]
    arguments = ["--task", task, "--model", str(checkpoint), "--annotations", str(world / annotations)]
    run.main([*arguments, *media, "--output", str(output), "--max-new-tokens", "8", *more])
    return json.loads((output / "results.json").read_text())


@pytest.fixture(scope="module")
def finished(world, checkpoint, tmp_path_factory):
    """Folder and result of a narration run on the cached videos."""
    output = tmp_path_factory.mktemp("finished")
    return output, evaluate(world, checkpoint, output)


def test_a_result_has_settings_and_counts(finished, checkpoint):
    output, result = finished
    assert result["task"] == "sandbox" and result["name"] == "sandbox/narration-exact-time_tokens"
    assert (result["num_examples"], result["num_expected"]) == (NUM_CACHED, NUM_CACHED + 1)
    assert result["missing"] == ["-video_5"] and result["unreadable"] == {}
    assert set(result["metrics"]) == {f"mAP@0.{n}" for n in range(1, 10)} | {"average_mAP"}
    assert result["dataset"] == {"name": "sandbox", "split": "test"} and result["judge"] is None
    assert len(result["prompts_sha256"]) == 64 and result["model"] == str(checkpoint)
    assert result["git_commit"] == git_commit() and result["versions"]["torch"]
    assert result["seconds"] > 0 and result["protocol"]["encoder"] is None
    answers = read_answers(output / "predictions.jsonl")
    assert [answer.video_id for answer in answers] == [f"-video_{n}" for n in range(NUM_CACHED)]
    assert len({answer.text for answer in answers}) > 1, "these tests need a model with different answers per video"
    assert (output / "timelines" / "-video_0.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in output.glob("*.json*")) == [
        "predictions.jsonl",
        "results.json",
        "settings.json",
    ]


def test_a_finished_run_is_scored_again_without_a_model(finished, world, checkpoint, monkeypatch):
    output, before = finished
    monkeypatch.setattr(run, "Generator", None)  # calling it would raise
    result = evaluate(world, checkpoint, output, "--score", "constant")
    assert result["name"] == "sandbox/narration-exact-constant"
    assert evaluate(world, checkpoint, output)["metrics"] == before["metrics"]


def test_a_killed_run_is_resumed(finished, world, checkpoint, tmp_path, monkeypatch):
    lines = (finished[0] / "predictions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "predictions.0.jsonl").write_text("".join(lines[:2]) + lines[2][:30])  # killed while writing
    (tmp_path / "settings.json").write_text((finished[0] / "settings.json").read_text())
    asked = []
    original = Generator._decode
    monkeypatch.setattr(Generator, "_decode", lambda self, media: asked.append(media) or original(self, media))
    assert evaluate(world, checkpoint, tmp_path)["metrics"] == finished[1]["metrics"]
    assert len(asked) == NUM_CACHED - 2
    assert (tmp_path / "predictions.jsonl").read_text() == "".join(lines)


def test_batches_do_not_change_the_answers(finished, world, checkpoint, tmp_path):
    evaluate(world, checkpoint, tmp_path, "--batch-size", "1", "--num-workers", "3")
    single, batched = (read_answers(folder / "predictions.jsonl") for folder in (tmp_path, finished[0]))
    assert [answer.text for answer in single] == [answer.text for answer in batched]


def test_other_settings_in_the_same_folder_are_an_error(finished, world, checkpoint):
    with pytest.raises(ValueError, match="sound: 'original' -> 'removed'.*use another output"):
        evaluate(world, checkpoint, finished[0], "--sound", "removed")
    with pytest.raises(ValueError, match="max_new_tokens: 8 -> 9"):
        evaluate(world, checkpoint, finished[0], "--max-new-tokens", "9")


def test_the_constraint_on_times_can_be_removed_and_is_part_of_the_name(world, checkpoint, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(run, "Generator", lambda *words, **named: made.append(Generator(*words, **named)) or made[-1])
    for value in ("true", "false"):
        result = evaluate(world, checkpoint, tmp_path / value, "--limit", "1", "--well-formed-times", value)
        assert result["name"].endswith("/well-formed-times-false/first-1") == (value == "false")
    assert [len(generator._time_constraint) for generator in made] == [1, 0]


def test_queries_of_all_classes_give_the_answers_of_single_questions(world, checkpoint, tmp_path):
    result = evaluate(world, checkpoint, tmp_path, "--limit", "2", task="sandbox_query")
    assert result["name"] == "sandbox_query/query-time_tokens/first-2"
    assert (result["num_examples"], result["num_expected"]) == (2, NUM_CACHED + 1)
    answers = {answer.question_id: answer.text for answer in read_answers(tmp_path / "predictions.jsonl")}
    assert set(answers) == {f"-video_{n}/{label}" for n in range(2) for label in LABELS}
    generator = Generator(str(checkpoint), settings=GenerationSettings(max_new_tokens=8, batch_size=1))
    examples = run.TASKS["sandbox_query"].read([world / "cached.json"], "test")[:2]
    media = MediaSource(examples, features_dir=[world / "features"])
    separate = [(example, [question]) for example in examples for question in example.questions]
    for (answer,) in generator.answer(separate, open_media=media.open):
        assert answers[answer.question_id] == answer.text


def test_a_video_file_is_answered_and_a_broken_one_is_listed(world, checkpoint, tmp_path):
    media = ["--media-dir", str(world / "test")]
    result = evaluate(world, checkpoint, tmp_path, "--num-workers", "2", annotations="files.json", media=media)
    assert result["num_examples"] == 1 and result["num_expected"] == 2
    assert list(result["unreadable"]) == ["broken"] and "broken.mp4" in result["unreadable"]["broken"]
    (answer,) = read_answers(tmp_path / "predictions.jsonl")
    assert answer.text


def test_a_folder_without_any_of_the_videos_is_an_error(world, checkpoint, tmp_path):
    with pytest.raises(ValueError, match="none of the 6 videos is in"):
        evaluate(world, checkpoint, tmp_path, media=["--media-dir", str(tmp_path)])
    with pytest.raises(ValueError, match="either a media folder or cached features"):
        MediaSource([])


def test_sound_is_removed_swapped_with_the_next_video_shifted_or_moved(world):
    examples = run.TASKS["sandbox"].read([world / "cached.json"], "test")
    media = {sound: MediaSource(examples, features_dir=[world / "features"], sound=sound) for sound in run.SOUNDS}
    assert list(media["original"].locations) == [f"-video_{n}" for n in range(NUM_CACHED)]
    opened = {sound: [source.open(example) for example in examples[:NUM_CACHED]] for sound, source in media.items()}
    assert all(item.audio is None for item in opened["removed"])
    assert opened["original"][1].audio is None  # a silent video
    for before, after in ((0, 2), (2, 3), (3, 4)):
        if before:
            assert np.array_equal(opened["swapped"][before].audio, opened["original"][after].audio)
    shifted, original = opened["shifted"][2].audio, opened["original"][2].audio
    assert np.array_equal(np.roll(shifted, -3, axis=0), original) and not np.array_equal(shifted, original)
    assert all(np.array_equal(a.video, b.video) for a, b in zip(opened["swapped"], opened["original"]))
    moved, shifts = opened["moved"], media["moved"].shifts
    for index in (0, 2, 3):
        shift = shifts[examples[index].video_id]  # by one window of 4 s, earlier or later
        assert abs(shift) == 4.0
        assert np.array_equal(np.roll(opened["original"][index].audio, round(shift / 4), axis=0), moved[index].audio)


def test_the_partner_of_a_swapped_sound_does_not_depend_on_the_limit(world, checkpoint, tmp_path):
    first = evaluate(world, checkpoint, tmp_path, "--sound", "swapped", "--limit", "2")
    before = (tmp_path / "predictions.jsonl").read_text()
    assert evaluate(world, checkpoint, tmp_path, "--sound", "swapped", "--limit", "6")["num_examples"] == NUM_CACHED
    assert (tmp_path / "predictions.jsonl").read_text().startswith(before)
    assert first["settings"]["sound_partners_sha256"] and first["name"].endswith("/sound-swapped/first-2")
    examples = run.TASKS["sandbox"].read([world / "cached.json"], "test")
    with pytest.raises(ValueError, match="there is no other video"):
        MediaSource(examples[:1], features_dir=[world / "features"], sound="swapped")


def test_a_repeated_question_id_is_an_error(world, tmp_path):
    records = [
        {"id": key, "video_id": f"v{n}", "question": "what?", "answer": "dog"} for n, key in enumerate([7, 8, 7])
    ]
    (tmp_path / "qa.json").write_text(json.dumps(records))
    with pytest.raises(ValueError, match=r"1 question ids occur more than once in .*qa.json.*'7'"):
        read_examples(run.TASKS["msvd_qa"], [tmp_path / "qa.json"])


@pytest.mark.parametrize(
    "words, message",
    [
        ("--limit -1", "limit must be at least 1, got -1"),
        ("--limit 0", "limit must be at least 1, got 0"),
        ("--batch_size 0", "batch_size must be at least 1"),
        ("--audio_interleaving_rate 25", "audio_interleaving_rate must be at least 0 and at most 1, got 25.0"),
        ("--timelines -1", "timelines must be at least 0"),
        ("--model nowhere", "nowhere"),
        ("--annotations nowhere.json", "nowhere.json"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_it(world, checkpoint, tmp_path, words, message):
    with pytest.raises((ValueError, OSError), match=message):
        evaluate(world, checkpoint, tmp_path, *words.split())


@pytest.mark.parametrize("words", ["--limit one", "--task none", "--sound loud", "--dtype int8", "--interleaving odd"])
def test_an_unreadable_value_is_one_line(world, checkpoint, tmp_path, words, capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate(world, checkpoint, tmp_path, *words.split())
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("module", ["run", "study", "judge", "comparison", "sound_use"])
def test_every_command_reports_a_wrong_option_in_one_line(module, monkeypatch, capsys):
    """As `python -m eval.<module>`, without starting a process."""
    monkeypatch.setattr(sys, "argv", [module, "--wrong_option", "1"])
    monkeypatch.delitem(sys.modules, f"eval.{module}", raising=False)  # avoids a warning of runpy
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"eval.{module}", run_name="__main__")
    written = capsys.readouterr().err
    if isinstance(ended.value.code, str):  # Python writes it to stderr when it exits
        written += f"{ended.value.code}\n"
    assert written.startswith(f"python -m eval.{module}: error: ")
    assert written.endswith("\n") and written.count("\n") == 1


def test_features_of_other_towers_or_settings_are_an_error_before_the_run_is_recorded(world, checkpoint, tmp_path):
    """The cache has a fingerprint of other towers, or another window length; a valid run in the folder follows."""
    cases = (
        ({"towers": "0123456789abcdef"}, "other towers .fingerprint 0123456789abcdef. than this checkpoint's"),
        ({"window_seconds": 2.0}, "made with window_seconds=2.0, but the processor has window_seconds=10.0"),
    )
    for number, (settings, message) in enumerate(cases):
        other = tmp_path / f"other{number}"
        with FeatureWriter(other, settings=settings) as writer:
            writer.add("-video_0", video=np.zeros((20, 64)), audio=np.zeros((7, 64)), duration=30.0)
        with pytest.raises(ValueError, match=message):
            evaluate(world, checkpoint, tmp_path / "run", media=["--features-dir", str(other)])
    media = ["--features-dir", str(tmp_path / "other0"), str(world / "features")]
    with pytest.raises(ValueError, match="other towers"):
        evaluate(world, checkpoint, tmp_path / "run", media=media)
    result = evaluate(world, checkpoint, tmp_path / "run", "--limit", "1")
    assert result["settings"]["features"] == [FeatureStore(world / "features").settings]
    with pytest.raises(ValueError, match="other settings .features: "):
        evaluate(world, checkpoint, tmp_path / "run", media=media)


def test_only_the_given_part_of_a_file_is_encoded(world, checkpoint):
    whole = run.TASKS["sandbox"].read([world / "files.json"], "test")[0]
    part = replace(whole, start=2.0, end=7.0, duration=None)
    generator = Generator(str(checkpoint), settings=GenerationSettings())
    for sound in ("original", "removed", "shifted"):
        source = MediaSource([part], media_dir=world / "test", sound=sound)
        encoded = generator.encode(source.open(part))
        assert encoded.duration == pytest.approx(5.0)
        assert (encoded.audio is None) == (sound == "removed")
        longer = generator.encode(MediaSource([whole], media_dir=world / "test", sound=sound).open(whole))
        assert not np.allclose(encoded.video, longer.video)


def test_a_part_of_cached_media_has_its_own_features(tmp_path):
    with FeatureWriter(tmp_path) as writer:
        for media_id, value in (("v", 0.0), ("v@2.000-7.000", 1.0)):
            writer.add(media_id, video=np.full((4, 8), value), audio=np.zeros((0, 8)), duration=5.0)
    example = Example("v", ("v.mp4",), None, (), start=2.0, end=7.0)
    assert MediaSource([example], features_dir=[tmp_path]).open(example).video.mean() == 1.0
    assert "w" not in MediaSource([replace(example, video_id="w", start=3.0)], features_dir=[tmp_path]).locations


def test_the_sound_of_a_video_file_can_be_removed_shifted_and_moved(world, checkpoint):
    examples = run.TASKS["sandbox"].read([world / "files.json"], "test")[:1]
    generator = Generator(str(checkpoint), settings=GenerationSettings())
    encoded = {}
    for sound in run.SOUNDS[:2] + run.SOUNDS[3:]:
        source = MediaSource(examples, media_dir=world / "test", sound=sound)
        encoded[sound] = generator.encode(source.open(examples[0]))
    assert encoded["removed"].audio is None and len(encoded["removed"].video) == 20
    assert len(encoded["original"].video) == 15  # a quarter of the tokens is audio
    assert encoded["shifted"].audio.shape == encoded["original"].audio.shape
    assert not np.allclose(encoded["shifted"].audio, encoded["original"].audio)
    assert np.allclose(encoded["shifted"].video, encoded["original"].video, atol=1e-6)
    assert not np.allclose(encoded["moved"].audio, encoded["original"].audio)


def test_a_moved_sound_comes_one_to_five_seconds_earlier_or_later(world):
    shifts = [draw_shift(f"video {number}") for number in range(300)]
    assert shifts == [draw_shift(f"video {number}") for number in range(300)]
    assert 1 <= min(map(abs, shifts)) < 1.2 and 4.8 < max(map(abs, shifts)) <= 5
    assert 120 < sum(shift > 0 for shift in shifts) < 180
    example = run.TASKS["sandbox"].read([world / "files.json"], "test")[0]
    source = MediaSource([example], media_dir=world / "test", sound="moved")
    original = load_audio(world / "test" / f"{example.video_id}.mp4", sampling_rate=SAMPLING_RATE)
    amount = round(source.shifts[example.video_id] * SAMPLING_RATE)
    assert np.array_equal(source.open(example).audio, np.roll(original, amount))


def test_two_processes_give_the_answers_of_one(finished, world, checkpoint, tmp_path, project_dir):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ["--task", "sandbox", "--model", str(checkpoint), "--annotations", str(world / "cached.json")]
    command += ["--features-dir", str(world / "features"), "--output", str(tmp_path), "--max-new-tokens", "8"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    done = subprocess.run(
        [*launch, "-m", "eval.run", *command],
        cwd=project_dir,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("sandbox/narration-exact-time_tokens") == 1, "only one process must report"
    assert (tmp_path / "predictions.jsonl").read_text() == (finished[0] / "predictions.jsonl").read_text()
    assert not list(tmp_path.glob("predictions.*.jsonl"))


def test_a_video_that_cannot_be_read_adds_a_line_and_the_list_is_not_written_again(tmp_path):
    log = AnswerLog(tmp_path)
    log.write_unreadable("a", "no video stream")
    (path,) = tmp_path.glob("unreadable.*")
    begun = path.stat().st_ino
    for number in range(20):
        log.write_unreadable(f"b\u2028{number}", "no video stream")
    assert path.stat().st_ino == begun and path.read_text().count("no video stream") == 21
    log = AnswerLog(tmp_path)
    log.join([])
    assert len(log.unreadable) == 21 and log.unreadable["b\u20283"] == "no video stream"
    assert not list(tmp_path.glob("unreadable.*"))


def test_answers_are_read_and_merged_line_by_line(tmp_path, monkeypatch):
    for rank in (0, 1):
        AnswerLog(tmp_path, rank=rank).write([Answer(f"q{rank}{n}", "-v", 12.5, f"caf\u00e9 {n}") for n in range(3)])
    cut = (tmp_path / "predictions.1.jsonl").read_bytes().rindex("\u00e9".encode()) + 1
    os.truncate(tmp_path / "predictions.1.jsonl", cut)  # killed in the middle of a character
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", None)
        patch.setattr(Path, "read_bytes", None)
        log = AnswerLog(tmp_path, rank=1)
        log.join(["q11", "q00"])
    assert [answer.question_id for answer in read_answers(tmp_path / "predictions.jsonl")] == [
        "q11",
        "q00",
        "q01",
        "q02",
        "q10",
    ]


def test_answers_are_read_back_and_a_damaged_line_is_named(tmp_path):
    log = AnswerLog(tmp_path, rank=1)
    answer = Answer("q1", "-v", 12.5, 'says "from 00 to 09"\n', (Event(0.0, 1.25, "caf\u00e9", 0.1),), "p")
    log.write([answer])
    log.write([Answer("q2", "-v", 12.5, "")])
    assert AnswerLog(tmp_path).answers == log.answers and log.answers["q1"] == answer
    example = Example("-v", ("-v",), None, ())
    assert log.unanswered(example) == []
    lines = (tmp_path / "predictions.1.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "predictions.1.jsonl").write_text(lines[0][:-9] + "\n" + lines[1])
    with pytest.raises(ValueError, match="line 1 is damaged"):
        AnswerLog(tmp_path)
