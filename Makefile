# `make test` and `make report` do all set-up themselves; they need Python 3.11 or later and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: report test lint format agreement clean

report: $(VENV)/installed  ## train a tiny model, probe it, write reports/index.html (four minutes on two cores)
	$(BIN)/cadmus-probe report --out reports

test: $(VENV)/installed  ## every test
	$(BIN)/python -m pytest

lint: $(VENV)/installed  ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

agreement: $(VENV)/installed  ## interpreter and compiled machine on a million programs
	$(BIN)/python -m tests.agreement 1000000

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist
