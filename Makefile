# Two commands do everything: `make demo` and `make test`. Both set up .venv first (seconds when it is already there).
.PHONY: demo test check crash soak bench bench-train bench-stream bench-studio bench-memory install clean

# Bytecode is kept, also where the environment says otherwise: the factory and its tests start hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=

DEMO_MINUTES ?= 10

demo: .venv/.installed
	.venv/bin/factory up --for $(DEMO_MINUTES)m

# Test files at a time (tests/conftest.py groups them): three fast ones, which wait a quarter of the time, two slow ones;
# one where all share the cluster that KAFKA_BOOTSTRAP names.
PYTEST := .venv/bin/pytest --maxfail=5 --dist loadfile --no-loadscope-reorder
AT_ONCE = $(if $(KAFKA_BOOTSTRAP),0,$(1))

test: check
	tests/browser/chromium.sh
	$(PYTEST) -n $(call AT_ONCE,3) tests -m "not slow"
	$(PYTEST) -n $(call AT_ONCE,2) tests -m slow

check: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Every process is killed at each of its moments, and the broker hangs, is far and resets; the list of cells is printed.
crash: .venv/.installed
	.venv/bin/pytest -s tests/crash/matrix.py tests/crash/test_killed_words.py tests/crash/faults.py

# Random kills: SOAK_MINUTES=2 for a short one, SOAK_SEED=... to choose the same victims again.
soak: .venv/.installed
	.venv/bin/pytest -s -x tests/crash/soak.py

# Ratios on two quiet cores, in under 15 minutes; results and docs/benchmarks.md are written anew.
bench: .venv/.installed
	.venv/bin/python -m benchmarks.search
	.venv/bin/python -m benchmarks.budget
	.venv/bin/python -m benchmarks.grading
	.venv/bin/python -m benchmarks.cloning
	.venv/bin/python -m benchmarks.page

# The trainers against TRL, which gets an environment of its own (.bench-venv).
bench-train: .venv/.installed
	.venv/bin/python -m benchmarks.train
	.venv/bin/python -m benchmarks.page

# A million rows through a topic into a table, and what waits before a slow searcher (10 minutes on two quiet cores).
bench-stream: .venv/.installed
	.venv/bin/python -m benchmarks.stream
	.venv/bin/python -m benchmarks.page

# The studio's pages over a million node rows and a hundred thousand groups of rollouts.
bench-studio: .venv/.installed
	.venv/bin/python -m benchmarks.studio
	.venv/bin/python -m benchmarks.page

# Whether the memory of each process of the main job stays flat: an hour.
bench-memory: .venv/.installed
	.venv/bin/python -m benchmarks.memory
	.venv/bin/python -m benchmarks.page

install: .venv/.installed

.venv/.installed: pyproject.toml deploy/install.sh deploy/pins-cpu.txt
	deploy/install.sh

clean:
	rm -rf .venv .bench-venv data
