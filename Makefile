# make demo, then make chat; make report and make reviews are experiments of their own. Without make (Windows): see README, "没有 make".
PYTHON ?= python3
VENV = .venv
PY = $(VENV)/bin/python

.PHONY: demo chat report reviews test test-long bench lint

demo: $(VENV)/run.stamp
	$(PY) demo.py

chat: $(VENV)/run.stamp
	$(PY) sample_gradio.py --out_dir=out/demo-chat

report reviews: $(VENV)/run.stamp
	$(PY) demo.py $@

test: $(VENV)/test.stamp
	$(PY) -m pytest

test-long: $(VENV)/test.stamp
	$(PY) -m pytest -m long

bench: $(VENV)/test.stamp
	$(PY) bench.py train
	$(PY) bench.py generate
	test -f data/sanguo/input.txt || $(PY) data/fetch_data.py
	$(PY) bench.py prepare

lint: $(VENV)/test.stamp
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# A torch that $(PYTHON) or .venv has already (a CUDA build, say) is used as it is; all else is pinned.
$(VENV)/run.stamp: requirements.txt
	test -x $(PY) || if $(PYTHON) -c "import torch" 2>/dev/null; then $(PYTHON) -m venv --system-site-packages $(VENV); else $(PYTHON) -m venv $(VENV); fi
	if $(PY) -c "import torch" 2>/dev/null; then grep -v "^torch==" requirements.txt > $(VENV)/requirements.txt; else cp requirements.txt $(VENV)/requirements.txt; fi
	$(PY) -m pip install --quiet --requirement $(VENV)/requirements.txt
	touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp requirements-test.txt
	grep -v "^-r " requirements-test.txt > $(VENV)/requirements-test.txt
	$(PY) -m pip install --quiet --requirement $(VENV)/requirements-test.txt
	touch $@
