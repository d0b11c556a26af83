"""Hostile checkpoints, adapters, data sets and names are refused or have no effect, and no host but the Hub is asked.

Other members of this kind are tested with their modules: pickles, shard names and links for the converter
(test_convert_avicuna_to_hf), names outside the media folder and control tokens (test_faulty_annotations), markup in
labels (test_space), pickles and access tokens in releases (test_release).
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model

from dataset_builders.release.pu_valor_folder import build_folder
from dataset_builders.sources.media_folder import MediaFolder
from model_card.release.dataset_release import assemble_dataset
from tests.curation_fixtures import quick_settings, write_captions
from tests.media_files import write_media
from tests.tiny_models import tiny_model
from train.checkpoint import load_model, merge_adapter


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model().save_pretrained(folder)
    return folder


def test_a_pickle_in_place_of_the_weights_runs_no_code(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": Payload(tmp_path / "ran")}))
    with pytest.raises((pickle.UnpicklingError, OSError, RuntimeError, ValueError)):
        load_model(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_pickle_in_place_of_an_adapter_runs_no_code(checkpoint, tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj"])
    get_peft_model(load_model(str(checkpoint)), config).save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(pickle.dumps({"a": Payload(tmp_path / "ran")}))
    with pytest.raises((pickle.UnpicklingError, OSError, RuntimeError, ValueError)):
        merge_adapter(str(checkpoint), adapter=tmp_path / "adapter", output=tmp_path / "merged")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    "name",
    ["../secret.mp4", "a/../../secret", "..", "{folder}/secret.mp4", "{folder}/secret", "secret\0"],
    ids=["parent", "parent of a subfolder", "parent folder", "absolute path", "absolute path, no suffix", "null byte"],
)
def test_an_id_never_names_a_file_outside_its_folder(tmp_path, name):
    write_media(tmp_path / "secret.mp4", frames=np.zeros((4, 16, 16, 3), np.uint8))
    (tmp_path / "videos").mkdir()
    assert MediaFolder(tmp_path / "videos").locate([name.format(folder=tmp_path)]) is None


def test_captions_with_markup_do_not_reach_the_card(tmp_path):
    captions = write_captions(tmp_path / "captions.json", 40)
    records = json.loads(captions.read_text())
    for record in records:
        record["desc"] = f"<script>alert(1)</script> | [x](javascript:y) | \n---\n {record['desc']}"
    captions.write_text(json.dumps(records))
    folder = build_folder(quick_settings(captions), tmp_path / "pu_valor")
    card = (folder / "README.md").read_text()
    assert "<script>" not in card and "javascript:" not in card and card.count("\n---\n") == 1


def test_a_link_out_of_a_data_set_is_not_published(tmp_path):
    folder = build_folder(quick_settings(write_captions(tmp_path / "captions.json", 40)), tmp_path / "pu_valor")
    (tmp_path / "secret.mp4").write_bytes(b"private")
    (folder / "videos").mkdir(exist_ok=True)
    (folder / "videos" / "a.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(ValueError, match=r"videos/a\.mp4.*link"):
        assemble_dataset(folder, output=tmp_path / "release", include_media=True)


NETWORK = """
import sys
hosts = set()
def note(event, arguments):
    if event == "socket.getaddrinfo":
        hosts.add(str(arguments[0]))
    elif event == "socket.connect":
        hosts.add(str(arguments[1][0]) if isinstance(arguments[1], tuple) else "local socket")
sys.addaudithook(note)
from transformers import pipeline
locate = pipeline("audio-visual-event-localization", model=sys.argv[1], trust_remote_code=True)
locate(sys.argv[2], query=["rain"])
print("HOSTS", sorted(hosts))
"""


def test_an_answer_asks_no_host_but_the_hub(tmp_path, project_dir):
    write_media(tmp_path / "a.mp4", frames=np.zeros((16, 32, 32, 3), np.uint8))
    online = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    command = [
        sys.executable,
        "-c",
        NETWORK,
        str(project_dir / "examples/sandbox_checkpoint"),
        str(tmp_path / "a.mp4"),
    ]
    done = subprocess.run(command, cwd=tmp_path, env=online, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    hosts = done.stdout.splitlines()[-1]
    assert hosts in ("HOSTS []", "HOSTS ['127.0.0.1']"), hosts
