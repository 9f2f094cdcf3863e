# make demo   sets up and runs the main job on embedded data, into demo/
# make test   sets up (or reuses) and passes the tests
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: help demo test lint wheel setup clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# make/make/p' Makefile

# A stamp, so that the second command reuses what the first one installed.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "onnxadmm needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

setup: $(VENV)/installed

demo: $(VENV)/installed
	$(BIN)/onnxadmm compress models/lenet5/lenet5.onnx --spec models/lenet5/demo.yaml -o demo

test: $(VENV)/installed
	$(BIN)/python -m pytest

# make lint   formatting, lint, types, import contracts
lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist demo *.egg-info

# make wheel  build the wheel and check that it holds these packages and nothing else
wheel: $(VENV)/installed
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist . > /dev/null
	$(BIN)/check-wheel-contents dist/*.whl
