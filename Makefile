# Everything Fairway does to itself. `make help` lists the targets.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Kubernetes' metrics library takes nothing but a semantic version.
VERSION ?= $(shell git describe --tags --match 'v*' --dirty 2>/dev/null || echo v0.0.0-$$(git rev-parse --short HEAD 2>/dev/null || echo unknown))
LDFLAGS := -s -w -X k8s.io/component-base/version.gitVersion=$(VERSION)
GOBUILD := go build -ldflags '$(LDFLAGS)'

# What ships, the demo and the tests are compiled alike, so that each package is
# compiled once: on two cores the SDKs and client libraries take minutes.
export CGO_ENABLED := 0
export GOFLAGS += -trimpath
LINTER  := bin/golangci-lint

# Packages whose tests run under the race detector too, where there is a C
# compiler for it: those with the goroutines. It makes them several times slower.
RACY := ./providers/lb/... ./providers/plan/... ./providers/fake/... ./controllers/...

# The tests against LocalStack install it, so they run only where asked for; the
# tests of everything do ask, where python3 can do it.
LOCALSTACK := $(if $(shell command -v python3),FAIRWAY_LOCALSTACK=1)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build the three programs into bin/
	$(GOBUILD) -o bin/ ./cmd/...

.PHONY: kubernetes
kubernetes: ## build a Kubernetes control plane from its Go modules, once, into the cache
	@go -C e2e/kubernetes run ./build

.PHONY: demo
demo: build kubernetes ## show Fairway at work on this machine; HOLD=1 stays up for kubectl, DRY_RUN=1 only plans
	@go build -o bin/demo ./e2e/demo
	@FAIRWAY_BIN=$(CURDIR)/bin bin/demo $(if $(HOLD),--hold) $(if $(DRY_RUN),--dry-run)

.PHONY: test
test: build kubernetes ## run all tests: units, real kernels, a real Kubernetes
	go -C e2e/kubernetes test ./build ./pin
	go test -timeout 20m . ./cmd/... ./controllers/... ./providers/...
	@# As under a kernel that cannot keep other programs from the table: every test
	@# that has one of its own. What is left out has none (health, sysctls, kube-proxy's rules).
	FAIRWAY_SHARED_TABLE=1 go test -timeout 20m ./controllers/nodeproxy ./controllers/nodeproxy/nft ./cmd/node-proxy
	@# Inputs that never were, also where nothing changed and the tests above are cached.
	go test -count=1 ./controllers/nodeproxy -run Fuzz
	@command -v python3 >/dev/null || { echo "SKIPPED: the tests against LocalStack, for there is no python3 on this machine"; [ "$${CI:-}" != true ]; }
	@# One package at a time: each boots a Kubernetes and wants both cores.
	FAIRWAY_BIN=$(CURDIR)/bin $(LOCALSTACK) go test -p 1 -timeout 20m ./e2e/...
	@if command -v gcc >/dev/null; then \
		echo "go test -race $(RACY)"; CGO_ENABLED=1 FAIRWAY_TEST_SLOWNESS=3 go test -race -timeout 20m $(RACY); \
	else \
		echo "SKIPPED: the race detector, for there is no C compiler on this machine"; [ "$${CI:-}" != true ]; \
	fi

FUZZTIME ?= 5m

.PHONY: fuzz
fuzz: ## look for objects that upset the node proxy, longer than make test does; FUZZTIME=1h
	go test ./controllers/nodeproxy -run '^$$' -fuzz FuzzDesired -fuzztime $(FUZZTIME)
	go test ./controllers/nodeproxy -run '^$$' -fuzz FuzzKernel -fuzztime $(FUZZTIME)

.PHONY: test-localstack
test-localstack: build kubernetes ## test the AWS provider and a Service on LocalStack; FAIRWAY_LOCALSTACK_ENDPOINT=URL takes yours
	FAIRWAY_BIN=$(CURDIR)/bin FAIRWAY_LOCALSTACK=1 go test -v -count=1 -timeout 20m ./e2e/localstack

.PHONY: bench
bench: bench-controller bench-proxy ## measure all that is measured, beside its peers

# What bench-proxy measures: numbers of Services, how often each, and how often
# kube-proxy in other configurations than its nftables mode with the defaults.
SERVICES ?= 1000,10000
ROUNDS ?= 3
VARIANT_ROUNDS ?= 1

.PHONY: bench-proxy
bench-proxy: build kubernetes ## measure the node proxy beside the real kube-proxy, on a quiet machine; SERVICES=1000,10000,30000 ROUNDS=5
	@go build -o bin/bench-proxy ./e2e/bench/proxy
	@FAIRWAY_BIN=$(CURDIR)/bin bin/bench-proxy --services=$(SERVICES) --rounds=$(ROUNDS) --variant-rounds=$(VARIANT_ROUNDS) --report=docs/benchmarks/node-proxy.md

.PHONY: test-kernels
test-kernels: ## run the node proxy's kernel tests under Linux 6.1 and 6.12 in QEMU; KERNELS=6.1 RUN=pattern TABLE=1 writes the table
	@go run ./e2e/kernels -kernels='$(KERNELS)' -run='$(RUN)' $(if $(TABLE),-table=docs/node-proxy-kernels.md) ./controllers/nodeproxy/... ./cmd/node-proxy

.PHONY: test-kube-proxy
test-kube-proxy: ## take over from the real kube-proxy under traffic, and give back; builds it from its module, needs nft and iptables
	go -C e2e/kubernetes build -o $(CURDIR)/bin/kube-proxy ./kubeproxy
	FAIRWAY_REQUIRE_NFT=1 FAIRWAY_KUBE_PROXY=$(CURDIR)/bin/kube-proxy go test -v -count=1 ./cmd/node-proxy -run TestRealKubeProxy

.PHONY: lint
lint: $(LINTER) ## check formatting, vet, dependency rules, go.mod and generated files
	$(LINTER) run ./...
	go mod tidy -diff
	go -C tools mod tidy -diff
	go -C e2e/kubernetes vet ./build ./pin
	go -C e2e/coredns vet .
	go test ./providers/aws -run Reference
	@! command -v shellcheck >/dev/null || shellcheck .ci/run

$(LINTER): tools/go.mod tools/go.sum
	go build -modfile=tools/go.mod -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: bench-controller
bench-controller: ## measure the Service controller at 1,000 Services and 300 nodes and write docs/benchmarks/controller.md
	go test -count=1 -timeout 60m ./e2e/bench/controller -run TestScale -args -table=$(CURDIR)/docs/benchmarks/controller.md -commit=$$(git rev-parse --short=12 HEAD)

.PHONY: generate
generate: ## rewrite generated files
	go generate ./...

.PHONY: image
image: ## build both container images with the local container engine
	docker build --target cloud-controller-manager --build-arg VERSION=$(VERSION) -t fairway/cloud-controller-manager:$(VERSION) .
	docker build --target node-proxy --build-arg VERSION=$(VERSION) -t fairway/node-proxy:$(VERSION) .

.PHONY: clean
clean: ## remove what was built here (the Kubernetes cache stays; `make clean-cache` removes it)
	rm -rf bin

.PHONY: clean-cache
clean-cache: ## remove the cached Kubernetes build
	rm -rf "$${FAIRWAY_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/fairway}"
