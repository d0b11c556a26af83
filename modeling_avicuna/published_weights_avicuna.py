"""Reads the files of the published release: a causal language model, projector files, LoRA folders.

They become one flat dict of float32 tensors under current names, with LoRA merged. Files are read with
`weights_only=True`, so that pickles cannot run code, and an unknown or missing key or a wrong shape is an error that
names it. Nothing here builds a model or writes a file.
"""

import json
import pickle
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


# buffers that old versions of transformers saved; current ones compute them
_COMPUTED_BUFFER = re.compile(r"\.rotary_emb\.inv_freq$")
_LORA_KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")
_PROJECTOR_KEY = re.compile(
    r"^(?:base_model\.model\.)?model\.(?P<name>mm_projector|mm_projector_a)\.(?P<part>weight|bias)$"
)
_ADAPTER_NAMES = {"mm_projector": "vision_adapter", "mm_projector_a": "audio_adapter"}
# settings of a LoRA folder that would change the arithmetic of the merge; any other value than these is refused
_LORA_SETTINGS = {
    "peft_type": "LORA",
    "bias": "none",
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "use_rslora": False,
    "use_dora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
}

# what torch and safetensors raise on bytes that are no such file, found by reading 6,000 mutated ones
_BROKEN_FILE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    struct.error,
)


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Reads one `.safetensors` or `.bin` file.

    Raises:
        ValueError: The file is missing or unreadable, or holds anything but tensors by name.
    """
    if not file.is_file():
        raise ValueError(f"{file} does not exist")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{file} is refused: it holds more than tensors ({str(error).splitlines()[0]})") from error
    except _BROKEN_FILE as error:
        raise ValueError(f"{file} cannot be read as tensors: {error or type(error).__name__}") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError(f"{file} is refused: it must hold a dict of tensors by name")
    for name, tensor in tensors.items():
        # a few bytes can describe a tensor of any size, which would fill the memory once it is converted
        if tensor.layout != torch.strided or tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise ValueError(f"{file} is refused: {name} is sparse or has more elements than the file")
    return dict(tensors)


def read_settings(file: Path) -> dict:
    """Reads a JSON file that holds one object.

    Raises:
        ValueError: The file is missing or holds anything else.
    """
    if not file.is_file():
        raise ValueError(f"{file} does not exist")
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} must hold a JSON object")
    return settings


def read_language_model(folder: Path) -> dict[str, torch.Tensor]:
    """Reads the weights of a causal language model, sharded or not, in float32 and under their own names.

    Raises:
        ValueError: No weights, a shard is missing, or a shard lacks or adds keys to those of the index.
    """
    for stem in ("model.safetensors", "pytorch_model.bin"):
        if (folder / stem).is_file():
            tensors = read_tensors(folder / stem)
            break
        index = folder / f"{stem}.index.json"
        if index.is_file():
            weight_map = read_settings(index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise ValueError(f"{index} has no weight_map")
            tensors = {}
            for shard in sorted({str(name) for name in weight_map.values()}):
                if Path(shard).name != shard:
                    raise ValueError(f"{index} is refused: the shard {shard!r} is not the name of a file beside it")
                tensors |= read_tensors(folder / shard)
            check_keys(tensors, weight_map, where=f"the shards of {index}")
            break
    else:
        raise ValueError(f"{folder} holds neither model.safetensors nor pytorch_model.bin, nor an index of shards")
    return {name: tensor.float() for name, tensor in tensors.items() if not _COMPUTED_BUFFER.search(name)}


def read_projector(file: Path, name: str, *, others: Iterable[str] = ()) -> dict[str, torch.Tensor]:
    """Reads one adapter from a projector file of stage I or II.

    Args:
        file: `mm_projector.bin` or `mm_projector_a.bin`.
        name: The projector to take, "mm_projector" or "mm_projector_a".
        others: Projectors that may be in the file and are ignored: the published stage I saver matches names by
            substring and so writes the untrained audio projector, too.

    Returns:
        `{"vision_adapter.weight": (hidden_size, feature_size), "vision_adapter.bias": (hidden_size,)}`, or those of
        the audio adapter.

    Raises:
        ValueError: A key is unknown or missing, or weight and bias do not fit each other.
    """
    projectors = _read_projectors(file)
    unknown = sorted(set(projectors) - {name, *others})
    if unknown:
        raise ValueError(f"{file} holds {unknown}, expected {name}")
    if name not in projectors:
        raise ValueError(f"{file} misses model.{name}.weight and model.{name}.bias")
    return _named_adapters({name: projectors[name]})


def read_tuned_projectors(folder: Path) -> dict[str, torch.Tensor]:
    """Reads the projectors that a LoRA stage tuned (`non_lora_trainables.bin`); often none.

    Raises:
        ValueError: A key is unknown or missing, or weight and bias do not fit each other.
    """
    file = folder / "non_lora_trainables.bin"
    return _named_adapters(_read_projectors(file)) if file.is_file() else {}


def _read_projectors(file: Path) -> dict[str, dict[str, torch.Tensor]]:
    tensors = read_tensors(file)
    matches = _match_keys(_PROJECTOR_KEY, tensors, file)
    projectors: dict[str, dict[str, torch.Tensor]] = {}
    for key, match in matches.items():
        projectors.setdefault(match["name"], {})[match["part"]] = tensors[key].float()
    for name, parts in projectors.items():
        if set(parts) != {"weight", "bias"}:
            raise ValueError(f"{file} holds only {sorted(parts)} of model.{name}")
        weight, bias = parts["weight"], parts["bias"]
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            shapes = f"weight {tuple(weight.shape)} and bias {tuple(bias.shape)}"
            raise ValueError(f"{file}: model.{name} has {shapes}, which do not fit each other")
    return projectors


def _match_keys(pattern: re.Pattern[str], keys: Iterable[str], file: Path) -> dict[str, re.Match[str]]:
    found = {key: pattern.match(key) for key in keys}
    unknown = sorted(key for key, match in found.items() if match is None)
    if unknown:
        raise ValueError(f"{file} holds unknown keys {unknown}")
    return {key: match for key, match in found.items() if match is not None}


def _named_adapters(projectors: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {
        f"{_ADAPTER_NAMES[name]}.{part}": tensor
        for name, parts in projectors.items()
        for part, tensor in parts.items()
    }


def merge_lora(weights: dict[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """Adds a LoRA folder to the weights it was trained on: W + (B A) alpha / r, in float32.

    Args:
        weights: Weights of the language model under their own names; not changed.
        folder: `adapter_config.json` with `adapter_model.bin` or `adapter_model.safetensors`.

    Raises:
        ValueError: The settings are not those of a plain LoRA, or a key is unknown, alone or misshapen.
    """
    config_file = folder / "adapter_config.json"
    config = read_settings(config_file)
    for setting in ("r", "lora_alpha"):
        value = config.get(setting)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ValueError(f"{config_file}: {setting} must be a positive number, got {value!r}")
    for setting, expected in _LORA_SETTINGS.items():
        if (config.get(setting) or expected) != expected:
            raise ValueError(f"{config_file}: {setting}={config[setting]!r} is not supported, expected {expected!r}")
    stems = ("adapter_model.safetensors", "adapter_model.bin")
    file = next((folder / stem for stem in stems if (folder / stem).is_file()), folder / stems[-1])
    scaling = config["lora_alpha"] / config["r"]
    merged = dict(weights)
    for module, (down, up) in _read_lora_pairs(file).items():
        name = f"{module}.weight"
        if name not in weights:
            raise ValueError(f"{file} holds LoRA weights of {module}, which the language model does not have")
        rank = config["r"]
        if up.shape != (weights[name].shape[0], rank) or down.shape != (rank, weights[name].shape[1]):
            raise ValueError(
                f"{file}: lora_A {tuple(down.shape)} and lora_B {tuple(up.shape)} of {module} do not fit rank {rank} "
                f"and {name} {tuple(weights[name].shape)}"
            )
        merged[name] = weights[name] + (up @ down) * scaling
    return merged


def _read_lora_pairs(file: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    tensors = read_tensors(file)
    matches = _match_keys(_LORA_KEY, tensors, file)
    sides: dict[str, dict[str, torch.Tensor]] = {}
    for key, match in matches.items():
        sides.setdefault(match["module"], {})[match["side"]] = tensors[key].float()
    alone = sorted(module for module, pair in sides.items() if set(pair) != {"A", "B"})
    if alone or not sides:
        raise ValueError(f"{file} lacks lora_A or lora_B of {alone or 'every module'}")
    return {module: (pair["A"], pair["B"]) for module, pair in sides.items()}


def check_keys(found: Iterable[str], expected: Iterable[str], *, where: str) -> None:
    """Raises `ValueError` naming the keys that are missing from `found`, or in it without being expected."""
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unknown:
        raise ValueError(f"{where}: missing keys {missing}, unknown keys {unknown}")


def check_shapes(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Size], *, where: str) -> None:
    """Raises `ValueError` naming each tensor whose shape is not the expected one, with both shapes."""
    wrong = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if tensors[name].shape != shape
    ]
    if wrong:
        raise ValueError(f"{where}: misshapen {', '.join(wrong)}")
