# make help    what there is
VENV   ?= .venv
PYTHON ?= python3
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.built
CSOURCES = $(wildcard cbits/*/*.c cbits/*/*.h cbits/include/shmbpf/*)
JOBS   ?= auto

.PHONY: help demo test build points stress bench sanitize models clean

help:            ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 20

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(BIN)/python setup.py pyproject.toml shmbpf/_build.py $(CSOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $(STAMP)

build: $(STAMP)  ## set up .venv and compile

points: $(STAMP) ## compile the library once more, with kill points, for the crash tests
	@$(BIN)/python -m shmbpf._build_points

demo: build      ## set everything up and run the main job on the shipped capture with 4 CPUs
	$(BIN)/shmbpf --ns demo run examples/xdp_counter/prog.o --cpus 4 --pcap examples/captures/web.pcap --show-maps

test: points     ## set everything up and run all tests in parallel
	@command -v clang-19 >/dev/null || command -v clang >/dev/null || $(BIN)/python -c 'import ziglang' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check ziglang
	$(BIN)/python -m pytest -n $(JOBS)

stress: points   ## the long forms of the fuzz, stress and kill suites
	SHMBPF_FUZZ_N=200000 SHMBPF_KILLS=5000 SHMBPF_EVENTS=10000000 SHMBPF_SCRIBBLE_S=60 SHMBPF_PINS=100000 SHMBPF_MUTATIONS=2000000 SHMBPF_CREATE_KILLS=10000 SHMBPF_SWAPS=10000 \
		$(BIN)/python -m pytest -n $(JOBS) tests/crash tests/elf tests/events tests/net tests/shm tests/runtime
	$(MAKE) sanitize

bench: build     ## this machine's figures, beside the kernel's where permitted
	$(BIN)/shmbpf bench

sanitize:        ## the map code under ASan/UBSan and TSan, as threads
	$(MAKE) -C cbits/test

models:          ## check the models of the shared-memory protocols with Spin (needs spin and gcc)
	@models/check

clean:           ## remove everything that was made
	rm -rf $(VENV) build *.egg-info shmbpf/_abi*.so shmbpf/_abi*.c
