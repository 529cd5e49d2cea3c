/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sampler: logits in, one token out.  A pure function of its arguments, so
 * that one request draws the same tokens whatever else is in the batch: its
 * only randomness is Philox4x32-10 (Salmon et al., SC'11) keyed by (seed, index).
 */
#ifndef FH_ACCEL_SAMPLE_H
#define FH_ACCEL_SAMPLE_H

#include <stdint.h>

#include "runtime/accel/accel.h"

struct fh_sampler; /* scratch for one thread at a time; sized for one vocabulary */

int fh_sampler_create(uint32_t nr_vocab, struct fh_sampler **out);
void fh_sampler_destroy(struct fh_sampler *s);

/*
 * Choose the next token of @b from @logits: [nr_vocab] f32, which it may
 * overwrite.  Writes b->slot (token, stamp, logprob, flags) and b->top.
 * Order of the steps (as vLLM's): bias and bans, penalties, temperature, top-k,
 * typical, top-p, min-p, one draw.  Log-probabilities are of the raw logits
 * after bias and penalties, before temperature, as OpenAI clients expect.
 * Ties go to the lowest id.  NaN logits count as minus infinity.
 */
void fh_sample(struct fh_sampler *s, const struct fh_batch_seq *b, float *logits);

#endif /* FH_ACCEL_SAMPLE_H */
