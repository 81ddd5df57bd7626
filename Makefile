# The two commands of the README are `make demo` and `make test`. Every target
# does its own set-up; none needs an answer.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# Packages of `make test`, runs of `make bench`, worlds of `make sim`, time for each target of `make fuzz`,
# how long `make chaos` lets faults happen and which; no seed: any.
PKGS     ?= ./...
RUNS     ?= 20
SEEDS    ?= 20000
FUZZTIME ?= 60s
FUZZALL  ?=
DURATION ?= 10m
SEED     ?=

# Tools are pinned here and come from the module cache; go.mod stays without them.
GOFUMPT     := mvdan.cc/gofumpt@v0.12.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# What the simulator runs as WebAssembly: it must stay free of what only an
# operating system has.
PORTABLE := ./internal/hostd ./internal/hostd/hostdtest ./internal/hostd/journal ./internal/hostclient ./internal/node \
	./internal/executor ./internal/store/mem ./internal/hypervisor/mem ./internal/plan ./internal/sim

# go stamps the version from git, unless git refuses the checkout (no
# repository, or one that belongs to somebody else).
VCS := $(shell git status >/dev/null 2>&1 && echo true || echo false)

.PHONY: help build demo demo-vm test check sim sim-coverage sim-mutants bench bench-hostd fuzz chaos clean need-go

help: ## Print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: need-go ## Build bin/ringfence and bin/ringfence-agents, static binaries
	CGO_ENABLED=0 go build -trimpath -buildvcs=$(VCS) -o bin/ringfence ./cmd/ringfence
	CGO_ENABLED=0 go build -trimpath -buildvcs=$(VCS) -o bin/ringfence-agents ./cmd/ringfence-agents

demo: build ## Show a cluster survive eight kinds of failure, in namespaces of its own (root or not)
	@scripts/demo-needs
	bin/ringfence demo

demo-vm: need-go ## Show a cluster of real QEMU guests survive three of them; as root, it installs what it needs
	@scripts/test-setup
	go test -tags demovm -count=1 -v -timeout 15m -run '^TestDemo$$' ./internal/vmlab/demovm

test: need-go ## Run all tests; as root it installs what they need, else it says what is skipped
	@scripts/test-setup
	RINGFENCE_TEST_LONG=1 go run ./scripts/testlog $(if $(filter true,$(CI)),-no-skips) -limit 20m $(PKGS)

check: need-go ## Check format, vet, portability, staticcheck, layers and go.mod; changes no file
	@echo "gofumpt: what it would change"
	@out=$$(go run $(GOFUMPT) -d .); code=$$?; printf '%s' "$$out"; test $$code = 0 && test -z "$$out"
	go vet ./...
	GOOS=wasip1 GOARCH=wasm go build $(PORTABLE)
	go run $(STATICCHECK) ./...
	go test -count=1 ./internal/layers
	go mod tidy -diff

sim: need-go ## Live through SEEDS simulated clusters (20000), or through one again: SEED=n [VARIANT=n SKIP=n,n LOG=1]
	@mkdir -p bin
	go test -c -o bin/sim.test ./internal/sim
	GOOS=wasip1 GOARCH=wasm go test -c -o bin/sim.wasm ./internal/sim
	@go run ./internal/sim/simrun -native bin/sim.test -module bin/sim.wasm -logs bin $(if $(SEED),-seed $(SEED),-seeds $(SEEDS)) \
		$(if $(VARIANT),-variant $(VARIANT)) $(if $(SKIP),-skip $(SKIP)) $(if $(LOG),-log)
	@$(if $(SEED),,go run ./internal/sim/simrun -module bin/sim.wasm -twice -seeds 3)

sim-coverage: need-go ## Print how much of node and hostd a few hundred simulated clusters run through
	@SIM_SEEDS=300 go test -count=1 -run '^TestSim$$' -coverpkg=./internal/node,./internal/executor,./internal/mirror,./internal/plan,./internal/detect,./internal/hostd,./internal/hostd/journal -coverprofile=bin/sim.cover ./internal/sim >/dev/null
	@scripts/coverage bin/sim.cover

sim-mutants: need-go ## Take guards out of the code, one at a time, and see whether simulated clusters notice
	@go run ./internal/sim/simrun -mutants '$(or $(MUTANT),.)'

bench: build ## Repeat the scenarios of the demo RUNS times and write doc/performance.md
	@scripts/demo-needs
	bin/ringfence bench --runs $(RUNS) --out doc/performance.md

bench-hostd: need-go ## Measure hostd beside the C fence_virtd and write its section of doc/performance.md
	@scripts/test-setup
	RINGFENCE_TEST_LONG=1 RINGFENCE_BENCH_HOSTD=$(CURDIR)/doc/performance.md go test -count=1 -timeout 20m -run XXX -bench '^BenchmarkHostd$$' -benchtime 1x ./bench/fencevirt

fuzz: need-go ## Fuzz every fuzz target for FUZZTIME, or all of them together for FUZZALL seconds
	@scripts/fuzz $(if $(FUZZALL),--all $(FUZZALL),$(FUZZTIME))

chaos: need-go ## Let a cluster live under random faults for DURATION and judge it; SEED repeats them
	@scripts/demo-needs
	RINGFENCE_CHAOS=$(DURATION) RINGFENCE_CHAOS_SEED=$(SEED) go test -count=1 -v -timeout 0 -run '^TestChaos$$' ./internal/chaos

clean: ## Remove what was built
	rm -rf bin

need-go:
	@command -v go >/dev/null || { echo "missing: go 1.26 or newer; install it, or put it into PATH" >&2; exit 1; }
