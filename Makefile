# SPDX-License-Identifier: GPL-2.0-or-later
#
# `make help` says what there is. The work is done by tools/build, which
# lays the source tree and calls Ninja; this file gives it short names.

# Jobs: make's own -j says nothing to Ninja, so J=N does.
J ?= $(shell nproc)
PYTHON ?= python3
BUILD := tools/build/build -j $(J)
CONFIGURED := build/config.json

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: all demo check check-long bench series lint help clean distclean

all: $(CONFIGURED)
	@$(BUILD) --configured

$(CONFIGURED):
	./configure

# What the demo lacks here it says before the build, not after it.
demo: $(CONFIGURED)
	@$(PYTHON) tests/e2e/demo.py --may-run
	@$(BUILD) qemu
	@$(PYTHON) tests/e2e/demo.py --build build $(ARGS)

check: $(CONFIGURED)
	@$(BUILD) --tests check
	@tests/check $(ARGS)

check-long: $(CONFIGURED)
	@$(BUILD) --tests check
	@$(BUILD) --tests sanitize
	@tests/check --long $(ARGS)

bench: $(CONFIGURED)
	@$(BUILD) qemu
	@$(PYTHON) tests/bench/bench.py $(ARGS)

series: $(CONFIGURED)
	@tools/build/series $(ARGS)

lint: $(CONFIGURED)
	@tools/lint/lint $(ARGS)

help:
	@echo 'make              build/qemu-system-x86_64, qemu-img and so on'
	@echo 'make demo         a protected pair, a client, a dead primary'
	@echo 'make check        the tests; the last line counts them'
	@echo 'make check-long   with those that take hours'
	@echo 'make bench        measure; ./configure --with-stock compares'
	@echo 'make series       build/series: patches for git am on a QEMU tree'
	@echo 'make lint         style, static checks, originality'
	@echo 'make clean        remove what was compiled'
	@echo 'make distclean    remove build/, the downloaded base too'
	@echo 'ARGS=... goes to the program behind demo, check, bench, series'
	@echo 'and lint; J=N sets the number of jobs. ./configure -h: options.'

clean:
	rm -rf build/qemu build/check build/sanitize build/stock build/series \
		build/no-colo-proxy build/no-replication
	rm -f build/qemu-*

distclean:
	rm -rf build
