# make notebooks | test | lab | site | slides | exercises | outputs | nano | clean; each sets .venv up by itself.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
LOWEST := .venv-lowest

.PHONY: help notebooks test test-lowest lab site slides exercises outputs headers nano clean

help:
	@echo "make notebooks   execute every notebook into build/notebooks, as HTML too"
	@echo "make lab         open JupyterLab"
	@echo "make test        ruff, unit tests, and every notebook under nbmake"
	@echo "make test-lowest losses and parity with TRL, on the oldest TRL admitted"
	@echo "make site        the course as web pages that read offline, in build/site"
	@echo "make slides      slides of the notebooks' own cells, in build/slides"
	@echo "make exercises   rebuild notebooks/exercises and notebooks/solutions (NB=\"01\")"
	@echo "make outputs     rebuild notebooks/*.ipynb from notebooks/src (NB=\"00 04\")"
	@echo "make nano        train data/nano again (about ten minutes)"
	@echo "make clean       forget what was computed (make distclean: .venv too)"

define check-python
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "Python 3.11 to 3.13 is needed; try: make PYTHON=python3.12"; exit 1; }
endef

# Set up once; again only when the requirements change.
$(STAMP): pyproject.toml constraints.txt
	$(check-python)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[lab,test,scale,site]'
	@touch $@

$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	$(check-python)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install -q -c constraints-lowest.txt torch
	$(LOWEST)/bin/python -m pip install -q -c constraints-lowest.txt -e . pytest
	@touch $@

notebooks: $(STAMP)
	$(BIN)/python scripts/notebooks.py run $(NB)

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --nbmake --nbmake-timeout=1200 \
	  tests notebooks

test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(LOWEST)/bin/python -m pytest tests/test_trl_parity.py \
	  tests/test_losses.py tests/test_data.py tests/test_training.py tests/test_variants_training.py

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

outputs: $(STAMP)
	$(BIN)/python scripts/notebooks.py outputs $(NB)

site: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python scripts/site.py
	$(BIN)/python scripts/slides.py build/site/slides

slides: $(STAMP)
	$(BIN)/python scripts/slides.py

exercises: $(STAMP)
	$(BIN)/python scripts/exercises.py build $(NB)

headers: $(STAMP)
	$(BIN)/python scripts/notebooks.py headers

nano: $(STAMP)
	$(BIN)/python scripts/build_nano.py

clean:
	rm -rf build .pytest_cache .ruff_cache

.PHONY: distclean
distclean: clean
	rm -rf .venv $(LOWEST)
