"""Every question that an evaluation asks, in one place; a snapshot test holds the wording.

Event questions are the pipeline's own (`modeling_avicuna.prompt_avicuna`), so that a benchmark asks what a user asks. The
paper publishes no evaluation prompt: the wording of the others is our choice. Judge prompts are in `judge.py`'s JSON file.
"""

import hashlib
import json
from collections.abc import Iterable

from modeling_avicuna.prompt_avicuna import GROUNDING_PROMPT, NARRATION_PROMPT


PROMPTS = {
    "narration": NARRATION_PROMPT,
    "grounding": GROUNDING_PROMPT,
    "open_question": "{question}",
    "short_answer": "{question}\nAnswer the question with a single word or a short phrase.",
    "dialog_turn": "Q: {question}\nA: {answer}\n",
    "dialog_question": "{history}Q: {question}\nAnswer the last question in one sentence.",
    "music_answer": "{question}\nAnswer with one of these words: {choices}.",
}


def prompts_hash(names: Iterable[str]) -> str:
    """SHA-256 over the named prompts' texts: results with equal hashes asked alike."""
    texts = {name: PROMPTS[name] for name in sorted(names)}
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()
