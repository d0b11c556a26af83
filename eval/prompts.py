"""The prompts of all evaluations. A snapshot test checks their wording.

Event questions are those of the pipeline (`modeling_avicuna.prompt_avicuna`). The paper publishes no evaluation
prompts; the others are our choice. The judge is asked for a verdict as in Video-ChatGPT (yes or no, and 0 to 5).
"""

import hashlib
import json
from collections.abc import Iterable

from modeling_avicuna.prompt_avicuna import GROUNDING_PROMPT, NARRATION_PROMPT


PROMPTS = {
    "narration": NARRATION_PROMPT,
    "grounding": GROUNDING_PROMPT,
    "short_answer": "{question}\nAnswer the question with a single word or a short phrase.",
    "dialog_turn": "Q: {question}\nA: {answer}\n",
    "dialog_question": "{history}Q: {question}\nAnswer the last question in one sentence.",
    "music_answer": "{question}\nAnswer with one of these words: {choices}.",
    "judge_system": (
        "You grade answers to questions about videos. You have not seen the video: the reference answer is right by "
        "definition. Judge the meaning, not the wording. Synonyms and paraphrases are right, and so is an answer that "
        "says more than the reference without contradicting it."
    ),
    "judge_question": (
        "Question: {question}\nReference answer: {reference}\nAnswer to grade: {prediction}\n\n"
        "Does the answer mean the same as the reference? Reply with one JSON object and nothing else: "
        '{{"pred": "yes" or "no", "score": an integer from 0 (unrelated) to 5 (the same meaning)}}.'
    ),
}


def prompts_hash(names: Iterable[str]) -> str:
    """SHA-256 of the texts of the named prompts."""
    texts = {name: PROMPTS[name] for name in sorted(names)}
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()
