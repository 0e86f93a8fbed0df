# Everything a newcomer or a continuous-integration machine does, by name.  `make help` lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-system check docs prove-full soak gpu-check clean

help:           ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[train,report]"
	@touch $@

$(BIN)/.installed-dev: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[train,report,codecs,finetune,trainers,fast,tensorflow,jax,test,dev]"
	@touch $@

demo: $(BIN)/.installed         ## install, plan a well-known case, prove cases/first.yaml (five minutes)
	$(BIN)/datahall plan --model llama-3.1-8b --site dgx-h100
	$(BIN)/datahall prove cases/first.yaml

test: $(BIN)/.installed-dev     ## the tests (pip only, no root)
	scripts/test $(BIN)

check: $(BIN)/.installed-dev    ## style, types, import lines, sizes
	scripts/check $(BIN)

test-system: $(BIN)/.installed-dev ## tests that need root and Debian packages; says first what it will do
	scripts/test-system $(BIN)

prove-full: $(BIN)/.installed   ## the proof with all held-out configurations and the blind trials (about eleven minutes)
	$(BIN)/datahall prove cases/first.yaml --full

soak: $(BIN)/.installed-dev     ## the long bars; prints the tables of docs/tables
	scripts/soak $(BIN)

gpu-check: $(BIN)/.installed    ## on a machine with GPUs: a short probe and proof, and a result to share
	$(BIN)/datahall gpu-check --out gpu-check.json

docs: $(BIN)/.installed-dev     ## regenerate docs/formulas.md and docs/commands.md
	scripts/docs $(BIN)

clean:          ## remove the virtual environment
	rm -rf $(VENV)
