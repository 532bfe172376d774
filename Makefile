# One command per intention; `make help` lists them. Each sets up what it needs by itself and only once:
# the stamps in the virtual environment are older than pyproject.toml only when there is something to install.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo run test test-slow check format bench docs setup clean

# PYTHON=python3.13 uses that interpreter, in a virtual environment of its own. Without it a fitting one is found.
PYTHON ?=
VENV := .venv
ifneq ($(PYTHON),)
  PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
  ifeq ($(PYTHON_VERSION),)
    $(error PYTHON=$(PYTHON) does not run; name an interpreter of Python 3.11, 3.12 or 3.13)
  endif
  VENV := .venv-$(PYTHON_VERSION)
endif
BIN := $(VENV)/bin
# An interpreter that was upgraded away leaves a dead link behind.
$(shell [ -x $(BIN)/python ] || rm -f $(VENV)/.made)

# command:package or library:package, so that nothing is installed that is there already
SPEECH := flite:flite espeak-ng:espeak-ng
FOR_TESTS := initdb:postgresql baresip:baresip-core sipp:sip-tester libopus.so.0:libopus0 openssl:openssl \
	tshark:tshark chromium-headless-shell:chromium-headless-shell
FOR_SLOW_TESTS := kamailio:kamailio rtpengine:rtpengine-daemon linphonec:linphone-cli svmap:sipvicious

# Packages taken for one file inside each (the end-of-turn model, the noise filter), without what they would bring along.
CARRIED := --no-deps pipecat-ai pyrnnoise
COMMA := ,

# Processes that pytest spreads the tests over.
JOBS ?= 2
# Folder of the load generator and yardstick servers that bench/load.py needs.
RIG ?=
# Further arguments: of pytest (ARGS="-k plivo -x"), of `offhook serve` (ARGS="--port 9000"), of a benchmark.
ARGS ?=

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.ready ## place a real call through the gateway to the offline agent, and show it
	@$(BIN)/offhook demo

run: $(VENV)/.ready ## leave the gateway up on the receptionist; PUBLIC_URL=https://… is where carriers reach it
	@PUBLIC_URL="$(PUBLIC_URL)" deploy/run.sh $(BIN)/offhook $(ARGS)

test: $(VENV)/.ready-dev check ## everything: style, types, every test
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not timing" $(ARGS)
	@$(BIN)/python -m pytest -m "timing and not slow" $(ARGS) || [ $$? = 5 ]

test-slow: $(VENV)/.ready-dev ## the tests that take minutes
	@deploy/bootstrap.sh system $(FOR_SLOW_TESTS)
	@$(BIN)/python -m pytest -m slow $(ARGS)
	@$(BIN)/python -m pytest -n $(JOBS) -m "hypothesis and not slow" --hypothesis-profile=default $(ARGS)

check: $(VENV)/.ready-dev .links/offhook ## style (ruff) and types (mypy --strict)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: $(VENV)/.ready-dev ## rewrite the code in the house style
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: $(VENV)/.ready-dev ## measure the parts; with RIG=folder of a load generator whole calls, too
	@$(BIN)/python bench/codecs.py
	@$(BIN)/python bench/vad.py
	@$(BIN)/python bench/turns.py
	@$(BIN)/python bench/noise.py
ifneq ($(RIG),)
	@$(BIN)/python bench/load.py --rig $(RIG) $(ARGS)
endif

docs: $(VENV)/.ready-docs ## build the documentation into site/
	@$(BIN)/python docs/mkdocs/reference.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file docs/mkdocs/mkdocs.yml --site-dir ../../site
	@echo "documentation: site/index.html"

setup: $(VENV)/.ready-dev ## only set up
	@echo "offhook: $(VENV) is ready"

clean: ## remove what the build made, virtual environments included
	@rm -rf .venv .venv-* .links .make build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# --- setting up ---------------------------------------------------------------------

PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONWARNINGS=ignore $(BIN)/python -m pip --quiet

# The pinned versions, or, where they cannot all be had, whatever pyproject.toml allows.
define install
$(PIP) install --constraint deploy/constraints.txt $(1) || { \
	  echo "offhook: the versions of deploy/constraints.txt cannot all be had here; taking what pyproject.toml allows"; \
	  $(PIP) install $(1); }
endef

$(VENV)/.made:
	@python="$$([ -n "$(PYTHON)" ] && command -v $(PYTHON) || deploy/bootstrap.sh python)"; \
	echo "offhook: making $(VENV) with $$($$python --version)"; \
	$$python -m venv --clear $(VENV)
	@$(call install,--upgrade pip)
	@touch $@

$(VENV)/.ready: $(VENV)/.made pyproject.toml deploy/constraints.txt
	@deploy/bootstrap.sh system $(SPEECH)
	@echo "offhook: installing what pyproject.toml names into $(VENV)"
	@$(call install,--editable .)
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@deploy/bootstrap.sh system $(FOR_TESTS)
	@$(call install,--editable '.[postgres$(COMMA)services$(COMMA)sip]' --group dev --group docs)
	@$(call install,$(CARRIED))
	@touch $@

$(VENV)/.ready-docs: $(VENV)/.ready
	@$(call install,--group docs)
	@touch $@

# Type checkers and linters see the rooms under their import names through this folder.
.links/offhook: Makefile
	@mkdir -p $@
	@for room in codecs providers agents gateway qa; do ln -sfn ../../$$room $@/$$room; done
	@touch $@
