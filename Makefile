# For users: `make demo` and `make test`. They need Python 3.11 or newer, pip and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast lint types docs lock
.DEFAULT_GOAL := demo

# Label a photo with the bundled weights and train a small model; results in outputs/demo.
demo: $(VENV)/.demo-ready
	$(BIN)/cgrseg demo --out outputs/demo

# One torch thread per test process. Tests that need something this machine lacks are skipped, with the reason.
test: $(VENV)/.test-ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) $(TESTS)

# Without slow tests: under two minutes on two cores.
test-fast: $(VENV)/.test-ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) -m "not slow and not long" $(TESTS)
TEST_PROCESSES ?= 2
TESTS ?=

# For contributors.
lint: $(VENV)/.test-ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.test-ready
	$(BIN)/mypy --strict

# Without --quiet, which hides warnings from --strict, so that dead links would pass.
docs: $(VENV)/.test-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Update the pinned versions and their hashes. Needs the network; takes a minute.
LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
EXTRAS := $(foreach extra,video multiband mat onnx int8 openvino imagenet peers app serve cluster tensorboard wandb dev docs,--extra $(extra))
lock: $(VENV)/.uv-ready
	$(LOCK) requirements/uv.in --output-file requirements/uv.txt
	$(LOCK) pyproject.toml requirements/build.in $(EXTRAS) --output-file requirements/dev.txt
	$(LOCK) pyproject.toml requirements/build.in --constraints requirements/dev.txt --output-file requirements/base.txt

# The stamps below are renewed when the files that they depend on change.
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python

$(VENV)/.uv-ready: requirements/uv.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cgrseg needs Python 3.11 or newer, but $(PYTHON) is older: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/uv.txt
	touch $@

$(VENV)/.demo-ready: requirements/base.txt pyproject.toml | $(VENV)/.uv-ready
	$(INSTALL) --require-hashes --requirement requirements/base.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.test-ready: requirements/dev.txt pyproject.toml | $(VENV)/.uv-ready
	$(INSTALL) --require-hashes --requirement requirements/dev.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@
