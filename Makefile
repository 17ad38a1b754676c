# What one runs while working on indexer. `make` alone checks and tests.
.PHONY: all check format test test-fast bench docs screenshots audit

all: check test

check:  ## lint, format, types
	ruff check .
	ruff format --check .
	mypy

format:  ## mend what can be mended by itself
	ruff check --fix .
	ruff format .

test:  ## the whole suite, on all cores
	pytest

test-fast:  ## what a change breaks first: the rules of the house, the stages, the store, the documents
	pytest -n 0 tests/test_architecture.py tests/test_decide.py tests/test_whose_word.py tests/test_store.py tests/test_docs.py

bench:  ## what a change could make slower
	python -m tests.benchmarks.bench_startup
	python -m tests.benchmarks.bench_rescan
	python -m tests.benchmarks.bench_relabel

# Needs pypi.org; a registry that does not answer for a package fails it (--strict). Install it with pip --group audit.
audit:  ## known holes in what is installed, and in the lowest versions that pyproject.toml allows
	pip-audit --strict --skip-editable
	python -m tests.lowest_versions | pip-audit --strict --disable-pip --no-deps --requirement /dev/stdin

docs:  ## the generated parts of docs/
	python -m tests.generate_docs

screenshots:  ## the pictures of the pages in docs/pages/
	python -m tests.make_screenshots
