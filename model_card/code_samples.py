"""The Python code that a card shows. It runs unchanged and loads one repository at one revision.

`pin_revision` inserts the revision; `find_foreign_ids` finds code that loads another repository.
"""

import re
from pathlib import Path

from modeling_avicuna.interleaving_avicuna import num_modality_tokens

from .facts import has_both_towers


LOADERS = "from_pretrained|hf_hub_download|load_dataset"
HUB_IMPORT = "from huggingface_hub import hf_hub_download\n"
FILE_SAMPLE = """from huggingface_hub import hf_hub_download
from transformers import AutoModelForMultimodalLM, AutoProcessor

model = AutoModelForMultimodalLM.from_pretrained("{repo_id}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo_id}", trust_remote_code=True)

video = hf_hub_download("{repo_id}", "example.mp4")  # or a file of your own
messages = [{{"role": "user", "content": [
    {{"type": "video", "path": video}},
    {{"type": "text", "text": "What happens in the video, and when?"}},
]}}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_metadata=True
)
seconds = inputs.pop("video_metadata")[0].duration
generated = model.generate(**inputs, max_new_tokens=128)
answer = processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
print(answer, processor.post_process_events([answer], [seconds])[0], sep="\\n")"""
FEATURE_SAMPLE = """import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

model = AutoModelForMultimodalLM.from_pretrained("{repo_id}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo_id}", trust_remote_code=True)

# cached outputs of the two towers for one video: a row per frame and a row per audio window (here: noise)
features = {{
    "video_features": torch.randn({num_video}, {vision_size}),
    "audio_features": torch.randn({num_audio}, {audio_size}),
}}
messages = [{{"role": "user", "content": [
    {{"type": "video", **features}},
    {{"type": "text", "text": "What happens in the video, and when?"}},
]}}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
generated = model.generate(**inputs, max_new_tokens=128)
answer = processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
print(answer, processor.post_process_events([answer], [60.0])[0], sep="\\n")  # 60.0: the video's length in seconds"""
ADAPTER_SAMPLE = """from peft import PeftModel
from transformers import AutoModelForMultimodalLM

base = AutoModelForMultimodalLM.from_pretrained("{base_model}", trust_remote_code=True)
model = PeftModel.from_pretrained(base, "{repo_id}")"""


def model_sample(config: dict, *, repo_id: str) -> str:
    """Code that loads the release and asks about a file, or about cached features if a tower is missing."""
    if has_both_towers(config):
        sample = FILE_SAMPLE.format(repo_id=repo_id)
        if not Path(repo_id).is_dir():
            return sample
        # a card for a local folder does not download from the Hub
        download = f'video = hf_hub_download("{repo_id}", "example.mp4")'
        return sample.replace(HUB_IMPORT, "").replace(download, 'video = "example.mp4"')
    num_video, num_audio = num_modality_tokens(config["num_av_tokens"], config["audio_interleaving_rate"])
    return FEATURE_SAMPLE.format(
        repo_id=repo_id,
        num_video=num_video,
        num_audio=num_audio,
        vision_size=config["vision_feature_size"],
        audio_size=config["audio_feature_size"],
    )


def adapter_sample(*, repo_id: str, base_model: str) -> str:
    """Code that loads the adapter on its base model."""
    return ADAPTER_SAMPLE.format(base_model=base_model, repo_id=repo_id)


def pin_revision(card: str, *, repo_id: str, revision: str) -> str:
    """The card with `revision` inserted where its code loads the repository without one.

    >>> pin_revision('AutoModel.from_pretrained("me/avicuna", dtype="auto")', repo_id="me/avicuna", revision="v1")
    'AutoModel.from_pretrained("me/avicuna", revision="v1", dtype="auto")'
    """
    loads = rf'((?:{LOADERS})\((?:\w+, )?"{re.escape(repo_id)}"(?:, "[^"]*")?)(?!, revision=)'
    return re.sub(loads, rf'\1, revision="{revision}"', card)


def find_foreign_ids(card: str, *, repo_id: str) -> list[str]:
    """Repositories other than `repo_id` that the code of the card loads: the card was written for another release.

    A bare `repo_id` matches any user's repository of that name (a dry run does not ask the Hub for the user).
    """
    loaded = {*re.findall(rf'(?:{LOADERS})\("([^"]+)"', card)}
    foreign = {name for name in loaded if (name if "/" in repo_id else name.split("/")[-1]) != repo_id}
    return [f"the card loads {other}, but the release goes to {repo_id}" for other in sorted(foreign)]
