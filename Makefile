# Everything here needs Go, make and git only, and any sh. What CI runs is in .ci/run.

FUZZTIME  ?= 20s
TESTFLAGS ?=
BENCHFLAGS ?=
ARCH      ?= $(shell go env GOARCH)
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null)

# Tests that need minutes or processes of their own are behind these tags; all checks see them.
TAGS    = -tags faults,mutants,e2e
LDFLAGS = -s -w -X github.com/headgate/headgate/pkg/process.version=$(VERSION)

.PHONY: help dev test lint fuzz faults mutants bench check-bench profile e2e e2e-k8s check-deploy build images clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s  %s\n", $$1, $$2 }' Makefile

# Not by go run, which makes a failure of Ctrl-C although the program ends well.
dev: ## run everything in one process, with example events; Ctrl-C ends it
	@go build -o bin/headgate ./cmd/headgate && exec bin/headgate dev

test: lint ## lint, and every test that takes seconds; with the race detector where there is a C compiler
	@race=; \
	if [ "$$(go env CGO_ENABLED)" = 1 ] && echo '#include <stdlib.h>' | $$(go env CC) -E - >/dev/null 2>&1; \
	then race=-race; echo "with the race detector"; \
	else echo "WITHOUT the race detector: it needs a C compiler (gcc or clang), and none was found"; fi; \
	set -x; go test $$race -timeout 6m $(TESTFLAGS) ./...

# Without its profile the ingress needs no second build of all that it is made of.
lint: ## check the format, vet, staticcheck
	@files=$$(go tool gofumpt -l .) && if [ -n "$$files" ]; then \
	echo "not formatted; run: go tool gofumpt -w" $$files; exit 1; fi
	go vet -pgo=off $(TAGS) ./...
	GOFLAGS="$$GOFLAGS -pgo=off" go tool staticcheck $(TAGS) ./...

# The second try is for Go before 1.27, which now and then ends the time of fuzzing with "context deadline exceeded"
# (go.dev/issue/75804). What fuzzing found is kept in testdata and fails the second try too.
fuzz: ## fuzz each target for FUZZTIME (20s)
	@set -e; \
	for file in $$(find . -name '*_test.go' -exec grep -l '^func Fuzz' {} + | sort); do \
	for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$file); do \
	fuzz="go test -run ^$$ -fuzz ^$$target$$ -fuzztime $(FUZZTIME) $(TESTFLAGS) $$(dirname $$file)"; \
	echo "$$fuzz"; $$fuzz || $$fuzz; \
	done; done

faults: ## kill the ingress, the broker and workers at the worst moments; 15 minutes at most
	go test -tags faults -v -count 1 -timeout 15m $(TESTFLAGS) ./test/faults/...

mutants: ## take out one mechanism after another and see its test fail; 15 minutes at most
	go test -tags mutants -v -count 1 -timeout 15m $(TESTFLAGS) ./test/mutants/...

bench: ## measure everything beside what it is compared with, 15 minutes; BENCHFLAGS=--quick for two; as JSON too, in bin/
	mkdir -p bin && cd bench && go run . --json ../bin/bench.json $(BENCHFLAGS)

check-bench: ## check and test the benchmark
	cd bench && go vet ./... && go test $(TESTFLAGS) ./...

profile: ## measure again what the compiler shall make fast in the ingress: cmd/ingress/default.pgo
	cd bench && go run . --only profile

e2e: ## build the images, run compose, break it while events come, count; 15 minutes at most, needs a Docker engine
	go test -tags e2e -count 1 -timeout 15m $(TESTFLAGS) ./test/e2e/...

e2e-k8s: ## apply the manifests to a real control plane; 15 minutes at most, and once as much to build it; no Docker
	tools=$$(go run ./test/e2ek8s/tools test/e2ek8s/tools) && \
	go test -tags e2e -v -count 1 -timeout 15m $(TESTFLAGS) ./test/e2ek8s -tools "$$tools"

check-deploy: ## check the manifests, the alerts and the dashboard; needs promtool, of the package prometheus
	cd deploy/check && go vet ./... && go test $(TESTFLAGS) ./...

build: ## static binaries of every command in bin/
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/ ./cmd/...

images: ## an image of each command; for another machine: ARCH=arm64
	@set -e; \
	for name in $$(ls cmd); do \
	(set -x; docker build --platform linux/$(ARCH) --build-arg TARGETARCH=$(ARCH) --build-arg VERSION=$(or $(VERSION),dev) \
	--target $$name -t headgate/$$name:$(or $(VERSION),dev) .); \
	done

clean: ## remove bin/
	rm -rf bin
