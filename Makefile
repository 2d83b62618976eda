# SPDX-License-Identifier: Apache-2.0
#
# Building, the demo and the tests need Go alone (and root for the parts that use the kernel). `make check` and
# `make generate` also need what CONTRIBUTING.md lists; each says by name what it misses.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unversioned)
LDFLAGS := -s -w -X github.com/deltaplane/deltaplane/internal/version.Version=$(VERSION)
MAINS := ./cmd/deltaplane ./services/watcher ./services/compiler ./services/programmer

# The race detector needs cgo and a C compiler; without one the same tests run without it.
RACE := $(if $(shell command -v gcc),-race)
# Everything in go.work: this module and the example that uses the bus from outside.
PACKAGES := ./... ./examples/audit-subscriber/...
MODULES := . examples/audit-subscriber test/kubernetes

TOOLS := $(CURDIR)/.cache/bin
GOLANGCI := $(TOOLS)/golangci-lint-v2.15.0
APISERVER_VERSION := v1.37.2
KUBERNETES_TEST := $(CURDIR)/.cache/kubernetes.test
FUZZTIME ?= 20s
# Tests that draw what they try draw the same in every `make test`, so that it says something about the change at hand;
# `make fuzz` takes a fresh seed and 20 times as much. SEED=n takes that one, in both.
SEED ?=
BENCHTIME ?= 1s
KERNELS ?= 6.1 6.12
# The branch that messages must stay compatible with.
AGAINST ?= main

C_SOURCES := $(wildcard bpf/programs/*.c bpf/programs/*.h bpf/include/*.h)
SHELL_SOURCES := .ci/run $(shell git ls-files '*.sh' 2>/dev/null)
GENERATED := $(wildcard schemas/*.pb.go bpf/include/reasons.h bpf/*_bpfel*.go bpf/*_bpfel*.o docs/reference/*.md)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build static binaries into bin/
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(MAINS)
	ln -sf deltaplane bin/kubectl-deltaplane

.PHONY: demo
demo: build ## show the whole pipeline at work, in under a minute
	bin/deltaplane demo

.PHONY: test
test: build ## run every test that can run here; as root also those that need the kernel
	$(if $(RACE),,@echo "gcc is not installed: running without the race detector")
	RAPID_SEED=$(or $(SEED),1) DELTAPLANE_SEED=$(or $(SEED),1) go test $(RACE) -timeout 60m $(PACKAGES)

.PHONY: fuzz
fuzz: fuzz-properties ## run random tests at length with a fresh seed, then each fuzz target for FUZZTIME
	@grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do \
		for target in $$(grep -oE '^func Fuzz\w+' "$$file" | cut -d' ' -f2); do \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")"; \
		done; \
	done

.PHONY: fuzz-properties
fuzz-properties:
	@export RAPID_CHECKS=2000 RAPID_SEED=$(or $(SEED),$$((1 + RANDOM * 32768 + RANDOM))); \
	export DELTAPLANE_SEED=$$RAPID_SEED; \
	echo "seed $$RAPID_SEED: the same again with make $@ SEED=$$RAPID_SEED"; \
	grep -rl --include='*_test.go' '"pgregory.net/rapid"' . | xargs -n 1 dirname | sort -u | xargs go test -count=1 -timeout 1h; \
	go test -count=1 -timeout 1h -run AgreeWithTheModel ./test/kernel -differential.runs=10000

SEEDS ?= 10000
SEED_BASE ?= 0

.PHONY: sim
sim: ## run SEEDS whole clusters in virtual time, with faults drawn from the seeds from SEED_BASE on
	go test -count=1 -timeout 0 -v -run TestSeeds ./test/sim -sim.time=0 -sim.seeds=$(SEEDS) -sim.base=$(SEED_BASE)

.PHONY: bench
bench: ## run the benchmarks; prints benchstat's format
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

.PHONY: bench-packet
bench-packet: ## measure the packet programs against a floor program, at up to a million Services, and what policy costs them (root; 3 GB, five minutes)
	go test -run '^$$' -bench BenchmarkPacket -benchtime 15x -timeout 20m ./bpf -bench.services=10,10000,1000000

.PHONY: bench-connect
bench-connect: ## measure connect() to a Service against a direct one (root)
	go test -run '^$$' -bench BenchmarkConnect -benchtime 300x ./bpf

.PHONY: bench-external
bench-external: ## measure a client outside: straight to a pod on another node, by each way that nodes forward, and by kube-proxy's nftables rules (root, nft; one minute)
	go test -run '^$$' -bench BenchmarkExternal -benchtime 20x ./test/kernel

.PHONY: bench-memory
bench-memory: ## measure what maps take, by the number of Services and flows (root)
	go test -run '^$$' -bench BenchmarkMapMemory -benchtime 1x ./bpf

.PHONY: bench-sweep
bench-sweep: ## measure a sweep over four million flows' entries (root)
	go test -run '^$$' -bench BenchmarkSweep -benchtime 5x ./bpf

.PHONY: bench-writes
bench-writes: ## count the map writes of each kind of change
	go test -count=1 -v -run WhatAChangeCosts ./services/programmer/plan

.PHONY: bench-pipeline
bench-pipeline: build ## measure the services over a real bus: event to kernel, a cold start, a rollback (root)
	go run ./test/bench/pipeline
	go test -count=1 -v -run RolledBackWithinASecond ./test/pipeline -rollback.within=1s

.PHONY: chaos
chaos: ## break a cluster of real processes in every way, under traffic, and print a table (root; SEED=n takes that one)
	go test -count=1 -v -timeout 1h ./test/chaos -chaos.long -chaos.seed=$(or $(SEED),$$((1 + RANDOM * 32768 + RANDOM)))

.PHONY: test-failover
test-failover: ## move 200 transfers of 100 MB at once to other first nodes, in each way to forward (root; some minutes)
	go test -count=1 -v -timeout 1h -run SurviveTheirFirstNode ./test/kernel -failover.bytes=100000000

# Nodes of bench-fleet, and further flags of it; 5,000 nodes need 8 GB and some minutes.
NODES ?= 1000
FLEET ?=

.PHONY: bench-fleet
bench-fleet: build ## measure NODES virtual nodes over a real nats-server: event to all, restarts, flips
	CGO_ENABLED=0 go build -o $(TOOLS)/nats-server github.com/nats-io/nats-server/v2
	go run ./test/bench/fleet -nodes $(NODES) $(FLEET)

.PHONY: test-kubernetes
test-kubernetes: build build-kubernetes ## run the pipeline against a real kube-apiserver (builds one: ten minutes the first time)
	cd test/kubernetes && DELTAPLANE_BIN=$(CURDIR)/bin $(KUBERNETES_TEST) -test.v -test.timeout 20m

.PHONY: build-kubernetes
build-kubernetes:
	cd test/kubernetes && GOWORK=off CGO_ENABLED=0 go test -vet=off -c -o $(KUBERNETES_TEST) \
		-ldflags '-X k8s.io/component-base/version.gitVersion=$(APISERVER_VERSION)' .

.PHONY: test-kernels
test-kernels: ## load the programs on older kernels, emulated: KERNELS="6.1 6.12" (root on Debian; qemu-system-x86, busybox-static)
	go run ./test/kernels $(KERNELS)

.PHONY: check
check: lint fresh ## lint, formats, compatibility of messages, freshness of generated files

.PHONY: lint
lint: need-clang-format-19 need-buf need-shellcheck $(GOLANGCI)
	$(GOLANGCI) run ./... ./examples/audit-subscriber/...
	$(GOLANGCI) fmt --diff
	@changes=$$(go fix -diff $(PACKAGES)) || { echo "$$changes"; echo "run: go fix $(PACKAGES)"; exit 1; }
	@for module in $(MODULES); do \
		(cd $$module && GOWORK=off go mod tidy -diff) || { echo "run: cd $$module && GOWORK=off go mod tidy"; exit 1; }; \
	done
	$(if $(C_SOURCES),clang-format-19 --dry-run -Werror $(C_SOURCES))
	buf lint
	buf format --diff --exit-code
	@if git rev-parse -q --verify '$(AGAINST):schemas' >/dev/null; then buf breaking --against '.git#branch=$(AGAINST)'; fi
	shellcheck $(SHELL_SOURCES)

.PHONY: fresh
fresh: # what is generated is what the sources say
	@mkdir -p .cache && sha256sum $(GENERATED) > .cache/generated.sum
	@$(MAKE) --no-print-directory generate
	@sha256sum --quiet -c .cache/generated.sum || { echo "these were stale: commit what 'make generate' made"; exit 1; }

.PHONY: generate
generate: need-clang-19 need-buf ## make generated files again: messages, BPF objects, docs/reference
	go generate ./...
	DELTAPLANE_UPDATE=1 go test -count=1 -run 'TestMetricsAreDocumented' ./services/watcher ./services/compiler ./services/programmer

.PHONY: images
images: ## build one container image per service
	for image in watcher compiler programmer deltaplane audit-subscriber; do \
		docker build -f deploy/images/Dockerfile --build-arg VERSION=$(VERSION) --target "$$image" -t "deltaplane/$$image:$(VERSION)" .; \
	done

.PHONY: need-%
need-%:
	@command -v $* >/dev/null || { echo "$* is not installed; CONTRIBUTING.md says how to get it"; exit 1; }

$(GOLANGCI):
	GOBIN=$(TOOLS) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	mv $(TOOLS)/golangci-lint $@
