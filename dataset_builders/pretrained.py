"""Loads models and processors for the commands: what cannot be loaded is one ValueError that names it.

transformers gives random values to weights that a checkpoint lacks, and only warns of them. Here they are an error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from .sources.annotation_files import read_object


# what `from_pretrained` raises for damaged files and for values of the wrong type or size
LOADING_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError)

SETTINGS_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
)


@contextmanager
def name_model(model: str) -> Iterator[None]:
    """
    For calls of `from_pretrained`: checks a folder before them, and adds the name of the model to their errors.

    Raises:
        ValueError: `model` is empty, a file, or a folder without a config.json that is a JSON object; or
            `from_pretrained` failed.
    """
    if not model:
        raise ValueError("the name of a model is empty")
    try:
        check_folder(Path(model))
        yield
    except LOADING_ERRORS as error:
        raise ValueError(f"cannot load the model {model}: {error}") from error


def check_folder(path: Path) -> None:
    """Raises ValueError if a path exists and is not a folder with settings that are JSON objects."""
    if path.is_file():
        raise ValueError("it is a file, not the folder of a model")
    if not path.is_dir():
        return  # a name on the Hub
    if not (path / "config.json").is_file():
        is_adapter = (path / "adapter_config.json").is_file()
        hint = "; it has an adapter: give the folder of the merged model" if is_adapter else ""
        raise ValueError(f"the folder has no config.json{hint}")
    for name in SETTINGS_FILES:
        if (path / name).is_file():
            read_object(path / name)


def load_weights(model_class: Any, model: str, **options: Any) -> Any:
    """
    `model_class.from_pretrained(model, **options)`.

    Raises:
        ValueError: see `name_model`; or the checkpoint lacks weights of the class.
    """
    with name_model(model):
        loaded, report = model_class.from_pretrained(model, output_loading_info=True, **options)
        if missing := sorted(report["missing_keys"]):
            raise ValueError(
                f"the checkpoint lacks {len(missing)} weights of {type(loaded).__name__}, for example {missing[0]}"
            )
    return loaded


def load_processor(model: str, *, revision: str | None = None) -> Any:
    """
    The processor of an AVicuna checkpoint.

    Args:
        model: folder or Hub id.

    Raises:
        ValueError: see `name_model`; or the checkpoint is of another kind of model; or the processor and the model's
            configuration differ.
    """
    from transformers import AutoConfig, AutoProcessor

    with name_model(model):
        config = AutoConfig.from_pretrained(model, revision=revision)
        if config.model_type != "avicuna":
            raise ValueError(f"its type is {config.model_type!r}; train.initialize makes a checkpoint of AVicuna")
        processor = AutoProcessor.from_pretrained(model, revision=revision)
        processor.check_configuration(config)
    return processor
