# Every target sets up what it needs; a second run starts at once. `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint proto clean
bin := .venv/bin
export PATH := $(CURDIR)/$(bin):$(PATH)

help: ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: ## Make .venv (ENGINE=cpu|cuda, PYTHON=...)
	@scripts/bootstrap.sh

demo: setup ## One monitored chat server, 18 requests, alerts and an audited generation
	@featurewatch model fetch smollm2
	@featurewatch demo

lint: setup ## ruff and mypy
	ruff check .
	ruff format --check .
	mypy

test: setup lint ## Lint, then all tests (starts real vLLM engines, Redis and the sidecar)
	@scripts/system-packages.sh redis-server g++
	@test -f "$$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || scripts/system-packages.sh python3-dev
	@featurewatch model fetch smollm2
	pytest

proto: setup ## Regenerate monitor/v1 from proto/
	scripts/proto.sh

clean: ## Remove .venv and everything built or cached in this folder
	rm -rf .venv build dist ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find monitor training tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
