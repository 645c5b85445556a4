# Two commands for people: `make run` and `make test`. Needs Python 3.11 or newer, make, and a package index.
PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check --quiet
SECONDS ?= 60

.PHONY: run test check bench pictures clean

run: .venv
	.venv/bin/council up

test: check
	.venv/bin/python -m pytest

check: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy docs/pictures.py docs/examples.py
	.venv/bin/lint-imports

bench: .venv/.dev
	.venv/bin/python -m bench --seconds $(SECONDS)

pictures: .venv/.dev
	.venv/bin/python docs/pictures.py

# The shared step: a virtual environment with the council in it.
.venv: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install --constraint constraints.txt --editable .
	@touch .venv

.venv/.dev: .venv
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch .venv/.dev

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis artifacts
