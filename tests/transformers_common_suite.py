"""AVicuna under the ModelTesterMixin of transformers; test_transformers_common_suite.py runs this file.

It is copied into the tests of transformers' source distribution, therefore the relative imports.
"""

import importlib.util
import os
import unittest

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES
from transformers.testing_utils import torch_device

from modeling_avicuna import AVicunaForConditionalGeneration, AVicunaModel

from .. import test_modeling_common
from ..test_configuration_common import ConfigTester
from ..test_modeling_common import ModelTesterMixin


specification = importlib.util.spec_from_file_location("avicuna_tiny_models", os.environ["AVICUNA_TINY_MODELS"])
tiny_models = importlib.util.module_from_spec(specification)
specification.loader.exec_module(tiny_models)

# the suite looks up by name which classes need labels and which have no loss
MODEL_MAPPING_NAMES["avicuna"] = AVicunaModel.__name__
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["avicuna"] = AVicunaForConditionalGeneration.__name__

random_ids = test_modeling_common.ids_tensor


def ids_without_placeholders(shape, vocab_size, **kwargs):
    """Random ids without placeholders: a placeholder without media is an error."""
    return random_ids(shape, min(vocab_size, tiny_models.VIDEO_TOKEN_ID), **kwargs)


test_modeling_common.ids_tensor = ids_without_placeholders


class AVicunaModelTester:
    """A tiny configuration and a batch of two videos with sound for the common tests."""

    batch_size = 2
    num_video, num_audio, num_text = 3, 1, 6
    seq_length = 1 + num_video + num_audio + num_text
    num_hidden_layers = 2
    num_attention_heads = 4
    hidden_size = 32
    is_training = True
    vision_config = tiny_models.TINY_VISION
    audio_config = tiny_models.TINY_AUDIO
    text_config = tiny_models.TINY_TEXT

    def __init__(self, parent):
        self.parent = parent

    def get_config(self):
        return tiny_models.tiny_config(num_av_tokens=4)

    def prepare_config_and_inputs_for_common(self):
        prompts = [
            tiny_models.prompt_ids(self.num_video, self.num_audio, self.num_text, seed=seed)
            for seed in range(self.batch_size)
        ]
        inputs = {
            **tiny_models.left_pad(prompts),
            "pixel_values_videos": torch.randn(self.batch_size, self.num_video, *tiny_models.FRAME_SHAPE),
            "input_features": torch.randn(self.batch_size, self.num_audio, *tiny_models.WINDOW_SHAPE),
        }
        return self.get_config(), {name: tensor.to(torch_device) for name, tensor in inputs.items()}


class AVicunaCommonTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (AVicunaModel, AVicunaForConditionalGeneration)
    _is_composite = True
    # the towers return their hidden states with one row per real frame or window, not per sample
    skip_test_video_features_output_shape = True
    skip_test_audio_features_output_shape = True

    def setUp(self):
        self.model_tester = AVicunaModelTester(self)
        self.config_tester = ConfigTester(
            self, config_class=type(self.model_tester.get_config()), has_text_modality=False
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        batch_size = len(inputs.get("input_ids", ()))
        if batch_size and "pixel_values_videos" not in inputs:
            # some tests build a batch from input_ids alone; placeholders without media are an error
            generator = torch.Generator().manual_seed(0)
            tester, config = self.model_tester, self.model_tester.get_config()
            for name, rows, size in (
                ("video_features", tester.num_video, config.vision_feature_size),
                ("audio_features", tester.num_audio, config.audio_feature_size),
            ):
                features = torch.randn(1, rows, size, generator=generator).expand(batch_size, -1, -1)
                inputs[name] = features.to(inputs["input_ids"].device)
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()

    @unittest.skip(
        "the source distribution of transformers lacks GenerationTesterMixin; see test_transformers_integration.py"
    )
    def test_generation_tester_mixin_inheritance(self):
        pass
