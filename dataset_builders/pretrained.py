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
# the same for a JSON file that lacks a value, or has one of another type, that transformers does not check
SETTINGS_ERRORS = (KeyError, TypeError, AttributeError, IndexError)

TOKENIZER_FILE = "tokenizer.json"
MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors.index.json", "adapter_config.json")
PROCESSOR_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    TOKENIZER_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
)


@contextmanager
def name_model(model: str, *, files: tuple[str, ...] = MODEL_FILES) -> Iterator[None]:
    """
    For calls of `from_pretrained`: checks a folder before them, and adds the name of the model to their errors.

    Args:
        files: the JSON files that the calls read, for the message.

    Raises:
        ValueError: `model` is empty, a file, or a folder without a config.json that is a JSON object; or
            `from_pretrained` failed.
    """
    if not model:
        raise ValueError("the name of a model is empty")
    with name_errors(model, files=files):
        check_folder(Path(model))
        yield


@contextmanager
def name_errors(model: str, *, files: tuple[str, ...]) -> Iterator[None]:
    """Adds the name of the model to the errors of `from_pretrained`, which become ValueErrors; see `name_model`."""
    try:
        yield
    except LOADING_ERRORS as error:
        raise ValueError(f"cannot load the model {model}: {error}") from error
    except SETTINGS_ERRORS as error:
        present = [name for name in files if not Path(model).is_dir() or (Path(model) / name).is_file()]
        raise ValueError(
            f"cannot load the model {model}: a value is missing or of another type in {' or '.join(present)} "
            f"({type(error).__name__}: {error})"
        ) from error


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
    for name in (*MODEL_FILES, *PROCESSOR_FILES):
        if (path / name).is_file():
            read_object(path / name)
    if (path / TOKENIZER_FILE).is_file():
        check_tokenizer(path / TOKENIZER_FILE)


def check_tokenizer(path: Path) -> None:
    """Raises ValueError, naming the file, if `tokenizers` cannot read it."""
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # the class that `tokenizers` raises
        raise ValueError(f"{path} is not a tokenizer: {error}") from error


def load_weights(model_class: Any, model: str, **options: Any) -> Any:
    """
    `model_class.from_pretrained(model, **options)`. Code in the checkpoint is not run.

    Raises:
        ValueError: see `name_model`; or the checkpoint lacks weights of the class.
    """
    with name_model(model):
        loaded, report = model_class.from_pretrained(
            model, output_loading_info=True, trust_remote_code=False, **options
        )
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
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
        if config.model_type != "avicuna":
            raise ValueError(f"its type is {config.model_type!r}; train.initialize makes a checkpoint of AVicuna")
    with name_model(model, files=PROCESSOR_FILES):
        processor = AutoProcessor.from_pretrained(model, revision=revision, trust_remote_code=False)
        processor.check_configuration(config)
    return processor
