"""Clusters of captions: minimum sizes, and more similar captions than in random groups."""

import numpy as np
import pytest

from dataset_builders.pseudo_untrimmed import clustering
from dataset_builders.pseudo_untrimmed.clustering import DROPPED, cluster_clips, measure_clusters


def make_blobs(sizes, *, spread=0.15, width=16, seed=0):
    """Unit rows around one random direction per blob, and the blob of each row."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(sizes), width))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    rows = centres[owners] + spread * rng.normal(size=(len(owners), width)) / np.sqrt(width)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), owners


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
def test_clusters_are_more_similar_than_random_groups_and_large_enough(method):
    rows, _ = make_blobs([40] * 12)
    labels, _ = cluster_clips(rows, method=method, cluster_size=20, min_cluster_size=8)
    report = measure_clusters(rows, labels)
    assert min(report["sizes"]) >= 8 and sum(report["sizes"]) == len(rows)
    assert report["mean_cosine"] > 0.8 > 0.4 > report["random_mean_cosine"]


def test_the_two_methods_find_separate_blobs():
    rows, owners = make_blobs([30, 30, 30], spread=0.05)
    for method in ("kmeans", "agglomerative"):
        labels, _ = cluster_clips(rows, method=method, cluster_size=30, min_cluster_size=3)
        for blob in range(3):
            assert len(set(labels[owners == blob])) <= 2
        for label in set(labels):
            assert len(set(owners[labels == label])) == 1 or method == "kmeans"


def test_small_clusters_are_merged_into_the_nearest_or_dropped():
    rows, owners = make_blobs([40, 40, 3], spread=0.05)
    merged, num_small = cluster_clips(rows, method="agglomerative", cluster_size=28, min_cluster_size=8)
    assert num_small == 1 and np.bincount(merged).min() >= 8 and DROPPED not in merged
    dropped, num_small = cluster_clips(
        rows, method="agglomerative", cluster_size=28, min_cluster_size=8, small_clusters="drop"
    )
    assert num_small == 1
    assert set(np.flatnonzero(dropped == DROPPED)) == set(np.flatnonzero(owners == 2))


def test_labels_depend_on_the_seed_only():
    rows, _ = make_blobs([25] * 8, spread=0.6)
    first, again = (cluster_clips(rows, cluster_size=10, seed=3)[0] for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, cluster_clips(rows, cluster_size=10, seed=4)[0])


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
@pytest.mark.parametrize("small_clusters", ["merge", "drop"])
def test_many_captions_are_clustered_in_buckets(monkeypatch, method, small_clusters):
    monkeypatch.setattr(clustering, "DIRECT_CLIPS", 500)
    monkeypatch.setattr(clustering, "BUCKET_SIZE", 200)
    monkeypatch.setattr(clustering, "BUCKET_SAMPLE", 700)
    rows, _ = make_blobs([20] * 60, spread=0.2)
    options = {"method": method, "cluster_size": 20, "min_cluster_size": 8, "small_clusters": small_clusters}
    labels, _ = cluster_clips(rows, **options)
    report = measure_clusters(rows, labels)
    assert min(report["sizes"]) >= 8 and set(labels[labels != DROPPED]) == set(range(report["num_clusters"]))
    assert (labels != DROPPED).mean() > (0.99 if small_clusters == "merge" else 0.6)
    assert report["mean_cosine"] > 0.7 > 0.3 > report["random_mean_cosine"]
    assert np.array_equal(labels, cluster_clips(rows, **options)[0])


def test_no_bucket_is_much_larger_than_the_others(monkeypatch):
    """The time within a bucket grows with the square of its size: frequent and equal captions must not share one."""
    monkeypatch.setattr(clustering, "DIRECT_CLIPS", 500)
    monkeypatch.setattr(clustering, "BUCKET_SIZE", 100)
    rows, _ = make_blobs([1200, 600, *[10] * 30], spread=0.2)
    rows = np.concatenate([rows, np.repeat(rows[:1], 900, axis=0)])
    buckets = clustering.fit_buckets(rows, 8, 0)
    sizes = np.bincount(buckets)
    assert 8 <= sizes.min() and sizes.max() <= 2 * 100 + 8 and len(buckets) == len(rows)


def test_clusters_within_buckets_are_nearly_as_similar_as_without(monkeypatch):
    rows, _ = make_blobs([20] * 150, spread=0.5, width=64)
    whole = measure_clusters(rows, cluster_clips(rows)[0])["mean_cosine"]
    monkeypatch.setattr(clustering, "DIRECT_CLIPS", 1000)
    monkeypatch.setattr(clustering, "BUCKET_SIZE", 500)
    assert measure_clusters(rows, cluster_clips(rows)[0])["mean_cosine"] > 0.85 * whole > 0.5


def test_method_none_gives_one_cluster():
    labels, num_small = cluster_clips(np.eye(5), method="none", min_cluster_size=3)
    assert labels.tolist() == [0] * 5 and num_small == 0


def test_a_wrong_value_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="'dbscan'"):
        cluster_clips(np.eye(9), method="dbscan")
    with pytest.raises(ValueError, match="2 clips"):
        cluster_clips(np.eye(2), min_cluster_size=3)
    rows, _ = make_blobs([4, 4])
    with pytest.raises(ValueError, match="no cluster has 8 clips"):
        cluster_clips(rows, method="agglomerative", cluster_size=4, min_cluster_size=8, small_clusters="drop")


def test_the_mean_cosine_is_over_all_pairs_of_a_cluster():
    rows, owners = make_blobs([5, 7])
    pairs = [rows[i] @ rows[j] for i in range(12) for j in range(12) if i != j and owners[i] == owners[j]]
    assert measure_clusters(rows, owners)["mean_cosine"] == pytest.approx(np.mean(pairs), abs=1e-6)


@pytest.mark.parametrize("num_labels", [1, 7, 900])
def test_rows_are_summed_with_the_bits_of_the_plain_loop(monkeypatch, num_labels):
    monkeypatch.setattr(clustering, "SUMMED_ROWS", 128)
    rng = np.random.default_rng(num_labels)
    rows, labels = rng.normal(size=(1000, 24)).astype(np.float32), rng.integers(num_labels, size=1000)
    expected = np.zeros((labels.max() + 1, 24))
    for row, label in zip(rows, labels):
        expected[label] += row
    assert np.array_equal(clustering.sum_by_label(rows, labels), expected)
