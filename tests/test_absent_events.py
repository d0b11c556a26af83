"""Questions about absent events: their share, where the events come from, and that they do not occur in the video."""

import numpy as np

from dataset_builders.pseudo_untrimmed.absent_events import draw_absent
from dataset_builders.pseudo_untrimmed.planning import draw_plan

from .curation_fixtures import load_pu_valor, make_captions, write_captions


def test_absent_events_are_asked_about_and_do_not_occur(tmp_path):
    path = write_captions(tmp_path / "desc.json", 200)
    options = {"num_videos": 400, "conversation_types": ("grounding",), "max_turns": 4}
    options["cache_dir"] = tmp_path / "cache"
    rows = load_pu_valor(path, absent_share=0.4, **options)["train"]
    captions = {record["desc"].rstrip(".") for record in make_captions(200)}
    num_absent = num_turns = 0
    for row in rows:
        shown = {segment["caption"].rstrip(".") for segment in row["segments"]}
        asked = set()
        for question, answer in zip(row["messages"][::2], row["messages"][1::2]):
            (caption,) = [caption for caption in captions if f'"{caption}"' in question["content"]]
            assert (answer["content"] == "No event.") == (caption not in shown) and caption not in asked
            asked.add(caption)
            num_absent += caption not in shown
            num_turns += 1
    assert abs(num_absent / num_turns - 0.4) < 0.04
    written = sum(
        answer["content"] == "No event."
        for row in load_pu_valor(path, **options)["train"]
        for answer in row["messages"]
    )
    assert written == 0


def test_half_of_the_absent_events_are_from_the_same_cluster():
    clusters = [np.arange(0, 30), np.arange(30, 300)]
    plan = draw_plan(np.arange(3000), clusters, clips_per_video=(3, 5))
    options = {"embeddings": None, "ambiguity_threshold": None, "absent_share": 1.0, "max_turns": 2, "seed": 0}
    absent = draw_absent(plan, clusters, events=np.arange(300), **options).absent
    small = plan.clips[:, 0] < 30
    assert (absent >= 0).all() and abs((absent[small] < 30).mean() - 0.55) < 0.05  # half, and a tenth of the rest
    assert not (absent[:, :, None] == plan.clips[:, None, :]).any() and (absent[:, 0] != absent[:, 1]).all()


def test_an_absent_event_is_not_similar_to_one_of_the_video():
    clusters = [np.arange(0, 40)]
    embeddings = np.eye(20)[np.arange(40) % 20]  # clips k and k + 20 have the same meaning
    plan = draw_plan(np.arange(500), clusters, clips_per_video=(3, 5))
    options = {"ambiguity_threshold": 0.9, "absent_share": 1.0, "max_turns": 1, "seed": 0}
    absent = draw_absent(plan, clusters, events=np.arange(40), embeddings=embeddings, **options).absent[:, 0]
    shown = np.where(plan.clips >= 0, plan.clips % 20, -1)
    assert (absent >= 0).mean() > 0.95 and not (shown[absent >= 0] == absent[absent >= 0, None] % 20).any()


def test_hard_absent_events_are_those_closest_to_the_video():
    clusters = [np.arange(0, 60), np.arange(60, 120)]
    angles = np.arange(60) / 60 * np.pi
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # neighbours are close
    embeddings = np.concatenate([np.pad(circle, ((0, 0), (0, 2))), np.pad(circle, ((0, 0), (2, 0)))])
    plan = draw_plan(np.arange(800), clusters, clips_per_video=(3, 3))
    options = {"events": np.arange(120), "embeddings": embeddings, "max_turns": 1, "seed": 0, "absent_share": 1.0}
    far, near = (
        draw_absent(plan, clusters, hard_absent=kind, ambiguity_threshold=0.999, **options).absent[:, 0]
        for kind in ("cluster", "nearest")
    )
    cosines = [
        np.einsum("rkd,rd->rk", embeddings[plan.clips], embeddings[absent]).max(axis=1) for absent in (far, near)
    ]
    assert (near >= 0).all() and max(cosines[1]) <= 0.999
    close = [np.mean(values > 0.98) for values in cosines]
    assert close[1] > 0.45 and close[1] > close[0] + 0.1  # half of them are hard
    assert not (near[:, None] == plan.clips).any()
