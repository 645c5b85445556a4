# Two commands for people: `make run` and `make test`. Needs Python 3.11 or newer, make, and a package index.
PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check --quiet
SECONDS ?= 60

.PHONY: run test check bench soak chaos pictures schemas clean

run: .venv
	.venv/bin/council up

test: check
	.venv/bin/python -m pytest

check: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy docs/pictures.py docs/page_pictures.py docs/examples.py docs/event_schemas.py
	.venv/bin/lint-imports

bench: .venv/.dev
	.venv/bin/python -m bench --seconds $(SECONDS)

# Half an hour; SECONDS=300 for less.
soak: SECONDS = 1800
soak: .venv/.dev
	.venv/bin/python -m bench.soak --seconds $(SECONDS)

# The long form of the faults that `make test` tries briefly. It says its seed: SEED=n tries the same again.
MINUTES ?= 10
chaos: .venv/.dev
	COUNCIL_CHAOS=long CHAOS_MINUTES=$(MINUTES) CHAOS_SEED=$(SEED) .venv/bin/python -m pytest -n 0 -s tests/chaos

pictures: .venv/.dev
	.venv/bin/python docs/pictures.py
	.venv/bin/python docs/page_pictures.py

# The protocol's JSON Schemas, from its structs.
schemas: .venv/.dev
	.venv/bin/python docs/event_schemas.py

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
