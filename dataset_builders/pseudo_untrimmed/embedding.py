"""Embed captions with sentence-transformers; each vector is cached by the hash of its text (step 2, first half).

A caption is encoded once per encoder, independent of its file and of the other captions. Clustering is in
`clustering.py`.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from ..atomic_files import atomic_path
from ..sources.annotation_files import fingerprint


ENCODER_FILES = (
    ".json",
    ".txt",
    ".safetensors",
    ".bin",
    ".model",
)  # the files of a sentence-transformers folder that affect its output
CHUNK_CAPTIONS = 100_000  # encoded and saved at a time: a killed process loses at most some minutes


def embed_captions(
    captions: list[str],
    *,
    text_encoder: str | Path,
    cache_dir: str | Path | None = None,
) -> np.ndarray:
    """Unit-length sentence embeddings, one row per caption.

    Args:
        captions (`list[str]`):
            Texts; repeated ones are encoded once.
        text_encoder (`str` or `Path`):
            A sentence-transformers model: a Hub id or a folder.
        cache_dir (`str` or `Path`, *optional*):
            Cache folder of the vectors, with one subfolder per encoder. None: no cache.

    Returns:
        `np.ndarray` of shape `(num_captions, embedding_size)`, float32.

    Raises:
        ValueError: no captions, or an encoder that cannot be loaded.
    """
    if not captions:
        raise ValueError("there are no captions to embed")
    distinct = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
    places = {hash_text(caption): place for caption, place in distinct.items()}
    folder = None if cache_dir is None else Path(cache_dir) / fingerprint_encoder(text_encoder)
    rows, is_missing = np.empty((0, 0), np.float32), np.ones(len(distinct), bool)
    cached = iter(()) if folder is None else read_vectors(folder)
    for keys, vectors in chain(cached, encode_missing(list(distinct), is_missing, text_encoder, folder)):
        if not rows.size:
            rows = np.empty((len(distinct), vectors.shape[1]), np.float32)
        pairs = [(places[key], number) for number, key in enumerate(keys) if key in places]
        found, numbers = np.array(pairs, np.int64).reshape(-1, 2).T
        new = is_missing[found]
        rows[found[new]] = vectors[numbers[new]]
        is_missing[found] = False
    return rows if len(distinct) == len(captions) else rows[[distinct[caption] for caption in captions]]


def encode_missing(
    captions: list[str], is_missing: np.ndarray, text_encoder: str | Path, folder: Path | None
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Text hashes and vectors of the captions that are missing, which are saved in `folder` as they are computed.

    Args:
        is_missing (boolean `np.ndarray` of shape `(num_captions,)`): read when the iteration begins.
    """
    places = np.flatnonzero(is_missing)
    for first in range(0, len(places), CHUNK_CAPTIONS):
        texts = [captions[place] for place in places[first : first + CHUNK_CAPTIONS]]
        keys, vectors = [hash_text(text) for text in texts], encode_texts(texts, text_encoder=text_encoder)
        if folder is not None:
            write_vectors(folder, keys, vectors)
        yield keys, vectors


def encode_texts(texts: list[str], *, text_encoder: str | Path) -> np.ndarray:
    """Run the encoder: `(num_texts, embedding_size)` float32 rows of length 1."""
    from sentence_transformers import SentenceTransformer  # slow import, not needed if all vectors are cached

    try:
        encoder = SentenceTransformer(str(text_encoder))
    except OSError as error:
        raise ValueError(
            f"text_encoder {str(text_encoder)!r} is neither a model of the Hub nor a folder: {error}"
        ) from error
    rows = encoder.encode(texts, normalize_embeddings=True, show_progress_bar=len(texts) > 2000)
    return np.asarray(rows, np.float32)


def fingerprint_encoder(text_encoder: str | Path) -> str:
    """An identifier of the encoder: a hash of the file contents of a folder, or the Hub id."""
    folder = Path(text_encoder)
    if not folder.is_dir():
        return hash_text(str(text_encoder))[:16]
    files = sorted(path for path in folder.rglob("*") if path.suffix in ENCODER_FILES)
    states = [path.stat() for path in files]
    return _hash_files(tuple((path, state.st_size, state.st_mtime_ns) for path, state in zip(files, states)))


@cache  # one build asks five times
def _hash_files(states: tuple[tuple[Path, int, int], ...]) -> str:
    """A hash of the contents of files, given with their sizes and times of change."""
    return fingerprint(path for path, _, _ in states)


def hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read_vectors(folder: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    """Text hashes and vectors of each file of earlier runs."""
    for path in sorted(folder.glob("*.safetensors"), reverse=True):
        tensors = load_file(path)
        yield [row.tobytes().hex() for row in tensors["hashes"]], tensors["vectors"]


def write_vectors(folder: Path, keys: list[str], vectors: np.ndarray) -> None:
    """Write a file of vectors, named by the texts it holds, so that concurrent builds do not conflict."""
    folder.mkdir(parents=True, exist_ok=True)
    hashes = np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(len(keys), 32)
    path = folder / f"{hash_text(''.join(keys))[:16]}.safetensors"
    with atomic_path(path) as temporary:
        save_file({"hashes": hashes.copy(), "vectors": np.ascontiguousarray(vectors)}, temporary)
