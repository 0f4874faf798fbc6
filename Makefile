# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
unexport PYTHONDONTWRITEBYTECODE  # or each of hundreds of processes compiles the project anew

.PHONY: help demo check fast test every soak oldest lint bench clean
help:  ## show this
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

.venv/.demo: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[demo]'
	@touch $@

.venv/.dev: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[demo,dev]'
	@touch $@ .venv/.demo

demo: .venv/.demo  ## distil a small DeiT on scikit-learn's digits, and write demo/report.html
	$(BIN)/python -m pipelines.demo --out demo

lint: .venv/.dev  ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fast: .venv/.dev  ## the fast tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not (ray or s3 or kill or slow or soak)"

check:  ## lint and the fast tests side by side, in 90 seconds
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint fast

every: .venv/.dev  ## every test but the campaigns
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=30

soak: .venv/.dev  ## campaigns: many kills, faults, engines and random calls
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=30 -m soak

test:  ## lint and every test side by side
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint every

oldest:  ## the fast tests with the oldest versions that setup.cfg allows
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet uv
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct \
		$(addprefix --find-links ,$(PIP_FIND_LINKS)) --editable '.[demo,bench,share,service,report,dev]'
	.venv-oldest/bin/python -m pytest -n 2 --dist loadfile -m "not (ray or s3 or kill or slow or soak)"

bench: .venv/.dev  ## measure, and write benchmarks/results/
	$(BIN)/python -m benchmarks.step

clean:  ## remove what the commands above made
	rm -rf .venv .venv-oldest demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
