"""The one row schema of every training set.

Rows store seconds; the model's time codec alone turns seconds into text. A builder yields dictionaries of this form and
`train/` reads nothing else. This file declares the columns; it builds nothing.
"""

from datasets import Features, List, Value


SEGMENT = {
    "clip_id": Value("string"),
    "start": Value("float32"),  # s, in the composed video
    "end": Value("float32"),  # s, in the composed video
    "scale": Value("float32"),  # new length / original length
    "caption": Value("string"),
}
MESSAGE = {"role": Value("string"), "content": Value("string")}
TIME = {"name": Value("string"), "seconds": Value("float32")}

FEATURES = Features(
    {
        "id": Value("string"),
        "source": Value("string"),
        "duration": Value("float32"),  # s; null for images
        "media": {"video": Value("string"), "audio": Value("string"), "image": Value("string")},
        "segments": List(SEGMENT),  # the pseudo-untrimmed composition; empty for a real video
        "messages": List(MESSAGE),  # "<video>", "<audio>", "<image>" and "<s0>", "<e0>" placeholders in the content
        "times": List(TIME),  # what "<s0>" stands for
    }
)
