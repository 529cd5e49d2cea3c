# SPDX-License-Identifier: Apache-2.0
# Freehold. `make help` lists the targets.
#
# Sources are found by folder, so that a new file needs no line here.  What a
# folder may include is checked by tests/deps.sh.  SAN=asan or SAN=tsan builds
# the same tree with sanitizers in a folder of its own.

SHELL   := /bin/bash
CC      ?= gcc
SAN     ?=
B       ?= build$(if $(SAN),/$(SAN))
O       ?= 2

PKGS    := liburing libpcre2-8 jansson libseccomp
WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla
CFLAGS  ?= -O$(O) -g
ALL_CFLAGS := -std=gnu17 -pthread -D_GNU_SOURCE -I. $(WARN) -fno-strict-aliasing -ffp-contract=off $(CFLAGS) \
	   $(if $(filter asan,$(SAN)),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer) \
	   $(if $(filter tsan,$(SAN)),-fsanitize=thread)
comma   := ,
ALL_CFLAGS += $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
LIBS    := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lhttp_parser -lm -pthread
ALL_LDFLAGS := $(LDFLAGS) $(if $(filter asan,$(SAN)),-fsanitize=address$(comma)undefined) $(if $(filter tsan,$(SAN)),-fsanitize=thread)

# Instruction sets by folder; only x86-64 has more than the reference.
ARCH    := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))
ISA_DIRS := ref $(if $(filter x86_64,$(ARCH)),avx2 avx512)
ISA_FLAGS_avx2   := -mavx2 -mfma -mf16c -O3
ISA_FLAGS_avx512 := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512bf16 -mfma -mf16c -O3 -mprefer-vector-width=512
ISA_FLAGS_ref    := -O2

KERNEL_SRCS  := $(wildcard kernels/*.c) $(foreach d,$(ISA_DIRS),$(wildcard kernels/$(d)/*.c))
RUNTIME_SRCS := $(wildcard runtime/*/*.c)
TOOL_SRCS    := $(wildcard tools/*.c)
LIB_OBJS     := $(KERNEL_SRCS:%.c=$(B)/%.o) $(RUNTIME_SRCS:%.c=$(B)/%.o)
TOOL_OBJS    := $(TOOL_SRCS:%.c=$(B)/%.o)
TEST_SRCS    := $(wildcard tests/unit/*.c)
TESTS        := $(TEST_SRCS:%.c=$(B)/%)

.PHONY: all
all: $(B)/freehold

$(B)/kernels/avx2/%.o: EXTRA := $(ISA_FLAGS_avx2)
$(B)/kernels/avx512/%.o: EXTRA := $(ISA_FLAGS_avx512)
$(B)/kernels/ref/%.o: EXTRA := $(ISA_FLAGS_ref)

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(EXTRA) -MMD -MP -c $< -o $@

$(B)/libfhd.a: $(LIB_OBJS)
	@rm -f $@
	$(AR) rcs $@ $^

$(B)/freehold: $(TOOL_OBJS) $(B)/libfhd.a
	$(CC) $(ALL_LDFLAGS) $(TOOL_OBJS) $(B)/libfhd.a $(LIBS) -o $@

# One program a unit test file; each is linked with everything but main().
$(B)/tests/unit/%: tests/unit/%.c $(B)/libfhd.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP $< $(B)/libfhd.a $(ALL_LDFLAGS) $(LIBS) -lcriterion -o $@

.PHONY: unit
unit: $(TESTS)
	@for t in $(TESTS); do echo "== $$t"; $$t || exit 1; done

.PHONY: clean
clean:
	rm -rf build

-include $(LIB_OBJS:.o=.d) $(TOOL_OBJS:.o=.d) $(TESTS:=.d)
