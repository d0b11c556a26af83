"""Well-formed time spans for the requests that ask for them: `"vllm_xargs": {"well_formed_spans": true}`."""

import torch
from transformers import AutoProcessor
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from modeling_avicuna.generation_avicuna import TimeSpanLogitsProcessor


ARGUMENT = "well_formed_spans"
TAIL = 64  # tokens of the prompt that can hold the beginning of a span


class WellFormedSpans(AdapterLogitsProcessor):
    """`TimeSpanLogitsProcessor` in vLLM."""

    def __init__(self, vllm_config, device: torch.device, is_pin_memory: bool):  # noqa: ANN001
        super().__init__(vllm_config, device, is_pin_memory)
        self._model = vllm_config.model_config.model
        self._constraint: TimeSpanLogitsProcessor | None = None

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: SamplingParams):  # noqa: ANN201
        if not (params.extra_args or {}).get(ARGUMENT):
            return None
        if self._constraint is None:  # read on first use: it looks at every token of the vocabulary
            processor = AutoProcessor.from_pretrained(self._model)
            self._constraint = TimeSpanLogitsProcessor(processor.tokenizer, codec=processor.time_codec)
        return self._constrain

    def _constrain(self, prompt_ids: list[int], output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        assert self._constraint is not None
        ids = torch.tensor([[*prompt_ids[-TAIL:], *output_ids]])
        return self._constraint(ids, logits[None])[0]
