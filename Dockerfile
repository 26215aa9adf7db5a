# One image for each program: docker build --target ingress . (make images builds all). It needs no BuildKit, no package manager,
# and no shell in the last stage. A release names both bases by digest: --build-arg GO_IMAGE=golang@sha256:…
ARG GO_IMAGE=golang:1.26.8-bookworm
ARG RUN_IMAGE=gcr.io/distroless/static-debian12:nonroot

# The compiler runs on the platform of the builder and compiles for the target. Only BuildKit sets BUILDPLATFORM and builds for
# another platform.
FROM --platform=${BUILDPLATFORM:-linux/amd64} ${GO_IMAGE} AS build
WORKDIR /src
# The modules are a layer of their own, because they change less often than the code.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=unknown
# The build is reproducible: no path, no build id, no time.
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
	-ldflags "-s -w -buildid= -X github.com/headgate/headgate/pkg/process.version=$VERSION" \
	-o /out/ ./cmd/... ./deploy/ready && mkdir -p /lib-headgate/headgate && touch -d @0 /out/* /lib-headgate/headgate

FROM ${RUN_IMAGE} AS run
ARG VERSION=unknown
LABEL org.opencontainers.image.source="https://github.com/headgate/headgate" \
	org.opencontainers.image.licenses="Apache-2.0" \
	org.opencontainers.image.version="$VERSION"
# A number: Kubernetes cannot check a name against runAsNonRoot.
USER 65532:65532

# Programs that serve have /ready, the health check of container engines. Kubernetes asks over HTTP.
FROM run AS serve
COPY --from=build /out/ready /ready
EXPOSE 9090

FROM serve AS ingress
COPY --from=build /out/ingress /ingress
EXPOSE 8080
ENTRYPOINT ["/ingress"]

# The folder is that of headgate serve: a volume that is mounted there gets its owner.
FROM serve AS headgate
COPY --from=build --chown=65532:65532 /lib-headgate/ /var/lib/
COPY --from=build /out/headgate /headgate
EXPOSE 8080
ENTRYPOINT ["/headgate"]

# Each worker's image: --target worker --build-arg WORKER=connections. It is the last stage, because the legacy builder
# builds every stage before its target, and WORKER has no value for the others.
FROM serve AS worker
ARG WORKER
COPY --from=build /out/worker-${WORKER} /worker
ENTRYPOINT ["/worker"]
