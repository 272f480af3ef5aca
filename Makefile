# make demo    extract every variant from the example texts, with the real default model
# make test    format, lint, types and tests; sets everything up by itself
# make bench   every benchmark, about half an hour; PARTS="start peers" for some, PARTS=--small to try them out
# make docs    build the site into docs/_build/html; warnings are errors
.PHONY: demo test test-slow docs format lock bench clean

VENV := .venv
BIN := $(VENV)/bin
# TensorFlow takes about a gigabyte in each worker.
WORKERS := $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$(( n < 4 ? n : 4 )))
LOCKS := requirements/tools.lock requirements/install pyproject.toml

demo: $(VENV)/.run
	$(BIN)/embedsvc extract examples/texts.csv --id-column id -o demo/variants.parquet \
	    --modes inference,training,head --passes 4 --seed 7

test: $(VENV)/.test
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -m "not slow" -n $(WORKERS)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -q -m slow -n $(WORKERS)

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "The site: docs/_build/html/index.html"

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The locks hold hashes and no addresses. See requirements/cpu.overrides for why tensorflow-cpu is in them.
lock: $(VENV)/.test
	requirements/lock $(BIN)/uv

bench: $(VENV)/.run
	benchmarks/run $(PARTS)

clean:
	rm -rf $(VENV) demo docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamps sit inside the environment, so that deleting it is enough to start afresh.
$(VENV)/.run: requirements/run.lock $(LOCKS)
	requirements/install $(VENV) run.lock
	touch $@

$(VENV)/.test: requirements/test.lock $(LOCKS)
	requirements/install $(VENV) test.lock
	touch $@ $(VENV)/.run

$(VENV)/.docs: requirements/docs.lock $(LOCKS)
	requirements/install $(VENV) docs.lock
	touch $@ $(VENV)/.test $(VENV)/.run
