# `make demo` and `make test` set up everything in .venv and do their job; Python >= 3.10 and make are all they need.
PYTHON ?= python3
# Options for pip, such as the smaller CPU builds: make test PIP="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP ?=

VENV := .venv
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test slow clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1: /p' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## measure what centralization does to a real backbone, in a table and in pictures
	$(VENV)/bin/python tools/benchmark.py --config-file configs/demo.yaml

test: $(INSTALLED) ## run the fast tests
	$(VENV)/bin/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

slow: $(INSTALLED) ## run the tests that take minutes or need real data
	$(VENV)/bin/python -m pytest -q -m slow

clean: ## remove the environment
	rm -rf $(VENV)

# Made once, and again when the requirements change. An environment that exists is kept.
$(INSTALLED): setup.py
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install $(PIP) -e '.[test]'
	touch $@
