# Every target is complete from a fresh clone: python3 (3.11 or 3.12), make and a package index are all it takes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Processes that run test files side by side. Each takes about one core and 2 GB of memory.
WORKERS ?= 2

# Pages are built from nothing, so that a page that was removed leaves no link behind.
SPHINX := -m sphinx -q -W --keep-going -E -b html -c docs

.PHONY: demo demo-quick test test-all check reference docs install clean

demo: install
	$(BIN)/python -m examples.demo.run

demo-quick: install
	$(BIN)/python -m examples.demo.run --quick

test: install
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-all: install
	$(BIN)/python -m pytest -m "slow or not slow"

check: install
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

reference: install
	$(BIN)/python -m docs.generate

docs: install
	$(BIN)/python $(SPHINX) -D language=en docs/en build/docs/en
	$(BIN)/python $(SPHINX) -D language=zh_CN docs/zh build/docs/zh 2> build/docs/zh.log || { cat build/docs/zh.log; exit 1; }

install: $(READY)

# deepspeed is published as source and needs torch at build time, hence two steps and no build isolation.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
		{ echo "Python 3.11 or 3.12 is needed; $$($(PYTHON) -V) found. Try: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch numpy setuptools wheel
	DS_BUILD_OPS=0 $(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e ".[dev,train,eval,chat,dicom]"
	@touch $(READY)

clean:
	rm -rf $(VENV) demo_run .pytest_cache .mypy_cache .ruff_cache *.egg-info
