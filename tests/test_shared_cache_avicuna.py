"""A repeated cache holds what transformers' own layers would hold."""

import torch
from transformers import DynamicCache

from modeling_avicuna.shared_cache_avicuna import SPARE_TOKENS, repeat_cache


def draw(num_rows: int, num_tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(num_rows, 2, num_tokens, 4, generator=torch.Generator().manual_seed(seed))


def test_a_repeated_cache_grows_like_one_of_transformers():
    """Through several reservations of memory, a reordering (beam search) and a cut (assisted decoding)."""
    cache, plain = DynamicCache(), DynamicCache()
    prefix = draw(1, 5, 0)
    cache.update(prefix, prefix + 1, 0)
    plain.update(prefix.expand(3, -1, -1, -1), prefix.expand(3, -1, -1, -1) + 1, 0)
    repeated = repeat_cache(cache, 3)
    memories = set()
    for step in range(SPARE_TOKENS + 10):
        new = draw(3, 2 if step == 0 else 1, step + 1)
        results = [each.update(new, -new, 0) for each in (repeated, plain)]
        assert all(map(torch.equal, *results)) and repeated.get_seq_length() == plain.get_seq_length()
        memories.add(repeated.layers[0].key_memory.data_ptr())
        for each in (repeated, plain):
            if step == 3:
                each.reorder_cache(torch.tensor([2, 0, 0]))
            if step == 6:
                each.crop(-2)
    assert len(memories) < 6  # not one for each step
    assert torch.equal(cache.layers[0].keys, prefix)  # the shared part can be repeated again
