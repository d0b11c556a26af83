"""Open-ended question answering: ActivityNet-QA, MSVD-QA, MSR-VTT-QA, AVSD, MUSIC-AVQA.

Scores without a judge: exact match and containment, and per question type where the data set has types. The judge
protocol runs over the stored answers afterwards (`eval/judge.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from dataset_builders.sources.annotation_files import read_json
from dataset_builders.sources.questions import detokenize, iterate_music_avqa, music_avqa_answers

from ..metrics import METRIC_NAMES, load_metric
from ..metrics.open_ended_qa.answers import normalize_answer
from ..prompts import PROMPTS
from ..task import Answer, Example, Protocol, Question, Score, Task


# ActivityNet-QA's question types 0-8, as its paper orders them.
ACTIVITYNET_QA_TYPES = (
    "motion",
    "spatial relation",
    "temporal relation",
    "yes/no",
    "color",
    "object",
    "location",
    "number",
    "other",
)


def read_activitynet_qa(files: Sequence[Path], subset: str | None) -> list[Example]:
    """test_q.json and test_a.json, in this order; questions are all lower case without a question mark."""
    if len(files) != 2:
        raise ValueError(f"ActivityNet-QA wants its question and its answer file, got {[str(path) for path in files]}")
    asked, answered = read_json(files[0]), {record["question_id"]: record for record in read_json(files[1])}
    missing = [record["question_id"] for record in asked if record["question_id"] not in answered]
    if missing:
        raise ValueError(
            f"{files[1]} has no answer to {len(missing)} questions of {files[0]}, the first: {missing[:3]}"
        )
    questions = []
    for record in asked:
        answer = answered[record["question_id"]]
        group = ACTIVITYNET_QA_TYPES[answer["type"]]
        questions.append((record["video_name"], record["question_id"], record["question"], answer["answer"], group))
    return _examples(questions, media_names=lambda name: (f"v_{name}", name))


def read_music_avqa(files: Sequence[Path], subset: str | None) -> list[Example]:
    """avqa-test.json (or its update): templates filled, every question kept, repeated ones too; 41 answers.

    The answers offered are those of the file, because no vocabulary is published. A question is known by its place in the
    file: some question ids are repeated with another answer.
    """
    path = _one_file(files)
    choices = ", ".join(music_avqa_answers(path))
    questions = []
    for number, asked in enumerate(iterate_music_avqa(path)):
        prompt = PROMPTS["music_answer"].format(question=asked.question, choices=choices)
        key, kind = f"{number}_{asked.question_id}", " ".join(asked.kind)
        questions.append((asked.video_id, key, asked.question, asked.answer, kind, prompt))
    return _examples(questions, media_names=lambda name: (name,))


def read_indexed_qa(files: Sequence[Path], subset: str | None) -> list[Example]:
    """MSVD-QA and MSR-VTT-QA. Two forms: a list of `{"video_id", "question", "answer"}` records, or splits whose answers
    are numbers in a list `vocab`."""
    path = _one_file(files)
    content = read_json(path)
    if isinstance(content, dict):
        if subset not in content:
            raise ValueError(f"{path} has no subset {subset!r}; it has {sorted(content)}")
        words, records = content.get("vocab"), content[subset]
    else:
        words, records = None, content
    questions = []
    for number, record in enumerate(records):
        video = str(record["video_id"] if "video_id" in record else record["video"])
        answer = record["answer"] if words is None else words[record["answer"]]
        group = normalize_answer(record["question"]).split(" ")[0]  # what, who, how, ...: the types of these data sets
        questions.append((video, str(record.get("id", number)), record["question"], answer, group))
    return _examples(questions, media_names=lambda name: (name, f"video{name}") if name.isdigit() else (name,))


def read_avsd(files: Sequence[Path], subset: str | None) -> list[Example]:
    """AVSD (DSTC7) dialogs: the last turn is asked, with the turns before it in the question."""
    questions = []
    for dialog in read_json(_one_file(files))["dialogs"]:
        turns = [(detokenize(turn["question"]), detokenize(turn["answer"])) for turn in dialog["dialog"]]
        history = "".join(PROMPTS["dialog_turn"].format(question=q, answer=a) for q, a in turns[:-1])
        prompt = PROMPTS["dialog_question"].format(history=history, question=turns[-1][0])
        questions.append((dialog["image_id"], dialog["image_id"], turns[-1][0], turns[-1][1], None, prompt))
    return _examples(questions, media_names=lambda name: (name, name.split("_")[0]))


def score_text(
    examples: Sequence[Example],
    answers: Mapping[str, Answer],
    protocol: Protocol,
    *,
    choose: Callable[[str, Sequence[str]], str] | None = None,
) -> Score:
    """Exact match and containment over all questions, and exact match per type where there are types.

    Args:
        choose: brings an answer to one of the reference answers first (MUSIC-AVQA's closed set).
    """
    questions = [question for example in examples for question in example.questions]
    said = [answers[question.id].text for question in questions]
    if choose is not None:
        choices = sorted({question.reference for question in questions})
        said = [choose(text, choices) for text in said]
    metric = load_metric("open_ended_qa")
    metrics = metric.compute(predictions=said, references=[question.reference for question in questions])
    groups = sorted({question.group for question in questions if question.group})
    counts = {"num_questions": len(questions)}
    for group in groups:
        members = [index for index, question in enumerate(questions) if question.group == group]
        part = metric.compute(
            predictions=[said[i] for i in members], references=[questions[i].reference for i in members]
        )
        metrics[f"exact_match/{group}"] = part["exact_match"]
        counts[f"num_questions/{group}"] = len(members)
    return Score(metrics, counts, "closed-set" if choose is not None else "text")


def closed_answer(text: str, choices: Sequence[str]) -> str:
    """The choice that an answer names: the one it equals, or the first it mentions as whole words, or the text itself.

    >>> closed_answer("There are two violins.", ["cello", "two", "violin"])
    'two'
    """
    said = f" {normalize_answer(text)} "
    for mark in ",.;:!?":
        said = said.replace(mark, " ")
    places = {choice: said.find(f" {normalize_answer(choice)} ") for choice in choices}
    named = [choice for choice in choices if places[choice] >= 0]
    return min(named, key=lambda choice: (places[choice], -len(choice))) if named else text


def _examples(rows: Sequence[tuple], *, media_names: Callable[[str], tuple[str, ...]]) -> list[Example]:
    """One example per video from (video, question id, question, answer, group) rows, with the prompt as a sixth field
    where it is not the short-answer one."""
    videos: dict[str, list[Question]] = {}
    for video_id, key, asked, answer, group, *prompt in rows:
        asked = _as_question(asked)
        prompt = prompt[0] if prompt else PROMPTS["short_answer"].format(question=asked)
        question = Question(id=key, prompt=prompt, kind="text", reference=answer, group=group, asked=asked)
        videos.setdefault(video_id, []).append(question)
    return [Example(key, media_names(key), None, tuple(asked)) for key, asked in videos.items()]


def _as_question(text: str) -> str:
    text = " ".join(text.split()).rstrip("? \uff1f")
    return f"{text[:1].upper()}{text[1:]}?"


def _one_file(files: Sequence[Path]) -> Path:
    if len(files) != 1:
        raise ValueError(f"one annotation file is needed, got {[str(path) for path in files]}")
    return files[0]


METRICS = METRIC_NAMES["open_ended_qa"]
ACTIVITYNET_QA = Task("activitynet_qa", ("short_answer",), METRICS, read_activitynet_qa, score_text)
MSVD_QA = Task("msvd_qa", ("short_answer",), METRICS, read_indexed_qa, score_text, default_subset="test")
MSRVTT_QA = Task("msrvtt_qa", ("short_answer",), METRICS, read_indexed_qa, score_text, default_subset="test")
AVSD = Task("avsd", ("dialog_turn", "dialog_question"), METRICS, read_avsd, score_text)
MUSIC_AVQA = Task("music_avqa", ("music_answer",), METRICS, read_music_avqa, partial(score_text, choose=closed_answer))
