# SPDX-License-Identifier: Apache-2.0
# Freehold. `make help` lists the targets.
#
# Sources are found by folder, so that a new file needs no line here.  What a
# folder may include is checked by tests/deps.sh.  SAN=asan, tsan or fuzz
# builds the same tree with sanitizers in a folder of its own; a change of
# flags rebuilds what it touches.

VERSION := 0.1.0

SHELL   := /bin/bash
# A rule that fails leaves nothing half made behind.
.DELETE_ON_ERROR:
ifeq ($(origin CC),default)
CC      := gcc
endif
OBJCOPY ?= $(if $(CROSS),aarch64-linux-gnu-)objcopy
LD_R    ?= $(if $(CROSS),aarch64-linux-gnu-)ld
SAN     ?=
B       ?= build$(if $(SAN),/$(SAN))
O       ?= $(if $(SAN),1,2)
# 1: warnings are errors, as in CI.
WERROR  ?= 0
PKG_CONFIG ?= pkg-config
PYTHON  ?= python3

# --- where things are installed -------------------------------------------
DESTDIR    ?=
PREFIX     ?= /usr/local
BINDIR     ?= $(PREFIX)/bin
DATADIR    ?= $(PREFIX)/share/freehold
MANDIR     ?= $(PREFIX)/share/man
DOCDIR     ?= $(PREFIX)/share/doc/freehold
INCLUDEDIR ?= $(PREFIX)/include
LIBDIR     ?= $(PREFIX)/lib
PKGCONFIGDIR ?= $(LIBDIR)/pkgconfig
SYSCONFDIR ?= $(if $(filter /usr,$(PREFIX)),/etc,$(PREFIX)/etc)
UNITDIR    ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
COMPLETIONDIR ?= $(PREFIX)/share/bash-completion/completions
UDEVDIR    ?= $(PREFIX)/lib/udev/rules.d
MODPROBEDIR ?= $(PREFIX)/lib/modprobe.d
# The kernel module's sources, where DKMS looks for them.
MODULEDIR  ?= $(PREFIX)/src/freehold-$(VERSION)

# --- flags -----------------------------------------------------------------
comma   := ,
PKGS    := liburing libpcre2-8 jansson libseccomp libsodium libzstd sqlite3
# Left out: guesses of gcc that sanitizers mislead, and clang's opinion of libseccomp's macros.
WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla \
	   $(if $(findstring clang,$(CC)),-Wno-missing-field-initializers,$(if $(SAN),-Wno-maybe-uninitialized)) \
	   $(if $(filter 1,$(WERROR)),-Werror)
SAN_FLAGS_asan := -fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
SAN_FLAGS_tsan := -fsanitize=thread
SAN_FLAGS_fuzz := -fsanitize=fuzzer-no-link$(comma)address$(comma)undefined -fno-sanitize-recover=undefined \
	   -fno-omit-frame-pointer
SAN_FLAGS := $(SAN_FLAGS_$(SAN))
HARDEN  := $(if $(SAN),,-D_FORTIFY_SOURCE=2 -fstack-protector-strong)
CFLAGS  ?= -O$(O) -g
# What is longer than some words is cleared and copied by the C library's functions: GCC's own way on x86, "rep stos", takes
# longer to begin than most of ours takes in all.  Clang has other ways, and not these options.
STRINGS := -mmemset-strategy=unrolled_loop:64:noalign$(comma)libcall:-1:noalign -mmemcpy-strategy=unrolled_loop:64:noalign$(comma)libcall:-1:noalign
STRINGS := $(shell $(CC) $(STRINGS) -E -x c /dev/null >/dev/null 2>&1 && echo "$(STRINGS)")
ALL_CFLAGS := -std=gnu17 -pthread -D_GNU_SOURCE -I. $(WARN) -fno-strict-aliasing -ffp-contract=off $(STRINGS) \
	   -ffile-prefix-map=$(CURDIR)=. $(CFLAGS) $(HARDEN) $(SAN_FLAGS) \
	   $(shell $(PKG_CONFIG) --cflags $(PKGS) 2>/dev/null) $(EXTRA_CFLAGS)
# liburing is linked statically: Debian 12's shared one (2.3) hides io_uring_enable_rings() and others that
# its header declares.
LIBS    := $(patsubst -luring,-l:liburing.a,$(shell $(PKG_CONFIG) --libs $(PKGS) 2>/dev/null)) -lhttp_parser -lm -pthread
ALL_LDFLAGS := -Wl,-z,relro,-z,now $(LDFLAGS) $(SAN_FLAGS)
# Seen by tools/ and runtime/daemon/ only, so that a new prefix rebuilds little.
VERSION_DEF := -DFREEHOLD_VERSION='"$(VERSION)"'
DEFS    := $(VERSION_DEF) -DFREEHOLD_DATADIR='"$(DATADIR)"' -DFREEHOLD_SYSCONFDIR='"$(SYSCONFDIR)"'

# Instruction sets by folder; only x86-64 has more than the reference.
ARCH    := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))
ISA_DIRS := ref $(if $(filter x86_64,$(ARCH)),avx2 avx512)
# Sanitizers multiply what the optimiser has to read: -O3 there costs minutes.
ISA_O := -O$(if $(SAN),1,3)
ISA_FLAGS_avx2   := -mavx2 -mfma -mf16c $(ISA_O)
ISA_FLAGS_avx512 := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512bf16 -mfma -mf16c $(ISA_O) -mprefer-vector-width=512
ISA_FLAGS_ref    := -O$(if $(SAN),1,2)
# The fuzzers run the reference kernels: the others are linked, and need not be looked at.
ifeq ($(SAN),fuzz)
ISA_FLAGS_avx2   += -fno-sanitize=all
ISA_FLAGS_avx512 += -fno-sanitize=all
endif

# --- sources ----------------------------------------------------------------
KERNEL_SRCS  := $(wildcard kernels/*.c) $(foreach d,$(ISA_DIRS),$(wildcard kernels/$(d)/*.c))
RUNTIME_SRCS := $(filter-out runtime/dpdk/%,$(wildcard runtime/*/*.c))
# Fuzzers need what parses and what runs a parsed model; clang is slow, so the rest is left out.
ifeq ($(SAN),fuzz)
RUNTIME_SRCS := $(foreach d,base model net accel lib trust wire,$(wildcard runtime/$(d)/*.c))
endif
# Traces and the load generator: tests and fuzzers link them as they link the runtime.
LOAD_SRCS    := $(wildcard tools/load/*.c tools/trace*.c tools/top_*.c)
TOOL_SRCS    := $(filter-out $(LOAD_SRCS),$(wildcard tools/*.c))
# The client library's part of the wire protocol is the whole of it but the server's end.
CLIENT_SRCS  := $(wildcard runtime/lib/*.c) $(filter-out runtime/wire/server%,$(wildcard runtime/wire/*.c)) \
	   $(wildcard runtime/net/dgram_sock*.c) runtime/net/dgram_uring.c runtime/net/dgram_plugin.c runtime/base/io_ring.c
CLIENT_OBJS  := $(CLIENT_SRCS:%.c=$(B)/pic/%.o)
# libfreehold.so's own number: it changes when a program that was linked before could break.
SOVERSION    := 0
SONAME       := libfreehold.so.$(SOVERSION)
# The plug-in that carries datagrams over DPDK: built where DPDK is, loaded at run time where it is wanted.
DPDK         := $(if $(or $(CROSS),$(filter fuzz,$(SAN))),,$(shell $(PKG_CONFIG) --exists 'libdpdk >= 22.11' 2>/dev/null && echo y))
DPDK_SRCS    := $(wildcard runtime/dpdk/*.c runtime/net/udpip*.c) runtime/base/region.c
DPDK_OBJS    := $(DPDK_SRCS:%.c=$(B)/dpdk/%.o)
PLUGINS      := $(if $(DPDK),$(B)/freehold-dpdk.so)
CLIENT_LIBS  := $(B)/libfreehold.so $(B)/libfreehold.a $(B)/freehold.pc
LIB_OBJS     := $(KERNEL_SRCS:%.c=$(B)/%.o) $(RUNTIME_SRCS:%.c=$(B)/%.o) $(LOAD_SRCS:%.c=$(B)/%.o)
TOOL_OBJS    := $(TOOL_SRCS:%.c=$(B)/%.o)
TEST_SRCS    := $(wildcard tests/unit/*.c)
TESTS        := $(TEST_SRCS:%.c=$(B)/%)
PERF_SRCS    := $(wildcard tests/perf/*.c)
PERF         := $(PERF_SRCS:%.c=$(B)/%)
ACCURACY     := $(B)/tests/accuracy/requantise
FUZZ_SRCS    := $(wildcard tests/fuzz/fuzz_*.c)
FUZZERS      := $(FUZZ_SRCS:%.c=$(B)/%)
MAN_PAGES    := $(wildcard Documentation/man/*.[1-8])
# Functions that share a page with another.
MAN_ALIASES  := fh_close:fh_open fh_generate_text:fh_generate fh_cancel:fh_generate fh_try_next:fh_next_token \
	   fh_fd:fh_next_token fh_token_text:fh_decode fh_error_message:fh_get_info fh_library_version:fh_get_info

.PHONY: all lib
all: $(B)/freehold lib $(PLUGINS) ## build the binary, build/freehold, the client library, and what DPDK allows
lib: $(CLIENT_LIBS) ## build the client library: build/libfreehold.so, .a, freehold.pc

# --- rules ------------------------------------------------------------------
# Two stamps hold the flags; they change only when the flags do.
.PHONY: force
define stamp
	@mkdir -p $(@D)
	@printf '%s\n' "$$STAMP" | cmp -s - $@ || printf '%s\n' "$$STAMP" > $@
endef
$(B)/.flags: export STAMP = $(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) $(LIBS) $(ISA_FLAGS_avx2) $(ISA_FLAGS_avx512)
$(B)/.flags: force
	$(stamp)
$(B)/.defs: export STAMP = $(DEFS)
$(B)/.defs: force
	$(stamp)

$(B)/kernels/avx2/%.o: EXTRA := $(ISA_FLAGS_avx2)
$(B)/kernels/avx512/%.o: EXTRA := $(ISA_FLAGS_avx512)
$(B)/kernels/ref/%.o: EXTRA := $(ISA_FLAGS_ref)
$(B)/tools/%.o: EXTRA := $(DEFS)
$(B)/runtime/daemon/%.o: EXTRA := $(DEFS)
$(B)/runtime/lib/%.o: EXTRA := $(VERSION_DEF)
$(TOOL_OBJS) $(patsubst %.c,$(B)/%.o,$(wildcard runtime/daemon/*.c)): $(B)/.defs

$(B)/%.o: %.c $(B)/.flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(EXTRA) -MMD -MP -c $< -o $@

# The dashboard: one page, of three sources, compiled in as it is.
$(B)/web/page.html: $(wildcard runtime/web/*)
	@mkdir -p $(@D)
	sed -e '/@STYLE@/{r runtime/web/page.css' -e 'd}' -e '/@SCRIPT@/{r runtime/web/page.js' -e 'd}' \
		runtime/web/page.html > $@
$(B)/runtime/net/http_page.o: EXTRA := -DFH_PAGE_FILE='"$(B)/web/page.html"'
$(B)/runtime/net/http_page.o: $(B)/web/page.html

# The CUDA kernels that `make cuda` built: taken in where all of them are there and none is older than what it is made
# of, left out otherwise.  They are no prerequisites: to make them takes minutes, and only who asks for it waits.
CUDA_DIR ?= build/cuda
CUDA_BUILT := $(if $(or $(CROSS),$(filter fuzz,$(SAN))),,$(shell for f in kernels/cuda/*.cu; do \
	b=$(CUDA_DIR)/$$(basename "$$f" .cu).fatbin; \
	[ -e "$$b" ] && [ -z "$$(find "$$f" kernels/cuda/*.cuh kernels/cuda/*.h -newer "$$b")" ] || exit; \
	l="$$l $$b"; done; echo $$l))
$(B)/cuda_images.h: export STAMP = $(foreach f,$(CUDA_BUILT),EMBED($(basename $(notdir $f)), "$f")) \
	/* $(if $(CUDA_BUILT),$(shell cat $(CUDA_BUILT) | cksum)) */
$(B)/cuda_images.h: force
	$(stamp)
$(B)/runtime/accel/cuda_image.o: EXTRA := $(if $(CUDA_BUILT),-DFH_CUDA_IMAGES='"$(B)/cuda_images.h"')
$(B)/runtime/accel/cuda_image.o: $(B)/cuda_images.h

# The list of objects is a prerequisite too: a file that went away leaves the archive.
$(B)/.objs: export STAMP = $(LIB_OBJS)
$(B)/.objs: force
	$(stamp)

$(B)/libfhd.a: $(LIB_OBJS) $(B)/.objs
	@rm -f $@
	$(AR) rcs $@ $(LIB_OBJS)

$(B)/freehold: $(TOOL_OBJS) $(B)/libfhd.a
	$(CC) $(ALL_LDFLAGS) $(TOOL_OBJS) $(B)/libfhd.a $(LIBS) -o $@

# The client library: position independent, and nothing of it visible but what its header declares.
$(B)/pic/%.o: %.c $(B)/.flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(VERSION_DEF) -fPIC -fvisibility=hidden -MMD -MP -c $< -o $@

$(B)/$(SONAME).$(VERSION): $(CLIENT_OBJS) runtime/lib/libfreehold.map
	$(CC) -shared $(ALL_LDFLAGS) -Wl,-soname,$(SONAME) -Wl,--version-script,runtime/lib/libfreehold.map \
		$(if $(SAN),,-Wl$(comma)-z$(comma)defs) $(CLIENT_OBJS) -l:liburing.a -ljansson -lhttp_parser -lsodium -o $@

$(B)/libfreehold.so: $(B)/$(SONAME).$(VERSION)
	ln -sf $(notdir $<) $(B)/$(SONAME)
	ln -sf $(SONAME) $@

# ld -r looks into no folder by itself, and the compiler into none of -L.
LIBURING_A = $(firstword $(wildcard $(patsubst -L%,%/liburing.a,$(filter -L%,$(ALL_LDFLAGS)))) \
	$(shell $(CC) -print-file-name=liburing.a))
# One object, in which hidden names have become local ones: they cannot meet a program's own.
$(B)/libfreehold.a: $(CLIENT_OBJS)
	@rm -f $@
	$(LD_R) -r $(CLIENT_OBJS) $(LIBURING_A) -o $(B)/pic/libfreehold.o
	$(OBJCOPY) --localize-hidden --wildcard --localize-symbol='io_uring_*' --localize-symbol='__io_uring_*' \
		$(B)/pic/libfreehold.o
	$(AR) rcs $@ $(B)/pic/libfreehold.o

$(B)/freehold.pc: runtime/lib/freehold.pc.in $(B)/.defs $(B)/.libdirs
	sed -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@VERSION@|$(VERSION)|' $< > $@
$(B)/.libdirs: export STAMP = $(INCLUDEDIR) $(LIBDIR)
$(B)/.libdirs: force
	$(stamp)

# DPDK's headers are its own affair: no warnings about them.
$(B)/dpdk/%.o: %.c $(B)/.flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -fPIC -fvisibility=hidden -DALLOW_EXPERIMENTAL_API \
		$(patsubst -I%,-isystem %,$(shell $(PKG_CONFIG) --cflags libdpdk)) -MMD -MP -c $< -o $@

$(B)/freehold-dpdk.so: $(DPDK_OBJS)
	$(CC) -shared $(ALL_LDFLAGS) $(if $(SAN),,-Wl$(comma)-z$(comma)defs) $(DPDK_OBJS) \
		$(shell $(PKG_CONFIG) --libs libdpdk) -pthread -o $@

# One program a unit test file; each is linked with everything but main().
# ThreadSanitizer and the cross build take our own runner (see its head).
OWN_RUNNER := $(or $(filter tsan,$(SAN)),$(CROSS))
RUNNER_OBJ := $(if $(OWN_RUNNER),$(B)/tests/run_criterion.o,$(if $(filter asan,$(SAN)),$(B)/tests/lsan_runner.o))
CRITERION  := $(RUNNER_OBJ) $(if $(OWN_RUNNER),,-lcriterion)
$(TESTS): $(RUNNER_OBJ)
# What is tested is compiled as ever; the tests themselves cost more to optimise than they gain from it.
TEST_O := -O$(if $(SAN),0,1)
$(B)/tests/unit/%: tests/unit/%.c $(B)/libfhd.a $(B)/.flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(TEST_O) -MMD -MP $< $(B)/libfhd.a $(ALL_LDFLAGS) $(CRITERION) $(LIBS) -o $@

# Stands in for NVIDIA's library, which is loaded when the daemon runs. Of its own: no sanitizer's, no link to ours.
FAKE_NVML := $(B)/tests/unit/nvml/fake_nvml.so
$(FAKE_NVML): tests/unit/nvml/fake_nvml.c
	@mkdir -p $(@D)
	$(CC) -std=gnu17 -O1 -fPIC -shared $(WARN) $< -o $@
$(B)/tests/unit/test_energy: $(FAKE_NVML)

# Its client is OpenSSL itself, which the server loads when it runs.
$(B)/tests/unit/test_http_tls: private LIBS += -lssl -lcrypto
$(B)/tests/unit/test_tls_offload: private LIBS += -lssl -lcrypto
$(B)/tests/unit/test_tls_limit: private LIBS += -lssl -lcrypto
$(B)/tests/unit/test_tls_key: private LIBS += -lcrypto

$(B)/tests/perf/%: tests/perf/%.c $(B)/libfhd.a $(B)/.flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP $< $(B)/libfhd.a $(ALL_LDFLAGS) $(LIBS) -o $@

$(ACCURACY): $(patsubst %.c,$(B)/%.o,$(wildcard tests/accuracy/*.c)) $(B)/libfhd.a
	$(CC) $(ALL_LDFLAGS) $^ $(LIBS) -o $@

$(B)/tests/fuzz/%: tests/fuzz/%.c $(B)/libfhd.a $(B)/.flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP $< $(B)/libfhd.a $(ALL_LDFLAGS) -fsanitize=fuzzer $(LIBS) -o $@

# The kernel module's tests run in a test kernel, on the C library alone.
ABI_SRCS := $(wildcard tests/abi/*.c)
$(B)/tests/abi/abi: $(ABI_SRCS) $(wildcard tests/abi/*.h) tests/vm/bar/fhbar.h uapi/freehold.h $(B)/.flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -pthread $(ABI_SRCS) -Wl,-z,relro,-z,now $(LDFLAGS) $(SAN_FLAGS) -o $@

# And the daemon's, with clients of the module.
VM_SRCS := $(wildcard tests/vm/serve_*.c) $(filter-out tests/abi/test_% tests/abi/fuzz_%,$(ABI_SRCS))
$(B)/tests/vm/serve: $(VM_SRCS) tests/vm/serve.h tests/abi/abi.h uapi/freehold.h $(B)/libfhd.a $(B)/.flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(VM_SRCS) $(B)/libfhd.a $(ALL_LDFLAGS) $(LIBS) -o $@

# What counts a guest's instructions, and what is counted beside us.
$(B)/tests/vm/insn.so: tests/vm/insn.c $(B)/.flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -fPIC -shared -fvisibility=hidden $< -o $@
$(B)/tests/vm/udp_echo $(B)/tests/vm/frames: $(B)/%: %.c $(B)/.flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $< $(LDFLAGS) -o $@

# The kernels for GPUs, their tests, and the stand-in for the driver that tests the host side without one.
-include kernels/cuda/cuda.mk tests/gpu/gpu.mk tests/gpu/libcuda/libcuda.mk

.PHONY: unit unit-build perf fuzz fuzz-build
unit-build: $(TESTS)
unit: $(TESTS) ## build and run the unit tests (SAN=asan or SAN=tsan: under a sanitizer)
	@tests/unit.sh $(if $(SAN),--san $(SAN)) $(TESTS)

perf: $(PERF)

.PHONY: accuracy
accuracy: $(ACCURACY)

.PHONY: perf-counts
perf-counts: $(B)/freehold $(B)/tests/perf/count_kernels ## write the committed instruction counts of the kernels anew
	tests/perf/counts.py --update

.PHONY: driver-costs
driver-costs: ## write the committed instruction counts of the module's calls anew
	tests/perf/driver_costs.py --update

.PHONY: dpdk-cost
dpdk-cost: ## write the committed instruction counts of answers over DPDK and over a kernel's socket anew
	tests/perf/dpdk_cost.py --update

# libFuzzer comes with clang; any version will do.
CLANG ?= $(firstword $(shell command -v clang clang-14 clang-15 clang-16 clang-17 clang-18 clang-19 2>/dev/null))
fuzz-build: $(FUZZERS)
fuzz: ## build the fuzzers and run each for a fixed count
	$(if $(CLANG),,$(error fuzzing needs clang; `make deps-check` installs it))
	$(MAKE) SAN=fuzz CC=$(CLANG) fuzz-build
	tests/fuzz.sh short

# --- what a user types ------------------------------------------------------
# Variables of the command line reach the script through the environment.
.PHONY: demo vm-demo check check-long check-driver check-audit check-kernel-debug module bench deps deps-check
demo: ## install what is missing, build, serve the built-in model, stream tokens from it
	@tests/demo

vm-demo: ## boot kernel, module, daemon and a client from one initramfs in QEMU; PROMPT=, KERNEL=, KVM=1
	@tests/vm/demo.sh

check: ## every test; under 25 minutes on two cores
	@tests/check.sh short

check-long: ## the same, with five minutes for each fuzzer and a million requests
	@tests/check.sh long

check-driver: ## the kernel module's tests alone: warnings, checkers, DKMS, User-Mode Linux, QEMU
	@tests/check.sh short driver

check-audit: ## the audit log's tests alone
	@tests/check.sh short audit

check-kernel-debug: ## the module in QEMU on a kernel with the kernel's checkers; 1,000 kills, 5 minutes of fuzzing
	@tests/check.sh long kernel-debug

# In a copy: the kernel's build leaves its objects beside the sources.
KDIR ?= /lib/modules/$(shell uname -r)/build
module: ## build the kernel module for KDIR (the running kernel's) in build/module
	@mkdir -p build/module/this
	@cp -r Kbuild driver uapi build/module/this/
	$(MAKE) -C $(KDIR) M=$(CURDIR)/build/module/this modules
	@echo "built build/module/this/freehold.ko"

bench: ## print the tables of performance.md; PEER=DIR, IK=DIR, PEER_AVX2=DIR: peers beside; TABLES='host cpu ...'
	@PEER="$(PEER)" IK="$(IK)" PEER_AVX2="$(PEER_AVX2)" tests/perf/bench.sh $(TABLES)

deps: ## install what the build and the demo need (Debian, Ubuntu)
	@tools/packaging/install-deps.sh build

deps-check: ## install what `make check` needs beside
	@tools/packaging/install-deps.sh build check
	@tools/packaging/install-deps.sh kernel
	@tools/packaging/install-deps.sh dpdk
	@tools/packaging/install-deps.sh browser
	@tools/packaging/promtool.sh $(B)/promtool

.PHONY: reuse format format-check arm64
reuse: ## check that every file names its licence
	reuse lint -q || reuse lint

CLANG_FORMAT ?= $(firstword $(shell command -v clang-format-14 clang-format 2>/dev/null))
C_FILES = $(shell git ls-files -co --exclude-standard '*.c' '*.h' 2>/dev/null)
format: ## format the C sources in place
	$(CLANG_FORMAT) -i $(C_FILES)
format-check: ## say which C sources are not formatted
	$(CLANG_FORMAT) --dry-run -Werror $(C_FILES)

# The whole tree for arm64, with the reference kernels.  The libraries come from
# Debian's arm64 packages, unpacked in build/ (the system is left alone).
ARM64_ROOT := build/arm64/sysroot
arm64: ## cross-build for arm64 (aarch64-linux-gnu-gcc), reference kernels
	tools/packaging/arm64-sysroot.sh $(ARM64_ROOT)
	PKG_CONFIG_LIBDIR=$(ARM64_ROOT)/usr/lib/aarch64-linux-gnu/pkgconfig PKG_CONFIG_SYSROOT_DIR=$(CURDIR)/$(ARM64_ROOT) \
	$(MAKE) B=build/arm64 CC=aarch64-linux-gnu-gcc AR=aarch64-linux-gnu-ar CROSS=arm64 \
		EXTRA_CFLAGS='-idirafter $(ARM64_ROOT)/usr/include -idirafter $(ARM64_ROOT)/usr/include/aarch64-linux-gnu' \
		LDFLAGS='-L$(ARM64_ROOT)/usr/lib/aarch64-linux-gnu -Wl$(comma)-rpath-link$(comma)$(ARM64_ROOT)/usr/lib/aarch64-linux-gnu' \
		all $(or $(ARM64_TARGETS),unit-build)

# --- install and package ----------------------------------------------------
D := $(DESTDIR)
.PHONY: install install-lib install-module uninstall deb
install-lib: lib ## install the client library, its header and its manual alone
	install -d $(D)$(LIBDIR) $(D)$(PKGCONFIGDIR) $(D)$(INCLUDEDIR)/linux $(D)$(MANDIR)/man3
	install -m 644 $(B)/$(SONAME).$(VERSION) $(B)/libfreehold.a $(D)$(LIBDIR)
	ln -sf $(SONAME).$(VERSION) $(D)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(D)$(LIBDIR)/libfreehold.so
	install -m 644 $(B)/freehold.pc $(D)$(PKGCONFIGDIR)
	install -m 644 uapi/freehold.h $(D)$(INCLUDEDIR)/linux/freehold.h
	sed -e 's|"uapi/freehold.h"|<linux/freehold.h>|' runtime/lib/freehold.h > $(D)$(INCLUDEDIR)/freehold.h
	chmod 644 $(D)$(INCLUDEDIR)/freehold.h
	install -m 644 $(filter %.3,$(MAN_PAGES)) $(D)$(MANDIR)/man3
	for a in $(MAN_ALIASES); do echo ".so man3/$${a#*:}.3" > $(D)$(MANDIR)/man3/$${a%%:*}.3; done
	chmod 644 $(D)$(MANDIR)/man3/*.3

# The module's sources, its options and the devices' rule: what DKMS needs, without the daemon.
install-module: ## install the module's sources for DKMS, its options, and the devices' udev rule
	install -D -m 644 tools/packaging/freehold.udev $(D)$(UDEVDIR)/60-freehold.rules
	install -D -m 644 tools/packaging/freehold.modprobe $(D)$(MODPROBEDIR)/freehold.conf
	install -d $(D)$(MODULEDIR)/driver $(D)$(MODULEDIR)/uapi
	install -m 644 Kbuild $(D)$(MODULEDIR)
	install -m 644 $(wildcard driver/*.[ch]) $(D)$(MODULEDIR)/driver
	install -m 644 uapi/freehold.h $(D)$(MODULEDIR)/uapi
	sed -e 's|@VERSION@|$(VERSION)|g' tools/packaging/dkms.conf > $(D)$(MODULEDIR)/dkms.conf
	chmod 644 $(D)$(MODULEDIR)/dkms.conf

install: $(B)/freehold $(PLUGINS) install-lib install-module ## install under PREFIX (DESTDIR is honoured)
	install -D -m 755 $(B)/freehold $(D)$(BINDIR)/freehold
	install -d $(D)$(MANDIR)/man1 $(D)$(MANDIR)/man5 $(D)$(DATADIR) $(D)$(DOCDIR)
	install -m 644 $(filter %.1,$(MAN_PAGES)) $(D)$(MANDIR)/man1
	install -m 644 $(filter %.5,$(MAN_PAGES)) $(D)$(MANDIR)/man5
	install -m 644 tools/demo/*.gguf tools/demo/*.md tools/demo/SOURCES.tsv $(D)$(DATADIR)
	$(if $(PLUGINS),install -D -m 644 $(PLUGINS) $(D)$(LIBDIR)/freehold/freehold-dpdk.so)
	install -m 644 README.md $(D)$(DOCDIR)
	install -D -m 644 -t $(D)$(DATADIR)/grafana tools/grafana/dashboard.json tools/grafana/alerts.yml
	install -D -m 644 -t $(D)$(DATADIR)/systemd tools/packaging/gpu.conf
	install -D -m 644 tools/packaging/freehold.bash $(D)$(COMPLETIONDIR)/freehold
	install -D -m 644 tools/packaging/freehold.sysusers $(D)$(SYSUSERSDIR)/freehold.conf
	install -d $(D)$(UNITDIR) $(D)$(SYSCONFDIR)/freehold
	sed -e 's|@BINDIR@|$(BINDIR)|g' -e 's|@SYSCONFDIR@|$(SYSCONFDIR)|g' tools/packaging/freehold.service \
		> $(D)$(UNITDIR)/freehold.service
	chmod 644 $(D)$(UNITDIR)/freehold.service
	@# A configuration that someone edited is left alone.
	test -e $(D)$(SYSCONFDIR)/freehold/freehold.conf || \
		install -m 644 tools/packaging/freehold.conf $(D)$(SYSCONFDIR)/freehold/freehold.conf

uninstall: ## remove what install put there; the configuration stays
	rm -f $(D)$(BINDIR)/freehold $(D)$(INCLUDEDIR)/linux/freehold.h $(D)$(UNITDIR)/freehold.service
	rm -f $(D)$(INCLUDEDIR)/freehold.h $(D)$(PKGCONFIGDIR)/freehold.pc
	rm -f $(addprefix $(D)$(LIBDIR)/,$(SONAME).$(VERSION) $(SONAME) libfreehold.so libfreehold.a)
	rm -f $(D)$(SYSUSERSDIR)/freehold.conf $(D)$(COMPLETIONDIR)/freehold
	rm -f $(foreach p,$(notdir $(MAN_PAGES)),$(D)$(MANDIR)/man$(subst .,,$(suffix $(p)))/$(p))
	rm -f $(foreach a,$(MAN_ALIASES),$(D)$(MANDIR)/man3/$(firstword $(subst :, ,$(a))).3)
	rm -rf $(D)$(LIBDIR)/freehold
	rm -f $(D)$(UDEVDIR)/60-freehold.rules $(D)$(MODPROBEDIR)/freehold.conf
	rm -rf $(D)$(DATADIR) $(D)$(DOCDIR) $(D)$(MODULEDIR)

deb: ## build a Debian package in build/
	$(MAKE) PREFIX=/usr B=$(B)/deb all
	VERSION=$(VERSION) tools/packaging/mkdeb.sh $(B)/deb $(B)

.PHONY: version print-clang clean help
version:
	@echo $(VERSION)
print-clang:
	@echo $(CLANG)

clean: ## remove build/
	rm -rf build

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/  \1\t\2/p' $(filter %Makefile %.mk,$(MAKEFILE_LIST)) | expand -t 22

-include $(LIB_OBJS:.o=.d) $(DPDK_OBJS:.o=.d) $(CLIENT_OBJS:.o=.d) $(TOOL_OBJS:.o=.d) $(patsubst %.c,$(B)/%.d,$(wildcard tests/accuracy/*.c)) $(TESTS:=.d) $(PERF:=.d) $(FUZZERS:=.d) $(B)/tests/run_criterion.d
