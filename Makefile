# Two commands from a clean clone: `make demo` and `make test`. Both set up .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The newest PyTorch that parity was measured with, and the official package as published.
TORCH := torch==2.13.0
SAM2 := sam2==1.1.0
VOS_BENCHMARK := vos-benchmark==0.1.0

# Python keeps what it compiles of the packages for all processes that come, of which the tests start many, also where the
# environment (an image of a container, say) tells it not to: that is half of a process's start.
export PYTHONDONTWRITEBYTECODE :=

# The files with tests that want the code that users run.
OPTIMISED = $(shell grep -rl --include='test_*.py' 'mark.optimised' tests)

.PHONY: demo test lint docs benchmark benchmark-gpu clean

demo: $(VENV)/.demo
	$(BIN)/sam2refiner demo $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) --output out/demo

# Compilers and Python take memory of pages of 2 MB: a fifth of the tests' time.
test: export GLIBC_TUNABLES := glibc.malloc.hugetlb=1
test: export PYTHONMALLOC := malloc
test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=25
	SAM2REFINER_OPTIMISED=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m optimised --durations=5 $(OPTIMISED)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

benchmark: $(VENV)/.test
	$(BIN)/python benchmarks/image.py

# On a machine with an NVIDIA card; MODEL=sam2.1_hiera_t for another model than the large one.
benchmark-gpu: $(VENV)/.gpu
	$(BIN)/python benchmarks/gpu.py $(if $(MODEL),--name $(MODEL))

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools wheel

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@

# The official package is built against the installed PyTorch. What the two packages to compare with ask for and nothing
# here needs is left out: torchvision, and the OpenCV that wants X. pip would compile all that Python never imports.
$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --no-compile $(TORCH) --editable '.[dev]'
	SAM2_BUILD_CUDA=0 $(BIN)/pip install --quiet --no-compile --no-build-isolation --no-deps $(SAM2) $(VOS_BENCHMARK)
	touch $@

# What pip installs of PyTorch on Linux computes on the card, with NVIDIA's libraries of the same CUDA as the extra's JAX.
$(VENV)/.gpu: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --no-compile $(TORCH) --editable '.[gpu,convert,train]' 'hydra-core>=1.3' 'iopath>=0.1.10'
	SAM2_BUILD_CUDA=0 $(BIN)/pip install --quiet --no-compile --no-build-isolation --no-deps $(SAM2)
	touch $@

clean:
	rm -rf $(VENV) .cache out build *.egg-info
