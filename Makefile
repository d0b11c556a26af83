# Start with `make demo` and `make test`. Both create .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUTPUT ?= outputs/demo
# One thread per process: two test workers share two cores, and figures are reproducible.
export OMP_NUM_THREADS ?= 1
# Some virtual machines advertise AMX but cannot use it; oneDNN then stops with SIGILL in bf16 Linear.
export ONEDNN_MAX_CPU_ISA ?= AVX512_CORE_BF16
export TOKENIZERS_PARALLELISM ?= false

# Modules in the API reference: all except those that need another project or an extra.
MODULES = $(shell find modeling_avicuna dataset_builders train eval model_card -name '*.py' ! -name '__*' \
	! -path 'eval/lmms_plugin/*' ! -path 'model_card/space/*' ! -name cluster_shards.py | sed 's|/|.|g; s|\.py$$||' | sort)

.PHONY: setup demo page serve reproduce serve-env test test-serve test-slow lint format docs clean

setup: $(VENV)/.installed

$(VENV)/.installed: setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/python examples/demo.py --output $(OUTPUT) $(if $(VIDEO),--video "$(VIDEO)") $(if $(QUESTION),--question "$(QUESTION)") \
		$(if $(MAX_STEPS),--max-steps $(MAX_STEPS))

# A page in the browser for a checkpoint, with a video of the sandbox as the example: http://127.0.0.1:7860
page: setup
	test -f outputs/page/example.mp4 || ( $(BIN)/python -m dataset_builders.sandbox --output outputs/page/world \
		--num-clips 0 --num-test-videos 1 --seed 101 --event-seconds 4 12 --video-seconds 20 40 && \
		cp outputs/page/world/test/*.mp4 outputs/page/example.mp4 )
	AVICUNA_MODEL="$(or $(MODEL),examples/sandbox_checkpoint)" AVICUNA_EXAMPLE="$(CURDIR)/outputs/page/example.mp4" \
		$(BIN)/python model_card/space/app.py

# `transformers serve` for a checkpoint: http://127.0.0.1:8000, docs/serve.md
serve: serve-env
	.venv-serve/bin/transformers serve "$(or $(MODEL),examples/sandbox_checkpoint)" --trust-remote-code

# Hours on two cores; stopped and started again it goes on. ROWS="plain" SEEDS="0 1" choose from the plan.
reproduce: setup
	nice -n 10 $(BIN)/python benchmarks/reproduce.py $(if $(ROWS),--only $(ROWS)) $(if $(SEEDS),--seeds $(SEEDS))

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

# vLLM on the processor, in an environment of its own: 4 GB, docs/serve.md
serve-env: .venv-serve/.installed

.venv-serve/.installed: setup.py serve/install.sh serve/constraints.txt
	serve/install.sh $(PYTHON) .venv-serve
	touch $@

test-serve: setup serve-env
	$(BIN)/python -m pytest tests/test_serve.py

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

docs: setup
	$(BIN)/python -m pdoc --docformat google --output-directory outputs/api $(MODULES)

clean:
	rm -rf outputs .pytest_cache .ruff_cache *.egg-info
