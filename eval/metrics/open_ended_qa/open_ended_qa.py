"""`evaluate` module: exact match and containment of free answers.

    evaluate.load("eval/metrics/open_ended_qa").compute(predictions=["Yes."], references=["yes"])

A thin shell over `answers.py`. The judge protocol needs an endpoint: `eval/judge.py`.
"""

import datasets
import evaluate

from .answers import score_answers
from .words import LETTER


# `evaluate` copies to its module cache only the files that this one imports, so what answers.py needs is named too.
__all__ = ["LETTER", "OpenEndedQA", "score_answers"]


_DESCRIPTION = """
Share of open-ended answers that equal the reference after normalisation (exact_match), or contain its words one after
the other (contained). Values are in 0-100.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: answers, one string per question.
    references: expected answers, in the same order.
Returns:
    {"exact_match": ..., "contained": ...} in 0-100.
Examples:
    >>> metric = evaluate.load("eval/metrics/open_ended_qa")
    >>> metric.compute(predictions=["Yes.", "a red piano"], references=["yes", "piano"])
    {'exact_match': 50.0, 'contained': 100.0}
"""

_CITATION = """
@inproceedings{yu2019activitynet, title={ActivityNet-QA: A Dataset for Understanding Complex Web Videos via Question
Answering}, author={Yu, Zhou and Xu, Dejing and Yu, Jun and Yu, Ting and Zhao, Zhou and Zhuang, Yueting and Tao,
Dacheng}, booktitle={AAAI}, year={2019}}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class OpenEndedQA(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return score_answers(predictions, references)
