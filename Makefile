# make book · make test · make notebooks · make lab · make bench · make clean
# Each sets up what it needs in .venv first: PAGES is enough for the book, READY adds PyTorch, tests and tools. Another interpreter: make book PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
PAGES := .venv/.pages
READY := .venv/.ready
PIP := $(BIN)/python -m pip install --disable-pip-version-check
# One process for each core, up to four for the memory, one thread each (conftest.py); a file stays in one process.
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist loadfile

.PHONY: help book test notebooks lab bench extras tensorflow ray container clean

help: ## List these commands.
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' Makefile | expand -t 18

book: $(PAGES) ## Build all pages into _build/html; a warning is an error.
	$(BIN)/jupyter-book build . --all -W --keep-going -q
	@echo "The book is built: open _build/html/index.html"

test: $(READY) ## Check the style, the package, the pages, and run every notebook.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest tests --cov $(SIDE_BY_SIDE)
	$(BIN)/pytest --nbval book $(SIDE_BY_SIDE)

notebooks: $(READY) ## Run every notebook from top to bottom and store its outputs and run time.
	$(BIN)/python tools/notebooks.py execute

# As in gan_tutorial/__init__.py, which a notebook that imports torch first reads too late.
lab: export GOMP_SPINCOUNT ?= 3000
lab: $(READY) ## Open the notebooks in JupyterLab.
	$(BIN)/jupyter lab --notebook-dir=book

bench: $(READY) ## Run the benchmarks; each prints a table.
	@set -e; for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script; done

extras: $(READY) ## The next three; one whose packages cannot be had here is skipped.
	@for part in tensorflow ray container; do \
	    $(MAKE) .venv/$$part/.ready || { echo "skipped: make $$part, for its packages cannot be had here"; continue; }; \
	    $(MAKE) $$part || exit 1; \
	done

tensorflow: .venv/tensorflow/.ready ## Write the digits as a SavedModel, in an environment with TensorFlow, and test it.
	rm -rf _build/models/digits/1
	.venv/tensorflow/bin/python -m gan_tutorial export digits --format savedmodel --out _build/models/digits/1
	$(BIN)/pytest tests/ship/test_savedmodel.py

ray: $(READY) .venv/ray/.ready ## Serve with two replicas under Ray, in an environment of its own, and kill one.
	$(BIN)/pytest tests/ship/serving/test_cluster.py

container: $(READY) .venv/container/.ready ## Build the service's container, run it and check what it promises.
	mkdir -p _build
	$(BIN)/python -m gan_tutorial export digits --out _build/digits.onnx
	$(BIN)/python deploy/container.py --model _build/digits.onnx --sbom .venv/container/bin

clean: ## Remove what was built, but not the environment.
	rm -rf _build htmlcov .coverage .pytest_cache .ruff_cache *.egg-info
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

# An environment is complete once its stamp exists; a changed list of packages makes it again.
$(PAGES): requirements-book.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	    echo "This book needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is $$($(PYTHON) -V 2>&1)." >&2; \
	    echo "Name another one: make $(or $(MAKECMDGOALS),book) PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(PIP) -r requirements-book.txt
	@touch $@

$(READY): $(PAGES) requirements.txt pyproject.toml
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv/%/.ready: requirements-%.txt | $(READY)
	test -x .venv/$*/bin/pip || $(BIN)/python -m venv .venv/$*
	.venv/$*/bin/python -m pip install --disable-pip-version-check -r $<
	@touch $@

# Beside all that the book has, which is not installed twice.
.venv/tensorflow/.ready: requirements-tensorflow.txt $(READY)
	test -x .venv/tensorflow/bin/pip || $(BIN)/python -m venv .venv/tensorflow
	$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
	    > "$$(.venv/tensorflow/bin/python -c 'import site; print(site.getsitepackages()[0])')/book.pth"
	.venv/tensorflow/bin/python -m pip install --disable-pip-version-check -r $<
	@touch $@
