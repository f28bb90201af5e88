# The two to begin with, on a fresh Debian machine with Go:
#
#	make demo    build kiln, build a derivation with it, see how it was isolated
#	make test    every check and test there is
#
# `make help` lists the rest. Nothing here needs root; root may do more: it installs what is missing, and tests run
# twice, as root and as an ordinary user.

GO       ?= go
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
# Without what gRPC has for requests on a web page, which brings templates for HTML with it.
TAGS     := grpcnotrace
LDFLAGS  := -s -w -X main.version=$(VERSION)

FUZZTIME ?= 20s
# Which packages `make test` and `make fuzz` take.
PACKAGES ?= ./...
# Flags for the harness of `make conformance`, such as the name of a test.
CONFORMANCE_FLAGS ?=
# Which rows `make test-container` runs.
ROWS     ?=
# Flags for the benchmark: see `make bench BENCH=-h`.
BENCH    ?=
# Which releases of Nix the benchmark measures beside that of PATH; only root can.
PEERS    ?= $(if $(filter 0,$(shell id -u)),2.34)

.PHONY: build demo demo-recursive demo-service generate test test-container conformance bench lint fuzz interop broken screenshots docs clean help

build: ## one static binary: ./kiln
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o kiln ./cmd/kiln

demo: ## build a derivation in the sandbox, in a store of its own, and print the isolation report
	@.ci/need go busybox
	@$(MAKE) --no-print-directory build
	@demo/run

demo-recursive: ## build a derivation whose builder calls Nix: it compiles, runs and links another one
	@.ci/need go busybox nix gcc
	@$(MAKE) --no-print-directory build
	@demo/run-recursive

demo-service: ## two executor services and a scheduler: builds are placed, and moved when one service is killed
	@.ci/need go busybox
	@$(MAKE) --no-print-directory build
	@mkdir -p build
	CGO_ENABLED=0 $(GO) build -buildvcs=false -o build/scheduler ./examples/scheduler
	@demo/run-service

generate: ## make the Go code of api/kiln/v1 again; needs protobuf-compiler
	$(GO) generate ./api/...

test: ## format, vet, cross-builds, and all tests with the race detector
	@.ci/need go busybox nix gcc ip pasta slirp4netns xz || echo "Going on without: what needs it will fail and say so."
	@$(GO) run ./internal/suite -packages '$(PACKAGES)'

test-container: ## kiln in containers, with every set of privileges: makes the image, ends with a table; ROWS='least' for a part
	@.ci/need go busybox nix
	@mkdir -p build
	$(GO) build -buildvcs=false -o build/container ./internal/container
	build/container -run '$(ROWS)'

interop: ## kiln against real Nix: the same derivations in two stores, compared; prints a table
	@.ci/need go busybox nix gcc ip pasta slirp4netns xz
	@# In its directory: go test shows what a test prints only there.
	cd interop && KILN_REQUIRE_NIX=1 KILN_REQUIRE_SANDBOX=1 KILN_INTEROP_TABLE=1 $(GO) test -timeout 20m

conformance: ## Nix's own functional tests with real clients against kiln daemon; CONFORMANCE=DIR has what runs them
	@[ -n "$(CONFORMANCE)" ] || { echo "say where the harness is, as in: make conformance CONFORMANCE=DIR" >&2; exit 2; }
	@.ci/need go nix
	@$(MAKE) --no-print-directory build
	@.ci/conformance "$(CONFORMANCE)" ./kiln $(CONFORMANCE_FLAGS)

bench: ## kiln against real Nix, old and new, taking turns in one run; BENCH='-run trivial -rounds 3' for a part
	@.ci/need go busybox nix
	@$(MAKE) --no-print-directory build
	@mkdir -p build
	$(GO) build -buildvcs=false -o build/bench ./bench
	@peers=; for version in $(PEERS); do \
		root=$$(.ci/peer $$version) || { echo "make bench PEERS= measures without." >&2; exit 1; }; \
		peers=$$peers$${peers:+:}$$root; \
	done; \
	set -x; build/bench -kiln ./kiln -peers "$$peers" $(BENCH)

lint: ## go vet and staticcheck
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

broken: ## every security test fails on a kiln that is broken where the test looks (as root, in a corner of its own)
	@mkdir -p build
	$(GO) build -buildvcs=false -o build/broken ./internal/broken
	build/broken

screenshots: ## record what kiln shows on a terminal: the pictures in docs
	@.ci/need go busybox
	@$(MAKE) --no-print-directory build
	@mkdir -p build
	$(GO) build -buildvcs=false -o build/screenshot ./internal/screenshot
	build/screenshot ./kiln docs

docs: ## write the pages in docs that follow from the program: settings, manual pages
	$(GO) test -count=1 ./cmd/kiln -run '^TestDocs$$' -update

fuzz: ## every fuzz target for FUZZTIME
	@for pkg in $$($(GO) list $(PACKAGES)); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "== $$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

clean: ## remove what the other targets made here
	@if [ -d build ]; then chmod -R u+w build && rm -rf build; fi
	rm -f kiln

help: ## this list
	@sed -n 's/^\([a-z-]*\): ## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 17
