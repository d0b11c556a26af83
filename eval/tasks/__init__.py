"""The benchmarks by name. Each module reads the annotation files of one family and scores its answers."""

from .activitynet_captions import ACTIVITYNET_CAPTIONS
from .question_answering import ACTIVITYNET_QA, AVSD, MSRVTT_QA, MSVD_QA, MUSIC_AVQA
from .temporal_grounding import CHARADES_STA, DIDEMO, QVHIGHLIGHTS
from .unav100 import SANDBOX, SANDBOX_QUERY, UNAV100, UNAV100_QUERY


TASKS = {
    task.name: task
    for task in (
        SANDBOX,
        SANDBOX_QUERY,
        UNAV100,
        UNAV100_QUERY,
        CHARADES_STA,
        DIDEMO,
        QVHIGHLIGHTS,
        ACTIVITYNET_CAPTIONS,
        ACTIVITYNET_QA,
        AVSD,
        MSRVTT_QA,
        MSVD_QA,
        MUSIC_AVQA,
    )
}
