# `make` alone prints what there is. Options of a command go through ARGS:
#   make reproduce-table4 ARGS="--models Swin-T,MAFormer-S --format json"
# Where the data and the weights are, and on how many GPUs (or CPU processes) to evaluate:
#   make reproduce-table4 DATA=/data CHECKPOINTS=/weights GPUS=8
# What that would evaluate, and what is missing:
#   make plan DATA=/data CHECKPOINTS=/weights
# One table of `reproduce` or `plan`: TABLE=4. Fetch the public weights of its systems first:
#   make checkpoints TABLE=4 CHECKPOINTS=/weights
# Another paper than MAFormer: PAPER=swin, or the path of its folder.

PYTHON ?= python3
CONSTRAINTS ?=
ARGS ?=
DATA ?=
CHECKPOINTS ?=
TABLE ?=
PAPER ?=
GPUS ?=
STUDY ?= micro
VENV := .venv
BIN := $(VENV)/bin
# A path may have spaces, which make takes for the end of a name.
SPACE := $(subst ,, )
READY := $(VENV)/.ready$(if $(CONSTRAINTS),-$(notdir $(subst $(SPACE),_,$(CONSTRAINTS))))
RESULTS := results
ifneq ($(filter-out maformer,$(PAPER)),)
RESULTS := results/$(notdir $(PAPER))
export REPRODUCE_PAPER := $(if $(findstring /,$(PAPER)),$(abspath $(PAPER)),$(PAPER))
endif
PROCESSES = $(if $(GPUS),--processes $(GPUS))
INPUTS = $(if $(DATA),--data "$(DATA)") $(if $(CHECKPOINTS),--checkpoints "$(CHECKPOINTS)")
EVALUATE = $(INPUTS) $(PROCESSES)

.DEFAULT_GOAL := help
.PHONY: help setup constraints reproduce tables figures report plan rehearse checkpoints regress records ablation audit test test-slow test-report docs lint format benchmark clean

help:  ## Print this list
	@grep -hE '^[a-z][a-zA-Z0-9_%-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22
	@echo
	@echo 'make itself ends with 2 if a command fails; it prints the status of the command: Error 1 where'
	@echo 'a result is worse than it should be, Error 2 where something could not be done.'

setup: $(READY)  ## Make .venv with everything the other targets need; they do it by themselves

# Two dependencies install OpenCV into one folder, and only the headless one works on a machine
# without libGL: it has to be the one that stays.
$(READY): pyproject.toml operators/pyproject.toml operators/mmcv/_ext.py $(subst $(SPACE),\ ,$(CONSTRAINTS))
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; name one with PYTHON=python3.11")'
	@echo "==> 1/4 a virtual environment in $(VENV)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "==> 2/4 packages: torch, timm, mmdet, mmseg, ... (several GB the first time)"
	@$(BIN)/python -m pip install --quiet "pip>=25.1"
	$(BIN)/python -m pip install --quiet --progress-bar on \
		$(if $(CONSTRAINTS),--constraint "$(CONSTRAINTS)") --group dev
	@echo "==> 3/4 the replacement of mmcv's compiled operators"
	$(BIN)/python -m pip install --quiet --no-deps ./operators
	@echo "==> 4/4 OpenCV without libGL"
	@version=$$($(BIN)/python -c 'from importlib.metadata import version; print(version("opencv-python-headless"))') && \
	$(BIN)/python -m pip uninstall --quiet --yes opencv-python opencv-python-headless && \
	$(BIN)/python -m pip install --quiet --no-deps opencv-python-headless==$$version
	@printf '#!/bin/sh\nPYTHONSAFEPATH=1 PYTHONPATH="%s$${PYTHONPATH:+:$$PYTHONPATH}" exec "%s" -m reproduce "$$@"\n' \
		"$(CURDIR)" "$(CURDIR)/$(BIN)/python" > $(BIN)/reproduce && chmod +x $(BIN)/reproduce
	@touch $@
	@echo "==> ready"

constraints: $(READY)  ## Write the installed versions into requirements/tested.txt
	@{ echo '# Constraints: the versions that the tests passed with. `make constraints` writes this file.' && \
	echo '# make setup CONSTRAINTS=requirements/tested.txt' && \
	$(BIN)/python -m pip freeze --all --exclude pip $(ARGS) | sed -n 's/^\([a-zA-Z0-9._-]*==[0-9][^+]*\).*/\1/p'; } > requirements/tested.txt

# The report is made also where a cell is worse than it should be: that is when it is looked at.
reproduce: $(READY)  ## Measure, judge and write every cell of Tables 1-7, or TABLE=5; then the report
	@$(BIN)/python -m reproduce table $(TABLE) $(EVALUATE) $(ARGS) || { test $$? -eq 1 && failed=1; } && \
	$(BIN)/python -m reproduce report && exit $${failed:-0}

reproduce-table%: $(READY)  ## The same for one table, e.g. reproduce-table5
	$(BIN)/python -m reproduce table $* $(EVALUATE) $(ARGS)

tables: $(READY)  ## The paper's tables in Markdown and LaTeX, in results/tables
	$(BIN)/python -m reproduce tables --output "$(RESULTS)/tables" $(ARGS)

figures: $(READY)  ## Accuracy over cost, and the ablations: PDF and PNG, in results/figures
	$(BIN)/python -m reproduce figures $(ARGS)

report: $(READY)  ## Everything as one HTML file, results/report.html
	$(BIN)/python -m reproduce report $(ARGS)

plan: $(READY)  ## What the tables would evaluate, what is missing, where to get it
	$(BIN)/python -m reproduce plan $(TABLE) $(INPUTS) $(ARGS)

rehearse: $(READY)  ## A few steps of every training at full size, before days are spent
	$(BIN)/python -m reproduce rehearse $(if $(DATA),--data "$(DATA)") $(PROCESSES) $(ARGS)

checkpoints: $(READY)  ## List the public weights; with TABLE and CHECKPOINTS, fetch those of a table
	$(BIN)/python -m reproduce checkpoints $(if $(CHECKPOINTS),--checkpoints "$(CHECKPOINTS)") \
		$(if $(TABLE),--table $(TABLE) $(if $(CHECKPOINTS),--download)) $(ARGS)

regress: $(READY)  ## Evaluate the released checkpoints; fails if one scores less than it did
	$(BIN)/python -m reproduce regress $(EVALUATE) $(ARGS)

# Paths in the checkout, as the records keep the commands.
EVALUATED := --data build/shapes --output results/released
records: $(READY)  ## Evaluate the released checkpoints again; their records are in results/released
	$(BIN)/python -m datasets.shapes build/shapes --train 0
	$(BIN)/python -m reproduce evaluate imagenet maformer_micro --model-kwargs token_labeling=true \
		--checkpoint maformer_micro_shapes $(EVALUATED)
	$(BIN)/python -m reproduce evaluate coco --config mask-rcnn_maformer-micro_fpn_shapes.py \
		--checkpoint mask_rcnn_maformer_micro_shapes $(EVALUATED)
	$(BIN)/python -m reproduce evaluate coco --config cascade-mask-rcnn_maformer-micro_fpn_shapes.py \
		--checkpoint cascade_mask_rcnn_maformer_micro_shapes $(EVALUATED)
	$(BIN)/python -m reproduce evaluate ade20k --config fpn_maformer-micro_shapes.py \
		--checkpoint sem_fpn_maformer_micro_shapes $(EVALUATED)
	$(BIN)/python -m reproduce evaluate ade20k --config upernet_maformer-micro_shapes.py --multi-scale \
		--checkpoint upernet_maformer_micro_shapes $(EVALUATED)

ablation: $(READY)  ## The paper's design claims, tested on drawn images; STUDY=small DATA=... on photographs
	$(BIN)/python -m reproduce ablation "$(STUDY)" $(if $(DATA),--data "$(DATA)") $(ARGS)

audit: $(READY)  ## Findings about the paper: its text, its tables and their sources
	$(BIN)/python -m reproduce audit $(ARGS)

test: $(READY)  ## Run the tests
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(READY)  ## Run the tests, those that take minutes included
	$(BIN)/python -m pytest -m 'slow or not slow' $(ARGS)

test-report: $(READY)  ## Test the report in Chromium, the tables in LaTeX and the notebook
	@for tool in chromium pdflatex pdftotext; do command -v $$tool >/dev/null || \
	{ echo "error: $$tool is missing; .ci/install-report-tools installs it" >&2; exit 2; }; done
	$(BIN)/python -m pip install --quiet --group report-test
	$(BIN)/python -m pytest tests/browser $(ARGS)

# The pages with what they link to, in the same places. The package has the name that it is installed
# under.
docs: $(READY)  ## The documentation as a site, in build/site
	$(BIN)/python -m pip install --quiet --group docs
	rm -rf build/pages build/api && mkdir -p build/pages build/api
	tar -c *.md docs results/ablations/*/claims.md reproduce/weights/released/README.md | tar -x -C build/pages
	ln -s ../../model build/api/maformer
	$(BIN)/zensical build --strict

lint: $(READY)  ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY)  ## Put the code into the checked style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

benchmark: $(READY)  ## Images/s, share of the peak, memory of networks; ARGS="resnet50 --device cuda"
	$(BIN)/python -m benchmarks.speed $(ARGS)

clean:  ## Remove .venv and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info model/*.egg-info
