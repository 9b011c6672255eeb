# Every target works on a fresh clone: .venv is made on the first call, and the packages are
# installed again only when pyproject.toml or constraints.txt has changed.

PYTHON ?= python3
THREADS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := $(wildcard src tests experiments benchmarks)

# Read by pip's isolated build as well, which does not see the -c of the command line:
# PIP_CONSTRAINT up to pip 25.2, PIP_BUILD_CONSTRAINT from 25.3.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export OMP_NUM_THREADS := $(THREADS)
export MKL_NUM_THREADS := $(THREADS)

# Tests use tables so small that a second thread only waits; as many processes, of one thread each, do not.
TESTS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(THREADS) --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help demo test slow check format wheel clean distclean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /: /'

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[hf,eval,dev]"
	touch $@

demo: $(STAMP) ## train a small model, compress its table, compare, save and reload
	$(BIN)/foldflat demo

test: $(STAMP) ## the default test suite
	$(TESTS)

slow: $(STAMP) ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: $(STAMP) ## everything that CI runs
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(TESTS)

format: $(STAMP) ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

wheel: $(STAMP) ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## remove build outputs and caches; .venv stays
	rm -rf build dist .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## as clean, and .venv too
	rm -rf $(VENV)
