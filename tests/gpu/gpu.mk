# SPDX-License-Identifier: Apache-2.0
# The emulator of tests/gpu/simt as an archive: the kernels of kernels/cuda/ and what runs them on the CPU.
# With SAN=asan or tsan everything is instrumented but, for tsan, the emulator's own file (simt.cc says why).

SIMT_LIB := $(B)/gpu/libsimt.a
SIMT_OBJ := $(patsubst kernels/cuda/%.cu,$(B)/gpu/%.o,$(sort $(wildcard kernels/cuda/*.cu))) $(B)/gpu/simt.o
# gcc 12 takes a chunk's function of mm.cuh for one without effects once its induction variables have been rewritten, and
# drops the loop that calls it (seen with tiles of 64 rows of Q6_K and MXFP4): without these passes it does not.
# Products and sums are joined as little as they can be, and with SAN=asan as often, as nvcc may: results may not hang on it.
SIMT_FMA := $(if $(filter asan,$(SAN)),$(shell grep -qw fma /proc/cpuinfo && echo -mfma -ffp-contract=fast))
SIMT_FLAGS := -x c++ -std=c++17 -O2 -g -fPIC $(or $(SIMT_FMA),-ffp-contract=off) -fno-strict-aliasing -I. -Wall -Wextra \
	$(if $(findstring clang,$(CXX)),,-fno-ivopts -fno-ipa-modref -fno-ipa-pure-const) \
	-Wno-unknown-pragmas -Wno-missing-field-initializers $(if $(filter 1,$(WERROR)),-Werror) \
	-ffile-prefix-map=$(CURDIR)=.
SIMT_DEPS := $(wildcard kernels/cuda/*.cuh tests/gpu/simt/*.h) kernels/cuda/cuda_kernels.h kernels/kernels.h kernels/half.h

$(B)/gpu/%.o: kernels/cuda/%.cu $(SIMT_DEPS) tests/gpu/gpu.mk
	@mkdir -p $(@D)
	@echo "  CXX     $<"
	@$(CXX) $(SIMT_FLAGS) $(SAN_FLAGS) -include tests/gpu/simt/device.h -c -o $@ $<

$(B)/gpu/simt.o: tests/gpu/simt/simt.cc $(SIMT_DEPS) tests/gpu/gpu.mk
	@mkdir -p $(@D)
	@echo "  CXX     $<"
	@$(CXX) $(SIMT_FLAGS) $(if $(filter tsan,$(SAN)),-DSIMT_TSAN,$(SAN_FLAGS)) -c -o $@ $<

$(SIMT_LIB): $(SIMT_OBJ)
	@rm -f $@.new && $(AR) rcs $@.new $^ && mv $@.new $@

# The tests of the kernels, on the emulator (check_simt) and on a GPU (check_gpu): the same code.
CHECK_GPU_OBJ := $(patsubst %.c,$(B)/%.o,$(wildcard tests/gpu/check_*.c) tests/gpu/gpu_util.c kernels/quant.c \
	$(wildcard kernels/ref/*.c) runtime/accel/sample.c)

$(B)/gpu/check_simt: $(CHECK_GPU_OBJ) $(B)/tests/gpu/gpu_simt.o $(SIMT_LIB)
	@echo "  LD      $@"
	@$(CXX) $(LDFLAGS) $(SAN_FLAGS) -o $@ $^ -lm

-include $(CHECK_GPU_OBJ:.o=.d)

$(B)/gpu/check_gpu: $(CHECK_GPU_OBJ) $(B)/tests/gpu/gpu_cuda.o
	@echo "  LD      $@"
	@$(CC) $(LDFLAGS) $(SAN_FLAGS) -o $@ $^ -lm -ldl

BENCH_GPU_OBJ := $(patsubst %.c,$(B)/%.o,$(wildcard tests/gpu/bench_*.c) tests/gpu/gpu_util.c tests/gpu/gpu_cuda.c \
	kernels/quant.c)

$(B)/gpu/bench_gpu: $(BENCH_GPU_OBJ)
	@echo "  LD      $@"
	@$(CC) $(LDFLAGS) $(SAN_FLAGS) -o $@ $^ -lm -ldl

# What only the bench runs: not in $(B)/cuda, whose files become part of the program.
$(B)/gpu/bench_limits.fatbin: tests/gpu/bench_limits.cu kernels/cuda/cuda.mk tests/gpu/gpu.mk
	@mkdir -p $(@D)
	@echo "  NVCC    $<"
	@$(NVCC) $(CUDA_FLAGS) $(CUDA_ARCHS) -fatbin -o $@ $< >$@.log 2>&1 || { cat $@.log; exit 1; }

.PHONY: check-gpu bench-gpu check-simt gpu-day gpu-day-pack
gpu-day-pack: ## what nine minutes on a machine with a GPU need, in one folder to carry there: $(B)/gpu-day
	tests/gpu/day.sh pack $(B)/gpu-day

gpu-day: gpu-day-pack ## tests, golden models, bench and sanitizers on this machine's GPU: one folder of logs, nine minutes
	tests/gpu/day.sh run $(B)/gpu-day

check-gpu: cuda $(B)/gpu/check_gpu ## every CUDA kernel against the reference, on the GPU of this machine
	$(B)/gpu/check_gpu --fatbins $(B)/cuda $(PARTS)

bench-gpu: cuda $(B)/gpu/bench_limits.fatbin $(B)/gpu/bench_gpu ## the GPU's limits, and the kernels' share of them
	$(B)/gpu/bench_gpu --fatbins $(B)/cuda:$(B)/gpu $(PARTS)

check-simt: $(B)/gpu/check_simt ## the same tests of the CUDA kernels on the emulator: logic only, no GPU
	$(B)/gpu/check_simt $(PARTS)
