"""The row schema of all training sets.

Rows store times in seconds; the model's time codec converts them to text. All builders yield dictionaries of this form
and `train/` reads no other form.
"""

from datasets import Features, List, Value


SEGMENT = {
    "clip_id": Value("string"),
    "start": Value("float32"),  # s, in the composed video
    "end": Value("float32"),  # s, in the composed video
    "scale": Value("float32"),  # new length / original length
    "caption": Value("string"),
}
MEDIA_KINDS = ("video", "audio", "image")
MEDIA = {
    **{kind: Value("string") for kind in MEDIA_KINDS},  # path of the file, or null
    # The part of the file that the row uses, in seconds of the file; null: from its start, to its end.
    "start": Value("float32"),
    "end": Value("float32"),
}
MESSAGE = {"role": Value("string"), "content": Value("string")}
TIME = {"name": Value("string"), "seconds": Value("float32")}

FEATURES = Features(
    {
        "id": Value("string"),
        "source": Value("string"),
        "duration": Value("float32"),  # s, of the part from media.start to media.end; null for images
        "media": MEDIA,
        "segments": List(SEGMENT),  # the pseudo-untrimmed composition; empty for a real video
        "messages": List(MESSAGE),  # "<video>", "<audio>", "<image>" and "<s0>", "<e0>" placeholders in the content
        "times": List(TIME),  # seconds of each "<s0>" and "<e0>", counted from media.start
    }
)
# A wrong answer to the question of a turn (counted from 0), for preference training. `reason`: one of `turns.REASONS`.
REJECTED = {
    "turn": Value("int32"),
    "reason": Value("string"),
    "content": Value("string"),
    "times": List(TIME),  # of the placeholders in `content`
}
# For compositions in which a segment may have one track of its clip (`time_line.TRACKS`; null: both). Only builds with
# such segments have the additional field.
TRACKED_FEATURES = Features({**FEATURES, "segments": List({**SEGMENT, "tracks": Value("string")})})


def with_rejected(features: Features) -> Features:
    """The columns of rows that also have rejected answers."""
    return Features({**features, "rejected": List(REJECTED)})
