# make help says what there is. Everything that a target needs it installs or builds by itself (as root, on Debian 12).
SHELL := /bin/bash
export PATH := $(PATH):/usr/local/go/bin
export CGO_ENABLED := 0

BIN      := $(CURDIR)/bin
BINARIES := ./plugins/overlay-vxlan ./plugins/overlayd ./plugins/overlayctl ./ipam/overlay-ipam
ON_LINUX := ./conformance/cni-conformance
LDFLAGS  := -s -w
PEERS_DIR := $(BIN)/peers
KUBERNETES_DIR := $(BIN)/kubernetes
UPSTREAM := $(addprefix github.com/containernetworking/plugins/plugins/, main/bridge main/ptp main/macvlan ipam/host-local meta/portmap meta/bandwidth meta/tuning meta/firewall) github.com/containernetworking/cni/cnitool
TOOLS    := $(CURDIR)/.cache/bin
GOLANGCI := v2.15.0
GO_BUILD := go build -trimpath -ldflags '$(LDFLAGS)'

.PHONY: help setup build build-all demo test conformance fuzz bench lint clean peers kubernetes

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is needed from Debian
	@scripts/setup

build: setup ## the binaries for this machine, into bin/
	@mkdir -p $(BIN) && $(GO_BUILD) -o $(BIN)/ $(BINARIES) $(ON_LINUX)

peers: setup # upstream's plugins and cnitool, from the modules that go.mod names: chained, compared with, driven by
	@mkdir -p $(PEERS_DIR) && go build -trimpath -ldflags '-s -w' -o $(PEERS_DIR)/ $(UPSTREAM)

kubernetes: setup # Kubernetes' own API server and kubectl, from a module of their own: what tests run against
	@scripts/kubernetes $(KUBERNETES_DIR)

build-all: setup ## the binaries for all systems that they are built for
	@for t in linux/amd64 linux/arm64 windows/amd64; do \
	  echo "build $$t" && mkdir -p $(BIN)/$$t && GOOS=$${t%/*} GOARCH=$${t#*/} $(GO_BUILD) -o $(BIN)/$$t/ $(BINARIES) \
	    $$([ $${t%/*} != linux ] || echo $(ON_LINUX)) || exit 1; done
	@GOOS=windows go vet ./...

demo: build ## three nodes on two segments, pods that reach each other: the main job, to watch
	@$(BIN)/overlayctl lab demo --bin $(BIN)

test: build peers kubernetes ## all tests, against the kernel, in network namespaces of their own
	@OVERLAY_BIN=$(BIN) OVERLAY_PEERS=$(PEERS_DIR) OVERLAY_KUBERNETES=$(KUBERNETES_DIR) CGO_ENABLED=0 go test -count=1 -timeout 14m ./...

conformance: build peers ## ours, upstream's plugins and, where PEERS=<folder> has it, Flannel held to CNI's clauses; writes docs/comparison.md
	@$(BIN)/cni-conformance compare --bin '$(BIN):$(PEERS_DIR)$(if $(PEERS),:$(PEERS))' --markdown docs/comparison.md conformance/targets/*/

FUZZTIME ?= 30s
fuzz: ## the decoders' fuzz tests, FUZZTIME each
	@scripts/fuzz $(FUZZTIME)

bench: build peers ## side by side with upstream's plugins (and Flannel's, where PEERS=<folder> has them)
	@go build -o $(BIN)/bench ./scripts/bench && $(BIN)/bench --bin $(BIN) --upstream $(PEERS_DIR) --peers '$(PEERS)' $(BENCH)

lint: setup ## linters; a warning is an error
	@mkdir -p $(TOOLS) && { [ -x $(TOOLS)/golangci-lint-$(GOLANGCI) ] || { \
	  GOBIN=$(TOOLS) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI) && \
	  mv $(TOOLS)/golangci-lint $(TOOLS)/golangci-lint-$(GOLANGCI); }; }
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	@$(TOOLS)/golangci-lint-$(GOLANGCI) run ./...
	@GOOS=windows $(TOOLS)/golangci-lint-$(GOLANGCI) run --disable unused ./... # what only Linux uses yet is no mistake

clean: ## remove what was built
	@rm -rf $(BIN) .cache && go clean -testcache
