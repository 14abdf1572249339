# Tasks, by the names CI's jobs have. `make` lists them. PYTHON chooses the interpreter.
PYTHON ?= python
REDIS_PY ?= 8.1.0
PROTOCOL ?= default
FUZZ_SECONDS ?= 60
PROOF_MINUTES ?= 10

.PHONY: help build lint test slow matrix sanitizers fuzz proof suite package wheels docs demo bench ci

help:  ## list the tasks
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build:  ## build the compiled modules in place, with all that the tasks need
	$(PYTHON) -m pip install -e ".[dev]"

lint:  ## lints, formats, types
	PYTHON=$(PYTHON) .ci/lint

test:  ## the tests, on all CPUs
	$(PYTHON) -m pytest -n auto

slow:  ## the tests that take more than a few seconds
	$(PYTHON) -m pytest -m slow

matrix:  ## the tests with every Python that is here and every redis-py
	$(PYTHON) -m tests.matrix

sanitizers:  ## the C core's tests under ASan, UBSan and TSan
	$(PYTHON) -m pytest tests/c -m "not soak"

fuzz:  ## the compiled codec against a reference reader, for FUZZ_SECONDS
	$(PYTHON) -m tests.fuzz.fuzz_reader --seconds $(FUZZ_SECONDS)

proof:  ## faults, forks, a crash and a soak of PROOF_MINUTES, every reply judged
	$(PYTHON) -m tests.proof matrix --minutes $(PROOF_MINUTES)
	$(PYTHON) -m tests.proof soak --minutes $(PROOF_MINUTES)
	$(PYTHON) -m tests.proof soak --planted-bug --minutes 1
	$(PYTHON) -m tests.proof forks
	$(PYTHON) -m tests.proof storm

suite:  ## redis-py's own tests on cpool: REDIS_PY=8.1.0 PROTOCOL=default|2|3|all
	$(PYTHON) -m tests.redis_suite --redis-py $(REDIS_PY) --protocol $(PROTOCOL)

package:  ## sdist and wheel into dist/, checked
	PYTHON=$(PYTHON) .ci/package dist

wheels:  ## manylinux, musl and aarch64 wheels into wheelhouse/, by a cross compiler
	.ci/wheels wheelhouse

docs:  ## the site, into build/docs: pip install -e ".[docs]"
	PYTHON=$(PYTHON) .ci/docs build/docs

demo:  ## cpool against redis-py, with the server killed in the middle
	$(PYTHON) -m cpool demo

bench:  ## the benchmarks: cpool beside redis-py and its peers
	$(PYTHON) -m pytest bench

ci:  ## all that .ci/run does, on a copy of the tree
	.ci/run
