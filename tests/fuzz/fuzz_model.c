// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any bytes as a model.  What is accepted is loaded and run
 * for a step of two tokens, so that a shape that escaped the checks is found as
 * an access outside the file or the scratch memory.
 */
#include <stdint.h>
#include <stdlib.h>

#include "runtime/accel/accel.h"
#include "runtime/model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run(struct fh_model *m, const struct fh_accel_config *cfg)
{
	uint32_t tokens[2] = {0, m->nr_vocab - 1}, block = 0;
	struct fh_batch_seq s = {.q_len = 2, .nr_blocks = 1, .blocks = &block};
	struct fh_batch b = {.nr_seqs = 1, .nr_tokens = 2, .tokens = tokens, .seqs = &s};
	struct fh_sampling sampling;
	struct fh_err err;
	struct fh_slot slot;
	struct fh_accel *a;

	fh_sampling_default(&sampling);
	sampling.temperature = 0;
	s.sampling = &sampling;
	s.slot = &slot;
	s.history = tokens;
	s.nr_prompt = s.nr_history = 2;
	if (fh_accel_cpu.open(cfg, &a, &err))
		abort();
	if (!a->ops->load(a, m, &err)) {
		if (a->ops->kv_alloc(a, 1, &err) || a->ops->submit(a, &b) || slot.token >= m->nr_vocab)
			abort();
	}
	a->ops->close(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fh_accel_config cfg = {.nr_threads = 1,
				      .max_seqs = 1,
				      .max_tokens = 2,
				      .max_logits = 1,
				      .max_blocks_per_seq = 1,
				      .isa = "ref"};
	struct fh_err err;
	struct fh_model *m;
	struct fh_gguf *g;

	if (fh_gguf_open_mem(data, size, &g, &err))
		return 0;
	if (fh_model_from_gguf(g, &m, &err)) {
		fh_gguf_close(g);
		return 0;
	}
	run(m, &cfg);
	fh_model_close(m);
	return 0;
}
