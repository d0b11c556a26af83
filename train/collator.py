"""Collates rows into a batch of tensors with labels for the answers.

The processor determines token order and placeholder counts; the chat template marks the supervised tokens. Samples are
padded, or concatenated into one row (`flatten`). No sample is dropped or replaced.
"""

import logging

import torch
from torch import nn
from transformers import ProcessorMixin

from modeling_avicuna.prompt_avicuna import LISTING_CHAT_TEMPLATE, PLAIN_CHAT_TEMPLATE, VICUNA_CHAT_TEMPLATE
from train.conversation import build_messages
from train.media_rows import CachedMedia, MediaFiles


logger = logging.getLogger(__name__)

IGNORED = -100
TEMPLATES = {"vicuna": VICUNA_CHAT_TEMPLATE, "plain": PLAIN_CHAT_TEMPLATE, "listing": LISTING_CHAT_TEMPLATE}
# (stream, lengths): the inputs with one padded sequence of media rows per sample, and the number of real rows
STREAMS = (
    ("pixel_values_videos", "video_lengths"),
    ("video_features", "video_lengths"),
    ("input_features", "audio_lengths"),
    ("audio_features", "audio_lengths"),
)


class AVicunaCollator:
    """Makes batches for `AVicunaForConditionalGeneration` from rows of `dataset_builders.schema`.

    Args:
        processor: of the model that is trained.
        media: source of the rows' media, see `media_rows`.
        chat_template: "vicuna", "plain" (stages I and II) or "listing" (warm-up).
        max_length: tokens of a sample after expansion; longer answers are truncated, media never. None: no limit.
        flatten: concatenate the samples, with `position_ids` that restart with each, instead of padding them.
        unused_media: inputs for towers that a batch does not use, see `media_rows.unused_media`.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        *,
        media: CachedMedia | MediaFiles,
        chat_template: str = "vicuna",
        max_length: int | None = 2048,
        flatten: bool = False,
        unused_media: dict[str, torch.Tensor] | None = None,
    ):
        self.processor, self.media, self.max_length, self.flatten = processor, media, max_length, flatten
        self.unused_media = unused_media or {}
        self.chat_template = TEMPLATES[chat_template]

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Returns the model's inputs and `labels`: the ids of the answers, -100 elsewhere, `(batch_size, length)`.

        Raises:
            ValueError: a row lacks a medium or a time, or its media exceed `max_length`; the message names the row.
        """
        batch = self.encode(rows)
        is_answer = batch.pop("assistant_masks").bool()
        batch["labels"] = batch["input_ids"].masked_fill(~is_answer, IGNORED)
        for row, is_empty in zip(rows, (~is_answer).all(dim=1).tolist()):
            if is_empty:
                logger.warning("row %r: its answer begins beyond max_length and contributes no loss", row["id"])
        batch = flatten_batch(batch) if self.flatten else batch
        return self.with_unused_media(batch)

    def with_unused_media(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Adds an input of length 0 for each tower that the batch has no media for."""
        batch_size = len(batch["input_ids"])
        for stream, lengths_name in STREAMS:
            if stream in self.unused_media and lengths_name not in batch:
                row = self.unused_media[stream]
                batch[stream] = row.expand(batch_size, *row.shape[1:])
                batch[lengths_name] = torch.zeros(batch_size, dtype=torch.long)
        return batch

    def encode(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """The processor's inputs for the rows: ids padded at the end, and the template's `assistant_masks`."""
        conversations = []
        for row in rows:
            messages = build_messages(row, codec=self.processor.time_codec)
            self.media.fill(row, messages)
            conversations.append(messages)
        try:
            return dict(
                self.processor.apply_chat_template(
                    conversations,
                    chat_template=self.chat_template,
                    tokenize=True,
                    return_dict=True,
                    return_assistant_tokens_mask=True,
                    processor_kwargs={
                        "padding_side": "right",
                        "truncation": self.max_length is not None,
                        "max_length": self.max_length,
                    },
                )
            )
        except ValueError as error:
            raise ValueError(f"rows {[row['id'] for row in rows]}: {error}") from error


def flatten_batch(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Concatenates a padded batch into one sequence without padding and without `attention_mask`.

    transformers treats restarts of `position_ids` as sample boundaries, so no token attends to another sample.
    Attention over one sample at a time (`packed_attention`, flash attention) reads the boundaries from `cu_seq_lens_*`
    and `max_length_*`. The first token of a sample has no label, since nothing precedes it.

    Args:
        batch: `input_ids`, `attention_mask`, `labels` of shape `(batch_size, length)`, media streams, their lengths.
    """
    is_real = batch["attention_mask"].bool()
    labels = batch["labels"].clone()
    labels[torch.arange(len(labels)), is_real.int().argmax(dim=1)] = IGNORED
    sample_lengths = is_real.sum(dim=1)
    boundaries = nn.functional.pad(sample_lengths.cumsum(0), (1, 0)).to(torch.int32)  # [batch_size + 1]
    longest = int(sample_lengths.max())
    flat = {
        "input_ids": batch["input_ids"][is_real][None],  # [1, total]
        "labels": labels[is_real][None],
        "position_ids": torch.cat([torch.arange(length) for length in sample_lengths.tolist()])[None],
        "cu_seq_lens_q": boundaries,
        "cu_seq_lens_k": boundaries,
        "max_length_q": longest,
        "max_length_k": longest,
    }
    for stream, lengths_name in STREAMS:
        if stream in batch:
            lengths = batch[lengths_name].tolist()
            flat[stream] = torch.cat([rows[:length] for rows, length in zip(batch[stream], lengths)])[None]
            flat[lengths_name] = torch.tensor([sum(lengths)])
    if "audio_row_ids" in batch:
        starts = batch["audio_lengths"].cumsum(0) - batch["audio_lengths"]
        shifted = [ids[ids >= 0] + start for ids, start in zip(batch["audio_row_ids"], starts)]
        flat["audio_row_ids"] = torch.cat(shifted)[None]
    return flat
