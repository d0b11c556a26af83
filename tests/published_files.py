"""Small synthetic files in the published formats that the documentation uses: annotations, weights, Hub models.

The annotations describe the clips of a sandbox world; the weights are random.
"""

import io
import json
import zipfile
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    ClapAudioConfig,
    ClapAudioModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    LlamaConfig,
    LlamaForCausalLM,
)

from tests.train_fixtures import CAPTIONS
from train.initialize import TINY_AUDIO, TINY_TEXTS, TINY_VISION, token_ids, train_tokenizer


# Hub ids in the documentation: folders of the published release with the same models
HUB_MODELS = {
    "lmsys/vicuna-7b-v1.5": "vicuna-7b-v1.5",
    "openai/clip-vit-large-patch14": "clip-vit-large-patch14",
    "laion/clap-htsat-fused": "clap-htsat-fused",
}
AUDIOCAPS = """audiocap_id,youtube_id,start_time,caption
1,r1nicOVtvkQ,130,A woman talks nearby as water pours
2,aaaaaaaaaaa,30,A dog barks twice
3,ttttttttttt,10,Rain falls on a roof
"""
CLOTHO = """file_name,caption_1,caption_2,caption_3,caption_4,caption_5
Santa Motor.wav,A machine whines.,A motor runs.,An engine hums.,A saw cuts wood.,Something whirs loudly.
bells.wav,Bells ring.,A bell tolls far away.,Many bells ring.,Church bells sound.,Someone rings a bell.
"""


def write_published_captions(folder: Path) -> None:
    """AudioCaps and Clotho in `folder`/data."""
    for name, text in (("audiocaps", AUDIOCAPS), ("clotho", CLOTHO)):
        (folder / "data" / name).mkdir(parents=True)
        header, *rows = text.splitlines(keepends=True)
        (folder / "data" / name / "train.csv").write_text(text, encoding="utf-8")
        (folder / "data" / name / "test.csv").write_text(header + rows[-1], encoding="utf-8")


def write_published_annotations(folder: Path, world: Path) -> None:
    """VALOR, UnAV-100, ActivityNet-QA and VTimeLLM annotations of the files of a sandbox world, in `folder`/data."""
    data = folder / "data"
    links = {
        "valor/desc_train.json": world / "captions.json",
        "valor/clips": world / "clips",
        "unav100/unav100_annotations.json": world / "annotations.json",
        "unav100/videos": world / "test",
        "activitynet_qa/videos": world / "test",
        "internvid/videos": world / "train",
    }
    for name, target in links.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).symlink_to(target)
    clip = json.loads((world / "captions.json").read_text(encoding="utf-8"))[0]["video_id"]
    (data / "unav100" / "test_ids.txt").write_text(clip.rsplit("_", 2)[0] + "\n", encoding="utf-8")
    names = sorted(path.stem for path in (world / "test").iterdir())
    asked = [{"video_name": name, "question": "is it raining", "question_id": f"{name}_1"} for name in names]
    answered = [{"answer": "yes", "type": 3, "question_id": record["question_id"]} for record in asked]
    for name, records in (("test_q.json", asked), ("test_a.json", answered)):
        (data / "activitynet_qa" / name).write_text(json.dumps(records), encoding="utf-8")
    turns = [
        {"from": "human", "value": "<video>\nWhen does it begin to rain?"},
        {"from": "gpt", "value": "From <s0> to <e0>."},
    ]
    records = [
        {"id": path.stem, "conversations": turns, "meta": {"duration": 20.0, "token": {"<s0>": 1.0, "<e0>": 5.0}}}
        for path in sorted((world / "train").iterdir())
    ]
    (data / "vtimellm").mkdir()
    (data / "vtimellm" / "stage2.json").write_text(json.dumps(records), encoding="utf-8")


def write_published_weights(folder: Path) -> None:
    """A tiny copy of the first AVicuna release: a language model, two towers, two projectors, two LoRA folders."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=600)
    names = {name: value for name, value in TINY_TEXTS["llama"].items() if name != "model_type"}
    base = LlamaForCausalLM(LlamaConfig(**names, vocab_size=len(tokenizer), **token_ids(tokenizer)))
    base.save_pretrained(folder / "vicuna-7b-v1.5")
    tokenizer.save_pretrained(folder / "vicuna-7b-v1.5")
    towers = (
        ("clip-vit-large-patch14", CLIPVisionModelWithProjection, CLIPVisionConfig, TINY_VISION),
        ("clap-htsat-fused", ClapAudioModelWithProjection, ClapAudioConfig, TINY_AUDIO),
    )
    for name, model, config, values in towers:
        model(config(**{key: value for key, value in values.items() if key != "model_type"})).save_pretrained(
            folder / name
        )
    width = base.config.hidden_size
    for stage, name, size in (
        ("stage1", "mm_projector", TINY_VISION["projection_dim"]),
        ("stage2", "mm_projector_a", TINY_AUDIO["projection_dim"]),
    ):
        (folder / stage).mkdir()
        tensors = {f"model.{name}.weight": torch.randn(width, size), f"model.{name}.bias": torch.zeros(width)}
        torch.save(tensors, folder / stage / f"{name}.bin")
    for stage in ("stage3", "stage4"):
        lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        get_peft_model(base, lora).save_pretrained(folder / stage)
        base = LlamaForCausalLM.from_pretrained(folder / "vicuna-7b-v1.5")


def charades_repository(world: Path) -> dict[str, bytes]:
    """Charades-STA in the layout of the lmms-eval repository: annotations, and the videos in an archive."""
    clips = sorted((world / "clips").iterdir())[:2]
    rows = [{"video": clip.name, "caption": "a dog barks", "timestamp": [1.0, 6.0]} for clip in clips]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as videos:
        for clip in clips:
            videos.write(clip, f"Charades_v1_480/{clip.name}")
    return {"test.json": json.dumps(rows).encode(), "videos.zip": archive.getvalue()}


def read_folder(folder: Path) -> dict[str, bytes]:
    """The files of a checkpoint as the contents of a Hub repository."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
