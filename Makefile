# make setup | demo | smoke | test | test-slow | test-gpu | lint | bench | features
# Every target sets up .venv first, if it is missing or older than the lists of packages.
#   make setup PYTHON=python3.12      another interpreter
#   make setup TORCH="torch==2.11.0 torchvision"    another build: what stands behind `pip install`

PYTHON ?= python3
TORCH ?= torch torchvision
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
# With another build of PyTorch, what belongs to PyTorch comes in the versions that it asks for
PINS := $(if $(filter file,$(origin TORCH)),constraints.txt,$(VENV)/constraints.txt)

.PHONY: setup demo smoke test test-slow test-gpu lint bench features
ifneq ($(PINS),constraints.txt)
.PHONY: $(READY)
endif

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): about 6 GB with a CUDA build of PyTorch, a few minutes."
	@df -h . | awk 'NR == 2 {print "Free disk here: " $$4}'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	grep -vE '^(torch|torchvision|triton)==|^(cuda|nvidia)-' constraints.txt > $(VENV)/constraints.txt
	$(RUN) -m pip install --quiet --constraint $(PINS) $(TORCH)
	$(RUN) -m pip install --quiet --constraint $(PINS) --editable ".[dev]"
	@touch $(READY)

# Trains a tokenizer, caches tokens, trains a MaskGIL, samples and scores: minutes on two cores.
demo: $(READY)
	$(RUN) main.py MaskGIL/configs/demo/tokenizer.yaml
	$(RUN) main.py MaskGIL/configs/demo/generator.yaml
	$(RUN) FID_sample.py MaskGIL/configs/demo/score.yaml
	$(RUN) -m MaskGIL generate MaskGIL/configs/demo/pictures.yaml

# The same path at toy size, under a minute: it proves that everything is connected, nothing more.
SMOKE := runs/smoke
smoke: $(READY)
	rm -rf $(SMOKE)
	$(RUN) main.py MaskGIL/configs/demo/tokenizer.yaml out_dir=$(SMOKE)/tokenizer loop.steps=20 data.num_images=256
	$(RUN) main.py MaskGIL/configs/demo/generator.yaml out_dir=$(SMOKE)/generator loop.steps=20 data.num_images=256 tokenizer.weights=$(SMOKE)/tokenizer/weights
	$(RUN) FID_sample.py MaskGIL/configs/demo/score.yaml weights=$(SMOKE)/generator/weights out=$(SMOKE)/samples.npz num_images=64 num_reference=64
	$(RUN) -m MaskGIL generate MaskGIL/configs/demo/pictures.yaml weights=$(SMOKE)/generator/weights out=$(SMOKE)/grid.png strip=$(SMOKE)/strip.png gif=$(SMOKE)/decode.gif
	@echo "smoke: the plumbing holds; the pictures are noise, as they should be after 20 steps."

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m basedpyright

test: $(READY)
	$(RUN) -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

test-slow: $(READY)
	$(RUN) -m pytest -m "slow and not gpu"

test-gpu: $(READY)
	$(RUN) -m pytest -m gpu

bench: $(READY)
	$(RUN) benchmarks/cache.py
	$(RUN) benchmarks/images.py
	$(RUN) benchmarks/captions.py
	$(RUN) benchmarks/tokenizer.py
	$(RUN) benchmarks/train.py
	$(RUN) benchmarks/cached.py
	$(RUN) benchmarks/decode.py

features: $(READY)
	$(RUN) -m Metrics.train_features
