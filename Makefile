# Each target sets up what it needs: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
ORACLES ?= .venv-oracles
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# For two cores: tests of several processes wait more than they compute. A file is one piece of work, and the
# longest are begun first.
WORKERS := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: setup quickstart test test-fast test-oracles lint types bench bench-torch bench-curvature docs clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

quickstart: setup
	$(BIN)/jaxtl run configs/quickstart.py --workdir runs/quickstart

test: setup
	$(BIN)/pytest $(WORKERS) $(PYTEST)

# Without kills, processes and whole studies: minutes, for use while working.
test-fast: setup
	$(BIN)/pytest $(WORKERS) -m 'not slow' $(PYTEST)

# The libraries that weights come from, in an environment of their own: torch is large, and `make test` needs none.
$(ORACLES)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ORACLES)
	$(ORACLES)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,oracles,bench]'
	touch $(ORACLES)/.ready

test-oracles: $(ORACLES)/.ready
	$(ORACLES)/bin/pytest -n 2 -rP --timeout=1800 tests/oracles/live_*.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: setup
	$(BIN)/mypy

$(VENV)/.docs: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $(VENV)/.docs

# The site in build/docs/html. It needs no network, runs the tutorials, and refuses a page that loads from elsewhere.
docs: $(VENV)/.docs
	$(BIN)/python -m docs.generate build/docs/source
	$(BIN)/sphinx-build -W --keep-going -q -E -d build/docs/cache -c docs build/docs/source build/docs/html
	$(BIN)/python -m docs.generate.offline build/docs/html
	@echo "open build/docs/html/index.html"

bench: setup
	$(BIN)/python benchmarks/steps.py
	$(BIN)/python benchmarks/convolution.py
	$(BIN)/python benchmarks/input.py
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/checkpoint.py
	$(BIN)/python benchmarks/patching.py
	$(BIN)/python benchmarks/post_training.py

bench-torch: $(ORACLES)/.ready
	$(ORACLES)/bin/python benchmarks/models.py

# Freed memory kept and huge pages, for both sides: docs/benchmarks.md.
bench-curvature: $(ORACLES)/.ready
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=9000000000000 \
	  $(ORACLES)/bin/python benchmarks/curvature.py $(CURVATURE)

clean:
	rm -rf $(VENV) $(ORACLES) runs data_check build/docs
