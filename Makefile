# Two commands do everything: `make demo` and `make test`. Each makes its own .venv on the first run.
PYTHON ?= python3
VENV ?= .venv
SEED ?= 0
RUN ?= $(if $(filter 0,$(SEED)),runs/digits,runs/digits-seed$(SEED))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
EMOJI ?= $(if $(filter 0,$(SEED)),runs/emoji,runs/emoji-seed$(SEED))
FASHION ?= $(if $(filter 0,$(SEED)),runs/fashion,runs/fashion-seed$(SEED))
SPIRAL ?= $(if $(filter 0,$(SEED)),runs/spiral,runs/spiral-seed$(SEED))

# Large arrays in large pages, where glibc can: 10 to 25% more images a second in training on a CPU.
demo fashion spiral emoji: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: demo fashion spiral emoji test test-all test-parity test-gpu lint types format clean

demo: $(VENV)/.installed
	$(BIN)/python -m experiments.digits --out $(RUN) --seed $(SEED)

fashion: $(VENV)/.installed
	$(BIN)/python -m experiments.fashion --data "$(DATA)" --out $(FASHION) --seed $(SEED) $(if $(VARIANT),--variant $(VARIANT))

spiral: $(VENV)/.installed
	$(BIN)/python -m experiments.spiral --out $(SPIRAL) --seed $(SEED)

# Further styles and better captions: STYLES="noto.tgz twemoji.tgz" WORDS=emojibase-data.tgz; VARIANT=latent|unclip (experiments/emoji/__main__.py)
emoji: $(VENV)/.emoji
	$(BIN)/python -m experiments.emoji --out $(EMOJI) --seed $(SEED) $(if $(VARIANT),--variant $(VARIANT)) $(if $(STYLES),--styles $(STYLES)) $(if $(WORDS),--words $(WORDS))

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: $(VENV)/.dev
	XLA_FLAGS=--xla_backend_optimization_level=3 $(BIN)/python -m pytest -n 2 --dist worksteal -m "slow or not slow" --timeout 1800

test-parity: $(VENV)/.parity
	$(BIN)/python -m pytest -m parity

test-gpu: $(VENV)/.dev
	XLA_FLAGS=--xla_backend_optimization_level=3 JAX_PLATFORMS=cuda,cpu $(BIN)/python -m pytest -m gpu

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .cache .pytest_cache .hypothesis .ruff_cache .mypy_cache build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"diffusion_jax needs Python 3.11 or newer; $(PYTHON) is {v.major}.{v.minor}: make PYTHON=/path/to/python3.11")'
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	@echo "installing diffusion_jax and what it needs into $(VENV) (about a minute, 1 GB)"
	@$(PIP) install -e .
	@touch $@

$(VENV)/.emoji: $(VENV)/.installed
	@echo "installing OpenMoji, the names of emoji and resvg (40 MB)"
	@$(PIP) install -e '.[emoji]'
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@echo "installing the tools of the test suite"
	@$(PIP) install -e '.[dev]'
	@touch $@

$(VENV)/.parity: $(VENV)/.dev
	@echo "installing the PyTorch peers (2.3 GB)"
	@$(PIP) install -e '.[parity]'
	@touch $@
