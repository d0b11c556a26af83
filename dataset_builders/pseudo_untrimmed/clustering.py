"""Group clips by their captions (step 2 of the paper: event-based clustering of the caption embeddings).

The paper names neither the algorithm nor the number of clusters: both are our choice. The input is
embeddings, the output labels; no file is read. scikit-learn is imported inside functions: the import takes seconds,
and a process that only writes shards does not need it.
"""

import warnings
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm


if TYPE_CHECKING:
    from sklearn.cluster import MiniBatchKMeans


METHODS = ("kmeans", "agglomerative", "none")
SMALL_CLUSTERS = ("merge", "drop")
BUCKET_SIZE = 2000  # captions; agglomerative clustering is quadratic, so it runs inside k-means buckets of this size
# captions; the cost of k-means is clips x clusters, so larger sets are first divided into buckets (our choice: above
# the 32,000 of VALOR-32K). 16,000 captions of VALOR and AudioCaps, embedded by all-MiniLM-L6-v2, have a mean cosine
# within clusters of 0.630 without buckets (21 CPU-s) and of 0.628 with them (5 CPU-s)
DIRECT_CLIPS = 40_000
BUCKET_SAMPLE = 100_000  # captions used to fit the buckets
SUMMED_ROWS = 16_384  # embeddings in double precision at a time
MAX_ITER = 100  # passes of mini-batch k-means over the captions
BUCKET_ITER = 20  # passes within a bucket of a large set
DROPPED = -1


def cluster_clips(
    embeddings: np.ndarray,
    *,
    method: str = "kmeans",
    cluster_size: int = 20,
    min_cluster_size: int = 8,
    small_clusters: str = "merge",
    seed: int = 0,
) -> tuple[np.ndarray, int]:
    """Label each clip with its cluster; no cluster is smaller than `min_cluster_size`.

    Args:
        embeddings (`np.ndarray` of shape `(num_clips, embedding_size)`):
            Unit-length rows.
        method (`str`, *optional*, defaults to `"kmeans"`):
            `"kmeans"`: mini-batch k-means; above 40,000 captions, within k-means buckets of about 2,000 to 4,000.
            `"agglomerative"`: average linkage by cosine distance within such buckets. `"none"`: all clips in one
            cluster (the ablation without event-based clustering).
        cluster_size (`int`, *optional*, defaults to 20):
            Mean number of clips in a cluster.
        min_cluster_size (`int`, *optional*, defaults to 8):
            Smaller clusters are merged into the nearest one, or dropped.
        small_clusters (`str`, *optional*, defaults to `"merge"`):
            `"merge"` or `"drop"`.
        seed (`int`, *optional*, defaults to 0):
            Random seed of k-means.

    Returns:
        `tuple(np.ndarray, int)`: labels `(num_clips,)`, counted from 0, -1 where the clip was dropped; and the number
        of clusters that were too small.

    Raises:
        ValueError: an unknown method, sizes below 1, or too few clips for one cluster.
    """
    if method not in METHODS or small_clusters not in SMALL_CLUSTERS:
        raise ValueError(
            f"clustering must be one of {METHODS}, got {method!r}; {SMALL_CLUSTERS}, got {small_clusters!r}"
        )
    if cluster_size < 1 or min_cluster_size < 1:
        raise ValueError(f"cluster sizes must be positive, got {cluster_size} and {min_cluster_size}")
    num_clips = len(embeddings)
    if num_clips < min_cluster_size:
        raise ValueError(f"{num_clips} clips do not make one cluster of {min_cluster_size}")
    num_clusters = max(1, round(num_clips / cluster_size))
    if method == "none" or num_clusters == 1:
        return np.zeros(num_clips, np.int64), 0
    from threadpoolctl import threadpool_limits

    # one thread: the summation order of several threads would change the last bit of a centre, and so a label
    with threadpool_limits(limits=1):
        buckets = fit_buckets(embeddings, min_cluster_size, seed)
        labels, first, num_small = np.full(num_clips, DROPPED), 0, 0
        for bucket in tqdm(range(buckets.max() + 1), desc="clustering captions", unit="bucket"):
            members = np.flatnonzero(buckets == bucket)
            part = embeddings[members] if buckets.max() else embeddings
            if method == "kmeans":
                num_clusters = max(1, round(len(part) / cluster_size))
                found = fit_kmeans(part, num_clusters, seed, max_iter=MAX_ITER if part is embeddings else BUCKET_ITER)
            else:
                found = fit_agglomerative(part, cluster_size, seed)
            found, small = remove_small(part, found, min_cluster_size, small_clusters)
            labels[members] = np.where(found == DROPPED, DROPPED, found + first)
            first, num_small = first + found.max() + 1, num_small + small
    if (labels == DROPPED).all():
        raise ValueError(f"no cluster has {min_cluster_size} clips")
    return compact(labels), num_small


def fit_buckets(embeddings: np.ndarray, min_cluster_size: int, seed: int) -> np.ndarray:
    """Buckets of about `BUCKET_SIZE` captions, each with at least `min_cluster_size`; a single bucket for up to
    `DIRECT_CLIPS`.

    Buckets of more than twice that size are divided again: the time within a bucket grows with its square.
    """
    if len(embeddings) <= DIRECT_CLIPS:
        return np.zeros(len(embeddings), np.int64)
    sample = np.random.default_rng(seed).permutation(len(embeddings))[:BUCKET_SAMPLE]
    model = kmeans_model(round(len(embeddings) / BUCKET_SIZE), seed).fit(embeddings[np.sort(sample)])
    chunks = (embeddings[first : first + BUCKET_SAMPLE] for first in range(0, len(embeddings), BUCKET_SAMPLE))
    labels = np.concatenate([model.predict(chunk) for chunk in chunks]).astype(np.int64)
    large = [bucket for bucket, size in enumerate(np.bincount(labels)) if size > 2 * BUCKET_SIZE]
    while large:
        members = np.flatnonzero(labels == large.pop())
        parts = fit_kmeans(embeddings[members], round(len(members) / BUCKET_SIZE), seed, max_iter=BUCKET_ITER)
        if not parts.any():  # equal captions
            parts = np.arange(len(members)) // BUCKET_SIZE
        first = labels.max() + 1
        labels[members] = parts + first
        large += [first + part for part, size in enumerate(np.bincount(parts)) if size > 2 * BUCKET_SIZE]
    return remove_small(embeddings, compact(labels), min_cluster_size, "merge")[0]


def fit_kmeans(embeddings: np.ndarray, num_clusters: int, seed: int, *, max_iter: int = MAX_ITER) -> np.ndarray:
    """Mini-batch k-means labels, counted from 0 without gaps."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct captions than clusters are accepted
        return compact(kmeans_model(num_clusters, seed, max_iter=max_iter).fit_predict(embeddings))


def kmeans_model(num_clusters: int, seed: int, *, max_iter: int = MAX_ITER) -> "MiniBatchKMeans":
    """An unfitted mini-batch k-means."""
    from sklearn.cluster import MiniBatchKMeans

    return MiniBatchKMeans(n_clusters=num_clusters, random_state=seed, n_init=1, batch_size=4096, max_iter=max_iter)


def fit_agglomerative(embeddings: np.ndarray, cluster_size: int, seed: int) -> np.ndarray:
    """Average-linkage labels by cosine distance, bucket by bucket."""
    from sklearn.cluster import AgglomerativeClustering

    buckets = fit_kmeans(embeddings, max(1, round(len(embeddings) / BUCKET_SIZE)), seed)
    labels = np.zeros(len(embeddings), np.int64)
    first = 0
    for bucket in range(buckets.max() + 1):
        members = np.flatnonzero(buckets == bucket)
        num_clusters = max(1, round(len(members) / cluster_size))
        if len(members) > 1 and num_clusters > 1:
            model = AgglomerativeClustering(n_clusters=num_clusters, metric="cosine", linkage="average")
            labels[members] = first + model.fit_predict(embeddings[members])
        else:
            labels[members] = first
        first += num_clusters
    return compact(labels)


def remove_small(
    embeddings: np.ndarray, labels: np.ndarray, min_cluster_size: int, small_clusters: str
) -> tuple[np.ndarray, int]:
    """Merge clusters below the minimum into the one with the nearest mean, smallest first, or label them -1."""
    labels = labels.copy()
    sums = sum_by_label(embeddings, labels)
    sizes = np.bincount(labels)
    num_small = int((sizes < min_cluster_size).sum())
    if small_clusters == "drop":
        labels[sizes[labels] < min_cluster_size] = DROPPED
        return compact(labels), num_small
    alive = sizes > 0
    while alive.sum() > 1:
        smallest = int(np.flatnonzero(alive)[np.argmin(sizes[alive])])
        if sizes[smallest] >= min_cluster_size:
            break
        means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        closeness = np.where(alive, means @ means[smallest], -np.inf)
        closeness[smallest] = -np.inf
        target = int(np.argmax(closeness))
        labels[labels == smallest] = target
        sums[target] += sums[smallest]
        sizes[target] += sizes[smallest]
        sizes[smallest], alive[smallest] = 0, False
    return compact(labels), num_small


def compact(labels: np.ndarray) -> np.ndarray:
    """Renumber the labels 0, 1, ... by first appearance; -1 is unchanged."""
    used, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.where(used == DROPPED, len(labels), first))
    rank = np.empty(len(used), np.int64)
    rank[order] = np.arange(len(used))
    return np.where(labels == DROPPED, DROPPED, rank[inverse])


def measure_clusters(embeddings: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> dict:
    """Sizes of the clusters, and the similarity of their captions compared with random groups of the same sizes.

    Returns:
        `dict`: `num_clusters`, `sizes` (list), `mean_cosine` and `random_mean_cosine` over all pairs within a group.
    """
    kept = labels != DROPPED
    sizes = np.bincount(labels[kept])
    shuffled = np.random.default_rng(seed).permutation(labels[kept])
    return {
        "num_clusters": len(sizes),
        "sizes": sizes.tolist(),
        "mean_cosine": mean_pair_cosine(embeddings[kept], labels[kept]),
        "random_mean_cosine": mean_pair_cosine(embeddings[kept], shuffled),
    }


def mean_pair_cosine(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """Mean cosine over all pairs of rows with the same label: |sum|^2 contains each pair twice and each row once."""
    sums = sum_by_label(embeddings, labels)
    sizes = np.bincount(labels)
    num_pairs = (sizes * (sizes - 1)).sum()
    return float(((sums**2).sum() - len(labels)) / num_pairs) if num_pairs else 1.0


def sum_by_label(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sums of the rows with each label, `(num_labels, embedding_size)`, in double precision.

    The rows are added in their order, so the bits are those of `np.add.at`, which takes six times as long.
    """
    from scipy.sparse import csr_array

    sums = np.zeros((labels.max() + 1, embeddings.shape[1]))
    for first in range(0, len(labels), SUMMED_ROWS):
        used, places = np.unique(labels[first : first + SUMMED_ROWS], return_inverse=True)
        places = np.concatenate([np.arange(len(used)), places])  # the sums so far come first
        rows = np.concatenate([sums[used], embeddings[first : first + SUMMED_ROWS]])
        sums[used] = csr_array((np.ones(len(places)), (places, np.arange(len(places))))) @ rows
    return sums
