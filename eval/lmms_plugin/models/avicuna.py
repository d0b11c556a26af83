"""The lmms-eval model: converts requests to conversations and returns the answers as text.

Videos include their sound track. With `times=seconds`, relative times ("from 03 to 17") are converted to seconds, as
lmms-eval's grounding tasks expect.
"""

from collections.abc import Sequence

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.api.registry import register_model
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoProcessor

import modeling_avicuna  # noqa: F401  (registers the auto classes)
from eval.lmms_plugin.content import content_blocks, cut_at, with_seconds


SETTINGS = ("max_new_tokens", "num_beams", "do_sample", "temperature", "top_p")


@register_model("avicuna")
class AVicuna(lmms):
    """
    Args:
        pretrained (`str`): checkpoint folder or Hub id.
        device (`str`): of the model.
        batch_size (`int`): requests answered together.
        dtype (`str`): of the weights; "auto": as saved.
        times (`str`): "as_said" (as the model writes them), or "seconds" for tasks that read times in seconds.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        device: str = "cuda" if torch.cuda.is_available() else "cpu",
        batch_size: int | str = 1,
        dtype: str = "auto",
        times: str = "as_said",
    ):
        super().__init__()
        if times not in ("as_said", "seconds"):
            raise ValueError(f"times must be 'as_said' or 'seconds', got {times!r}")
        self.times = times
        self.processor = AutoProcessor.from_pretrained(pretrained)
        self.model = AutoModelForCausalLM.from_pretrained(pretrained, dtype=dtype).to(device).eval()
        self.device, self.batch_size = torch.device(device), int(batch_size)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        answers: dict[int, str] = {}
        settings = [repr(sorted(request.args[1].items(), key=str)) for request in requests]
        order = sorted(range(len(requests)), key=lambda index: settings[index])  # a batch shares its settings
        with tqdm(total=len(requests), unit="request") as progress:
            while order:
                batch = [index for index in order[: self.batch_size] if settings[index] == settings[order[0]]]
                order = order[len(batch) :]
                said = self._answer([requests[index] for index in batch])
                answers |= dict(zip(batch, said, strict=True))
                progress.update(len(batch))
        return [answers[index] for index in range(len(requests))]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return [self._score(request) for request in tqdm(requests, unit="request")]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("multi-round tasks are not supported: the model is trained on one video per dialog")

    def _messages(self, request: Instance) -> list[dict]:
        context, _, doc_to_visual, doc_id, task, split = request.args[:6]
        return [
            {"role": "user", "content": content_blocks(context, doc_to_visual(self.task_dict[task][split][doc_id]))}
        ]

    @torch.no_grad()
    def _answer(self, requests: Sequence[Instance]) -> list[str]:
        conversations = [self._messages(request) for request in requests]
        inputs = self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            return_metadata=True,
        )
        metadata = iter(inputs.pop("video_metadata"))
        durations = [
            [next(metadata).duration for block in messages[0]["content"] if block["type"] == "video"]
            for messages in conversations
        ]
        inputs = inputs.to(self.device)
        wished = requests[0].args[1]
        options = {"max_new_tokens": 256, "do_sample": False} | {
            name: wished[name] for name in SETTINGS if wished.get(name) is not None
        }
        if not options["do_sample"]:  # generate warns about sampling settings that it does not use
            options = {name: value for name, value in options.items() if name not in ("temperature", "top_p")}
        ids = self.model.generate(**inputs, **options)
        texts = self.processor.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        stops = wished.get("until") or []
        texts = [cut_at(text.strip(), [stops] if isinstance(stops, str) else stops) for text in texts]
        return [self._with_times(text, seconds) for text, seconds in zip(texts, durations)]

    def _with_times(self, text: str, durations: list[float]) -> str:
        if self.times == "as_said" or len(durations) != 1:
            return text
        return with_seconds(text, durations[0], codec=self.processor.time_codec)

    @torch.no_grad()
    def _score(self, request: Instance) -> tuple[float, bool]:
        """Log-probability of the continuation, and whether greedy decoding would generate it."""
        task, split, doc_id = request.args[4], request.args[5], request.args[3]
        target = request.args[1]
        target = target if isinstance(target, str) else target(self.task_dict[task][split][doc_id])
        messages = [*self._messages(request), {"role": "assistant", "content": target}]
        inputs = self.processor.apply_chat_template(
            [messages], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        ).to(self.device)
        positions = inputs.pop("assistant_masks")[0].nonzero()[:-1, 0]  # all of the answer but the token that ends it
        tokens = inputs["input_ids"][0, positions]
        log_probabilities = self.model(**inputs).logits[0, positions - 1].float().log_softmax(-1)
        chosen = log_probabilities.gather(1, tokens[:, None]).sum()
        return float(chosen), bool((log_probabilities.argmax(-1) == tokens).all())
