"""The published code's side of `benchmarks.side_by_side`, which starts it with an interpreter that has transformers
4.31 and peft 0.4.

The code is read from a copy in which only these words differ: weights and features keep float32 (its casts are for a
GPU, and two logits are often equal in bfloat16), nothing is moved to a GPU, and answers are greedy and of limited
length. Modules that are imported but not used here may be absent.
"""

import sys
import tempfile
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
import transformers  # noqa: F401  (it looks for installed packages: before the stand-ins)

from benchmarks.side_worker import serve


NOT_USED = ("clip", "decord", "easydict", "requests", "torchvision", "torchvision.transforms")
CHANGES = {
    "avicuna/model/avicuna_arch.py": [("torch.bfloat16", "torch.float32")],
    "avicuna/model/avicuna_llama.py": [("torch.bfloat16", "torch.float32")],
    "avicuna/model/builder.py": [("torch.float16", "torch.float32")],
    "avicuna/inference.py": [
        (".cuda()", ""),
        ("do_sample=True", "do_sample=False"),
        ("temperature=0.05", "temperature=1.0"),
        ("max_new_tokens=1024", "max_new_tokens=MAX_NEW_TOKENS"),
    ],
}


def copy_changed(source: Path, target: Path) -> None:
    """Copies the package `avicuna` with `CHANGES`.

    Raises:
        ValueError: a file does not have the words to change: `source` is another version of the code.
    """
    for path in source.glob("avicuna/**/*.py"):
        name = path.relative_to(source).as_posix()
        text = path.read_text(encoding="utf-8")
        for old, new in CHANGES.get(name, ()):
            if old not in text:
                raise ValueError(f"{path} does not contain {old!r}: expected yunlong10/AVicuna at commit 3a19f51")
            text = text.replace(old, new)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text, encoding="utf-8")


class Published:
    """The published-format checkpoint in `folder`/published, the features of one video, and a batch to train on."""

    def load(self, folder: str) -> None:
        from avicuna import inference
        from avicuna.model.builder import load_pretrained_model

        root = Path(folder) / "published"
        arguments = types.SimpleNamespace(
            model_base=str(root / "base"),
            pretrain_mm_mlp_adapter=str(root / "mm_projector.bin"),
            pretrain_mm_mlp_adapter_a=str(root / "mm_projector_a.bin"),
        )
        self.inference = inference
        self.tokenizer, self.model, _ = load_pretrained_model(arguments)
        self.model.eval()
        self.inputs = torch.load(Path(folder) / "inputs.pt")
        self.features = [self.inputs[name][None] for name in ("video_features", "audio_features")]

    def ask(self, questions: list[str], max_new_tokens: int) -> list[str]:
        """All questions about the video, one after the other: the published code has no other way."""
        self.inference.MAX_NEW_TOKENS = max_new_tokens
        return [
            self.inference.inference(self.model, self.features, f"<video>\n{question}", self.tokenizer)
            for question in questions
        ]

    def generate(self, question: str, num_tokens: int) -> list[int]:
        """The ids of an answer of at most that many tokens."""
        conversation = self.inference.conv_templates["v1"].copy()
        conversation.append_message(conversation.roles[0], f"<video>\n{question}")
        conversation.append_message(conversation.roles[1], None)
        ids = self.inference.tokenizer_image_token(conversation.get_prompt(), self.tokenizer, return_tensors="pt")
        with torch.inference_mode():
            output = self.model.generate(
                ids[None],
                images=self.features,
                do_sample=False,
                num_beams=1,
                max_new_tokens=num_tokens,
                use_cache=True,
            )
        return output[0, len(ids) :].tolist()

    def prepare_training(self) -> None:
        """Adds LoRA and the trainer with the settings of scripts/stage3.sh."""
        from avicuna.train.avicuna_trainer import AVicunaTrainer
        from avicuna.train.train import find_all_linear_names
        from peft import LoraConfig, get_peft_model
        from transformers import TrainingArguments

        names = [name for name in find_all_linear_names(self.model) if not name.startswith("mm_projector")]
        lora = LoraConfig(
            r=64, lora_alpha=128, target_modules=names, lora_dropout=0.05, bias="none", task_type="CAUSAL_LM"
        )
        self.model.config.use_cache = False
        self.model.aud_mask = None  # it is kept for the batch size of the first call
        self.peft_model = get_peft_model(self.model, lora).train()
        arguments = TrainingArguments(
            output_dir=tempfile.mkdtemp(), no_cuda=True, learning_rate=0.0, max_steps=1, report_to=[]
        )
        self.trainer = AVicunaTrainer(model=self.peft_model, args=arguments)
        self.optimizer = self.trainer.create_optimizer()
        self.batch = self._make_batch()

    def train(self, form: str) -> float:
        """One step on the padded batch, the only form that the published code has; returns the loss."""
        loss = self.trainer.training_step(self.peft_model, dict(self.batch))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def _make_batch(self) -> dict[str, Any]:
        """As the published collator makes it: -200 is the place of the video."""
        place = torch.tensor([-200])
        ids = [torch.cat([ids[:1], place, ids[1:]]) for ids in self.inputs["text_ids"]]
        labels = [torch.cat([labels[:1], place * 0 - 100, labels[1:]]) for labels in self.inputs["text_labels"]]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=0)
        return {
            "input_ids": padded,
            "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
            "attention_mask": padded.ne(0),
            "images": [self.inputs["batch_video"], self.inputs["batch_audio"]],
        }


if __name__ == "__main__":
    for module in NOT_USED:
        try:
            __import__(module)
        except ImportError:
            sys.modules[module] = MagicMock()
    with tempfile.TemporaryDirectory() as copy:
        copy_changed(Path(sys.argv[1]), Path(copy))
        sys.path.insert(0, copy)
        side = Published()
        serve({name: getattr(side, name) for name in ("load", "ask", "generate", "prepare_training", "train")})
