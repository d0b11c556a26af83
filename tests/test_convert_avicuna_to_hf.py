"""The converter: equal numbers to a tiny checkpoint of the published code, and errors for invalid files."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ClapAudioModelWithProjection,
    ClapModel,
    CLIPModel,
    CLIPVisionModelWithProjection,
    set_seed,
)

from modeling_avicuna import AVicunaConfig, AVicunaForConditionalGeneration, AVicunaProcessor, interleave_order
from modeling_avicuna.convert_avicuna_to_hf import convert_checkpoint, main
from modeling_avicuna.published_weights_avicuna import merge_lora, read_language_model, read_projector, read_tensors
from tests.tiny_models import TINY_AUDIO, TINY_TEXT, TINY_VISION


PUBLISHED_VOCAB_SIZE = 1000


@pytest.fixture(scope="module")
def release(shared_golden_dir) -> Path:
    return shared_golden_dir / "tiny_checkpoint"


@pytest.fixture(scope="module")
def golden(release):
    inputs = {name: tensor.float() for name, tensor in load_file(release / "golden/inputs.safetensors").items()}
    outputs = load_file(release / "golden/outputs_fp32.safetensors")
    description = json.loads((release / "golden/outputs_fp32.json").read_text(encoding="utf-8"))
    return inputs, outputs, description


@pytest.fixture(scope="module")
def convert(release, tmp_path_factory):
    """Converts each adapter chain once and returns the loaded model; its folder is `model.name_or_path`."""
    made = {}

    def _convert(stage3=None, stage4=None, stage1="stage1"):
        key = (stage3, stage4, stage1)
        if key not in made:
            output = tmp_path_factory.mktemp("converted")
            convert_checkpoint(
                release / "base",
                vision_adapter=release / stage1 / "mm_projector.bin",
                audio_adapter=release / "stage2/mm_projector_a.bin",
                stage3=stage3 and release / stage3,
                stage4=stage4 and release / stage4,
                output=output,
            )
            made[key] = AutoModelForCausalLM.from_pretrained(output)
        return made[key]

    return _convert


@pytest.fixture(scope="module")
def model(convert):
    return convert("stage3", "stage4")


def expand(model, ids, order=None):
    """Replaces the published -200 by the placeholders of one video, or by those of `order`."""
    token_ids = {"video": model.config.video_token_id, "audio": model.config.audio_token_id}
    placeholders = [token_ids[modality] for modality in order or interleave_order(75, 25)]
    expanded = []
    for token_id in ids.tolist():
        expanded += placeholders if token_id == -200 else [token_id]
    return expanded


def model_inputs(model, golden, name, index):
    inputs, outputs, _ = golden
    input_ids = torch.tensor([expand(model, outputs[f"{name}.input_ids"])])
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "video_features": inputs[f"video{index}"][None],
        "audio_features": inputs[f"audio{index}"][None],
    }


def merged_embeddings(model, **inputs):
    """The input embeddings of the language model, and the output."""
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    return output.hidden_states[0], output


def generate(model, max_new_tokens=32, **inputs):
    tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return tokens[:, inputs["input_ids"].shape[1] :]


def our_name(model, published_name):
    name = published_name.replace("model.mm_projector_a.", "model.audio_adapter.")
    name = name.replace("model.mm_projector.", "model.vision_adapter.")
    names = dict(model.named_parameters())
    return name if name in names else published_name.replace("model.", "model.language_model.", 1)


@pytest.mark.parametrize("name, index", [("p0", 0), ("p1", 1)])
def test_golden_prompts_give_the_published_numbers(model, golden, name, index):
    _, outputs, _ = golden
    inputs = model_inputs(model, golden, name, index)
    embeddings, output = merged_embeddings(model, **inputs)
    # rtol: the golden numbers differ by up to 1.15e-6 from a float64 sum over the 768 products
    torch.testing.assert_close(embeddings[0], outputs[f"{name}.inputs_embeds"], atol=1e-6, rtol=1e-6)
    logits = output.logits[0, :, :PUBLISHED_VOCAB_SIZE]
    torch.testing.assert_close(logits, outputs[f"{name}.logits"], atol=5e-5, rtol=0)
    assert generate(model, **inputs)[0].tolist() == outputs[f"{name}.generated"].tolist()


def test_a_golden_text_prompt_gives_the_published_numbers(model, golden):
    _, outputs, _ = golden
    inputs = {"input_ids": outputs["textonly.input_ids"][None]}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        logits = model(**inputs).logits[0, :, :PUBLISHED_VOCAB_SIZE]
    torch.testing.assert_close(logits, outputs["textonly.logits"], atol=5e-5, rtol=0)
    assert generate(model, **inputs)[0].tolist() == outputs["textonly.generated"].tolist()


def test_golden_training_batch_gives_the_published_loss_and_gradients(model, golden):
    inputs, outputs, description = golden
    labels = [
        [
            label
            for label, count in zip(row.tolist(), (ids == -200).int().mul(99).add(1).tolist())
            for _ in range(count)
        ]
        for row, ids in zip(outputs["equal3.labels"], outputs["equal3.input_ids"])
    ]
    model.zero_grad()
    output = model(
        input_ids=torch.tensor([expand(model, ids) for ids in outputs["equal3.input_ids"]]),
        attention_mask=outputs["equal3.merged_attention_mask"].long(),
        labels=torch.tensor(labels),
        video_features=torch.stack([inputs[f"video{i}"] for i in range(3)]),
        audio_features=torch.stack([inputs[f"audio{i}"] for i in range(3)]),
    )
    assert output.loss.item() == pytest.approx(outputs["equal3.loss"].item(), abs=1e-5)
    output.loss.backward()
    parameters = dict(model.named_parameters())
    norms = description["batches"]["equal3"]["grad_norms"]
    for name, norm in norms.items():
        assert parameters[our_name(model, name)].grad.norm().item() == pytest.approx(norm, rel=1e-4), name
    for name in (name for name in outputs if name.startswith("equal3.grad.")):
        gradient = parameters[our_name(model, name.removeprefix("equal3.grad."))].grad
        torch.testing.assert_close(gradient[: len(outputs[name])], outputs[name], atol=1e-5, rtol=1e-4)
    assert len(norms) > 20


@pytest.mark.parametrize(
    "batch, media, features", [("stage1_images4", "video", "video0"), ("stage2_audio4", "audio", "audio0")]
)
def test_golden_single_token_stages_give_the_published_loss(convert, golden, batch, media, features):
    inputs, outputs, _ = golden
    model = convert()
    model.zero_grad()
    output = model(
        input_ids=torch.tensor([expand(model, ids, order=[media]) for ids in outputs[f"{batch}.input_ids"]]),
        attention_mask=outputs[f"{batch}.attention_mask"].long(),
        labels=outputs[f"{batch}.labels"],
        **{f"{media}_features": inputs[features][:4, None]},
    )
    assert output.loss.item() == pytest.approx(outputs[f"{batch}.loss"].item(), abs=1e-5)
    output.loss.backward()
    adapter = model.model.vision_adapter if media == "video" else model.model.audio_adapter
    torch.testing.assert_close(adapter.weight.grad, outputs[f"{batch}.grad_weight"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(adapter.bias.grad, outputs[f"{batch}.grad_bias"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "chain, name",
    [
        ((None, None), "base_projectors_only"),
        (("stage3", None), "stage3"),
        (("stage3", "stage4"), "stage3_stage4"),
        (("stage3_unfrozen", "stage4_unfrozen"), "unfrozen_stage3_stage4"),
    ],
)
def test_each_adapter_chain_generates_the_published_tokens(convert, golden, chain, name):
    model = convert(*chain)
    inputs = model_inputs(model, golden, "p0", 0)
    assert generate(model, **inputs)[0].tolist() == golden[2]["chains"][name]


def test_projectors_of_a_lora_stage_replace_earlier_ones(convert, release):
    tuned = read_tensors(release / "stage3_unfrozen/non_lora_trainables.bin")
    for chain in (("stage3_unfrozen", None), ("stage3_unfrozen", "stage4_unfrozen")):
        adapter = convert(*chain).model.audio_adapter
        assert torch.equal(adapter.weight, tuned["base_model.model.model.mm_projector_a.weight"].float())


def test_merged_weights_are_the_published_ones(model, release):
    merged = load_file(release / "golden/merged_stage3_stage4_fp32.safetensors")
    parameters = dict(model.named_parameters())
    for name, tensor in merged.items():
        torch.testing.assert_close(
            parameters[our_name(model, name)][: len(tensor)].detach(), tensor, atol=1e-7, rtol=1e-6, msg=name
        )
    assert len(merged) == len(parameters)


def test_both_formats_of_the_stage_1_file_give_the_same_model(convert):
    cut, as_saved = convert(), convert(stage1="stage1_as_saved")
    for name, parameter in cut.named_parameters():
        assert torch.equal(parameter, as_saved.get_parameter(name)), name


def test_batched_generation_equals_single(model, golden, release):
    """Different lengths, left padding: the published code is wrong here unless two of its flags are set by hand."""
    inputs, _, _ = golden
    description = json.loads((release / "golden/batched_generation_fp32.json").read_text(encoding="utf-8"))
    processor = AVicunaProcessor.from_pretrained(model.name_or_path)
    questions = [query.removeprefix("<video>\n") for query in description["queries"]]
    batch = processor.apply_chat_template(
        [[{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}] for text in questions],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={
            "padding": True,
            "video_features": [inputs["video0"], inputs["video1"]],
            "audio_features": [inputs["audio0"], inputs["audio1"]],
        },
    )
    assert generate(model, max_new_tokens=12, **batch).tolist() == description["single"]


def test_placeholders_are_found_in_input_embeddings(model, golden):
    inputs = model_inputs(model, golden, "p0", 0)
    with torch.no_grad():
        expected = model(**inputs).logits
        inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
        assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_ragged_batch_gives_the_logits_of_single_samples(model, golden, side):
    inputs, outputs, _ = golden
    prompts = [expand(model, outputs[f"{name}.input_ids"]) for name in ("p0", "p1")]
    padding = len(prompts[1]) - len(prompts[0])
    mask = torch.ones(2, len(prompts[1]), dtype=torch.long)
    if side == "left":
        prompts[0], mask[0, :padding] = [model.config.text_config.pad_token_id] * padding + prompts[0], 0
    else:
        prompts[0], mask[0, -padding:] = prompts[0] + [model.config.text_config.pad_token_id] * padding, 0
    features = {name: torch.stack([inputs[f"{name}{i}"] for i in range(2)]) for name in ("video", "audio")}
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor(prompts),
            attention_mask=mask,
            video_features=features["video"],
            audio_features=features["audio"],
        )
    for index, name in enumerate(("p0", "p1")):
        with torch.no_grad():
            single = model(**model_inputs(model, golden, name, index)).logits[0]
        logits = output.logits[index, mask[index].bool()]
        torch.testing.assert_close(logits, single, atol=1e-5, rtol=0)
        published = outputs[f"{name}.logits"]
        torch.testing.assert_close(logits[:, :PUBLISHED_VOCAB_SIZE], published, atol=5e-5, rtol=0)


@pytest.mark.parametrize("case", ["b2_v75_a25", "b1_v90_a10", "b1_v50_a50"])
def test_golden_interleaved_embeddings(shared_golden_dir, case):
    """Projection and order of the published interleaver (`b1_v40_a60`, which it fills with zeros, is left out)."""
    arrays = np.load(shared_golden_dir / "interleave/projected_fp32.npz")
    part = {name: torch.from_numpy(arrays[f"{case}_{name}"]) for name in ("video", "audio", "Wv", "bv", "Wa", "ba")}
    ids, embeds = torch.from_numpy(arrays[f"{case}_ids"]), torch.from_numpy(arrays[f"{case}_embeds"])
    text = {**TINY_TEXT, "vocab_size": 22, "hidden_size": 64}
    config = AVicunaConfig(text_config=text, video_token_id=20, audio_token_id=21)
    model = AVicunaForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight[:20] = torch.from_numpy(arrays["token_embedding"])
    state = {"weight": part["Wv"], "bias": part["bv"]}, {"weight": part["Wa"], "bias": part["ba"]}
    model.model.vision_adapter.load_state_dict(state[0])
    model.model.audio_adapter.load_state_dict(state[1])
    order = interleave_order(part["video"].shape[1], part["audio"].shape[1], rule="published")
    with torch.no_grad():
        merged = model.model.embed_prompt(
            torch.tensor([expand(model, row, order=order) for row in ids]),
            video_features=part["video"],
            audio_features=part["audio"],
        )
    torch.testing.assert_close(merged, embeds, atol=1e-5, rtol=1e-5)


def test_added_tokens_have_probability_zero(model, golden):
    inputs = model_inputs(model, golden, "p0", 0)
    with torch.no_grad():
        logits = model(**inputs).logits
    added = logits.softmax(-1)[..., PUBLISHED_VOCAB_SIZE:]
    assert added.shape[-1] == len(AutoTokenizer.from_pretrained(model.name_or_path)) - PUBLISHED_VOCAB_SIZE
    assert (added == 0).all()


def test_the_checkpoint_is_complete(model):
    folder = Path(model.name_or_path)
    assert (folder / "model.safetensors").is_file() and not list(folder.glob("*.bin"))
    processor = AVicunaProcessor.from_pretrained(folder)
    config = AVicunaConfig.from_pretrained(folder)
    tokens = processor.tokenizer.convert_ids_to_tokens([config.video_token_id, config.audio_token_id])
    assert tokens == ["<video>", "<audio>"]
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id
    assert config.text_config.vocab_size == len(processor.tokenizer) == model.lm_head.out_features
    assert "generation" in processor.chat_template
    for module in ("configuration", "modeling", "interleaving", "processing", "timestamp"):
        assert (folder / f"{module}_avicuna.py").is_file(), module
    assert "/" not in json.dumps(config.to_dict()), "a local path in config.json"


def test_the_checkpoint_records_its_origin(model):
    origin = json.loads((Path(model.name_or_path) / "origin.json").read_text(encoding="utf-8"))
    assert origin["parts"]["language_model"] == "base" and origin["parts"]["vision_adapter"] == "mm_projector.bin"
    assert origin["merged"] == ["stage3", "stage4"] and origin["parts"]["vision_tower"] is None


def test_towers_are_read_from_folders_of_clip_and_clap(release, tmp_path):
    set_seed(0)
    clip = CLIPModel.config_class(
        vision_config={**TINY_VISION, "projection_dim": 768},
        text_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        projection_dim=768,
    )
    CLIPModel(clip).save_pretrained(tmp_path / "clip")
    clap = ClapModel.config_class(
        audio_config={**TINY_AUDIO, "projection_dim": 512, "enable_fusion": True, "fusion_type": None},
        text_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        projection_dim=512,
    )
    ClapModel(clap).save_pretrained(tmp_path / "clap")
    convert_checkpoint(
        release / "base",
        vision_adapter=release / "stage1/mm_projector.bin",
        audio_adapter=release / "stage2/mm_projector_a.bin",
        vision_tower=tmp_path / "clip",
        audio_tower=tmp_path / "clap",
        output=tmp_path / "out",
        dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    frames, windows = torch.randn(1, 2, 3, 32, 32), torch.randn(1, 1, 1001, 64)
    clip_tower = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "clip").eval()
    clap_tower = ClapAudioModelWithProjection.from_pretrained(tmp_path / "clap").eval()
    with torch.no_grad():
        image_embeds = clip_tower(frames[0]).image_embeds
        is_longer = torch.zeros(1, 1, dtype=torch.bool)
        audio_embeds = clap_tower(windows.expand(-1, 4, -1, -1), is_longer=is_longer).audio_embeds
        video_features = model.model.encode_video(frames).pooler_output[0]
        audio_features = model.model.encode_audio(windows).pooler_output[0]
    # bfloat16 weights have two to three significant digits
    torch.testing.assert_close(video_features, image_embeds, atol=0.05, rtol=0.05)
    torch.testing.assert_close(
        audio_features, audio_embeds / audio_embeds.norm(dim=-1, keepdim=True), atol=0.02, rtol=0.05
    )


# ---- errors ----


def convert_with(release, tmp_path, **replaced):
    arguments = {
        "vision_adapter": release / "stage1/mm_projector.bin",
        "audio_adapter": release / "stage2/mm_projector_a.bin",
        "output": tmp_path / "out",
        **replaced,
    }
    try:
        convert_checkpoint(arguments.pop("base", release / "base"), **arguments)
    finally:
        assert not (tmp_path / "out").exists(), "output was written in spite of the error"


class _Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def test_a_malicious_pickle_is_refused_and_not_run(release, tmp_path):
    marker = tmp_path / "executed"
    for name, protocol in (("zip.bin", None), ("raw.bin", 2)):
        payload = {"model.mm_projector.weight": _Payload(marker)}
        if protocol is None:
            torch.save(payload, tmp_path / name)
        else:
            (tmp_path / name).write_bytes(pickle.dumps(payload, protocol=protocol))
        with pytest.raises(ValueError, match=f"{name} is refused"):
            convert_with(release, tmp_path, vision_adapter=tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t | {"model.mm_projector_b.weight": torch.zeros(1)}, r"unknown keys \['model.mm_projector_b.weight'\]"),  # noqa: E501
        (lambda t: {"model.mm_projector.weight": t["model.mm_projector.weight"]}, "only .'weight'. of model.mm_projector"),  # noqa: E501
        (lambda t: t | {"model.mm_projector.bias": torch.zeros(3)}, r"bias \(3,\)"),
        (lambda t: t | {"model.mm_projector.bias": torch.zeros(3), "model.mm_projector.weight": torch.zeros(3, 768)},
         r"model.vision_adapter.weight \(3, 768\) instead of \(64, 768\)"),
        (lambda t: {}, "misses model.mm_projector.weight"),
        (lambda t: {"model.mm_projector.weight": [1.0]}, "dict of tensors"),
    ],
)  # fmt: skip
def test_a_wrong_projector_file_is_an_error_that_names_the_key(release, tmp_path, change, message):
    tensors = read_tensors(release / "stage1/mm_projector.bin")
    torch.save(change(dict(tensors)), tmp_path / "mm_projector.bin")
    with pytest.raises(ValueError, match=message):
        convert_with(release, tmp_path, vision_adapter=tmp_path / "mm_projector.bin")


def test_swapped_missing_and_truncated_projector_files_are_errors(release, tmp_path):
    with pytest.raises(ValueError, match="mm_projector_a"):
        convert_with(release, tmp_path, vision_adapter=release / "stage2/mm_projector_a.bin")
    with pytest.raises(ValueError, match="mm_projector"):
        convert_with(release, tmp_path, audio_adapter=release / "stage1_as_saved/mm_projector.bin")
    with pytest.raises(ValueError, match="nowhere.bin does not exist"):
        convert_with(release, tmp_path, audio_adapter=tmp_path / "nowhere.bin")
    (tmp_path / "cut.bin").write_bytes((release / "stage1/mm_projector.bin").read_bytes()[:5000])
    with pytest.raises(ValueError, match="cut.bin cannot be read"):
        convert_with(release, tmp_path, vision_adapter=tmp_path / "cut.bin")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t | {"base_model.model.model.layers.0.extra": torch.zeros(1)}, "unknown keys .*layers.0.extra"),
        (lambda t: {k: v for k, v in t.items() if "layers.1.self_attn.k_proj.lora_B" not in k},
         r"lacks lora_A or lora_B of \['model.layers.1.self_attn.k_proj'\]"),
        (lambda t: t | {k: v[:, :5] for k, v in t.items() if "layers.1.mlp.up_proj.lora_A" in k},
         r"model.layers.1.mlp.up_proj do not fit"),
        (lambda t: {k.replace("layers.1", "layers.7"): v for k, v in t.items()}, "model.layers.7.* does not have"),
    ],
)  # fmt: skip
def test_a_wrong_lora_folder_is_an_error_that_names_the_module(release, tmp_path, change, message):
    folder = tmp_path / "stage3"
    folder.mkdir()
    (folder / "adapter_config.json").write_text((release / "stage3/adapter_config.json").read_text())
    torch.save(change(read_tensors(release / "stage3/adapter_model.bin")), folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=message):
        convert_with(release, tmp_path, stage3=folder)


@pytest.mark.parametrize("setting, value", [("use_dora", True), ("bias", "all"), ("rank_pattern", {"q_proj": 4})])
def test_an_unsupported_lora_setting_is_an_error(release, tmp_path, setting, value):
    config = json.loads((release / "stage3/adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, setting: value}))
    with pytest.raises(ValueError, match=setting):
        merge_lora({}, tmp_path)


def test_missing_and_unknown_keys_of_the_base_are_errors(release, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for file in (release / "base").glob("*"):
        if file.suffix in (".json", ".model") and "index" not in file.name:
            (base / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="neither model.safetensors nor pytorch_model.bin"):
        convert_with(release, tmp_path, base=base)
    weights = read_language_model(release / "base")
    norm = weights.pop("model.norm.weight")
    save_file(weights, base / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing keys \['model.language_model.norm.weight'\]"):
        convert_with(release, tmp_path, base=base)
    save_file({**weights, "model.norm.weight": norm, "surprise": norm.clone()}, base / "model.safetensors")
    with pytest.raises(ValueError, match=r"unknown keys \['surprise'\]"):
        convert_with(release, tmp_path, base=base)


def test_code_inside_the_base_folder_is_not_run(release, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for file in (release / "base").iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    config = json.loads((base / "config.json").read_text())
    config |= {"model_type": "surprise", "auto_map": {"AutoConfig": "payload.Config"}}
    (base / "config.json").write_text(json.dumps(config))
    (base / "payload.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'executed')!r}).touch()\n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        convert_with(release, tmp_path, base=base)
    assert not (tmp_path / "executed").exists()


def test_stage4_without_stage3_is_an_error(release, tmp_path):
    with pytest.raises(ValueError, match="needs --stage3"):
        convert_with(release, tmp_path, stage4=release / "stage4")


COMMAND = {"base": "base", "vision_adapter": "a.bin", "audio_adapter": "b.bin", "output": "out"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage4": "x"}, "needs --stage3"),
        ({"dtype": "int3"}, "invalid choice: 'int3'"),
        ({"output": "base"}, "--output base is also an input folder"),
        ({"output": "base/../base/"}, "also an input folder"),
        ({"output": "s3", "stage3": "s3"}, "also an input folder"),
        ({"base": "nowhere"}, "nowhere holds neither"),
        ({"sage3": "x"}, "--sage3"),
    ],
)
@pytest.mark.parametrize("separator", ["-", "_"])
def test_a_wrong_value_on_the_command_line_is_one_line(tmp_path, monkeypatch, capsys, change, message, separator):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    options = {**COMMAND, **change}
    words = [w for name, value in options.items() for w in ("--" + name.replace("_", separator), value)]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    line = stopped.value.code if isinstance(stopped.value.code, str) else capsys.readouterr().err.strip()
    assert message in line and "\n" not in line and line.startswith("python -m modeling_avicuna.convert_avicuna_to_hf")
    assert list((tmp_path / "base").iterdir()) == []


def test_a_tower_that_is_not_a_transformers_folder_is_an_error(release, tmp_path):
    torch.save({"visual.proj": torch.zeros(1)}, tmp_path / "ViT-L-14.pt")
    with pytest.raises(ValueError, match="ViT-L-14.pt is a file; give the tower as a transformers folder"):
        convert_with(release, tmp_path, vision_tower=tmp_path / "ViT-L-14.pt")
    with pytest.raises(ValueError, match="630k.pt is not a folder"):
        convert_with(release, tmp_path, audio_tower=tmp_path / "630k.pt")


def test_shards_outside_the_folder_are_refused(tmp_path):
    (tmp_path / "base").mkdir()
    save_file({"secret": torch.zeros(1)}, tmp_path / "secret.safetensors")
    for shard in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), ".."):
        index = {"weight_map": {"secret": shard}}
        (tmp_path / "base/model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match=r"index.json is refused: the shard|does not exist"):
            read_language_model(tmp_path / "base")


@pytest.mark.parametrize("target", ["/dev/zero", "secret.txt", "nowhere"])
def test_links_to_files_other_than_weights_are_errors(tmp_path, target):
    (tmp_path / "secret.txt").write_text("a password")
    for name in ("weights.bin", "weights.safetensors"):
        (tmp_path / name).symlink_to(tmp_path / target)
        with pytest.raises(ValueError, match=f"{name} (does not exist|cannot be read|is refused)"):
            read_tensors(tmp_path / name)


def test_mutated_weight_files_give_tensors_or_an_error_that_names_the_file(tmp_path):
    """Replaced bytes, truncated files and random text: tensors or a ValueError with the file name."""
    rng = np.random.default_rng(0)
    tensors = {"a": torch.zeros(3, 2), "b": torch.ones(4)}
    torch.save(tensors, tmp_path / "zip.bin")
    torch.save(tensors, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "s.safetensors")
    for source in ("zip.bin", "old.bin", "s.safetensors", "text"):
        whole = (tmp_path / source).read_bytes() if source != "text" else rng.bytes(60)
        file = tmp_path / f"broken.{source.partition('.')[2] or 'bin'}"
        for number in range(100):
            data = bytearray(whole if source != "text" else rng.choice(list(b"abcq()]}\x80.RtK0 \n"), 40).tolist())
            for place in rng.integers(len(data), size=number % 9):
                data[place] = rng.integers(256)
            file.write_bytes(data[: rng.integers(len(data))] if number % 3 == 0 else data)
            try:
                read_tensors(file)
            except ValueError as error:
                assert str(file) in str(error)


@pytest.mark.parametrize(
    "tensor", [torch.zeros(1).expand(10**12), torch.zeros(3, 3).to_sparse()], ids=["expanded", "sparse"]
)
def test_a_tensor_larger_than_its_file_is_refused(tmp_path, tensor):
    torch.save({"model.mm_projector.weight": tensor}, tmp_path / "bomb.bin")
    with pytest.raises(ValueError, match=r"bomb.bin is refused: model.mm_projector.weight"):
        read_tensors(tmp_path / "bomb.bin")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object"),
        ('{"lora_alpha": 16}', "r must be a positive number, got None"),
        ('{"r": 0, "lora_alpha": 16}', "r must be a positive number, got 0"),
        ('{"r": 8, "lora_alpha": "../x"}', "lora_alpha must be a positive number"),
        ('{"r": 8, "lora_alpha": NaN}', "lora_alpha must be a positive number"),
    ],
)
def test_invalid_adapter_settings_are_named(tmp_path, text, message):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match=f"adapter_config.json.* {message}"):
        merge_lora({}, tmp_path)


def test_raw_media_without_towers_are_an_error(model):
    assert isinstance(model, AVicunaForConditionalGeneration)
    ids = torch.tensor([[model.config.video_token_id]])
    with pytest.raises(ValueError, match="no vision tower"):
        model(input_ids=ids, pixel_values_videos=torch.zeros(1, 1, 3, 224, 224))
    with pytest.raises(ValueError, match="no audio tower"):
        model.generate(ids, input_features=torch.zeros(1, 1, 1001, 64))


def test_read_projector_ignores_only_the_named_other_projector(release):
    adapter = read_projector(release / "stage1_as_saved/mm_projector.bin", "mm_projector", others=["mm_projector_a"])
    assert sorted(adapter) == ["vision_adapter.bias", "vision_adapter.weight"]
