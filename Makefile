# Each target sets up what it needs in .venv; a machine with Python 3.11 or newer is enough.
#
# Variables:
#   PYTHON       the Python that makes .venv (default python3)
#   TORCH_INDEX  package index for torch alone. On Linux, PyPI's torch is a CUDA build of several GB; without a GPU:
#                  make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
#   PIP_ARGS     further arguments of every pip install, for example --index-url of a mirror
#   ARGS         further arguments of pytest (make test) or of lightning-nas (make demo, make pretrain)

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
PIP_ARGS ?=
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install $(PIP_ARGS)
TORCH := torch==$(shell sed -n 's/^torch==//p' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench pretrain table3 supernets supernets_cifar10 supernets_s2 clean

help:  ## Show this list
	@sed -n 's/^\([a-z0-9_]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 28

install: $(VENV)/.dev  ## Make .venv with everything for development

demo: $(VENV)/.run  ## Pre-train, search, train what was found; offline, continues where it was stopped
	$(BIN)/lightning-nas fit --config demo --ckpt_path last $(ARGS)
	$(BIN)/lightning-nas retrain --genotype runs/demo --run_dir runs/demo/retrain --ckpt_path last

test: $(VENV)/.dev  ## Run the tests (those on real tables need LIGHTNING_NAS_DATA)
	OMP_WAIT_POLICY=passive $(BIN)/pytest $(ARGS)

lint: $(VENV)/.dev  ## Check style, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell --skip 'runs,build,dist,*.egg-info'

bench: $(VENV)/.dev  ## Run every comparison in tests/bench
	@set -e; for file in tests/bench/bench_*.py; do echo "== $$file"; \
		$(BIN)/python -m tests.bench.$$(basename $$file .py); done

PRETRAIN := $(foreach space,nasbench101 nasbench201 darts,$(space) $(space)_vgae $(space)_gae) \
	nasbench101_joint darts_joint

pretrain: $(VENV)/.run  ## Table 1 of arch2vec: 11 models with 3 seeds each into the ledger; continues where it was stopped
	@set -e; for model in $(PRETRAIN); do for seed in 0 1 2; do \
		run=runs/table1/$$model/$$seed; test -e $$run/result || $(BIN)/lightning-nas fit \
			--config arch2vec/$$model --run_dir $$run --ckpt_path last --seed_everything $$seed \
			--model.init_args.seed $$seed --data.init_args.seed $$seed $(ARGS); done; done
	$(BIN)/lightning-nas report runs/table1 --record docs/results --ledger

table3: $(VENV)/.run  ## Table 3 of arch2vec: all searches with five pre-trained modules into the ledger; continues where it was stopped
	@set -e; for seed in 0 1 2 3 4; do run=runs/table3/$$seed; \
		test -e $$run/imagenet16/summary.md || $(BIN)/lightning-nas fit \
			--config arch2vec/nasbench201_table3 --run_dir $$run --ckpt_path last --seed_everything $$seed \
			--model.init_args.seed $$seed --data.init_args.seed $$seed $(ARGS); done
	$(BIN)/lightning-nas report runs/table3 --record docs/results --ledger

SUPERNETS := nasbench201_digits $(addprefix nasbench201_digits_,second blank sdarts pc drnas drnas_progressive sgas sgas_pt)

supernets: $(VENV)/.run  ## Differentiable search on digits: nine supernets with ten seeds each into the ledger; continues where it was stopped
	@set -e; for net in $(SUPERNETS); do for seed in 0 1 2 3 4 5 6 7 8 9; do run=runs/supernets/$$net/$$seed; \
		test -e $$run/genotype.json || $(BIN)/lightning-nas fit \
			--config darts/$$net --run_dir $$run --ckpt_path last --seed_everything $$seed \
			--model.init_args.seed $$seed --data.init_args.seed $$seed $(ARGS); done; done
	$(BIN)/lightning-nas analyze selections --config analyze/supernets_digits --record docs/results
	$(BIN)/lightning-nas report --ledger

# Small supernets on CIFAR-10, whose cells are looked up: the images, and what each variant changes. The file holds the arrays
# that NpzDataModule describes, which scales them; CIFAR10DataModule reads the published archive, at 32 pixels (six times as long).
IMAGES ?= --images NpzDataModule --images.path cifar10.npz --images.image_size 12
CIFAR_SEEDS ?= 0 1 2 3 4 5 6 7 8 9
CIFAR := darts second sdarts pc drnas blank sgas sgas_pt drnas_progressive
darts := nasbench201_cifar10_small --model.init_args.label DARTS
second := nasbench201_cifar10_small --model.init_args.label "DARTS (2nd order)" --model.init_args.order second
sdarts := nasbench201_cifar10_small --model.init_args.label SDARTS-RS --model.init_args.mixing PerturbedMixing
pc := nasbench201_cifar10_small --model.init_args.label PC-DARTS --model.init_args.edge_weights true \
	--model.init_args.sizes.partial 4 --model.init_args.warmup_epochs 12
drnas := nasbench201_cifar10_small --model.init_args.label DrNAS --model.init_args.mixing DirichletMixing
blank := nasbench201_cifar10_small --model.init_args.label blank --model.init_args.mixing UniformMixing
sgas := nasbench201_cifar10_small_sgas
sgas_pt := nasbench201_cifar10_small_sgas --model.init_args.label SGAS-PT --trainer.callbacks.operation perturbation
drnas_progressive := nasbench201_cifar10_small_drnas_progressive

supernets_cifar10: $(VENV)/.run  ## The same on CIFAR-10, small, cells looked up in NAS-Bench-201: IMAGES, CIFAR_SEEDS; needs its table
	@set -e; for seed in $(CIFAR_SEEDS); do $(foreach net,$(CIFAR),run=runs/supernets_cifar10/$(net)/$$seed; \
		test -e $$run/genotype.json || $(BIN)/lightning-nas fit --config darts/$($(net)) --run_dir $$run \
			--ckpt_path last --seed_everything $$seed --model.init_args.seed $$seed --data.init_args.seed $$seed \
			$(IMAGES) --images.num_train 2500 --images.num_valid 2500 --images.augment standard $(ARGS);) done
	$(BIN)/lightning-nas analyze selections --config analyze/supernets_cifar10 --record docs/results
	$(BIN)/lightning-nas report --ledger

S2 := $(foreach seed,0 1 2 3 4,runs/darts_s2_digits/$(seed))

supernets_s2: $(VENV)/.run  ## Skip connections in S2, digits: five supernets, and what is inside of them, into the ledger
	@set -e; for run in $(S2); do seed=$$(basename $$run); test -e $$run/genotype.json || $(BIN)/lightning-nas fit \
		--config darts/darts_s2_digits --run_dir $$run --ckpt_path last --seed_everything $$seed \
		--model.init_args.seed $$seed --data.init_args.seed $$seed $(ARGS); done
	$(BIN)/lightning-nas analyze selections --config analyze/supernets_s2_digits --record docs/results
	$(BIN)/lightning-nas analyze discretisation --run $(wordlist 1,3,$(S2)) --cell normal --num_edges 14 \
		--name darts/darts_s2_digits_discretisation --record docs/results
	$(BIN)/lightning-nas analyze shuffling --run $(S2) --name darts/darts_s2_digits_shuffling --record docs/results
	$(BIN)/lightning-nas analyze skips --run $(S2) --name darts/darts_s2_digits_skips --record docs/results
	$(BIN)/lightning-nas report --ledger

clean:  ## Remove caches and build outputs; .venv and runs stay
	rm -rf build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# torch goes first and alone, so that TORCH_INDEX reaches nothing else.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "got $$($(PYTHON) --version), expected Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@touch $@

$(VENV)/.run: $(VENV)/.torch pyproject.toml
	$(PIP) -e . -c constraints.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) -e '.[dev]' -c constraints.txt
	@touch $(VENV)/.run $@
