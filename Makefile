.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv/bin
# A file's tests in one process, the longest files first: tests/conftest.py has their order.
# `make test` waits for other processes a third of its time, so that two cores take three of them.
PYTEST = $(VENV)/python -m pytest --dist loadfile --no-loadscope-reorder

help:  ## Show this help.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(VENV)/pip install --quiet --upgrade pip
	$(VENV)/pip install --quiet --editable ".[dev]"
	@touch $@

demo: .venv/ready  ## Make the embedded decoder bidirectional and train it with MNTP (10 minutes).
	$(VENV)/python recipes/mntp.py

test: .venv/ready  ## Run the tests, at least one of everything, on two cores (10 minutes).
	$(PYTEST) --numprocesses 3

test-all: .venv/ready  ## Run all: every architecture of transformers, every case, the longest (25 minutes).
	$(PYTEST) --numprocesses 2 --exhaustive

check: .venv/ready  ## Lint, check types, run the documentation's examples.
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/python -m pytest --quiet llm2vec_pl

.PHONY: help demo test test-all check
