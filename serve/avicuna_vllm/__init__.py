"""A vLLM plugin that serves AVicuna checkpoints as they are: OpenAI chat completions about videos with their sound.

vLLM calls `register` in each of its processes (entry point `vllm.general_plugins`). The towers, adapters and the
processor are those of `modeling_avicuna`; the language model is vLLM's own. docs/serve.md shows how to start a server.
"""


def register() -> None:
    """Registers model, chat template and media loading with vLLM."""
    from vllm import ModelRegistry

    from . import chat

    ModelRegistry.register_model("AVicunaForConditionalGeneration", "avicuna_vllm.model:AVicunaForVLLM")
    chat.register()
