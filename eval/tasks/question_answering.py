"""Open-ended question answering: ActivityNet-QA, MSVD-QA, MSR-VTT-QA, AVSD, MUSIC-AVQA.

Scores without a judge: exact match and containment, also per question type. `eval/judge.py` grades the stored answers.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from dataset_builders.sources import published_questions
from dataset_builders.sources.published_questions import UNDISCLOSED
from dataset_builders.sources.questions import as_question
from dataset_builders.sources.records import refuse
from dataset_builders.sources.text_cleaning import detokenize

from ..metrics import METRIC_NAMES, load_metric
from ..metrics.open_ended_qa.answers import find_words, normalize_answer
from ..prompts import PROMPTS
from ..task import Answer, Example, Protocol, Question, Score, Task
from .files import one_file, two_files


def read_activitynet_qa(files: Sequence[Path], subset: str | None) -> list[Example]:
    """test_q.json and test_a.json, in this order."""
    asked_path, answered_path = two_files(files, "ActivityNet-QA's file of questions and its file of answers")
    asked = published_questions.read_activitynet_qa(asked_path, answered_path, drop=refuse(asked_path))
    rows = [(one.video_id, one.question_id, one.question, one.answer, one.kind) for one in asked]
    return _examples(rows, media_names=lambda name: (f"v_{name}", name))


def read_music_avqa(files: Sequence[Path], subset: str | None) -> list[Example]:
    """avqa-test.json (or its update), including repeated questions.

    The choices in the prompt are the 41 answers of the file, because no vocabulary is published. The id of a question
    includes its position, since some question ids are repeated with another answer.
    """
    path = one_file(files, "MUSIC-AVQA")
    asked = list(published_questions.read_music_avqa(path, drop=refuse(path)))
    choices = ", ".join(sorted({one.answer for one in asked}))
    rows = []
    for number, one in enumerate(asked):
        prompt = PROMPTS["music_answer"].format(question=one.question, choices=choices)
        rows.append((one.video_id, f"{number}_{one.question_id}", one.question, one.answer, one.kind, prompt))
    return _examples(rows, media_names=lambda name: (name,))


def read_indexed_qa(files: Sequence[Path], subset: str | None) -> list[Example]:
    """MSVD-QA and MSR-VTT-QA, in either form of `published_questions.read_indexed_qa`."""
    path = one_file(files, "MSVD-QA or MSR-VTT-QA")
    rows = []
    for one in published_questions.read_indexed_qa(path, subset=subset, drop=refuse(path)):
        kind = normalize_answer(one.question).split(" ")[0]  # what, who, how, ...: the question types
        rows.append((one.video_id, one.question_id, one.question, one.answer, kind))
    return _examples(rows, media_names=lambda name: (name, f"video{name}") if name.isdigit() else (name,))


def read_avsd(files: Sequence[Path], subset: str | None) -> list[Example]:
    """AVSD (DSTC7) dialogs: the question is the last turn, with the previous turns in the prompt.

    Raises:
        ValueError: a malformed record, or a file whose answers the challenge does not disclose.
    """
    path = one_file(files, "AVSD")
    rows = []
    for number, dialog in enumerate(published_questions.read_avsd(path, drop=refuse(path))):
        turns = [(detokenize(question), detokenize(answer)) for question, answer in dialog.turns]
        question, answer = turns[-1]
        if answer.lower() == UNDISCLOSED:
            raise ValueError(f"{path}, dialog {number}: the answer is not disclosed: nothing can be scored")
        history = "".join(PROMPTS["dialog_turn"].format(question=q, answer=a) for q, a in turns[:-1])
        prompt = PROMPTS["dialog_question"].format(history=history, question=question)
        rows.append((dialog.video_id, dialog.video_id, question, answer, None, prompt))
    return _examples(rows, media_names=lambda name: (name, name.split("_")[0]))


def score_text(
    examples: Sequence[Example],
    answers: Mapping[str, Answer],
    protocol: Protocol,
    *,
    choose: Callable[[str, Sequence[str]], str] | None = None,
) -> Score:
    """Exact match and containment over all questions, and exact match per question type.

    Args:
        choose: maps an answer to one of the reference answers first (MUSIC-AVQA's closed set).
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
    """The choice that an answer mentions first, as whole words; the answer itself if it mentions none.

    >>> closed_answer("There are two violins.", ["cello", "two", "violin"]), closed_answer("**Yes**", ["no", "yes"])
    ('two', 'yes')
    """
    found = ((find_words(text, choice), choice) for choice in choices)
    named = [(place, -len(choice), choice) for place, choice in found if place is not None]
    return min(named)[2] if named else text


def _examples(rows: Sequence[tuple], *, media_names: Callable[[str], tuple[str, ...]]) -> list[Example]:
    """One example per video from (video, question id, question, answer, group) rows; the prompt is a sixth field
    unless it is the short-answer prompt."""
    videos: dict[str, list[Question]] = {}
    for video_id, key, asked, answer, group, *given in rows:
        asked = as_question(asked)
        prompt = given[0] if given else PROMPTS["short_answer"].format(question=asked)
        question = Question(id=key, prompt=prompt, kind="text", reference=answer, group=group, asked=asked)
        videos.setdefault(video_id, []).append(question)
    return [Example(key, media_names(key), None, tuple(questions)) for key, questions in videos.items()]


METRICS = METRIC_NAMES["open_ended_qa"]
ACTIVITYNET_QA = Task("activitynet_qa", ("short_answer",), METRICS, read_activitynet_qa, score_text)
MSVD_QA = Task("msvd_qa", ("short_answer",), METRICS, read_indexed_qa, score_text, default_subset="test")
MSRVTT_QA = Task("msrvtt_qa", ("short_answer",), METRICS, read_indexed_qa, score_text, default_subset="test")
AVSD = Task("avsd", ("dialog_turn", "dialog_question"), METRICS, read_avsd, score_text)
MUSIC_AVQA = Task("music_avqa", ("music_answer",), METRICS, read_music_avqa, partial(score_text, choose=closed_answer))
