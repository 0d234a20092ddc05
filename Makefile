# `make train` and `make test` work from a bare checkout: they make .venv and install what is needed.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=

.PHONY: help train test lint types jittor clean

help:
	@echo "make train   the embedded default, start to end on a CPU   (make train ARGS='method=base train.steps=200')"
	@echo "make test    lint, types and tests"
	@echo "make lint    ruff       make types   mypy       make clean   remove .venv and caches"
	@echo "make jittor  make and compile what backend=jittor and its tests need (once, some minutes)"

# The stamp is newer than setup.cfg once everything is installed, so an unchanged checkout installs nothing.
$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jdx needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -e $(VENV) || { $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null && \
	  { $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); false; }; }; } || \
	  { echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian, Ubuntu: apt-get install python3-venv)," \
	    "or name another Python: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null 2>&1 || \
	  { echo "$(VENV) is there, but has no pip: remove it (make clean), and the next make begins anew"; exit 1; }
	@echo "installing into $(VENV) (the first time takes some minutes: PyTorch is large)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	@$(PY) -m compileall -qq -j 0 $(VENV)/lib || true # on all cores, where pip uses one; templates do not compile
	@touch $@

train: $(VENV)/.installed
	$(PY) -m jdx.train $(ARGS)

lint: $(VENV)/.installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(VENV)/.installed
	MYPY_NUM_WORKERS=auto $(PY) -m mypy jdx evaluation data launcher tests benchmarks sweeps hydra_plugins

# Hundreds of processes import the same files: without byte code each would compile them again.
test: lint types
	env -u PYTHONDONTWRITEBYTECODE $(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

jittor: $(VENV)/.installed
	$(PY) -m jdx.backends.jittor --device cpu

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
