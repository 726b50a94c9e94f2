# `make demo` and `make test` set up everything in .venv and do their job; Python >= 3.10 and make are all they need.
PYTHON ?= python3
# Options for pip, such as the smaller CPU builds: make test PIP="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP ?=
# The ends of the range of Pythons that setup.py declares.
OLDEST ?= python3.10
NEWEST ?= python3.13

VENV := .venv
INSTALLED := $(VENV)/.installed
# What builds the documentation; neither the demo nor the fast tests need it.
DOCS := $(VENV)/bin/python -m pip install -q $(PIP) -e '.[docs]'
FAST := -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test slow docs test-oldest test-newest clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1: /p' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## measure what centralization does to a real backbone, in a table and in pictures
	$(VENV)/bin/python tools/benchmark.py --config-file configs/demo.yaml

test: $(INSTALLED) ## run the fast tests
	$(VENV)/bin/python $(FAST)

slow: $(INSTALLED) ## run the tests that take minutes or need real data
	$(DOCS)
	$(VENV)/bin/python -m pytest -q -m slow

docs: $(INSTALLED) ## write what the code knows into docs, and build the site from it, in site
	$(DOCS)
	$(VENV)/bin/python -m scripts.write_docs
	$(VENV)/bin/python -m zensical build --strict --clean

test-oldest: .venv-oldest/.installed ## run the fast tests with Python 3.10 and the lower bounds of setup.py
	.venv-oldest/bin/python $(FAST)

test-newest: .venv-newest/.installed ## run the fast tests with Python 3.13 and the newest of all packages
	.venv-newest/bin/python $(FAST)

clean: ## remove the environments
	rm -rf $(VENV) .venv-oldest .venv-newest

# Made once, and again when the requirements change. An environment that exists is kept.
$(INSTALLED): setup.py
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install $(PIP) -e '.[test]'
	touch $@

.venv-oldest/.installed: setup.py
	test -x .venv-oldest/bin/python || $(OLDEST) -m venv .venv-oldest
	grep -oE '[A-Za-z0-9_-]+>=[0-9][0-9.]*' setup.py | sed 's/>=/==/' > .venv-oldest/bounds.txt
	.venv-oldest/bin/python -m pip install $(PIP) -c .venv-oldest/bounds.txt -e '.[test]'
	touch $@

.venv-newest/.installed: setup.py
	test -x .venv-newest/bin/python || $(NEWEST) -m venv .venv-newest
	.venv-newest/bin/python -m pip install $(PIP) --upgrade --upgrade-strategy eager -e '.[test]'
	touch $@
