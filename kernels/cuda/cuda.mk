# SPDX-License-Identifier: Apache-2.0
# The CUDA kernels: a fatbin for each file, where nvcc is. `make cuda` makes them,
# and whatever lies in $(B)/cuda is embedded by the next `make`.

NVCC ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA_SRC := $(sort $(wildcard kernels/cuda/*.cu))
CUDA_FATBINS := $(CUDA_SRC:kernels/cuda/%.cu=$(B)/cuda/%.fatbin)
# sm_90a code runs on Hopper alone; what is newer than all of these compiles the PTX.
CUDA_SMS   ?= 80 89 90a 100 120
CUDA_ARCHS := $(foreach a,$(CUDA_SMS),-gencode arch=compute_$(a),code=sm_$(a)) -gencode arch=compute_80,code=compute_80
CUDA_FLAGS := -std=c++17 -O3 -I. -t 1 -Xptxas -v -Werror all-warnings

$(B)/cuda/%.fatbin: kernels/cuda/%.cu $(wildcard kernels/cuda/*.cuh) kernels/cuda/cuda_kernels.h kernels/kernels.h \
		kernels/cuda/cuda.mk
	@mkdir -p $(@D)
	@echo "  NVCC    $<"
	@$(NVCC) $(CUDA_FLAGS) $(CUDA_ARCHS) -fatbin -o $@ $< >$@.log 2>&1 || { cat $@.log; exit 1; }

.PHONY: cuda print-nvcc
print-nvcc:
	@echo "$(NVCC)"

cuda: $(if $(NVCC),$(CUDA_FATBINS)) ## the kernels for NVIDIA GPUs, where nvcc is
	@$(if $(NVCC),:,echo "make cuda: no nvcc (set NVCC): the program will have no kernels for a GPU")
