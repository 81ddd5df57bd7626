# The two commands of the README are `make demo` and `make test`. Every target
# does its own set-up; none needs an answer.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# Packages of `make test`, runs of `make bench`, time for each target of `make fuzz`.
PKGS     ?= ./...
RUNS     ?= 20
FUZZTIME ?= 60s

# Tools are pinned here and come from the module cache; go.mod stays without them.
GOFUMPT     := mvdan.cc/gofumpt@v0.12.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# What the simulator runs as WebAssembly: it must stay free of what only an
# operating system has.
PORTABLE := ./internal/hostd ./internal/hostd/hostdtest ./internal/hostd/journal ./internal/hostclient ./internal/node \
	./internal/executor ./internal/store/mem ./internal/hypervisor/mem ./internal/plan

# go stamps the version from git, unless git refuses the checkout (no
# repository, or one that belongs to somebody else).
VCS := $(shell git status >/dev/null 2>&1 && echo true || echo false)

.PHONY: help build demo test check bench fuzz clean need-go

help: ## Print this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: need-go ## Build bin/ringfence, one static binary
	CGO_ENABLED=0 go build -trimpath -buildvcs=$(VCS) -o bin/ringfence ./cmd/ringfence

demo: build ## Show a cluster survive eight kinds of failure, in namespaces of its own (root or not)
	@scripts/demo-needs
	bin/ringfence demo

test: need-go ## Run all tests; as root it installs what they need, else it says what is skipped
	@scripts/test-setup
	RINGFENCE_TEST_LONG=1 go run ./scripts/testlog $(if $(filter true,$(CI)),-no-skips) -limit 10m $(PKGS)

check: need-go ## Check format, vet, portability, staticcheck, layers and go.mod; changes no file
	@echo "gofumpt: what it would change"
	@out=$$(go run $(GOFUMPT) -d .); code=$$?; printf '%s' "$$out"; test $$code = 0 && test -z "$$out"
	go vet ./...
	GOOS=wasip1 GOARCH=wasm go vet $(PORTABLE)
	go run $(STATICCHECK) ./...
	go test -count=1 ./internal/layers
	go mod tidy -diff

bench: build ## Repeat the scenarios of the demo RUNS times and write doc/performance.md
	@scripts/demo-needs
	bin/ringfence bench --runs $(RUNS) --out doc/performance.md

fuzz: need-go ## Fuzz every fuzz target for FUZZTIME
	@scripts/fuzz $(FUZZTIME)

clean: ## Remove what was built
	rm -rf bin

need-go:
	@command -v go >/dev/null || { echo "missing: go 1.26 or newer; install it, or put it into PATH" >&2; exit 1; }
