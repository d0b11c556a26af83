"""Our side of `benchmarks.side_by_side`, which starts it."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from benchmarks.side_worker import serve
from modeling_avicuna import AVicunaForConditionalGeneration, AVicunaProcessor
from modeling_avicuna.answering_avicuna import answer_questions
from modeling_avicuna.interleaving_avicuna import interleave_order
from train.arguments import AVicunaTrainingArguments, StageArguments
from train.collator import flatten_batch
from train.packed_attention import PACKED_SDPA
from train.trainable import lora_config
from train.trainer import AVicunaTrainer


class Ours:
    """The converted checkpoint in `folder`/ours, the features of one video, and a batch to train on."""

    def load(self, folder: str) -> None:
        checkpoint, inputs = Path(folder) / "ours", torch.load(Path(folder) / "inputs.pt")
        self.model = AVicunaForConditionalGeneration.from_pretrained(checkpoint).eval()
        self.processor = AVicunaProcessor.from_pretrained(checkpoint)
        features = {name: inputs[name].numpy() for name in ("video_features", "audio_features")}
        self.media = {"type": "video", **features}
        self.batches = self._make_batches(inputs)

    def ask(self, questions: list[str], max_new_tokens: int) -> list[str]:
        """All questions about the video, as the pipeline asks them."""
        answers = answer_questions(
            self.model,
            processor=self.processor,
            media=self.media,
            questions=questions,
            duration=10.0,
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        return [answer.text for answer in answers]

    def generate(self, question: str, num_tokens: int) -> list[int]:
        """The ids of an answer of at most that many tokens; random weights hardly ever end one."""
        content = [self.media, {"type": "text", "text": question}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=num_tokens)
        return ids[0, inputs["input_ids"].shape[1] :].tolist()

    def prepare_training(self) -> None:
        """Adds the LoRA of the published stage III and the trainer that `train/sft.py` uses."""
        stage = StageArguments(use_peft=True)
        arguments = AVicunaTrainingArguments(
            output_dir=tempfile.mkdtemp(),
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=len(self.batches["padded"]["input_ids"]),
            effective_batch_size=0,
            activation_checkpointing=False,
            learning_rate=0.0,  # so that the loss stays comparable
            max_steps=1,
            report_to="none",
        )
        self.language_model = self.model.model.language_model
        self.model.requires_grad_(False)
        self.trainer = AVicunaTrainer(
            self.model,
            args=arguments,
            train_dataset=Dataset.from_dict({"id": ["none"]}),
            data_collator=lambda rows: rows,
            processing_class=self.processor,
            peft_config=lora_config(self.model, stage),
        )
        self.optimizer = self.trainer.create_optimizer()

    def train(self, form: str) -> float:
        """One step on the padded or the flattened batch; returns the loss."""
        self.language_model.set_attn_implementation("sdpa" if form == "padded" else PACKED_SDPA)
        batch = dict(self.batches[form])
        loss = self.trainer.training_step(self.trainer.model, batch, num_items_in_batch=self.num_labels)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def _make_batches(self, inputs: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
        """`<s>`, the placeholders of the video, and the text, for each sample."""
        order = interleave_order(inputs["num_video"], inputs["num_audio"], rule="uniform")
        ids_of = {"video": self.model.config.video_token_id, "audio": self.model.config.audio_token_id}
        placeholders = torch.tensor([ids_of[kind] for kind in order])
        padded: dict[str, list[torch.Tensor]] = {"input_ids": [], "labels": []}
        for ids, labels in zip(inputs["text_ids"], inputs["text_labels"]):
            padded["input_ids"].append(torch.cat([ids[:1], placeholders, ids[1:]]))
            padded["labels"].append(torch.cat([labels[:1], torch.full_like(placeholders, -100), labels[1:]]))
        self.num_labels = int(sum((labels != -100).sum() for labels in inputs["text_labels"]))
        lengths = torch.tensor([len(ids) for ids in padded["input_ids"]])
        batch_size = len(lengths)
        batch = {
            "input_ids": torch.nn.utils.rnn.pad_sequence(padded["input_ids"], batch_first=True),
            "labels": torch.nn.utils.rnn.pad_sequence(padded["labels"], batch_first=True, padding_value=-100),
            "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
            "video_features": inputs["batch_video"],
            "audio_features": inputs["batch_audio"],
            "video_lengths": torch.full((batch_size,), inputs["num_video"]),
            "audio_lengths": torch.full((batch_size,), inputs["num_audio"]),
        }
        return {"padded": batch, "flattened": flatten_batch(batch)}


if __name__ == "__main__":
    side = Ours()
    serve({name: getattr(side, name) for name in ("load", "ask", "generate", "prepare_training", "train")})
