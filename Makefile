# SPDX-License-Identifier: GPL-2.0
# The front door. Everything is done by the scripts in dev/; see dev/README.md.
.DEFAULT_GOAL := help
.PHONY: help run test soak bench bench-publish kunit boot build check lint configs kselftest refresh status series series-check bisect-check setup clean
export LINUX KERNEL PATCH FILES SOB V FORCE AGAIN

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  LINUX=/path/to/tree  use this kernel source (never modified) instead of the pinned one'
	@echo '  KERNEL=7.2           use that kernel, which dev/kernel-7.2.pin names, and the edits of patches/7.2 (series, *-check)'
	@echo '  TCP_PCAP_CACHE=DIR   where source, builds and results lie (default ~/.cache/tcp_pcap)'
	@echo '  V=1                  show the commands'

run: ## set up, build, boot, crash the guest, and show its last packets from the vmcore
	@dev/setup
	@dev/build x86
	@dev/run

test: ## set up, build, run every test suite; ends with "N passed, N failed"
	@dev/setup
	@dev/build x86 um smp off
	@dev/test $(SUITES)

soak: ## races for DURATION seconds (600) on 2 processors and as long on 4, other stress beside them; ends with a table
	@dev/setup packages bindgen kernel
	@dev/build x86 um smp bench
	@dev/soak $(DURATION)

bench: ## count instructions per packet, against the unpatched kernel, tcpdump and BPF: a table and plots (AGAIN=1: all again)
	@dev/setup packages bindgen kernel
	@for kind in bench benchoff plain; do dev/build $$kind || exit; done
	@dev/bench

bench-publish: ## table and plots of the last `make bench` to dev/bench-results, the cover letter's figures to patches/
	@dev/bench --publish

kunit: ## rebuild the debug kernel and run its KUnit tests (under a minute after an edit)
	@dev/setup packages bindgen kernel
	@dev/build um
	@dev/kunit

boot: ## a root shell in the guest (KIND=um: in the debug kernel; KIND=off: without the feature)
	@dev/setup packages bindgen kernel
	@dev/build $(or $(KIND),x86)
	@dev/with dev/guest --kind $(or $(KIND),x86) --out "$$(dev/with printenv BASE)/out/boot" --shell

build: ## build all kernels
	@dev/setup packages bindgen kernel
	@dev/build x86 um smp off

check: ## formatting, lints and layout rules
	@dev/setup packages kernel
	@dev/tree prepare
	@dev/check

lint: ## static tools: sparse, W=1, kernel-doc, coccicheck, rustdoc, htmldocs (a few minutes after the build)
	@dev/setup packages bindgen kernel
	@dev/build x86
	@dev/lint $(TOOLS)

configs: ## other configurations build with the feature on: arm64, one processor, every option of TCP, .. (30 to 50 minutes)
	@dev/setup packages bindgen kernel
	@dev/configs $(CONFIGS)

kselftest: ## the kernel's own TCP selftests, with a history and without: they must behave the same (about an hour, a third of it the build)
	@dev/setup packages bindgen kernel
	@dev/build kself
	@dev/kselftest $(PROGRAMS)

refresh: ## write edits made in the prepared tree back: PATCH=name for files no patch touches yet
	@dev/tree refresh

status: ## what was edited in the prepared tree
	@dev/tree status

series: ## the series as mails, with a cover letter; SOB="Name <mail>" signs it off, V=2 makes version 2
	@dev/setup packages kernel
	@dev/tree series

series-check: ## git am of the series makes the prepared tree
	@dev/setup packages kernel
	@dev/tree prepare
	@dev/test 05-series

bisect-check: ## build each step of the series, and run its unit tests; FLAVOUR="on gcc-off" STEP=4-6 for some
	@dev/setup packages bindgen kernel
	@dev/bisect $(FLAVOUR:%=--flavour %) $(STEP:%=--step %)

setup: ## fetch and install everything; later runs need no network
	@dev/setup

clean: ## remove builds and results; keeps downloads and the prepared tree
	@dev/with sh -c 'rm -rf "$$BASE/build" "$$BASE/plain/build" "$$BASE/bisect" "$$BASE/out" "$$LOGS"'
