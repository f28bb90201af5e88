# kiln as a container image; docs/containers.md says how to run it.
#
#	docker build -t kiln .                             as root, the last target and so the default
#	docker build -t kiln:rootless --target rootless .  as user 1000
#	docker build -t scheduler --target scheduler .     the example of a client, for compose.yaml
#
# One image is needed to begin with, for a moment only: nothing of it is in the result but the list of certificates and
# one static busybox. Where it cannot be pulled, `make test-container` makes one in its place. The network is for Go's
# modules, and for busybox where the image has none.
ARG GO_IMAGE=golang:1.26
FROM ${GO_IMAGE} AS build
# Debian's busybox, whose shell finds its own programs: in a sandbox there are no others.
RUN test -x /bin/busybox || { apt-get update && apt-get install -y --no-install-recommends busybox-static; }
# Where modules come from, as for any build with Go; without them, from the usual place.
ARG GOPROXY
ARG GOSUMDB
ARG GOFLAGS
ARG VERSION=development
WORKDIR /src
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags grpcnotrace -ldflags "-s -w -X main.version=$VERSION" -o /made/kiln ./cmd/kiln && \
    CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w" -o /made/scheduler ./examples/scheduler
# The trees of the images are made here, where there is a shell, and copied whole.
RUN cp -r deploy/image /image && cd /image && \
    mkdir -p bin etc/ssl/certs home nix run/kiln tmp usr/bin usr/share/kiln && \
    cp /made/kiln usr/bin/ && \
    cp -L /bin/busybox bin/ && ln -s busybox bin/sh && \
    cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/ && \
    cp "/src/demo/$(uname -m)-linux.json" usr/share/kiln/demo.json && \
    cp /src/LICENSE usr/share/kiln/ && \
    chmod 1777 tmp && mkdir -m 700 root && \
    mkdir -p /own/home/kiln /own/nix /own/run/kiln

# A client, with a shell for what compose.yaml does with it.
FROM scratch AS scheduler
COPY --from=build /image/ /
COPY --from=build /made/scheduler /src/examples/scheduler/work.sh /usr/bin/
ENV PATH=/usr/bin:/bin HOME=/root
ENTRYPOINT ["scheduler"]

FROM scratch AS rootless
COPY --from=build /image/ /
COPY --from=build --chown=1000:1000 /own/ /
ENV PATH=/usr/bin:/bin HOME=/home/kiln
USER 1000:1000
VOLUME /nix
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["kiln", "health"]
ENTRYPOINT ["kiln"]
CMD ["serve"]

FROM scratch AS root
COPY --from=build /image/ /
ENV PATH=/usr/bin:/bin HOME=/root
VOLUME /nix
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["kiln", "health"]
ENTRYPOINT ["kiln"]
CMD ["serve"]
