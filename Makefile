# Each target makes .venv itself if it is missing. PYTHON chooses the interpreter (3.10 or later).
PYTHON ?= python3
# Tests at a time, with one thread each for matrix products: more of them only wait for one another.
WORKERS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: setup demo test lint bench docs audit ranges clean

setup: .venv/dev

.venv/base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "Python 3.10 or later is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@scripts/openblas.sh
	$(PIP) --editable .
	@touch $@

.venv/dev: .venv/base
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[dev]'
	@touch $@

demo: .venv/base
	@rm -rf demo
	$(BIN)/mlx-medlora demo --output demo

test: .venv/dev
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/dev
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

docs: .venv/base
	$(BIN)/python -m typer mlx_medlora.cli.app utils docs --name mlx-medlora --output docs/cli.md

# Known vulnerabilities of what constraints.txt pins; fails where the advisory service cannot answer.
audit:
	@test -x .audit/bin/pip-audit \
	  || { $(PYTHON) -m venv .audit && .audit/bin/python -m pip install --quiet pip-audit; }
	.audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

# The suite against the oldest and the newest mlx, mlx-lm, transformers and peft that pyproject.toml allows.
ranges: .venv/dev
	$(BIN)/python scripts/check_dependency_ranges.py oldest
	$(BIN)/python scripts/check_dependency_ranges.py newest

clean:
	rm -rf .venv .audit demo
