# Targets need Go, make, git and a POSIX shell, unless they say more. .ci/run says what CI runs.

FUZZTIME  ?= 20s
TESTFLAGS ?=
BENCHFLAGS ?=
DEVFLAGS  ?=
ARCH      ?= $(shell go env GOARCH)
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null)

# Tests that take minutes, or start processes or clusters, have one of these build tags. lint checks them too.
TAGS    = -tags faults,mutants,e2e,browser
# The packages outside test/ that have tests with the tag faults. Their names contain Faults_.
FAULTS  = $(shell grep -rl --include='*_test.go' '^//go:build faults' . | grep -v ^./test/ | xargs -n1 dirname | sort -u)
LDFLAGS = -s -w -X github.com/headgate/headgate/pkg/process.version=$(VERSION)

.PHONY: help dev generate test race lint fuzz faults mutants bench check-bench profile browser e2e e2e-k8s check-deploy build images clean

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s  %s\n", $$1, $$2 }' Makefile

# go run would report a failure after Ctrl-C, although the program exits with 0.
dev: ## run everything in one process with example events; Ctrl-C stops it; DEVFLAGS are its flags
	@[ -x bin/headgate ] || echo "building bin/headgate; the first time it takes one to five minutes"
	@go build -o bin/headgate ./cmd/headgate && exec bin/headgate dev $(DEVFLAGS)

generate: ## write the deployment files of workers/builtin and the alert rules, and the schemas in docs
	go run ./deploy/generate

# -timeout ends a test that hangs. It is many times what a package takes on an idle machine, so that load never reaches it.
# Most tests wait for a server most of the time, so that eight at once take two processors. The race detector would take
# five times as long: make race is for changes to what runs at once, and CI runs it.
GOTEST = go test -pgo=off -vet=off -parallel 8

test: lint ## run lint and every test that takes seconds: 3 minutes on 2 processors
	$(GOTEST) -timeout 20m $(TESTFLAGS) ./...

race: ## run the tests of make test with the race detector, which needs a C compiler; about 15 minutes
	GORACE="suppressions=$(CURDIR)/test/race.txt" $(GOTEST) -race -timeout 30m $(TESTFLAGS) ./...

# With its profile, cmd/ingress would need a second build of every package that it imports.
lint: ## check the format; run go vet and staticcheck
	@files=$$(go tool gofumpt -l .) && if [ -n "$$files" ]; then \
	echo "not formatted; run: go tool gofumpt -w" $$files; exit 1; fi
	go vet -pgo=off $(TAGS) ./...
	GOFLAGS="$$GOFLAGS -pgo=off" go tool staticcheck $(TAGS) ./...

# The second run is for Go before 1.27, where fuzzing sometimes fails with "context deadline exceeded" when its time is
# over (go.dev/issue/75804). An input that fails is stored in testdata, and fails in the second run too.
fuzz: ## run each fuzz target for FUZZTIME (20s)
	@set -e; \
	for file in $$(find . -name '*_test.go' -exec grep -l '^func Fuzz' {} + | sort); do \
	for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$file); do \
	fuzz="go test -run ^$$ -fuzz ^$$target$$ -fuzztime $(FUZZTIME) $(TESTFLAGS) $$(dirname $$file)"; \
	echo "$$fuzz"; $$fuzz || $$fuzz; \
	done; done

faults: ## kill ingresses, servers and workers under load; about 20 minutes
	@failed=0; set -x; \
	go test -tags faults -v -count 1 -timeout 30m $(TESTFLAGS) ./test/faults/... ./test/pages || failed=1; \
	go test -tags faults -v -count 1 -timeout 30m -run Faults_ $(TESTFLAGS) $(FAULTS) || failed=1; \
	exit $$failed

mutants: ## remove one mechanism at a time and check that its test fails; about 15 minutes
	go test -tags mutants -v -count 1 -timeout 30m $(TESTFLAGS) ./test/mutants/...

bench: ## measure throughput and latency beside baselines, 15 minutes (BENCHFLAGS=--quick: 2); JSON in bin/bench.json
	mkdir -p bin && cd bench && go run . --json ../bin/bench.json $(BENCHFLAGS)

check-bench: ## check and test the benchmark
	cd bench && go vet ./... && go test $(TESTFLAGS) ./...

profile: ## write cmd/ingress/default.pgo, the profile by which the compiler optimizes the ingress
	cd bench && go run . --only profile

browser: ## look at the console in Chromium (Debian package chromium); pictures in build/screenshots; about 3 minutes
	go test -tags browser -count 1 -timeout 15m $(TESTFLAGS) ./test/browser

e2e: ## stop compose services under load, run the systemd unit; about 15 minutes; needs a Docker engine and mmdebstrap
	go test -tags e2e -count 1 -timeout 30m $(TESTFLAGS) ./test/e2e/...

e2e-k8s: ## apply the manifests to a Kubernetes control plane; about 4 minutes, and 15 once to build it; no Docker
	tools=$$(go run ./test/e2ek8s/tools test/e2ek8s/tools) && \
	go test -tags e2e -v -count 1 -timeout 30m $(TESTFLAGS) ./test/e2ek8s -tools "$$tools"

check-deploy: ## check manifests, alerts and dashboard; needs the Debian package prometheus
	go test $(TESTFLAGS) ./deploy/generate ./deploy
	cd deploy/check && go vet ./... && go test $(TESTFLAGS) ./...

build: ## build static binaries of every command in bin/
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/ ./cmd/...

images: ## build an image of each command, tagged VERSION and dev (ARCH=arm64: for another architecture)
	@set -e; \
	for name in $$(ls cmd); do \
	case $$name in worker-*) target="worker --build-arg WORKER=$${name#worker-}";; *) target=$$name;; esac; \
	(set -x; docker build --platform linux/$(ARCH) --build-arg TARGETARCH=$(ARCH) --build-arg VERSION=$(or $(VERSION),dev) \
	--target $$target -t headgate/$$name:$(or $(VERSION),dev) -t headgate/$$name:dev .); \
	done

clean: ## remove bin/
	rm -rf bin
