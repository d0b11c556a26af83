"""The tokenizer: placeholder tokens, padding, and the published ids."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from modeling_avicuna.tokenization_avicuna import add_placeholder_tokens
from tests.golden_conversations import read_labels
from tests.tiny_tokenizers import byte_level_tokenizer, sentencepiece_tokenizer


PIECES = ["USER: what", "\nWhat?", " ASSISTANT: rain", "two  spaces", " ", "\n"]


def pieces_ids(tokenizer, piece: str) -> list[int]:
    return tokenizer(piece, add_special_tokens=False).input_ids


@pytest.mark.parametrize("make", [byte_level_tokenizer, sentencepiece_tokenizer])
def test_placeholders_are_single_tokens_after_the_vocabulary(make):
    original = make()
    tokenizer = add_placeholder_tokens(original)
    size = len(original)
    assert tokenizer.convert_tokens_to_ids(["<video>", "<audio>", "<pad>"]) == [size, size + 1, size + 2]
    assert pieces_ids(tokenizer, "<video><audio><audio>") == [size, size + 1, size + 1]
    assert len(original) == size, "the given tokenizer must not change"


def test_padding_is_on_the_left_with_a_separate_token():
    tokenizer = add_placeholder_tokens(byte_level_tokenizer())
    batch = tokenizer(["a", "a dog barks"], padding=True)
    assert tokenizer.pad_token_id != tokenizer.unk_token_id
    assert batch.input_ids[0][0] == tokenizer.pad_token_id and batch.attention_mask[0][0] == 0


def test_a_separate_padding_token_is_kept():
    original = byte_level_tokenizer()
    original.add_special_tokens({"pad_token": "<mypad>"})
    assert add_placeholder_tokens(original).pad_token == "<mypad>"


def test_adding_placeholders_is_idempotent():
    tokenizer = add_placeholder_tokens(sentencepiece_tokenizer())
    assert add_placeholder_tokens(tokenizer) is tokenizer


@pytest.mark.parametrize("prepend_scheme", ["first", "always"])
@pytest.mark.parametrize("piece", PIECES)
def test_text_after_a_placeholder_starts_a_new_word(prepend_scheme, piece):
    tokenizer = add_placeholder_tokens(sentencepiece_tokenizer(prepend_scheme))
    word_start = "\u2581"
    bpe = tokenizer.backend_tokenizer.model
    expected = [token.id for token in bpe.tokenize(word_start + piece.replace(" ", word_start))]
    before = pieces_ids(tokenizer, "rain\n")
    for placeholders in (["<video>"], ["<video>", "<audio>", "<video>"]):
        ids = tokenizer.convert_tokens_to_ids(placeholders)
        assert pieces_ids(tokenizer, "rain\n" + "".join(placeholders) + piece) == before + ids + expected


def test_existing_placeholder_tokens_are_kept_and_corrected():
    original = sentencepiece_tokenizer()
    original.add_special_tokens({"pad_token": "<mypad>", "additional_special_tokens": ["<audio>", "<video>"]})
    tokenizer, expected = add_placeholder_tokens(original), add_placeholder_tokens(sentencepiece_tokenizer())
    names = ["<audio>", "<video>", "<mypad>"]
    assert tokenizer.convert_tokens_to_ids(names) == original.convert_tokens_to_ids(names)
    assert len(tokenizer) == len(original) and tokenizer.pad_token == "<mypad>"
    text = "USER: <video><audio>\nrain</s>USER: x"
    tokens = [t.convert_ids_to_tokens(t(text).input_ids) for t in (tokenizer, expected)]
    assert tokens[0] == tokens[1]
    assert add_placeholder_tokens(tokenizer) is tokenizer


@pytest.mark.parametrize("prepend_scheme", ["first", "always"])
def test_a_saved_tokenizer_gives_the_same_ids(tmp_path, prepend_scheme):
    tokenizer = add_placeholder_tokens(sentencepiece_tokenizer(prepend_scheme))
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "USER: <video><audio>\nWhat? ASSISTANT: rain</s>USER: <audio> x ASSISTANT:"
    assert loaded(text).input_ids == tokenizer(text).input_ids
    assert (loaded.padding_side, loaded.pad_token) == ("left", "<pad>")
    assert add_placeholder_tokens(loaded) is loaded


def test_ids_of_llama_after_an_answer(shared_golden_dir):
    """After </s>, legacy=False gives "US", "ER" as the slow tokenizer; legacy=True starts a new word."""
    for legacy, expected in ((False, [2, 3308, 1001]), (True, [2, 3148, 1001])):
        tokenizer = add_placeholder_tokens(
            AutoTokenizer.from_pretrained(shared_golden_dir / "llama_tokenizer", legacy=legacy)
        )
        assert pieces_ids(tokenizer, "rain</s>USER: x")[-5:-2] == expected
        assert tokenizer.decode(pieces_ids(tokenizer, "The USER: rain")) == "The USER: rain"


def test_a_slow_tokenizer_is_an_error():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow"):
        add_placeholder_tokens(Slow())


@pytest.mark.parametrize("legacy", [0, 1])
def test_a_tokenizer_model_without_tokenizer_json_gives_the_published_ids(shared_golden_dir, tmp_path, legacy):
    """As in Vicuna's repository; the conversion of transformers merges spaces too early."""
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(shared_golden_dir / "llama_tokenizer" / name, tmp_path / name)
    tokenizer = add_placeholder_tokens(AutoTokenizer.from_pretrained(tmp_path, legacy=bool(legacy)))
    video = tokenizer.convert_tokens_to_ids("<video>")
    for name, case in read_labels(shared_golden_dir, legacy)["v1"].items():
        if name != "literal_later_audio":  # an error in messages, see INTENDED_DIFFERENCES
            ids = [-200 if token_id == video else token_id for token_id in tokenizer(case["prompt"]).input_ids]
            assert ids == case["input_ids"], name


def test_a_small_tokenizer_gives_the_published_ids(shared_golden_dir):
    """Intended difference with legacy=False: after </s> the published code gives unknown tokens, ours does not."""
    for legacy in (0, 1):
        tokenizer = AutoTokenizer.from_pretrained(shared_golden_dir / "small_tokenizer", legacy=bool(legacy))
        tokenizer = add_placeholder_tokens(tokenizer)
        video = tokenizer.convert_tokens_to_ids("<video>")
        golden = json.loads(
            (shared_golden_dir / "labels" / f"small_tokenizer_legacy{legacy}.json").read_text(encoding="utf-8")
        )
        for name, case in golden["v1"].items():
            ids = [-200 if token_id == video else token_id for token_id in tokenizer(case["prompt"]).input_ids]
            if name == "literal_later_audio":
                continue
            if legacy == 0 and name in ("two_turn", "three_turn_meta"):
                assert tokenizer.unk_token_id in case["input_ids"] and tokenizer.unk_token_id not in ids
            else:
                assert ids == case["input_ids"], (legacy, name)
