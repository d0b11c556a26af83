"""Judged accuracy: a language model says of each stored answer whether it is right (yes or no) and how right (0-5).

    python -m eval.judge --run OUTPUT --annotations FILES --endpoint https://host/v1 --judge-model NAME

The protocol of the Video-ChatGPT family against any OpenAI-compatible endpoint. It asks the model under test nothing: it reads
a finished run. Judges differ by up to ten points, so the result names judge, version and prompt hash. Verdicts are cached by
content: going on after a stop, or judging again, pays only for what is new.
"""

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from dataset_builders.release.provenance import git_commit

from .judge_client import JudgeClient, Prices, Reply, Verdict, read_verdict
from .prompts import PROMPTS, prompts_hash
from .records import read_answers, write_json
from .task import Answer, Question
from .tasks import TASKS


JUDGE_PROMPTS = ("judge_system", "judge_question")


def judge_messages(question: Question, answer: Answer) -> list[dict]:
    """The conversation that the judge is asked to continue."""
    asked = PROMPTS["judge_question"].format(
        question=question.asked, reference=question.reference, prediction=answer.text or "(no answer)"
    )
    return [{"role": "system", "content": PROMPTS["judge_system"]}, {"role": "user", "content": asked}]


def judge_answers(
    client: JudgeClient, questions: Sequence[Question], answers: dict[str, Answer], *, num_workers: int = 8
) -> dict[str, Reply]:
    """A reply for each question, by question id; with progress, tokens and cost so far on the screen."""
    replies: dict[str, Reply] = {}
    with ThreadPoolExecutor(num_workers) as pool, tqdm(total=len(questions), unit="answer") as progress:
        waiting = {pool.submit(client.ask, judge_messages(q, answers[q.id])): q.id for q in questions}
        try:
            for done in as_completed(waiting):
                replies[waiting[done]] = done.result()
                progress.update()
                progress.set_postfix_str(client.spent.summary(client.prices))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # a wrong key must not be tried thousands of times
            raise
    return replies


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
            end = "" if group is None else f"/{group}"
            metrics[f"accuracy{end}"] = 100.0 * sum(verdict.is_right for verdict in chosen) / len(chosen)
            metrics[f"score{end}"] = sum(verdict.score for verdict in chosen) / len(chosen)
    return metrics


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.judge", description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, type=Path, help="output folder of a finished eval.run")
    parser.add_argument("--annotations", required=True, nargs="+", type=Path, help="as given to eval.run")
    parser.add_argument("--endpoint", required=True, help="base address, to which /chat/completions is added")
    parser.add_argument("--judge-model", required=True, help="the exact, dated name of the judge")
    parser.add_argument("--api-key-variable", default="OPENAI_API_KEY", help="environment variable with the key")
    parser.add_argument("--cache", type=Path, help="file of verdicts; default: judge_cache.jsonl in the run's folder")
    parser.add_argument("--num-workers", type=int, default=8, help="questions under way at a time")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for one reply")
    parser.add_argument("--num-retries", type=int, default=5, help="after the first try, with growing pauses")
    parser.add_argument("--price-input", type=float, default=0.0, help="per million prompt tokens, in any currency")
    parser.add_argument("--price-output", type=float, default=0.0, help="per million reply tokens")
    parser.add_argument("--max-cost", type=float, help="stop before a question that could go beyond this")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(arguments)
    result = json.loads((arguments.run / "results.json").read_text(encoding="utf-8"))
    examples = TASKS[result["task"]].read(arguments.annotations, result["dataset"]["split"])
    answers = {answer.question_id: answer for answer in read_answers(arguments.run / "predictions.jsonl")}
    questions = [q for example in examples for q in example.questions if q.id in answers and q.kind == "text"]
    if not questions:
        raise ValueError(f"{arguments.run} holds no free answers to questions of {result['task']}")
    client = JudgeClient(
        arguments.endpoint,
        model=arguments.judge_model,
        api_key=os.environ.get(arguments.api_key_variable),
        cache=arguments.cache or arguments.run / "judge_cache.jsonl",
        timeout=arguments.timeout,
        num_retries=arguments.num_retries,
        prices=Prices(arguments.price_input, arguments.price_output),
        max_cost=arguments.max_cost,
    )
    replies = judge_answers(client, questions, answers, num_workers=arguments.num_workers)
    verdicts = {key: read_verdict(reply.text) for key, reply in replies.items()}
    readable = {key: verdict for key, verdict in verdicts.items() if verdict is not None}
    versions = sorted({reply.version for reply in replies.values()})
    judged = {
        **result,
        "name": f"{result['task']}/judge-{arguments.judge_model}",
        "protocol": {"name": f"judge-{arguments.judge_model}"},
        "metrics": judged_metrics(questions, readable),
        "counts": {"num_questions": len(questions), "num_without_verdict": len(questions) - len(readable)},
        "judge": {
            "model": arguments.judge_model,
            "version": ", ".join(versions),
            "prompt_sha256": prompts_hash(JUDGE_PROMPTS),
            **client.spent.counts(client.prices),
        },
        "git_commit": git_commit(),
    }
    write_json(arguments.run / "results_judge.json", judged)
    told = ", ".join(f"{name} {judged['metrics'][name]:.2f}" for name in ("accuracy", "score"))
    print(f"{judged['name']} ({judged['judge']['version']}): {told}; {client.spent.summary(client.prices)}")
    print(f"  {len(questions) - len(readable)} of {len(questions)} answers have no readable verdict and do not count")
    print(f"  {arguments.run / 'results_judge.json'}")


if __name__ == "__main__":
    main()
