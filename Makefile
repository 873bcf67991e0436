# make test: format, lint, types and every test.  make demo: the comparison on two emulated sites.
# Both set up .venv themselves. `make PYTHON=python3.12 test` chooses the interpreter that .venv is made from.
PYTHON ?= python3
EXTRAS := test,recipes,report,keys,peft,deepspeed,trl,quality
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-fast wheel quality style docs findings clean

help:
	@echo "make demo       compare no communication, DDP, LocalSGD and geo_accel on two emulated sites"
	@echo "                (12 minutes at most on 2 cores; DEMO_QUICK=1 make demo: 4 minutes)"
	@echo "make test       quality, then every test"
	@echo "make test-fast  quality, then the tests that are neither slow nor need the lab"
	@echo "make wheel      build the wheel, install it in an empty environment and run the command from there"
	@echo "make quality    check format, lint and types"
	@echo "make style      apply format and lint fixes"
	@echo "make docs       write docs/configuration.md from the settings"
	@echo "make findings   whether what surprised us in other libraries is still so (downloads them; a minute each)"
	@echo "make clean      remove caches and build leftovers (keeps .venv and runs/)"

# torch is installed first and by exact version: a range would fetch several gigabytes of CUDA packages.
$(STAMP): setup.cfg pyproject.toml constraints.txt geo_accel/version.py
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("geo_accel needs Python 3.10 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Choose another with: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo

# Two files at a time, as most of a test is waiting; then, one by one, the tests that measure time.
test: quality
	$(PYTEST) -m "not alone" --numprocesses=2 --dist=loadfile --durations=15
	$(PYTEST) -m alone

test-fast: quality
	$(PYTEST) -m "not slow and not lab"

# What an editable install cannot show: files that the wheel lacks, dependencies that nobody declared.
wheel: $(STAMP)
	rm -rf build/wheel build/empty
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	! $(BIN)/python -m zipfile --list build/wheel/*.whl | grep -E '^(tests|benchmarks|recipes)/'
	$(PYTHON) -m venv build/empty
	build/empty/bin/python -m pip install --quiet torch==2.13.0
	build/empty/bin/python -m pip install --quiet -c constraints.txt build/wheel/*.whl
	cd build && empty/bin/geo-accel --version && empty/bin/geo-accel simulate --help >/dev/null && \
		empty/bin/python -c 'import geo_accel; geo_accel.GeoSync, geo_accel.plug_into; print(geo_accel.__file__)'
	rm -rf build/empty

quality: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

style: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)
	$(BIN)/python -m geo_accel.config.reference docs/configuration.md

# Each script installs what it needs by itself. Not part of CI.
findings:
	@failed=0; for script in findings/*.sh; do \
		if said=$$(bash $$script 2>&1); then echo "holds     $$script"; \
		else failed=1; echo "$$said" | grep -m 1 '^changed:' | sed "s|^changed:|changed   $$script:|" | grep . || \
			echo "not run   $$script: $$(echo "$$said" | tail -n 1)"; fi; \
	done; exit $$failed

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
