# The two main commands are `make run` and `make test`. They need Python 3.11 or newer with venv, and a package index.
#     make run PORT=9000           the page's port       make run MODEL=none   without the real language model
#     make run PYTHON=python3.12   another Python        make test REAL=0      without the tests that need that model
PYTHON ?= python3
PIP_INSTALL = .venv/bin/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
SECONDS ?= 60

# The tests start hundreds of processes: with compiled modules each of them needs 0.1 s less CPU.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test model no-python check bench useful soak chaos fuzz pictures schemas clean

run: .venv/.installed $(if $(filter none,$(MODEL)),,model)
	.venv/bin/council up $(if $(PORT),--port $(PORT))

test: check $(if $(filter 0,$(REAL)),,model)
	.venv/bin/python -m tests.support.interpreters
	COUNCIL_REAL=$(REAL) .venv/bin/python -m pytest

check: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy docs/pictures.py docs/page_pictures.py docs/examples.py docs/event_schemas.py docs/streams_page.py docs/asyncapi.py
	.venv/bin/lint-imports

bench: .venv/.dev
	.venv/bin/python -m bench --seconds $(SECONDS)

# Whether a consensus answers better than its members; some minutes. It goes on where the last run stopped.
useful: .venv/.dev model
	.venv/bin/python -m bench.useful

# Half an hour; SECONDS=300 makes it five minutes.
soak: SECONDS = 1800
soak: .venv/.dev
	.venv/bin/python -m bench.soak --seconds $(SECONDS)

# Fault injection for longer than in `make test`. It prints its seed; SEED=n repeats a run.
MINUTES ?= 10
chaos: .venv/.dev
	COUNCIL_CHAOS=long CHAOS_MINUTES=$(MINUTES) CHAOS_SEED=$(SEED) .venv/bin/python -m pytest -n 0 -s tests/chaos

# Sends a council that runs what its OpenAPI document describes, right and wrong, and checks each response.
URL ?= http://127.0.0.1:8145
# It deletes sessions and recordings: start the council with `--recordings` and a folder of its own.
fuzz: .fuzz/.installed
	.fuzz/bin/schemathesis run $(URL)/api/openapi.json --checks all --continue-on-failure

# An environment of its own: the dependencies of schemathesis are not those of the council.
.fuzz/.installed:
	"$(PYTHON)" -m venv --clear .fuzz
	.fuzz/bin/python -m pip --disable-pip-version-check --quiet install 'schemathesis>=4.32,<5'
	@touch $@

pictures: .venv/.dev
	.venv/bin/python docs/pictures.py
	.venv/bin/python docs/page_pictures.py

# Writes what describes the messages to other programs, from the structs: the JSON Schemas of the real-time protocol, the
# tables of docs/streams.md, the AsyncAPI document.
schemas: .venv/.dev
	.venv/bin/python docs/event_schemas.py
	.venv/bin/python docs/streams_page.py
	.venv/bin/python docs/asyncapi.py

# A virtual environment with the council. The stamp file .installed exists only after a complete installation: after an
# interruption, or when an upgrade of the system removed the environment's Python, the environment is created again.
.venv/.installed: pyproject.toml constraints.txt $(shell test -x .venv/bin/python || echo no-python)
	@if test -e $@ && test -x .venv/bin/python; then rm $@; else \
	  sh check_python.sh "$(PYTHON)" && "$(PYTHON)" -m venv --clear .venv; fi
	$(PIP_INSTALL) --editable .
	@touch $@

# llama.cpp and a real language model, where they can be installed; otherwise the council runs its n-gram models.
.venv/.llama: .venv/.installed
	@$(PIP_INSTALL) --only-binary xllamacpp --editable '.[llama]' && touch $@ || \
	  echo 'council: llama.cpp could not be installed here; the council runs without it.' >&2

model: .venv/.llama
	@test ! -e $< || .venv/bin/council models get smollm2 || true

.venv/.dev: .venv/.installed
	$(PIP_INSTALL) --editable '.[dev]'
	@touch .venv/.llama $@

clean:
	rm -rf .venv .fuzz .pythons .mypy_cache .ruff_cache .pytest_cache .hypothesis artifacts
