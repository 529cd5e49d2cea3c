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

/*
 * Philox4x32-10: four random words from a counter and a key, by ten rounds of
 * multiplication; any counter can be asked for at once, in any order.
 */
void fh_philox4x32(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4]);

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
 *
 * A filter that is out of its range (top_k 0, top_p >= 1, NaN ...) is off, and
 * none removes the last candidate.  A temperature below 1e-5 is greedy.  Where
 * every token is ruled out, the lowest id that is neither banned nor masked is
 * chosen.  Time is linear in the vocabulary (and the history, with penalties):
 * nothing is sorted.
 */
void fh_sample(struct fh_sampler *s, const struct fh_batch_seq *b, float *logits);

#endif /* FH_ACCEL_SAMPLE_H */
