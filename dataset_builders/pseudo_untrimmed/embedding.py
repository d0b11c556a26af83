"""Embed captions with sentence-transformers; each vector is cached by the hash of its text (step 2, first half).

A caption is encoded once per encoder, independent of its file and of the other captions. Clustering is in
`clustering.py`.
"""

import hashlib
from functools import cache
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
    keys = [hash_text(caption) for caption in captions]
    folder = None if cache_dir is None else Path(cache_dir) / fingerprint_encoder(text_encoder)
    known = {} if folder is None else read_vectors(folder)
    new = {key: caption for key, caption in zip(keys, captions) if key not in known}
    if new:
        vectors = encode_texts(list(new.values()), text_encoder=text_encoder)
        known.update(zip(new, vectors))
        if folder is not None:
            write_vectors(folder, list(new), vectors)
    return np.stack([known[key] for key in keys])


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


def read_vectors(folder: Path) -> dict[str, np.ndarray]:
    """Text hash -> vector, from all files of earlier runs."""
    vectors: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        vectors.update(zip((row.tobytes().hex() for row in tensors["hashes"]), tensors["vectors"]))
    return vectors


def write_vectors(folder: Path, keys: list[str], vectors: np.ndarray) -> None:
    """Write a file of vectors, named by the texts it holds, so that concurrent builds do not conflict."""
    folder.mkdir(parents=True, exist_ok=True)
    hashes = np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(len(keys), 32)
    path = folder / f"{hash_text(''.join(keys))[:16]}.safetensors"
    with atomic_path(path) as temporary:
        save_file({"hashes": hashes.copy(), "vectors": np.ascontiguousarray(vectors)}, temporary)
