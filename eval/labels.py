"""Maps the texts of events to the classes of a benchmark, by the rule of the protocol (`task.Protocol.label`).

With "exact", a text that equals no class name has no class; "embedding" always assigns the nearest class.
"""

from collections.abc import Sequence

import numpy as np

from .metrics.open_ended_qa.answers import normalize_answer
from .task import Protocol


def match_labels(texts: Sequence[str], classes: Sequence[str], protocol: Protocol) -> list[str | None]:
    """The class of each text under `protocol.label`, or None.

    Args:
        texts: event descriptions in the model's words.
        classes: class names of the benchmark.

    Raises:
        ValueError: no classes, or an unknown protocol.
    """
    if not classes:
        raise ValueError("there are no classes to match the texts of events with")
    if protocol.label == "exact":
        by_name = {normalize_answer(name): name for name in classes}
        return [by_name.get(normalize_answer(text)) for text in texts]
    if protocol.label == "embedding":
        distinct = sorted(set(texts))
        nearest = dict(zip(distinct, nearest_classes(distinct, classes, encoder=protocol.encoder)))
        return [nearest[text] for text in texts]
    raise ValueError(f"unknown label protocol {protocol.label!r}: 'exact' or 'embedding'")


def nearest_classes(texts: Sequence[str], classes: Sequence[str], *, encoder: str) -> list[str]:
    """The class whose name has the highest cosine similarity with each text; for ties, the first."""
    if not texts:
        return []
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(encoder, device="cpu")
    names = model.encode(list(classes), normalize_embeddings=True, show_progress_bar=False)  # [num_classes, D]
    rows = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)  # [num_texts, D]
    return [classes[index] for index in np.argmax(rows @ names.T, axis=1)]
