# `make run` and `make test` are all a newcomer needs; `make help` lists the rest.

# Debian 12's packages beside Swift 6.3: the store, sgemm, readiness notification, and where to find them.
PACKAGES := liblmdb-dev libopenblas-dev libsystemd-dev pkg-config
# To build the kernels for arm64 and run them under emulation.
ARM64_PACKAGES := gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user

PREFIX ?= /usr/local
SWIFT_BUILD := swift build -c release
BIN := .build/release
FIXTURES := Tests/Fixtures

.PHONY: help deps deps-arm64 build run test simulate check-arm64 bench lint docs install clean

help:
	@echo "make run      build, then serve a real model's tensors from a fresh cluster of 4 ranks and check the answer"
	@echo "make test     build, then run all tests"
	@echo "make simulate build, then run whole clusters with the faults of SEEDS=1000 seeds, from SEED on"
	@echo "make check-arm64  compare the arm64 kernels with their scalar twins, under an emulator"
	@echo "make bench    build, then measure what the README tells: about three minutes and 1.3 GB of disk in TMPDIR or /var/tmp"
	@echo "make build    build dcp-rank, dcp-coordinator, dcpctl and dcp-bench into $(BIN)"
	@echo "make lint     check the format of the sources"
	@echo "make docs     build the documentation"
	@echo "make install  copy programs, systemd units, sysusers and tmpfiles below DESTDIR and PREFIX ($(PREFIX))"
	@echo "make clean    remove build products"

# Installs what is missing of some packages, as root or through sudo; otherwise says what to install.
define install_missing
	@missing=""; \
	for package in $(1); do \
		dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'install ok installed' || missing="$$missing $$package"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ]; then run=""; \
	elif command -v sudo >/dev/null; then run="sudo"; \
	else echo "Install these Debian packages first:$$missing" >&2; exit 1; fi; \
	echo "Installing$$missing"; \
	$$run apt-get update -qq && $$run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null
endef

deps:
	$(call install_missing,$(PACKAGES))

deps-arm64:
	$(call install_missing,$(ARM64_PACKAGES))

build: deps
	$(SWIFT_BUILD)

# Three layers of SmolLM2 read 231 tokens in chunks of 96 and write 89. Kernels that compute in float32 stay below 2e-5.
run: build
	$(BIN)/dcpctl submit $(FIXTURES)/smollm2-trace.safetensors --local 4 --chunk 96 \
		--expect $(FIXTURES)/smollm2-trace-expected.safetensors --tolerance 2e-5

# In release: debug C kernels are an order of magnitude slower. The daemons that integration tests start are built too.
test: deps
	$(SWIFT_BUILD) --build-tests
	swift test -c release --skip-build

# Ends at the first seed that breaks a rule, with the command that repeats it. SEED=N begins there instead of anywhere.
SEEDS ?= 1000
simulate: build
	$(BIN)/dcp-simulator run --seeds $(SEEDS) $(if $(SEED),--seed $(SEED))

# Every figure beside its ceiling in the same run. Variables that force older kernels on OpenBLAS are left out; set BENCH to
# measure something else: make bench BENCH="kernels decode --context 128k".
BENCH ?= all
bench: build
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/dcp-bench $(BENCH)

# Compiled by Swift's clang, as SwiftPM would, and linked statically by Debian's cross gcc. CHECK_SEED=N repeats a run.
KERNELS := Sources/CAttentionKernels
ARM64_BUILD := .build/arm64
ARM64_CC := clang --target=aarch64-linux-gnu -isystem /usr/aarch64-linux-gnu/include -std=gnu11 -O2 -Wall -Wextra -Werror
check-arm64: deps-arm64
	rm -rf $(ARM64_BUILD) && mkdir -p $(ARM64_BUILD)/check
	for source in $(KERNELS)/*.c; do \
		$(ARM64_CC) -I$(KERNELS)/include -c $$source -o $(ARM64_BUILD)/$$(basename $$source .c).o || exit 1; \
	done
	for source in Tests/Support/kernel-check/*.c; do \
		$(ARM64_CC) -I$(KERNELS)/include -c $$source -o $(ARM64_BUILD)/check/$$(basename $$source .c).o || exit 1; \
	done
	aarch64-linux-gnu-gcc -static $(ARM64_BUILD)/*.o $(ARM64_BUILD)/check/*.o -lm -o $(ARM64_BUILD)/kernel-check
	qemu-aarch64 $(ARM64_BUILD)/kernel-check neon $(CHECK_SEED)

lint:
	swift format lint --strict --recursive --parallel Sources Tests Package.swift

docs: deps
	swift package resolve
	swift package generate-documentation --target DCPCore

install: build
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)/etc/systemd/system
	install -d $(DESTDIR)/usr/lib/sysusers.d $(DESTDIR)/usr/lib/tmpfiles.d
	install -m 755 $(BIN)/dcp-rank $(BIN)/dcp-coordinator $(BIN)/dcpctl $(DESTDIR)$(PREFIX)/bin
	install -m 644 systemd/*.service systemd/*.target $(DESTDIR)/etc/systemd/system
	install -m 644 systemd/dcp.sysusers.conf $(DESTDIR)/usr/lib/sysusers.d/dcp.conf
	install -m 644 systemd/dcp.tmpfiles.conf $(DESTDIR)/usr/lib/tmpfiles.d/dcp.conf

clean:
	rm -rf .build
