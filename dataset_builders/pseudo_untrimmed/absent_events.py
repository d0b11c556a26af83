"""Choose events that do not occur in a planned video, so that the answer to some questions is "No event." (option
`absent_share`; our choice, the paper has no such questions).

Half of them are captions from the video's own cluster (hard), half are arbitrary captions (easy). The hard ones are
drawn at random, or from the captions of the cluster that are closest to those of the video. No file access: the
questions are written in `shards.py`.
"""

import dataclasses

import numpy as np

from .planning import Plan, draw_uniform, slot


NUM_TRIES = 8  # draws per question; if none of them is valid, the turn asks about an event that occurs
HARD_ABSENT = ("cluster", "nearest")
NUM_NEAREST = 5  # captions that a hard absent event is drawn from, with "nearest"; our choice
CHUNK_ROWS = 4096  # rows whose embeddings are in memory at a time


def draw_absent(
    plan: Plan,
    clusters: list[np.ndarray],
    *,
    events: np.ndarray,
    embeddings: np.ndarray | None,
    ambiguity_threshold: float | None,
    absent_share: float,
    hard_absent: str = "cluster",
    max_turns: int,
    seed: int,
) -> Plan:
    """The plan with `absent` filled in: for each of `max_turns` turns, the clip with the absent event, or -1.

    Args:
        plan (`Plan`), clusters (list of `np.ndarray`):
            Accepted plans and the clusters that they were drawn from.
        events (`np.ndarray` of shape `(num_clips,)`):
            Equal numbers for clips with the same caption. An absent event is not an event of the video.
        embeddings (`np.ndarray` of shape `(num_clips, embedding_size)`, *optional*):
            Unit-length caption embeddings.
        ambiguity_threshold (`float`, *optional*):
            A caption is not used as absent if its cosine similarity to a caption of the video exceeds the threshold.
        absent_share (`float`):
            Probability that a grounding turn asks about an absent event.
        hard_absent (`str`, *optional*, defaults to `"cluster"`):
            Where hard absent events come from: `"cluster"`, any caption of the video's cluster, or `"nearest"`, one of
            the five that are closest to a caption of the video by cosine. The latter needs embeddings.
        max_turns (`int`), seed (`int`):
            Settings of the build.
    """
    if not absent_share:
        return plan
    labels = np.full(len(events), -1)
    for label, members in enumerate(clusters):
        labels[members] = label
    members, sizes = np.concatenate(clusters), np.array([len(cluster) for cluster in clusters])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    parts = []
    for first in range(0, len(plan), CHUNK_ROWS):
        part = plan.take(slice(first, first + CHUNK_ROWS))
        shown = part.event_clips  # [R, K + 1]
        present = shown >= 0
        own = labels[part.clips[:, 0]]  # [R]
        known = [np.where(present, events[shown], -1)]
        absent = np.full((len(part), max_turns), -1, np.int64)
        nearest = None
        if hard_absent == "nearest":
            assert embeddings is not None
            nearest = find_nearest(part, clusters, own, events, embeddings, ambiguity_threshold)
        for turn in range(max_turns):
            base = turn * 2 * (NUM_TRIES + 1)
            asked = draw_uniform(part.rows, 0, slot("absent", base), seed=seed) < absent_share
            for attempt in range(1, NUM_TRIES + 1):
                hard = draw_uniform(part.rows, 0, slot("absent", base + 2 * attempt), seed=seed) < 0.5
                draw = draw_uniform(part.rows, 0, slot("absent", base + 2 * attempt + 1), seed=seed)
                hard_clip = members[offsets[own] + (draw * sizes[own]).astype(np.int64)]
                if nearest is not None:
                    count = np.maximum((nearest >= 0).sum(axis=1), 1)
                    listed = nearest[np.arange(len(part)), (draw * count).astype(np.int64)]
                    hard_clip = np.where(listed >= 0, listed, hard_clip)
                clip = np.where(hard, hard_clip, members[(draw * len(members)).astype(np.int64)])
                fits = ~np.any(np.concatenate(known, axis=1) == events[clip][:, None], axis=1)
                if embeddings is not None and ambiguity_threshold is not None:
                    cosines = np.einsum("rkd,rd->rk", embeddings[np.maximum(shown, 0)], embeddings[clip])
                    fits &= np.where(present, cosines, -1).max(axis=1) <= ambiguity_threshold
                chosen = asked & fits & (absent[:, turn] < 0)
                absent[chosen, turn] = clip[chosen]
            known.append(np.where(absent[:, turn] >= 0, events[absent[:, turn]], -1)[:, None])
        parts.append(dataclasses.replace(part, absent=absent))
    return Plan.join(parts) if parts else plan


def find_nearest(
    plan: Plan,
    clusters: list[np.ndarray],
    own: np.ndarray,
    events: np.ndarray,
    embeddings: np.ndarray,
    ambiguity_threshold: float | None,
) -> np.ndarray:
    """For each video, the clips of its cluster with the captions closest to its own, `(R, NUM_NEAREST)`, -1 for none.

    Events of the video are left out, and so are captions above the ambiguity threshold. Each event is listed once.

    Args:
        own (`np.ndarray` of shape `(R,)`): the cluster of each video.
    """
    found = np.full((len(plan), NUM_NEAREST), -1, np.int64)
    for label in np.unique(own):
        rows = np.flatnonzero(own == label)
        _, first = np.unique(events[clusters[label]], return_index=True)
        candidates = clusters[label][np.sort(first)]  # [M]
        clips = plan.event_clips[rows]  # [R, K + 1]
        present = clips >= 0
        cosines = embeddings[np.maximum(clips, 0)] @ embeddings[candidates].T  # [R, K + 1, M]
        closest = np.where(present[:, :, None], cosines, -1).max(axis=1)  # [R, M]
        known = (np.where(present, events[clips], -1)[:, :, None] == events[candidates]).any(axis=1)
        usable = ~known if ambiguity_threshold is None else ~known & (closest <= ambiguity_threshold)
        order = np.argsort(np.where(usable, -closest, np.inf), axis=1, kind="stable")[:, :NUM_NEAREST]
        listed = np.where(np.take_along_axis(usable, order, axis=1), candidates[order], -1)
        found[rows, : listed.shape[1]] = listed
    return found
