# make demo   the main job with the shipped model      make test   every check, as CI runs it
# make setup  everything pinned, in .venv/             make PYTHON=/path/to/python3.12 ...  another interpreter
SHELL := /bin/bash
VENV := .venv
PIP := $(VENV)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt
PYTEST_FLAGS ?= -q -n auto
export PYTHON

.PHONY: setup demo test clean
.DELETE_ON_ERROR:

setup: $(VENV)/.complete

demo: $(VENV)/.core
	$(VENV)/bin/python -m experiments.demo

test: $(VENV)/.complete
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright --pythonpath $(VENV)/bin/python
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS)

clean:
	rm -rf $(VENV) .jax_cache out

# What generation needs (stamp .core), then data pipeline and developers' tools on top (stamp .complete).
$(VENV)/.created: launch/create_venv.sh
	@echo "Making $(VENV)"
	@launch/create_venv.sh $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing mirage-jax and what it needs into $(VENV) (about a minute the first time)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.complete: $(VENV)/.core
	@echo "Installing the data pipeline and developers' tools into $(VENV)"
	@$(PIP) -e '.[data,dev]'
	@touch $@
