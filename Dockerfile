# One image for each program: docker build --target ingress . (or make images). Nothing here needs BuildKit, a shell in
# the last stage, or a package manager. A release names both bases by digest: --build-arg GO_IMAGE=golang@sha256:…
ARG GO_IMAGE=golang:1.26.8-bookworm
ARG RUN_IMAGE=gcr.io/distroless/static-debian12:nonroot

# The compiler runs on the machine that builds, whatever the image is for. Only BuildKit names that machine, and only it
# builds for another one.
FROM --platform=${BUILDPLATFORM:-linux/amd64} ${GO_IMAGE} AS build
WORKDIR /src
# The modules are a layer of their own: they change less often than the code.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=unknown
# The same source and version give the same bytes: no path, no build id, no time.
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
	-ldflags "-s -w -buildid= -X github.com/headgate/headgate/pkg/process.version=$VERSION" \
	-o /out/ ./cmd/... ./deploy/ready && touch -d @0 /out/*

FROM ${RUN_IMAGE} AS run
ARG VERSION=unknown
LABEL org.opencontainers.image.source="https://github.com/headgate/headgate" \
	org.opencontainers.image.licenses="Apache-2.0" \
	org.opencontainers.image.version="$VERSION"
# A number, because Kubernetes cannot see that a name is not root.
USER 65532:65532

# The programs that serve. Their image has /ready for engines that look inside a container; Kubernetes asks over HTTP.
FROM run AS serve
COPY --from=build /out/ready /ready
EXPOSE 9090

FROM serve AS ingress
COPY --from=build /out/ingress /ingress
EXPOSE 8080
ENTRYPOINT ["/ingress"]

FROM serve AS worker-connections
COPY --from=build /out/worker-connections /worker-connections
ENTRYPOINT ["/worker-connections"]

FROM serve AS headgate
COPY --from=build /out/headgate /headgate
ENTRYPOINT ["/headgate"]
