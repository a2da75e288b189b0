# make run: build the environment and open the prompt.   make test: run every test that is fast.
# make coverage: which lines they run, and which not.   make docs: the site, in docs/_build/html.   make man: docs/hmp.1 anew.
# make check: lint, dist, all tests, check-demos; CI runs it first.   make lint: of that the quick part.
# make dist: wheel and sdist, checked.   make bench: docs/benchmarks.md anew; QUICK=1 tells only a clear regression.
# make demos: the casts and pictures of docs/demos, anew.
# make check-demos: are the committed casts what their scripts make? The same bytes with the libraries that made them; what
# the newest draw otherwise is printed.
# make demo-vm: the one cast that is typed beside a real QEMU; the same holds.
# make demo-kernel: the one cast that is typed in real time, before a real kernel; look at it, then `make demos`.
# make fuzz T=60: coverage-guided fuzzing, so many seconds for each target.
# make wasm: the core's fast tests as a browser would run them.
# make clients: other people's clients of QEMU, from the package index, for the tests that run them.
# PYTHON chooses the interpreter (3.11 or newer), JOBS how many processes run tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The demos have an environment of their own, with the libraries that docs/demos/requirements.txt names.
PINNED := .demos
STAMP := $(VENV)/.installed
# As many processes as there are processors; one that has nothing left to do takes tests from another. The summary names
# what was skipped, and why.
JOBS ?= auto
PYTEST := $(BIN)/python -m pytest -q -raR -n $(JOBS) --dist worksteal
NPM := $(if $(shell command -v npm),.npm/.installed)
STORIES := $(basename $(wildcard docs/demos/*.hmp))
TYPED := $(basename $(wildcard docs/demos/*.typed))
DEMOS := $(STORIES) $(TYPED)

# As many rows as the story fills; narrow, for phones, where the line breaks between its words. Charts need 80 columns.
SIZE := 80x24
docs/demos/fresh: SIZE := 56x26
docs/demos/hang: SIZE := 56x13
docs/demos/hang: PICTURE := --once
docs/demos/keys: SIZE := 56x18
docs/demos/stopcont: SIZE := 56x20

CLIENTS := .clients/.installed
WASM := .npm/python/.installed
WASM_PACKAGES := 'pytest>=8.2' iniconfig pluggy packaging pygments 'hypothesis==6.151.0' sortedcontainers attrs

.PHONY: run test test-all clients wasm coverage check check-demos lint dist format bench demos demo-kernel demo-vm docs man fuzz clean $(DEMOS)

run: $(STAMP)
	@exec $(BIN)/hmp

test: $(STAMP)
	$(PYTEST) -m "not slow and not external"

test-all: $(STAMP) $(CLIENTS) $(NPM) $(if $(NPM),$(WASM))
	$(PYTEST)

clients: $(CLIENTS)

$(CLIENTS): tests/support/clients.py $(STAMP)
	rm -rf .clients && mkdir .clients
	$(BIN)/python -m tests.support.clients
	touch $@

# Of the fast tests, child processes included.
coverage: $(STAMP)
	rm -rf .coverage && mkdir .coverage
	$(BIN)/python -m coverage run -m pytest -q -n $(JOBS) --dist worksteal -m "not slow and not external"
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report

check: lint dist test-all check-demos

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --no-isolation >/dev/null
	$(BIN)/check-wheel-contents dist/*.whl
	$(BIN)/twine --no-color check --strict dist/*

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

demos: $(DEMOS)

$(STORIES): $(PINNED)/.installed
	$(PINNED)/bin/hmp --clock warp --size $(SIZE) --overwrite --record $@.cast $@.hmp >/dev/null
	$(PINNED)/bin/hmp-cast2svg $(PICTURE) --overwrite $@.cast $@.svg

$(TYPED): $(PINNED)/.installed
	$(PINNED)/bin/hmp-cast2svg --overwrite $@.cast $@.svg

check-demos: $(PINNED)/.installed $(STAMP)
	$(BIN)/python -m tests.support.demos $(PINNED)/bin/python
	$(BIN)/python -m tests.support.demos

$(PINNED)/.installed: docs/demos/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(PINNED)
	$(PINNED)/bin/python -m pip install --quiet --editable . --requirement docs/demos/requirements.txt
	touch $@

demo-kernel: $(STAMP)
	$(BIN)/hmp --guest uml,mem=128M --size 56x24 --overwrite --record docs/demos/kernel.cast docs/demos/kernel.typed >/dev/null

demo-vm: $(STAMP)
	$(BIN)/python docs/demos/running_vm.py

# Pages fetch nothing from elsewhere, and a warning is an error. "Try it here" is made from npm's packages, which come
# here; without npm, or where it reaches nothing, that page says that its terminal is missing, and its tests are skipped.
docs: $(STAMP) $(NPM)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet -b html docs docs/_build/html

$(NPM): docs/try/package-lock.json
	mkdir -p .npm && cp docs/try/package.json docs/try/package-lock.json docs/try/.npmrc .npm
	@if npm ci --prefix .npm --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null; then touch $@; \
	else echo "npm ci failed: there is no terminal in \"Try it here\", and its tests are skipped"; fi

# The core's fast tests in Pyodide, under node: pytest and what it needs, in Python alone. Newer hypothesis is not.
wasm: $(STAMP) $(NPM) $(WASM)
	node tests/wasm/run.mjs $(CURDIR) $(CURDIR)/.npm/python -q -c tests/wasm/pytest.ini --rootdir /hmp

$(WASM): Makefile $(NPM)
	$(BIN)/python -m pip install --quiet --no-compile --upgrade --target .npm/python --no-deps --only-binary :all: \
		--platform any --implementation py --abi none --python-version 3.14 $(WASM_PACKAGES)
	touch $@

man: $(STAMP)
	$(BIN)/python docs/_ext/hmp_man.py docs/hmp.1

# Figures for docs/benchmarks.md, and the page with its plots, which says what goals are missed (exit status 3); QUICK=1
# only looks for a clear regression (CI), fails then, and adds a line to the history.
bench: $(STAMP) $(if $(QUICK),,.bench/.installed)
	$(BIN)/python -m tests.bench --keep $(if $(QUICK),--quick) || test "$$?$(QUICK)" = 3
	$(if $(QUICK),,.bench/bin/python -m tests.bench.page)

# What the bench measures beside hmp, and what draws its plots: none of it is in hmp's own environment.
.bench/.installed:
	$(PYTHON) -m venv .bench
	.bench/bin/python -m pip install --quiet litecli matplotlib hypothesis  # the last for `import tests`
	if command -v npm >/dev/null; then npm install --prefix .bench --silent --no-audit --no-fund svg-term-cli; fi
	touch $@

T ?= 60

# atheris has wheels for fewer Pythons than hmp: it is installed only here. Corpora and findings are kept in .fuzz/.
# From Python 3.12 on it is several times quicker (tests/fuzz/once.py).
fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz --seconds $(T)

clean:
	rm -rf $(VENV) $(PINNED) .bench .clients build dist docs/_build .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz .npm .import_linter_cache

# pip first: the start-up scripts that old versions write import more. setuptools would add a hook to every start.
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("hmp needs Python 3.11 or newer: make PYTHON=...") if sys.version_info < (3, 11) else 0'
	@echo 'Installing hmp and the tools of its developers into $(VENV), once. This may take some minutes.'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --compile --editable '.[dev]'
	$(BIN)/python -m pip uninstall --quiet --yes setuptools
	$(BIN)/python -m compileall -q hmp device
	touch $(STAMP)
