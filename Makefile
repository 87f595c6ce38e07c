# What the project does for you, by name. `make serve` and `make test` need nothing set up before.
.DEFAULT_GOAL := help
.PHONY: help install serve venv develop tools test lint unit guarantees metrics prove prove-tests soak pictures lock encoder weights bench clean
BIN := .venv/bin

help: ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

install: ## put the command at .venv/bin/audiobot
	@scripts/setup requirements.lock

serve: install ## serve the API and the talk page on http://127.0.0.1:8000
	@$(BIN)/audiobot serve

venv:
	@scripts/setup

develop: venv
	@scripts/setup requirements-dev.lock

tools: venv
	@scripts/need-chromium
	@scripts/need-pgbouncer
	@scripts/need-promtool

test: ## the whole gate: lint, types, architecture, every suite
	@$(MAKE) --no-print-directory -j 2 develop tools
	@scripts/gate

lint: develop ## format, lint, types, architecture
	@scripts/gate lint

unit: develop ## the fast tests alone
	@$(BIN)/pytest -m "unit or conformance"

guarantees: develop ## write docs/guarantees.md and docs/states.md from tests and tables
	@$(BIN)/python scripts/guarantees.py
	@$(BIN)/python scripts/states.py

prove: install ## measure what ratings and corrections teach: eight minutes, report in prove/
	@$(BIN)/audiobot prove

prove-tests: develop ## take out what keeps the promises, one by one: the tests must be red
	@$(BIN)/python scripts/prove_tests.py

soak: develop ## random faults for ten minutes and more, every sequence by its seed
	@$(BIN)/python benchmarks/fault_sequences.py --minutes 10

metrics: develop ## write docs/metrics.md from the metrics themselves
	@$(BIN)/python scripts/metrics.py

encoder: develop ## teach the encoder on the development set, before `make weights` (needs PyTorch, half an hour or more)
	@$(BIN)/python benchmarks/tune_encoder.py

weights: develop ## fit the answerer's weights on the development set
	@$(BIN)/python benchmarks/fit_answering.py

pictures: develop ## take the screenshots in docs/pictures anew
	@scripts/need-chromium
	@$(BIN)/python scripts/screenshots.py

bench: ## measure this machine for an hour: benchmarks/results/, docs/performance.md, the pictures
	@scripts/setup requirements-bench.lock
	@scripts/need-wrk
	@scripts/need-pgbouncer
	@$(BIN)/python benchmarks/throughput.py
	@$(BIN)/python benchmarks/store_writes.py
	@$(BIN)/python benchmarks/one_machine.py
	@$(BIN)/python benchmarks/learning.py
	@$(BIN)/python benchmarks/answering_bound.py
	@$(BIN)/python benchmarks/postgres.py
	@$(BIN)/python benchmarks/outages.py
	@$(BIN)/python benchmarks/flames.py
	@$(BIN)/python benchmarks/flames.py --mode postgres
	@$(BIN)/python benchmarks/encoders.py
	@$(BIN)/python benchmarks/steady_memory.py
	@$(BIN)/python benchmarks/report.py

lock: develop ## pin every dependency anew, by hash
	@scripts/lock

clean: ## remove what was built; the data stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
