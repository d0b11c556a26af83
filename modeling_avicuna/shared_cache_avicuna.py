"""The key-value cache of a prompt, repeated for several answers that continue it.

Used by `answering_avicuna`. The copies have memory for the tokens that follow, so that a decoding step writes its own
tokens only; transformers' `DynamicLayer` copies all keys and values in each step.
"""

import copy

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


SPARE_TOKENS = 64  # memory for so many further tokens is reserved at a time


def repeat_cache(cache: DynamicCache, num_rows: int) -> DynamicCache:
    """A cache of `num_rows` rows, all equal to the one row of `cache`, which stays as it is."""
    repeated = copy.deepcopy(cache)
    rows = torch.zeros(num_rows, dtype=torch.long)
    for number, layer in enumerate(repeated.layers):
        if type(layer) is DynamicLayer:
            repeated.layers[number] = PreallocatedLayer(layer, num_rows)
        else:  # windows and recurrent states
            layer.reorder_cache(rows)
    return repeated


class PreallocatedLayer(DynamicLayer):
    """A `DynamicLayer` whose keys and values are the used part of larger tensors.

    Args:
        layer (`DynamicLayer`): with one row.
        num_rows (`int`): how often that row is repeated.
    """

    def __init__(self, layer: DynamicLayer, num_rows: int):
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = (held.expand(num_rows, -1, -1, -1) for held in (layer.keys, layer.values))
        self.key_memory = self.value_memory = self.keys[:0]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends keys and values of shape `(num_rows, num_heads, num_new, head_dim)`; returns all of them."""
        self.keys, self.key_memory = _append(self.keys, key_states, self.key_memory)
        self.values, self.value_memory = _append(self.values, value_states, self.value_memory)
        return self.keys, self.values


def _append(held: torch.Tensor, new: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`held` followed by `new`, and the memory of both: `memory` if `held` lies there and `new` fits, else another."""
    num_held, num_tokens = held.shape[-2], held.shape[-2] + new.shape[-2]
    # beam search replaces `held` by other rows, in other memory
    if held.data_ptr() != memory.data_ptr() or num_tokens > memory.shape[-2]:
        memory = new.new_empty(*new.shape[:-2], num_tokens + SPARE_TOKENS, new.shape[-1])
        memory[..., :num_held, :] = held
    memory[..., num_held:num_tokens, :] = new
    return memory[..., :num_tokens, :], memory
