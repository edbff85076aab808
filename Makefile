# make notebooks | test | lab | outputs | nano | clean; each sets .venv up by itself.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help notebooks test lab outputs headers nano clean

help:
	@echo "make notebooks   execute every notebook into build/notebooks, as HTML too"
	@echo "make lab         open JupyterLab"
	@echo "make test        ruff, unit tests, and every notebook under nbmake"
	@echo "make outputs     rebuild notebooks/*.ipynb from notebooks/src (NB=\"00 04\")"
	@echo "make nano        train data/nano again (about ten minutes)"
	@echo "make clean       forget what was computed (make distclean: .venv too)"

# Set up once; again only when the requirements change.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "Python 3.11 to 3.13 is needed; try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[lab,test]'
	@touch $@

notebooks: $(STAMP)
	$(BIN)/python scripts/notebooks.py run $(NB)

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --nbmake --nbmake-timeout=1200 \
	  tests notebooks

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

outputs: $(STAMP)
	$(BIN)/python scripts/notebooks.py outputs $(NB)

headers: $(STAMP)
	$(BIN)/python scripts/notebooks.py headers

nano: $(STAMP)
	$(BIN)/python scripts/build_nano.py

clean:
	rm -rf build .pytest_cache .ruff_cache

.PHONY: distclean
distclean: clean
	rm -rf .venv
