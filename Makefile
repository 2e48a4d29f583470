# `make test` and `make report` do all set-up themselves; they need Python 3.11 or later and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
LENS4 ?= .venv-lens4
NEWEST ?= .venv-newest
OUT ?= my-report

.PHONY: report test test-slow test-all test-lens4 test-newest lint format coverage agreement coverage-of-generalization fuzz docs pictures clean

report: $(VENV)/installed  ## all about the model that ships: my-report/index.html, or another folder by OUT=
	$(BIN)/cadmus-probe report --out $(OUT)

test: $(VENV)/installed  ## what one runs before each commit: no training, no processes, no pages
	EXPECTED_TRANSFORMER_LENS=3.9 $(BIN)/python -m pytest -n auto --dist loadscope -m "not slow" --durations=10

test-slow: $(VENV)/installed  ## what make test leaves out: training, processes, pages
	EXPECTED_TRANSFORMER_LENS=3.9 $(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder -m slow --durations=10

test-all: test test-slow  ## every test

coverage: $(VENV)/installed  ## every test, and the statements that they reach (compiled functions count as not reached)
	EXPECTED_TRANSFORMER_LENS=3.9 $(BIN)/python -m pytest -n auto --dist loadscope \
		--cov=cadmus --cov=probes --cov=analyses --cov-report=term

test-lens4: $(LENS4)/installed  ## conversions to transformer-lens 4, which needs an environment of its own
	EXPECTED_TRANSFORMER_LENS=4 $(LENS4)/bin/python -m pytest tests/cadmus/models/test_lens.py tests/cadmus/models/test_hooks.py

test-newest: $(NEWEST)/installed  ## a smoke test with the newest releases of what is pinned, but torch and transformer-lens
	$(NEWEST)/bin/python -m pytest -m "not slow" tests/cadmus/machine/test_vm.py tests/cadmus/machine/test_tokens.py \
		tests/cadmus/corpora/test_corpus.py tests/cadmus/models/test_model.py tests/cadmus/training/test_checkpoint.py \
		tests/probes/solvers/test_estimators.py tests/analyses/test_cli.py

lint: $(VENV)/installed  ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

agreement: $(VENV)/installed  ## interpreter and compiled machine on a million programs, and on a million edited states
	$(BIN)/python -m tests.agreement 1000000
	$(BIN)/python -m tests.oracle_agreement 1000000

coverage-of-generalization: $(VENV)/installed  ## how often the study of generalization is right: 31,000 planted tables (a quarter of an hour)
	$(BIN)/python -m tests.sweep_tables 1000 docs/generalization_coverage.csv

fuzz: $(VENV)/installed  ## hypothesis with ten times the examples, random commands, damaged files (ten minutes)
	EXAMPLES=10 $(BIN)/python -m pytest -n auto -m hypothesis

docs: $(VENV)/installed  ## the documentation as a site, build/docs/html/index.html; a broken link fails (a few minutes at first)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -d build/docs/doctrees docs build/docs/html

pictures: docs  ## reports/screenshots: what report, explorer and documentation look like (chromium is needed)
	$(BIN)/python -m tests.pictures

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# what tests/cadmus/models/test_lens.py imports, and no more; uncompiled, as most of it is never loaded
$(LENS4)/installed: constraints.txt constraints-lens4.txt
	$(PYTHON) -m venv $(LENS4)
	grep -v '^transformer-lens==' constraints.txt | cat - constraints-lens4.txt > $(LENS4)/constraints.txt
	$(LENS4)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--constraint $(LENS4)/constraints.txt einops lazy-loader numba pytest transformer-lens
	touch $@

# torch as pinned: newer ones bring gigabytes of CUDA; transformer-lens 4 is test-lens4's
$(NEWEST)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(NEWEST)
	grep -E '^(torch|transformer-lens)==' constraints.txt > $(NEWEST)/constraints.txt
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--constraint $(NEWEST)/constraints.txt hypothesis pytest --editable .
	touch $@

clean:
	rm -rf $(VENV) $(LENS4) $(NEWEST) build dist
