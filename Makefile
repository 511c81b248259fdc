# SPDX-License-Identifier: Apache-2.0
# The commands that people type. Everything real happens in meson.build and scripts/.
#
#   make              build build/ringway; needs the packages that `scripts/setup --list build` names
#   make run          install what is missing, build, run the demo (DEMO="--accel kvm" for options)
#   make test         install what is missing, build, run every test; ends in
#                     "N passed, N failed, N skipped"
#   make test-long    repeat the fuzzers, the kill loops and the VM tests for TIME (30m, 8h)
#   make install      PREFIX=/usr/local, DESTDIR= as usual
BUILD ?= build
PREFIX ?= /usr/local
TIME ?= 30m
DEMO ?=

.PHONY: all run test test-long install clean
all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) ringway

$(BUILD)/build.ninja:
	@scripts/setup --check build
	@meson setup --prefix=$(PREFIX) $(BUILD)

run:
	@scripts/setup run
	@$(MAKE) --no-print-directory BUILD=$(BUILD) all
	@$(BUILD)/ringway demo $(DEMO)

test:
	@scripts/setup test
	@scripts/test --build $(BUILD)

test-long:
	@scripts/setup test
	@scripts/test --build $(BUILD) --long $(TIME)

install: $(BUILD)/build.ninja
	@meson install -C $(BUILD)
	@[ -n "$(DESTDIR)" ] || ldconfig 2>/dev/null || echo "no new library is found before somebody runs ldconfig as root"

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan $(BUILD)-clang build-coverage
