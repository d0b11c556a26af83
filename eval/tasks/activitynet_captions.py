"""Dense captioning on ActivityNet Captions, with one or both annotators of its validation set as references."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dataset_builders.sources import published_events
from dataset_builders.sources.records import refuse

from ..events_reading import story_queries
from ..metrics import METRIC_NAMES, load_metric
from ..prompts import PROMPTS
from ..task import Answer, Example, Protocol, Question, Score, Task


def read_activitynet_captions(files: Sequence[Path], subset: str | None) -> list[Example]:
    """val_1.json, or val_1.json and val_2.json: the videos of all files, with the stories of all annotators.

    Segments that do not end after they start are skipped, and videos without any other segment.

    Raises:
        ValueError: no file, or a malformed record.
    """
    if not files:
        raise ValueError("ActivityNet Captions needs val_1.json, or val_1.json and val_2.json")
    annotators = [list(published_events.read_activitynet_captions(path, drop=refuse(path))) for path in files]
    examples = []
    for query in story_queries(annotators):
        stories = list(query.spans)
        question = Question(id=query.video_id, prompt=PROMPTS["narration"], kind="events", reference=stories)
        names = (query.video_id, query.video_id.removeprefix("v_"))
        examples.append(Example(query.video_id, names, query.duration, (question,)))
    return examples


def score_captions(examples: Sequence[Example], answers: Mapping[str, Answer], protocol: Protocol) -> Score:
    """SODA_c and the ActivityNet protocol."""
    questions = [example.questions[0] for example in examples]
    predictions = [
        [{"start": event.start, "end": event.end, "caption": event.label} for event in answers[question.id].events]
        for question in questions
    ]
    metrics = load_metric("dense_captioning").compute(
        predictions=predictions,
        references=[question.reference for question in questions],
        meteor_jar=None if protocol.meteor_jar is None else str(protocol.meteor_jar),
    )
    version = "nltk" if protocol.meteor_jar is None else "1.5"
    num_annotators = max(len(question.reference) for question in questions)
    counts = {"num_events": sum(map(len, predictions)), "num_annotators": num_annotators}
    return Score(metrics, counts, f"narration-meteor_{version}-annotators_{num_annotators}")


ACTIVITYNET_CAPTIONS = Task(
    "activitynet_captions", ("narration",), METRIC_NAMES["dense_captioning"], read_activitynet_captions, score_captions
)
