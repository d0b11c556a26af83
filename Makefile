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

.PHONY: setup demo reproduce test test-slow lint format docs clean

setup: $(VENV)/.installed

$(VENV)/.installed: setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/python examples/demo.py --output $(OUTPUT) $(if $(VIDEO),--video "$(VIDEO)") $(if $(QUESTION),--question "$(QUESTION)") \
		$(if $(MAX_STEPS),--max-steps $(MAX_STEPS))

# Hours on two cores; stopped and started again it goes on. ROWS="plain" SEEDS="0 1" choose from the plan.
reproduce: setup
	nice -n 10 $(BIN)/python benchmarks/reproduce.py $(if $(ROWS),--only $(ROWS)) $(if $(SEEDS),--seeds $(SEEDS))

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

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
