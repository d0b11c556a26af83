"""Judged accuracy: a language model grades each stored answer as right or wrong, and with a score from 0 to 5.

    python -m eval.judge --run OUTPUT --annotations FILES --endpoint https://host/v1 --judge-model NAME

The protocol of Video-ChatGPT, with any OpenAI-compatible endpoint, applied to a finished run. Judges differ by up to
ten points, so the result names the judge, its version and the hash of the prompt. Verdicts are cached by content: only
new questions are sent when a run is repeated.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from dataset_builders.atomic_files import write_json
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_positive, check_range
from dataset_builders.release.provenance import git_commit
from dataset_builders.sources.annotation_files import fingerprint

from .judge_client import JudgeClient, Prices, RefusedQuestion, Reply, Verdict, read_verdict
from .prompts import PROMPTS, prompts_hash
from .records import read_answers, read_result
from .task import Answer, Question, read_examples
from .tasks import TASKS


PROGRAM = "python -m eval.judge"
JUDGE_PROMPTS = ("judge_system", "judge_question")
# this many refusals before the first verdict mean that the request is wrong, not the questions
MAX_REFUSED_AT_START = 20


@dataclass
class JudgeOptions:
    """Options of `python -m eval.judge`."""

    run: Path = field(metadata={"help": "Output folder of a finished eval.run."})
    annotations: list[Path] = field(metadata={"help": "Annotation files, as given to eval.run."})
    endpoint: str = field(metadata={"help": "Base URL; /chat/completions is appended."})
    judge_model: str = field(metadata={"help": "Exact name of the judge, with its date."})
    api_key_variable: str = field(
        default="OPENAI_API_KEY", metadata={"help": "Environment variable that holds the key."}
    )
    cache: Path | None = field(
        default=None, metadata={"help": "Cache of verdicts. Default: judge_cache.jsonl in the folder of the run."}
    )
    num_workers: int = field(default=8, metadata={"help": "Concurrent requests."})
    omit_temperature: bool = field(
        default=False, metadata={"help": "Send no temperature; for endpoints that refuse the default of 0."}
    )
    timeout: float = field(default=60.0, metadata={"help": "Seconds to wait for a reply."})
    num_retries: int = field(default=5, metadata={"help": "Retries of a request, with increasing delays."})
    price_input: float = field(default=0.0, metadata={"help": "Price of a million prompt tokens, in any currency."})
    price_output: float = field(default=0.0, metadata={"help": "Price of a million reply tokens."})
    max_cost: float | None = field(default=None, metadata={"help": "Stop when this cost is reached."})

    def __post_init__(self):
        check_range(self, 1, "num_workers")
        check_range(self, 0, "num_retries", "price_input", "price_output", "max_cost")
        check_positive(self, "timeout")
        if not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(f"--endpoint must begin with http:// or https://, got {self.endpoint!r}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(JudgeOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    result = read_result(options.run / "results.json", also=("settings", "dataset", "conditions"))
    questions, answers = read_questions(options, result)
    client = JudgeClient(
        options.endpoint,
        model=options.judge_model,
        api_key=os.environ.get(options.api_key_variable),
        cache=options.cache or options.run / "judge_cache.jsonl",
        temperature=None if options.omit_temperature else 0.0,
        timeout=options.timeout,
        num_retries=options.num_retries,
        prices=Prices(options.price_input, options.price_output),
        max_cost=options.max_cost,
    )
    replies, refused = judge_answers(client, questions, answers, num_workers=options.num_workers)
    verdicts = {key: read_verdict(reply.text) for key, reply in replies.items()}
    readable = {key: verdict for key, verdict in verdicts.items() if verdict is not None}
    judged = {
        **result,
        "name": "/".join([result["task"], f"judge-{options.judge_model}", *result["conditions"]]),
        "protocol": {"name": f"judge-{options.judge_model}"},
        "metrics": judged_metrics(questions, readable),
        "counts": {
            "num_questions": len(questions),
            "num_without_verdict": len(questions) - len(readable),
            "num_refused": len(refused),
        },
        "refused": refused,
        "judge": {
            "model": options.judge_model,
            "version": ", ".join(sorted({reply.version for reply in replies.values()})),
            "prompt_sha256": prompts_hash(JUDGE_PROMPTS),
            **client.spent.counts(client.prices),
        },
        "git_commit": git_commit(),
    }
    write_json(options.run / "results_judge.json", judged)
    figures = ", ".join(f"{name} {judged['metrics'][name]:.2f}" for name in ("accuracy", "score"))
    print(f"{judged['name']} ({judged['judge']['version']}): {figures}; {client.spent.summary(client.prices)}")
    print(
        f"  {len(questions) - len(readable)} of {len(questions)} answers have no readable verdict and are not "
        f"counted, {len(refused)} of them were refused by the endpoint"
    )
    print(f"  {options.run / 'results_judge.json'}")


def read_questions(options: JudgeOptions, result: dict) -> tuple[list[Question], dict[str, Answer]]:
    """The questions of a finished run with free-text answers, and the answers by question id.

    Raises:
        ValueError: an unknown task, no such question, or annotation files other than those of the run.
    """
    if result["task"] not in TASKS:
        raise ValueError(f"{options.run} is a run of the unknown task {result['task']!r}; known are {sorted(TASKS)}")
    known = result["settings"]["annotations_sha256"]
    if fingerprint(options.annotations) != known:
        raise ValueError(
            f"{[str(path) for path in options.annotations]} are not the annotation files of the run in {options.run}"
        )
    examples = read_examples(TASKS[result["task"]], options.annotations, result["dataset"]["split"])
    answers = {answer.question_id: answer for answer in read_answers(options.run / "predictions.jsonl")}
    questions = [q for example in examples for q in example.questions if q.id in answers and q.kind == "text"]
    if not questions:
        raise ValueError(f"{options.run} has no free-text answers to questions of {result['task']}")
    return questions, answers


def judge_messages(question: Question, answer: Answer) -> list[dict]:
    """The prompt of the judge."""
    asked = PROMPTS["judge_question"].format(
        question=question.asked, reference=question.reference, prediction=answer.text or "(no answer)"
    )
    return [{"role": "system", "content": PROMPTS["judge_system"]}, {"role": "user", "content": asked}]


def judge_answers(
    client: JudgeClient, questions: Sequence[Question], answers: dict[str, Answer], *, num_workers: int = 8
) -> tuple[dict[str, Reply], dict[str, str]]:
    """The reply to each question, and the reason for each question that the endpoint refused, by question id.

    Raises:
        ValueError: as `JudgeClient.ask`, or the endpoint refuses the first `MAX_REFUSED_AT_START` questions.
    """
    replies: dict[str, Reply] = {}
    refused: dict[str, str] = {}
    with ThreadPoolExecutor(num_workers) as pool, tqdm(total=len(questions), unit="answer") as progress:
        waiting = {pool.submit(client.ask, judge_messages(q, answers[q.id])): q.id for q in questions}
        try:
            for done in as_completed(waiting):
                try:
                    replies[waiting[done]] = done.result()
                except RefusedQuestion as error:
                    refused[waiting[done]] = str(error)
                    if not replies and len(refused) >= min(MAX_REFUSED_AT_START, len(questions)):
                        raise ValueError(f"the first {len(refused)} questions were all refused; {error}") from error
                progress.update()
                progress.set_postfix_str(client.spent.summary(client.prices))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # do not send thousands of requests with a wrong key
            raise
    return replies, refused


def judged_metrics(questions: Sequence[Question], verdicts: dict[str, Verdict]) -> dict[str, float]:
    """Accuracy in 0-100 and mean score in 0-5 over the judged questions, overall and per question type.

    Raises:
        ValueError: nothing was judged.
    """
    if not verdicts:
        raise ValueError(f"the judge gave no readable verdict on any of {len(questions)} answers")
    metrics = {}
    for group in (None, *sorted({question.group for question in questions if question.group})):
        chosen = [verdicts[q.id] for q in questions if q.id in verdicts and group in (None, q.group)]
        if chosen:
            suffix = "" if group is None else f"/{group}"
            metrics[f"accuracy{suffix}"] = 100.0 * sum(verdict.is_right for verdict in chosen) / len(chosen)
            metrics[f"score{suffix}"] = sum(verdict.score for verdict in chosen) / len(chosen)
    return metrics


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
