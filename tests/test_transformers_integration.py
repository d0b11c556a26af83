"""Features that transformers offers for every model, with AVicuna: loading, attention, generation, adapters.

Remote code runs in a separate process that cannot import the project; the rest runs here on tiny weights.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    BitsAndBytesConfig,
    CompileConfig,
    LlamaConfig,
    LlamaForCausalLM,
    TextIteratorStreamer,
    TorchAoConfig,
)

from modeling_avicuna import (
    FULL_PRECISION_MODULES,
    AVicunaConfig,
    AVicunaForConditionalGeneration,
    AVicunaProcessor,
    build_processor,
)
from tests.tiny_models import (
    AUDIO_TOKEN_ID,
    EOS_ID,
    FRAME_SHAPE,
    TINY_TEXT,
    VIDEO_TOKEN_ID,
    VOCAB_SIZE,
    WINDOW_SHAPE,
    left_pad,
    prompt_ids,
    tiny_config,
    tiny_model,
)
from tests.tiny_tokenizers import byte_level_tokenizer


@pytest.fixture(scope="module")
def inputs():
    """Two samples of raw media of different lengths, the second without sound, padded on the left."""
    generator = torch.Generator().manual_seed(0)
    return left_pad([prompt_ids(6, 2, 9), prompt_ids(4, 0, 3, seed=1)]) | {
        "pixel_values_videos": torch.randn(2, 6, *FRAME_SHAPE, generator=generator),
        "video_lengths": torch.tensor([6, 4]),
        "input_features": torch.randn(2, 2, *WINDOW_SHAPE, generator=generator),
        "audio_lengths": torch.tensor([2, 0]),
    }


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def greedy(model, inputs):
    return answer(model, inputs)


def answer(model, inputs, **settings):
    """The new tokens; greedy by default."""
    settings = {"max_new_tokens": 8, "do_sample": False, **settings}
    return model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]


@torch.no_grad()
def logits_of(model, inputs):
    return model(**inputs).logits


def row(inputs, index):
    """One sample of a batch, without its padding."""
    sample = {name: tensor[index : index + 1] for name, tensor in inputs.items()}
    length = int(sample["attention_mask"].sum())
    return {
        **sample,
        "input_ids": sample["input_ids"][:, -length:],
        "attention_mask": sample["attention_mask"][:, -length:],
    }


# ---- loading ----


REMOTE_SCRIPT = """
import json, sys, torch
from pathlib import Path
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor

folder, given = Path(sys.argv[1]), torch.load(sys.argv[2])
assert not any("modeling_avicuna" in path for path in sys.path) and "modeling_avicuna" not in sys.modules
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "avicuna"
for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM):
    model = auto_class.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    with torch.no_grad():
        assert torch.equal(model(**given["inputs"]).logits, given["logits"]), auto_class
    assert torch.equal(model.generate(**given["inputs"], max_new_tokens=8, do_sample=False), given["tokens"]), auto_class
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert processor(text=given["text"]).input_ids.tolist() == given["text_ids"]
model.save_pretrained(folder / "again")
processor.save_pretrained(folder / "again")
try:
    AutoModel.from_pretrained(folder)
except ValueError as error:
    assert "trust_remote_code" in str(error)
else:
    raise AssertionError("loaded without trust")
print("all equal")
"""  # noqa: E501


@pytest.fixture(scope="module")
def processor():
    return build_processor(byte_level_tokenizer(), image_size=32, num_av_tokens=8)


@pytest.fixture(scope="module")
def checkpoint(processor, tmp_path_factory):
    """A complete checkpoint: a processor, and a model with its placeholder ids."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = tiny_model(
        text_config={**TINY_TEXT, "vocab_size": len(processor.tokenizer)},
        video_token_id=processor.video_token_id,
        audio_token_id=processor.audio_token_id,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_remote_code_without_the_project_gives_identical_logits(checkpoint, processor, inputs, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    ids = inputs["input_ids"].clone()
    ids[inputs["input_ids"] == VIDEO_TOKEN_ID] = processor.video_token_id
    ids[inputs["input_ids"] == AUDIO_TOKEN_ID] = processor.audio_token_id
    given = {"inputs": {**inputs, "input_ids": ids}, "text": ["A dog barks."]}
    given["logits"] = logits_of(model, given["inputs"])
    given["tokens"] = model.generate(**given["inputs"], max_new_tokens=8, do_sample=False)
    given["text_ids"] = processor(text=given["text"]).input_ids.tolist()
    torch.save(given, tmp_path / "given.pt")
    (tmp_path / "remote.py").write_text(REMOTE_SCRIPT)
    done = subprocess.run(
        [sys.executable, "-P", tmp_path / "remote.py", checkpoint, tmp_path / "given.pt"],
        cwd=tmp_path,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": str(hidden_project(tmp_path))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "all equal" in done.stdout, done.stderr[-3000:]
    saved_again = {path.name for path in (checkpoint / "again").glob("*_avicuna.py")}
    assert saved_again == {path.name for path in checkpoint.glob("*_avicuna.py")}
    assert {"modeling_avicuna.py", "processing_avicuna.py", "pipeline_avicuna.py"} <= saved_again


def hidden_project(folder: Path) -> Path:
    """A folder for PYTHONPATH whose sitecustomize.py removes the installed project from the import path."""
    (folder / "hide").mkdir()
    project = str(Path(__file__).resolve().parents[1])
    (folder / "hide/sitecustomize.py").write_text(
        "import sys\n"
        f"sys.path = [path for path in sys.path if path != {project!r}]\n"
        "sys.meta_path = [finder for finder in sys.meta_path if '__editable__' not in getattr(finder, '__module__', '')]\n"  # noqa: E501
    )
    return folder / "hide"


@pytest.mark.parametrize(
    "auto_class", [AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoModelForImageTextToText]
)
def test_importing_the_package_registers_the_auto_classes(checkpoint, auto_class):
    for trust in (None, True):
        model = auto_class.from_pretrained(checkpoint, trust_remote_code=trust)
        assert type(model) is AVicunaForConditionalGeneration
    assert type(auto_class.from_config(tiny_config())) is AVicunaForConditionalGeneration
    assert type(AutoConfig.from_pretrained(checkpoint)) is AVicunaConfig
    assert type(AutoProcessor.from_pretrained(checkpoint)) is AVicunaProcessor


def test_a_sharded_checkpoint_is_the_same_model(model, inputs, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits_of(loaded, inputs), logits_of(model, inputs))
    placed = AutoModelForCausalLM.from_pretrained(tmp_path, device_map={"": "cpu"})
    assert torch.equal(logits_of(placed, inputs), logits_of(model, inputs))


def test_the_base_model_loads_from_the_same_checkpoint(model, inputs, tmp_path):
    from modeling_avicuna import AVicunaModel

    model.save_pretrained(tmp_path)
    base = AVicunaModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(base(**inputs).last_hidden_state, model.model(**inputs).last_hidden_state)


def test_bfloat16_stays_close_and_finite(model, inputs, greedy, tmp_path):
    model.save_pretrained(tmp_path)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    logits = logits_of(half, inputs)
    assert logits.dtype == torch.bfloat16 and torch.isfinite(logits).all()
    exact = logits_of(model, inputs)
    kept = inputs["attention_mask"].bool()
    error = (logits.float() - exact)[kept][..., :VIDEO_TOKEN_ID].norm() / exact[kept][..., :VIDEO_TOKEN_ID].norm()
    assert error < 0.1
    assert answer(half, inputs).shape == greedy.shape
    half.save_pretrained(tmp_path / "half")
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"


# ---- attention, memory ----


def test_eager_and_sdpa_attention_agree_and_flash_is_declared(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    eager = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert model.config.text_config._attn_implementation == model.config.vision_config._attn_implementation == "sdpa"
    assert eager.config.text_config._attn_implementation == "eager"
    kept = inputs["attention_mask"].bool()
    torch.testing.assert_close(logits_of(eager, inputs)[kept], logits_of(model, inputs)[kept], atol=1e-4, rtol=0)
    mixed = AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation={"vision_config": "eager", "text_config": "sdpa"}
    )
    assert mixed.config.vision_config._attn_implementation == "eager"
    torch.testing.assert_close(logits_of(mixed, inputs)[kept], logits_of(model, inputs)[kept], atol=1e-4, rtol=0)
    assert model._supports_flash_attn and model._supports_sdpa


def test_an_attention_that_clap_lacks_is_used_in_the_other_parts(model, inputs, greedy, tmp_path):
    """With flex attention, which transformers dispatches as flash attention but without a GPU."""
    model.save_pretrained(tmp_path)
    at_loading = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="flex_attention")
    later = AutoModelForCausalLM.from_pretrained(tmp_path)
    later.set_attn_implementation("flex_attention")
    for changed in (at_loading, later):
        parts = changed.model.language_model, changed.model.vision_tower, changed.model.audio_tower
        names = [part.config._attn_implementation for part in parts]
        assert names == ["flex_attention", "flex_attention", "eager"]
    later.set_attn_implementation("sdpa")
    assert torch.equal(answer(later, inputs), greedy)


def test_gradient_checkpointing_gives_the_same_gradients(inputs):
    model = tiny_model().train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert all(
                tower.is_gradient_checkpointing for tower in (model.model.vision_tower, model.model.language_model)
            )
        model.zero_grad()
        model.model.vision_tower.eval()
        model.model.audio_tower.eval()  # batch statistics would change between the passes
        model(**inputs, labels=inputs["input_ids"].clamp(max=90), use_cache=False).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 40
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)


# ---- generation ----


@pytest.mark.parametrize(
    "settings", [{"cache_implementation": "static"}, {"cache_implementation": "dynamic"}, {"use_cache": False}]
)
def test_every_cache_gives_the_same_tokens(model, inputs, greedy, settings):
    assert torch.equal(answer(model, inputs, **settings), greedy)


def test_a_decoding_step_compiles_into_one_graph(model, inputs, greedy):
    settings = CompileConfig(fullgraph=True, backend="eager", mode=None)
    settings._compile_all_devices = True  # the default: accelerators only
    assert torch.equal(answer(model, inputs, cache_implementation="static", compile_config=settings), greedy)
    assert hasattr(model, "_compiled_call"), "generate did not compile"
    del model._compiled_call


def test_batched_beam_search_equals_single(model, inputs):
    batched = answer(model, inputs, num_beams=3)
    for index in range(2):
        single = answer(model, row(inputs, index), num_beams=3)[0]
        assert batched[index, : len(single)].tolist() == single.tolist()


def test_num_return_sequences_of_beams_and_samples(model, inputs, greedy):
    beams = answer(model, inputs, num_beams=4, num_return_sequences=3)
    assert beams.shape[0] == 6 and len({tuple(tokens) for tokens in beams[:3].tolist()}) == 3
    best = answer(model, inputs, num_beams=4)
    assert torch.equal(beams[::3, : best.shape[1]], best)
    torch.manual_seed(0)
    samples = answer(model, inputs, do_sample=True, num_return_sequences=3, temperature=2.0)
    assert samples.shape[0] == 6 and len({tuple(tokens) for tokens in samples.tolist()}) > 2
    torch.manual_seed(0)
    assert torch.equal(answer(model, inputs, do_sample=True, num_return_sequences=3, temperature=2.0), samples)
    cold = answer(model, inputs, do_sample=True, temperature=1e-4, num_return_sequences=2)
    assert torch.equal(cold[::2], greedy) and torch.equal(cold[1::2], greedy)


def test_the_streamed_text_is_the_generated_text(checkpoint, processor):
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    ids = torch.tensor([[processor.video_token_id] * 8 + processor.tokenizer("A dog").input_ids])
    media = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": torch.randn(1, 8, *FRAME_SHAPE),
    }
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, timeout=30)
    tokens = model.generate(**media, max_new_tokens=8, do_sample=False, streamer=streamer)
    assert "".join(streamer) == processor.tokenizer.decode(tokens[0, ids.shape[1] :])


def test_assisted_decoding_gives_the_same_tokens(model, inputs, greedy):
    single = row(inputs, 0)
    expected = answer(model, single)
    torch.manual_seed(3)
    text_only = LlamaForCausalLM(LlamaConfig(**TINY_TEXT)).eval()
    for assistant in (tiny_model(seed=1), model, text_only):
        assert torch.equal(answer(model, single, assistant_model=assistant), expected), type(assistant)
    assert torch.equal(answer(model, single, prompt_lookup_num_tokens=2), expected)


def test_an_unknown_argument_of_generate_is_an_error(model, inputs):
    with pytest.raises(ValueError, match="number_of_frames"):
        model.generate(**inputs, max_new_tokens=2, number_of_frames=3)


# ---- vocabulary, adapters, quantisation ----


def test_resized_embeddings_keep_the_generated_tokens(inputs, greedy):
    model = tiny_model()
    model.resize_token_embeddings(VOCAB_SIZE + 7, mean_resizing=False)
    assert model.config.text_config.vocab_size == VOCAB_SIZE + 7 == model.lm_head.out_features
    with torch.no_grad():
        model.lm_head.weight[VOCAB_SIZE:] = 0
    logits = logits_of(model, inputs)
    assert logits.shape[-1] == VOCAB_SIZE + 7
    torch.testing.assert_close(logits[..., :VOCAB_SIZE], logits_of(tiny_model(), inputs), atol=1e-5, rtol=0)
    assert torch.equal(answer(model, inputs), greedy)


def test_tied_embeddings_are_tied_after_loading(inputs, tmp_path):
    model = tiny_model(text_config={**TINY_TEXT, "tie_word_embeddings": True})
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(logits_of(loaded, inputs), logits_of(model, inputs))


def test_a_saved_peft_adapter_loads_into_the_model(inputs, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(
        r=4,
        target_modules=r"model\.language_model\..*\.(q|k|v|o|gate|up|down)_proj",
        modules_to_save=["vision_adapter", "audio_adapter"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(0)
    tuned = get_peft_model(tiny_model(), config).eval()
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.1)
    trainable = [name for name, parameter in tuned.named_parameters() if parameter.requires_grad]
    assert trainable and not any("tower" in name for name in trainable)
    expected = logits_of(tuned, inputs)
    tuned.save_pretrained(tmp_path)
    plain = logits_of(tiny_model(), inputs)
    assert (expected - plain).abs().max() > 1e-2

    loaded = tiny_model()
    loaded.load_adapter(tmp_path)
    torch.testing.assert_close(logits_of(loaded, inputs), expected, atol=1e-5, rtol=0)
    loaded.disable_adapters()
    torch.testing.assert_close(logits_of(loaded, inputs), plain, atol=1e-5, rtol=0)
    assert torch.equal(
        answer(PeftModel.from_pretrained(tiny_model(), tmp_path), inputs), answer(tuned.merge_and_unload(), inputs)
    )


QUANTISATIONS = {
    "bitsandbytes 8 bit": ("bitsandbytes", lambda: BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=FULL_PRECISION_MODULES)),  # noqa: E501
    "bitsandbytes 4 bit": ("bitsandbytes", lambda: BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=FULL_PRECISION_MODULES)),  # noqa: E501
    "torchao 8 bit": ("torchao", lambda: TorchAoConfig(
        __import__("torchao.quantization", fromlist=["Int8WeightOnlyConfig"]).Int8WeightOnlyConfig(),
        modules_to_not_convert=FULL_PRECISION_MODULES,
    )),
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTISATIONS)
def test_only_the_language_model_is_quantised(name, inputs, tmp_path):
    package, build_config = QUANTISATIONS[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (optional)")
    wide = {**TINY_TEXT, "hidden_size": 128, "intermediate_size": 256}  # blocks of 64 weights
    model = tiny_model(text_config=wide)
    model.save_pretrained(tmp_path)
    quantised = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=build_config())
    changed = {
        name
        for name, module in quantised.named_modules()
        if isinstance(module, torch.nn.Linear)
        and (type(module) is not torch.nn.Linear or type(module.weight) is not torch.nn.Parameter)
    }
    assert len(changed) == 14 and all(name.startswith("model.language_model.") for name in changed)
    kept = inputs["attention_mask"].bool()
    exact = logits_of(model, inputs)[kept][..., :VIDEO_TOKEN_ID]
    error = (logits_of(quantised, inputs)[kept][..., :VIDEO_TOKEN_ID] - exact).norm() / exact.norm()
    # normally distributed random weights have large errors in four bits (16 levels)
    assert error < (1.0 if "4 bit" in name else 0.15)
    assert answer(quantised, inputs, max_new_tokens=3, eos_token_id=EOS_ID).shape[1] <= 3
