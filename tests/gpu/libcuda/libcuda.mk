# SPDX-License-Identifier: Apache-2.0
# The stand-in for libcuda.so.1: build/tests/gpu/libcuda.so.1, with the real kernels compiled for the host (SIMT_LIB, of
# tests/gpu/gpu.mk).  STANDIN_SAN builds it with the sanitizer of the program that loads it.

STANDIN_SRCS := $(wildcard tests/gpu/libcuda/sim*.c)
STANDIN_OBJS := $(STANDIN_SRCS:%.c=$(B)/pic/%.o)

$(B)/tests/gpu/libcuda.so.1: $(STANDIN_OBJS) $(SIMT_LIB)
	@mkdir -p $(@D)
	$(CXX) -shared $(ALL_LDFLAGS) -Wl,-soname,libcuda.so.1 $(STANDIN_OBJS) $(SIMT_LIB) -lm -pthread -o $@

$(B)/tests/gpu/cuda_host: tests/gpu/libcuda/host.c $(B)/libfhd.a $(B)/.flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP $< $(B)/libfhd.a $(ALL_LDFLAGS) $(LIBS) -o $@

.PHONY: standin
standin: $(B)/tests/gpu/libcuda.so.1 $(B)/tests/gpu/cuda_host $(B)/gpu/check_gpu ## build the stand-in for the CUDA driver that tests the host side

-include $(STANDIN_OBJS:.o=.d) $(B)/tests/gpu/cuda_host.d
