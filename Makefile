# What a person types. `make help` lists it; docs/testing.md says more.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO      ?= go
BIN     := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X github.com/samara-p2p/samara/internal/cli.version=$(VERSION)

# Pinned: another version has other opinions.
GOLANGCI_VERSION := v2.15.0
GOLANGCI         := $(BIN)/golangci-lint-$(GOLANGCI_VERSION)

# Debian packages that tests and demo use beside Go. Where they cannot be
# installed the tests that need them skip, and say so.
PACKAGES := docker-registry containerd iproute2 skopeo curl prometheus
# Clients that are tried against a seeder, on top: packages, and Go programs, pinned.
CLIENT_PACKAGES := podman docker.io
CRANE_VERSION   := v0.22.1
REGCTL_VERSION  := v0.11.7
# The containerd beside Debian's, which is 1.6.
CONTAINERD2_VERSION := v2.4.2
# What benchmarks are compared with, on top. Only they install it.
BENCH_PACKAGES := nginx
# What renders manifests/.
HELM_VERSION      := v3.22.0
KUSTOMIZE_VERSION := v5.7.1
# What the race detector and cgo need is a C compiler; without one there is no -race.
RACE := $(shell command -v gcc >/dev/null 2>&1 && $(GO) env CGO_ENABLED 2>/dev/null | grep -q 1 && echo -race)

# The S3 server that tests of the object store talk to.
VERSITYGW_VERSION := v1.8.0
VERSITYGW         := $(BIN)/versitygw-$(VERSITYGW_VERSION)

# What makes Debian packages.
NFPM_VERSION := v2.45.2
NFPM         := $(BIN)/nfpm-$(NFPM_VERSION)

FUZZTIME ?= 5s

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

.PHONY: build
build: ## bin/seeder and bin/peerd
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/seeder ./cmd/peerd

.PHONY: release
release: $(NFPM) ## dist/: binaries, Debian packages, images, man pages, bills of materials, checksums; for amd64 and arm64
	$(GO) run ./packaging/release --version $(VERSION) --nfpm $(NFPM) $(RELEASEFLAGS)

$(NFPM):
	GOBIN=$(abspath $(BIN)) CGO_ENABLED=0 $(GO) install -ldflags '-s -w' github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM_VERSION)
	mv $(BIN)/nfpm $@

.PHONY: nfpm
nfpm: # what makes Debian packages; where it cannot be built, tests of them are skipped
	@test -x $(NFPM) || $(MAKE) -s $(NFPM) || echo "could not build nfpm: tests of Debian packages are skipped"

.PHONY: test
test: clients runtimes stargz console-tools unit integration manifests ## all tests: unit tests with -race, then the small acceptance table

.PHONY: unit
unit: versitygw ## unit tests with the race detector
	$(GO) test $(RACE) -timeout 8m ./cmd/... ./pkg/... ./internal/...

.PHONY: integration
integration: export SAMARA_BIN = $(abspath $(BIN))
integration: build nfpm ## releases, the lab, and every promise of the acceptance table at a small size
	$(GO) test -timeout 8m ./packaging/... $$($(GO) list ./test/... | grep -v /test/integration)
	$(GO) test -timeout 10m ./test/integration/...

.PHONY: manifests
manifests: build manifest-tools ## the overlays and the chart: real Kubernetes types, Pod Security, chart = kustomize
	@if (cd test/manifests && $(GO) mod download) >/tmp/samara-manifests.log 2>&1; then \
	  cd test/manifests && $(GO) vet ./... && $(GO) test -timeout 4m ./...; \
	else tail -2 /tmp/samara-manifests.log; echo "Kubernetes' types cannot be had here: manifests/ is not tested"; fi

.PHONY: manifest-tools
manifest-tools: # helm and kustomize, built once; what cannot be is named, and its tests skip
	@for m in helm.sh/helm/v3/cmd/helm@$(HELM_VERSION) sigs.k8s.io/kustomize/kustomize/v5@$(KUSTOMIZE_VERSION); do \
	  prog=$${m%@*}; prog=$${prog%/v5}; prog=$${prog##*/}; \
	  if [ -x $(BIN)/$$prog ] && $(GO) version -m $(BIN)/$$prog | grep -q "$${m##*@}"; then continue; fi; \
	  echo "building $(BIN)/$$prog"; \
	  GOFLAGS= GOBIN=$(abspath $(BIN)) CGO_ENABLED=0 $(GO) install -ldflags '-s -w' $$m >/tmp/samara-$$prog.log 2>&1 || { tail -2 /tmp/samara-$$prog.log; echo "could not install $$prog: its tests are skipped"; }; \
	done

.PHONY: stargz
stargz: # stargz-snapshotter's remote blobs as bin/stargz, from a module of its own; where it cannot be built its tests skip
	@cd test/stargz && $(GO) build -o $(abspath $(BIN))/stargz . >/tmp/samara-stargz.log 2>&1 \
	  || { tail -2 /tmp/samara-stargz.log; echo "could not build test/stargz: its tests are skipped"; }

K8S_VERSION     := v1.36.3
CLUSTER_PACKAGES := etcd-server containernetworking-plugins iptables nftables conntrack docker-registry containerd

.PHONY: accept-cluster
accept-cluster: build manifest-tools runtimes clients ## a real two-node Kubernetes cluster: install, pulls, upgrade, uninstall; needs root; CLUSTERFLAGS='--keep DIR'
	@$(MAKE) --no-print-directory packages PACKAGES='$(CLUSTER_PACKAGES)'
	@mkdir -p $(BIN)/k8s; out=$(abspath $(BIN))/k8s; export CGO_ENABLED=0 GOFLAGS=; \
	for c in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do \
	  if [ -x $$out/$$c ] && $(GO) version -m $$out/$$c | grep -q "k8s.io/kubernetes.*$(K8S_VERSION)"; then continue; fi; \
	  echo "building $$c $(K8S_VERSION)"; (cd test/cluster/kubernetes && $(GO) build -trimpath -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=$(K8S_VERSION) -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36' -o $$out/$$c k8s.io/kubernetes/cmd/$$c); \
	done; \
	[ -x $$out/coredns ] || (cd test/cluster/dns && $(GO) build -ldflags '-s -w' -o $$out/coredns .); \
	[ -x $$out/containerd-shim-runc-v2 ] || GOBIN=$$out $(GO) install -ldflags '-s -w' github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@$(CONTAINERD2_VERSION); \
	$(GO) build -ldflags '-s -w' -o $$out/images ./test/cluster/images
	@test/cluster/run.sh $(CLUSTERFLAGS)

.PHONY: values-page
values-page: # docs/kubernetes-values.md, from the chart's schema and values
	@cd test/manifests && $(GO) run ./valuespage

.PHONY: demo
demo: packages ## a seeder, four peerds and one image, with progress and a table
	@$(GO) run ./test/demo $(DEMOFLAGS)

.PHONY: accept
accept: packages ## the acceptance table at full size (256 MiB, 8 hosts, 100 Mbit/s); ACCEPTFLAGS='--run herd'
	@$(GO) run ./test/accept $(ACCEPTFLAGS)

.PHONY: accept-console
accept-console: console-tools ## the seeder's page in Chromium while 32 hosts pull; HOSTS=8, SCREENSHOTS=DIR
	@SAMARA_CONSOLE_HOSTS=$(or $(HOSTS),32) SCREENSHOTS=$(SCREENSHOTS) $(GO) test -count=1 -timeout 20m -v ./test/console

.PHONY: console-tools
console-tools: # Chromium, and what drives and audits it; what cannot be had is named, and the test skips
	@command -v chromium >/dev/null 2>&1 || $(MAKE) --no-print-directory packages PACKAGES='chromium fonts-dejavu-core'
	@cd test/console; if [ package-lock.json -nt node_modules/.package-lock.json ] && command -v npm >/dev/null 2>&1; then \
	  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/tmp/samara-console.log 2>&1 || { tail -2 /tmp/samara-console.log; echo "could not get playwright-core and axe-core: the console is not tried in Chromium"; }; \
	fi

.PHONY: accept-upgrade
accept-upgrade: clients runtimes ## every real client while peerd or the seeder is upgraded, stopped or killed; needs root
	@$(GO) run ./test/acceptclients --conditions '^(peerd-(upgraded|stopped|killed)|seeder-upgraded)' $(ACCEPTFLAGS)
	@$(MAKE) --no-print-directory accept-rolling

.PHONY: accept-rolling
accept-rolling: clients runtimes ## a rolling upgrade of eight peerds and the seeder while eight clients pull; needs root; ACCEPTFLAGS='--clients skopeo'
	@$(GO) run ./test/acceptclients --rolling $(ACCEPTFLAGS)

# What is upgraded from where nothing else is said: the last release; before there is one, the commit before the last change of the wire.
SKEW_COMMIT ?= $(or $(shell git describe --tags --abbrev=0 --match 'v*' HEAD^ 2>/dev/null),b24758c2c9de038585e78b3482334dc1f3ef0915)

.PHONY: accept-skew
accept-skew: clients runtimes ## daemons of an earlier commit beside these, on their disks, and replaced by them; needs root; SKEW_COMMIT=v1.2.3
	@git cat-file -e '$(SKEW_COMMIT)^{commit}' 2>/dev/null || { echo "skipped: this clone does not have $(SKEW_COMMIT), which is to be upgraded from (git fetch --unshallow)"; exit 0; }; \
	dir=$$(mktemp -d); trap "rm -rf $$dir" EXIT; mkdir $$dir/src; git archive '$(SKEW_COMMIT)' | tar -x -C $$dir/src; \
	echo "building $(SKEW_COMMIT)"; (cd $$dir/src && CGO_ENABLED=0 $(GO) build -ldflags '-s -w -X github.com/samara-p2p/samara/internal/cli.version=old' -o $$dir/bin/ ./cmd/seeder ./cmd/peerd); \
	SAMARA_BIN_OLD=$$dir/bin $(GO) test -count 1 -timeout 20m -v ./test/skew; \
	SAMARA_BIN_OLD=$$dir/bin $(GO) run ./test/acceptclients --rolling --clients '^(containerd-2-cri|skopeo|http)$$' $(ACCEPTFLAGS)

.PHONY: accept-clients
accept-clients: clients runtimes ## every real client against every fault; needs root, ~ 1 h; ACCEPTFLAGS='--clients docker --conditions ^peer'
	@$(GO) run ./test/acceptclients $(ACCEPTFLAGS)

RECIPE_PACKAGES := nginx haproxy wireguard-go wireguard-tools apache2-utils jq python3-yaml

.PHONY: recipes
recipes: clients build ## the files and commands of docs/recipes, run against the real programs; needs root
	@$(MAKE) --no-print-directory packages PACKAGES='$(RECIPE_PACKAGES)'
	SAMARA_RECIPES=all $(GO) test -count 1 -timeout 60m -v ./test/recipes

.PHONY: lint
lint: $(GOLANGCI) ## golangci-lint, which has go vet and gofmt in it
	$(GOLANGCI) run ./...

.PHONY: vet
vet: ## go vet and gofmt
	$(GO) vet ./...
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "not formatted (gofmt -w): $$unformatted"; exit 1; fi

.PHONY: golangci
golangci: $(GOLANGCI)

$(GOLANGCI):
	GOBIN=$(abspath $(BIN)) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(BIN)/golangci-lint $@

.PHONY: versitygw
versitygw: # the S3 server of tests, built once; where it cannot be, they are skipped
	@test -x $(VERSITYGW) || { \
	  echo "building $(VERSITYGW)"; \
	  GOBIN=$(abspath $(BIN)) CGO_ENABLED=0 $(GO) install -ldflags '-s -w' github.com/versity/versitygw/cmd/versitygw@$(VERSITYGW_VERSION) \
	    && mv $(BIN)/versitygw $(VERSITYGW) || echo "could not build versitygw: tests of the object store are skipped"; \
	}

.PHONY: fuzz-smoke
fuzz-smoke: ## each fuzz target for FUZZTIME (5s)
	@$(GO) run ./test/fuzzsmoke -time $(FUZZTIME)

.PHONY: sim
sim: ## the scheduler in virtual time: scenarios, 1,000 hosts, the DHT; SIMFLAGS='-large' for 10,000
	$(GO) run ./test/sim $(SIMFLAGS)

.PHONY: bench
bench: ## benchmarks of all packages
	$(GO) test -run '^$$' -bench . -benchmem -timeout 20m ./pkg/... ./internal/...

.PHONY: bench-small
bench-small: bench-packages ## what small blobs cost, cold and cached; needs root, nginx; BENCHFLAGS='--runs 1'
	@$(GO) run ./test/bench/small $(BENCHFLAGS)

.PHONY: bench-memory
bench-memory: packages ## resident memory of the daemons at its largest; needs root; BENCHFLAGS='--run idle'
	@$(GO) run ./test/bench/memory $(BENCHFLAGS)

.PHONY: bench-proxy
bench-proxy: bench-packages ## the seeder as a pull-through cache, what failing upstreams and serving cost; loopback; BENCHFLAGS='--run abort --size 32'
	@$(GO) run ./test/bench/proxy $(BENCHFLAGS)

.PHONY: bench-lazy
bench-lazy: packages ## ranges of blobs that nobody has: how long they take, and what they cost; BENCHFLAGS='--rate 1000'
	@$(GO) run ./test/bench/lazy $(BENCHFLAGS)

.PHONY: bench-push
bench-push: packages ## a push over a link of 100 Mbit/s, and the same to another repository; needs root; BENCHFLAGS='--runs 1'
	@$(GO) run ./test/bench/push $(BENCHFLAGS)

.PHONY: bench-data
bench-data: bench-packages ## processor time per byte in a peerd; needs root, nginx; BENCHFLAGS='--runs 1'
	@$(GO) run ./test/bench/data $(BENCHFLAGS)

.PHONY: bench-swarm
bench-swarm: bench-packages ## whole swarms against what their links allow; needs root, 2 h; BENCHFLAGS='--run burst-8'
	@$(GO) run ./test/bench/swarm $(BENCHFLAGS)

.PHONY: bench-packages
bench-packages: # as packages, and what benchmarks compare with
	@$(MAKE) --no-print-directory packages PACKAGES='$(PACKAGES) $(BENCH_PACKAGES)'

.PHONY: clients
clients: # packages, and the registry clients that tests run; what cannot be installed is named, and its tests skip
	@$(MAKE) --no-print-directory packages PACKAGES='$(PACKAGES) $(CLIENT_PACKAGES)'
	@for m in github.com/google/go-containerregistry/cmd/crane@$(CRANE_VERSION) github.com/regclient/regclient/cmd/regctl@$(REGCTL_VERSION); do \
	  prog=$${m##*/}; prog=$${prog%@*}; \
	  if [ -x $(BIN)/$$prog ] && $(GO) version -m $(BIN)/$$prog | grep -q "$${m##*@}"; then continue; fi; \
	  GOFLAGS= GOBIN=$(abspath $(BIN)) $(GO) install $$m >/tmp/samara-clients.log 2>&1 || { tail -2 /tmp/samara-clients.log; echo "could not install $$prog: its test is skipped"; }; \
	done

.PHONY: runtimes
runtimes: # containerd 2.x as bin/containerd2 and bin/ctr2, and bin/cripull, which speaks CRI; what cannot be built is named, and its tests skip
	@if ! { [ -x $(BIN)/ctr2 ] && $(GO) version -m $(BIN)/containerd2 2>/dev/null | grep -q "$(CONTAINERD2_VERSION)"; }; then \
	  echo "building containerd $(CONTAINERD2_VERSION)"; mkdir -p $(BIN)/new; \
	  { GOFLAGS= GOBIN=$(abspath $(BIN))/new CGO_ENABLED=0 $(GO) install -ldflags '-s -w' github.com/containerd/containerd/v2/cmd/{containerd,ctr}@$(CONTAINERD2_VERSION) >/tmp/samara-runtimes.log 2>&1 \
	    && mv $(BIN)/new/ctr $(BIN)/ctr2 && mv $(BIN)/new/containerd $(BIN)/containerd2; } \
	    || { tail -2 /tmp/samara-runtimes.log; echo "could not build containerd $(CONTAINERD2_VERSION): its tests are skipped"; }; \
	  rm -rf $(BIN)/new; \
	fi
	@cd test/cripull && CGO_ENABLED=0 $(GO) build -ldflags '-s -w' -o $(abspath $(BIN))/cripull . >/tmp/samara-cripull.log 2>&1 \
	  || { tail -2 /tmp/samara-cripull.log; echo "could not build cripull: tests over CRI are skipped"; }

.PHONY: generate
generate: ## everything that is generated and committed
	$(GO) generate ./...

.PHONY: packages
packages: # Debian packages, their services not started; does nothing when they are there, names them when it may not install
	@missing=(); \
	for p in $(PACKAGES); do \
	  case $$p in iproute2) prog=ip;; docker.io) prog=dockerd;; wireguard-tools) prog=wg;; apache2-utils) prog=htpasswd;; python3-yaml) prog=/usr/lib/python3/dist-packages/yaml/__init__.py;; etcd-server) prog=etcd;; nftables) prog=nft;; containernetworking-plugins) prog=/usr/lib/cni/bridge;; *) prog=$$p;; esac; \
	  PATH="$$PATH:/usr/sbin:/sbin" command -v $$prog >/dev/null 2>&1 || [ -f $$prog ] || missing+=($$p); \
	done; \
	if [ $${#missing[@]} -eq 0 ]; then exit 0; fi; \
	if [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  echo "installing $${missing[*]}"; \
	  export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1; \
	  policy=/usr/sbin/policy-rc.d; \
	  if [ ! -e $$policy ]; then trap "rm -f $$policy" EXIT; printf '#!/bin/sh\nexit 101\n' >$$policy; chmod 755 $$policy; fi; \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$${missing[@]}"; } </dev/null >/tmp/samara-apt.log 2>&1 \
	    || { tail -5 /tmp/samara-apt.log; echo "could not install $${missing[*]}: what needs them is skipped"; }; \
	else \
	  echo "missing: $${missing[*]}. Tests that need them are skipped; as root: apt-get install $${missing[*]}"; \
	fi

.PHONY: clean
clean: ## remove what builds leave
	rm -rf $(BIN) dist
