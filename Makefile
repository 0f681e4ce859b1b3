# make demo, then make chat; make report, make reviews, make hotel, make align and make lora are experiments of their own. Without make (Windows): see README, "没有 make".
PYTHON ?= python3
VENV = .venv
PY = $(VENV)/bin/python

.PHONY: demo chat report reviews hotel align lora lessons docs speedrun test test-long bench lint lock audit

demo: $(VENV)/run.stamp
	$(PY) demo.py

chat: $(VENV)/run.stamp
	$(PY) sample_gradio.py --out_dir=out/demo-chat

report reviews hotel align: $(VENV)/run.stamp
	$(PY) demo.py $@

# QLoRA keeps the base in four bits with bitsandbytes, which nothing else needs.
lora: $(VENV)/run.stamp
	$(PY) -m pip install --quiet "$$(grep -o "^bitsandbytes==[0-9.]*" requirements-test.txt)"
	$(PY) demo.py $@

lessons: $(VENV)/run.stamp
	for lesson in lessons/[0-9]*.py; do $(PY) $$lesson || exit 1; done

docs: $(VENV)/test.stamp
	$(PY) docs/site.py

test: $(VENV)/test.stamp
	$(PY) -m pytest

# One at a time: the largest GPT-2 alone takes 20 GB.
test-long: $(VENV)/test.stamp
	$(PY) -m pytest -m long -n 0

bench: $(VENV)/test.stamp
	$(PY) bench.py train
	$(PY) bench.py generate
	test -f data/sanguo/input.txt || $(PY) data/fetch_data.py
	$(PY) bench.py prepare

speedrun: $(VENV)/run.stamp
	$(PY) bench.py speedrun

lint: $(VENV)/test.stamp
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m ty check --quiet --python-version 3.11
	$(PY) -m ty check --quiet --python-version 3.13

# Whether a Python is new enough (and, with a folder, runs from there); whether all that requirements.txt names is there.
FITS = import os, sys; sys.exit(sys.version_info < (3, 11) or any(not os.path.samefile(sys.prefix, d) for d in sys.argv[1:]))
HAS_ALL = import re, importlib.metadata as m; \
  assert all(m.version(name) for name in re.findall(r"(?m)^([\w-]+)==", open("requirements.txt", encoding="utf-8").read()))
.PHONY: incomplete
$(VENV)/run.stamp: requirements.lock $(if $(shell exec 2>/dev/null; $(PY) -c '$(HAS_ALL)' && echo yes),,incomplete)

# A .venv without a Python that runs is made anew, one without pip gets it.
# A torch that $(PYTHON) or .venv has already (a CUDA build, say) is used as it is; all else is pinned by its sha256.
$(VENV)/run.stamp:
	@$(PY) -c '$(FITS)' $(VENV) 2>/dev/null || $(PYTHON) -c '$(FITS)' 2>/dev/null || { echo \
	  "error: $(PYTHON) is no Python 3.11 or newer; install one and say which: make PYTHON=python3.12" >&2; exit 2; }
	@$(PY) -c '$(FITS)' $(VENV) 2>/dev/null || $(PYTHON) -m venv --clear --without-pip \
	  $$($(PYTHON) -c "import torch" 2>/dev/null && echo --system-site-packages) $(VENV)
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip --upgrade --default-pip >/dev/null 2>&1 || { echo \
	  "error: $(PYTHON) has no ensurepip and so no pip; apt install python3-venv (Debian, Ubuntu), then try again" >&2; exit 2; }
	$(PY) -m pip install --quiet --require-hashes --no-deps --requirement requirements.lock
	$(PY) -c "import torch" 2>/dev/null || $(PY) -m pip install --quiet $$(grep -o "^torch==[0-9.]*" requirements.txt)
	touch $@

# After a change of requirements.txt. pip chooses torch's build; sympy, networkx, fsspec and setuptools are what every build needs.
lock: $(VENV)/run.stamp
	$(PY) -m pip install --quiet uv
	(grep -v "^torch==" requirements.txt; printf "sympy\nnetworkx\nfsspec\nsetuptools\n") | $(PY) -m uv pip compile - --quiet \
	  --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" --output-file requirements.lock

# The advisories that PyPI knows for what is installed.
audit: $(VENV)/run.stamp
	$(PY) -m pip install --quiet pip-audit
	$(PY) -m pip_audit --strict --disable-pip --no-deps --requirement requirements.lock

$(VENV)/test.stamp: $(VENV)/run.stamp requirements-test.txt
	grep -v "^-r " requirements-test.txt > $(VENV)/requirements-test.txt
	$(PY) -m pip install --quiet --requirement $(VENV)/requirements-test.txt
	touch $@
