"""Caption embeddings: computed once per text and encoder."""

import numpy as np
import pytest

from dataset_builders.pseudo_untrimmed import embedding
from dataset_builders.pseudo_untrimmed.embedding import embed_captions


def test_real_captions_are_embedded_once(sentence_encoder_dir, tmp_path, monkeypatch):
    captions = ["A dog barks in the yard.", "A puppy is barking.", "A train passes."]
    rows = embed_captions(captions, text_encoder=sentence_encoder_dir, cache_dir=tmp_path)
    assert rows.shape == (3, 384) and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2

    encoded = []

    def count(texts, **options):
        encoded.extend(texts)
        return np.ones((len(texts), 384), np.float32)

    monkeypatch.setattr(embedding, "encode_texts", count)
    again = embed_captions(captions[::-1], text_encoder=sentence_encoder_dir, cache_dir=tmp_path)
    assert np.array_equal(again, rows[::-1]) and not encoded
    embed_captions(["A new one.", *captions], text_encoder=sentence_encoder_dir, cache_dir=tmp_path)
    assert encoded == ["A new one."]


def test_the_fingerprint_of_an_encoder_depends_on_its_files(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = embedding.fingerprint_encoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"0")
    assert embedding.fingerprint_encoder(tmp_path) != before
    assert embedding.fingerprint_encoder("some/model") != embedding.fingerprint_encoder("another/model")


def test_a_missing_encoder_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match="text_encoder .*no_encoder"):
        embed_captions(["A dog barks."], text_encoder=tmp_path / "no_encoder")


@pytest.mark.parametrize("cached", [False, True])
def test_captions_are_encoded_and_saved_in_chunks(tmp_path, monkeypatch, cached):
    captions = ["a", "bb", "a", "ccc", "dddd", "bb", "eeeee"]
    expected = np.array([[len(caption), 1] for caption in captions], np.float32)
    encoded, folder = [], tmp_path if cached else None

    def encode(texts, *, text_encoder):
        if text_encoder == "killed" and encoded:
            raise KeyboardInterrupt
        encoded.append(texts)
        return np.array([[len(text), 1] for text in texts], np.float32)

    monkeypatch.setattr(embedding, "CHUNK_CAPTIONS", 2)
    monkeypatch.setattr(embedding, "encode_texts", encode)
    monkeypatch.setattr(embedding, "fingerprint_encoder", lambda text_encoder: "encoder")
    with pytest.raises(KeyboardInterrupt):
        embed_captions(captions, text_encoder="killed", cache_dir=folder)
    for _ in range(2):
        assert np.array_equal(embed_captions(captions, text_encoder="continued", cache_dir=folder), expected)
    new = [["a", "bb"], ["ccc", "dddd"], ["eeeee"]]
    assert encoded == (new if cached else [*new[:1], *new, *new])
    assert np.array_equal(embed_captions(["eeeee", "a"], text_encoder="continued", cache_dir=folder), expected[[6, 0]])
