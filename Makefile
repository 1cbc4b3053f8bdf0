# Each target sets up what it needs; nothing is installed outside .venv.
PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

compare: .venv/installed
	.venv/bin/lab compare $(ARGS)

docs: .venv/installed
	mkdir -p docs
	.venv/bin/python -m lab.overview docs/architectures.md
	.venv/bin/python -m lab.task_overview docs
	.venv/bin/python -m lab.publication docs/studies.md
	.venv/bin/python -m tasks.pathfinder docs/pathfinder.png

test: .venv/installed-dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/pyright
	.venv/bin/lint-imports
	.venv/bin/pytest -n 2 --dist worksteal $(ARGS)

soak: .venv/installed-dev
	PYTHONPATH=tests .venv/bin/python -m soak $(ARGS)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -d .venv || $(PYTHON) -m venv .venv
	@echo "installing into .venv (about a minute, once)"
	$(PIP) -e .
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP) -e '.[dev]'
	@touch $@

.PHONY: compare docs soak test
