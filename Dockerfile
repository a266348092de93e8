# One image per program, from the same build. Neither has a shell.
FROM golang:1.26 AS build
ARG VERSION=v0.0.0-unknown
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY controllers controllers
COPY providers providers
RUN CGO_ENABLED=0 go build -trimpath \
      -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=${VERSION}" \
      -o /out/ ./cmd/cloud-controller-manager ./cmd/node-proxy

# The cloud controller manager needs no privilege at all on its machine.
FROM gcr.io/distroless/static-debian12:nonroot AS cloud-controller-manager
COPY --from=build /out/cloud-controller-manager /cloud-controller-manager
ENTRYPOINT ["/cloud-controller-manager"]

# The node proxy programs the host's nftables: user 0, to be run with all
# capabilities dropped but NET_ADMIN and a read-only root file system.
FROM gcr.io/distroless/static-debian12 AS node-proxy
COPY --from=build /out/node-proxy /node-proxy
ENTRYPOINT ["/node-proxy"]
