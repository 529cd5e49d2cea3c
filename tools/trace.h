/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Traces: when requests came, how long they were and how much they made.
 *
 * Read from the files in which traces are published, or drawn at random.  Who
 * replays one (`bench serve`) and who simulates one (`sim`) read it with this
 * code, so that both mean the same by it.
 *
 * A trace owns its arrays; its requests are in order of arrival, and the first
 * one comes at 0.
 */
#ifndef FH_TOOLS_TRACE_H
#define FH_TOOLS_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/err.h"
#include "runtime/base/random.h"

#define TRACE_MAX_TOKENS (1u << 24) /* of a prompt or an answer; more is a mistake in the file */
#define TRACE_MOONCAKE_BLOCK 512    /* tokens that one of its hashes stands for */

struct trace_req {
	uint64_t at_ns; /* since the first request's arrival */
	uint32_t nr_prompt, nr_gen;
	/* Mooncake: blocks of its prompt, hash[from .. from + nr); equal numbers are equal text. Else nr_hashes is 0.
	 */
	uint32_t nr_hashes;
	size_t hashes_from;
};

struct trace {
	struct trace_req *req; /* [nr] */
	size_t nr, cap;
	uint32_t *hash; /* [nr_hashes] */
	size_t nr_hashes, cap_hashes;
	size_t nr_skipped; /* requests of the file without a prompt or without an answer, such as those that failed */
};

enum trace_format {
	TRACE_AUTO,	/* by the file's first line */
	TRACE_BURSTGPT, /* CSV: Timestamp (seconds), ..., Request tokens, Response tokens, ... */
	TRACE_AZURE,	/* CSV: TIMESTAMP (date and time of day), ContextTokens, GeneratedTokens */
	TRACE_MOONCAKE, /* a JSON object a line: timestamp (ms), input_length, output_length, hash_ids */
};

/* "auto", "burstgpt", "azure", "mooncake": 0 or -EINVAL. */
int trace_format_parse(const char *name, enum trace_format *out);

/*
 * Read a trace from @text: [bytes].  @name stands in messages.  0, -EINVAL with
 * @err naming the line, -ENOMEM.  trace_free() is due in every case.
 */
int trace_parse(const char *text, size_t bytes, const char *name, enum trace_format format, struct trace *out,
		struct fh_err *err);
/* The same, of file @path. */
int trace_load(const char *path, enum trace_format format, struct trace *out, struct fh_err *err);
void trace_free(struct trace *t);

/* Random numbers that are the same everywhere for the same seed (xoroshiro128+). */
struct trace_rng {
	struct fh_random random;
};

void trace_rng_init(struct trace_rng *r, uint64_t seed);
uint64_t trace_rng_next(struct trace_rng *r);
double trace_rng_unit(struct trace_rng *r); /* in (0, 1) */

/* Lengths to draw. */
enum trace_length_kind {
	TRACE_LEN_FIXED,     /* "N" */
	TRACE_LEN_UNIFORM,   /* "A:B" */
	TRACE_LEN_LOG,	     /* "log:A:B": uniform in the logarithm, so that each length has its share of work */
	TRACE_LEN_LOGNORMAL, /* "lognormal:MEDIAN:SIGMA", cut at 16 times the median */
};

struct trace_length {
	enum trace_length_kind kind;
	double a, b;
};

/* 0, or -EINVAL with @err that says what would do. */
int trace_length_parse(const char *text, struct trace_length *out, struct fh_err *err);
/* From 1 to TRACE_MAX_TOKENS. */
uint32_t trace_length_draw(const struct trace_length *l, struct trace_rng *r);

/* Arrivals to draw, at a mean rate. */
enum trace_arrival_kind {
	TRACE_ARR_CONSTANT, /* "constant" */
	TRACE_ARR_POISSON,  /* "poisson" */
	TRACE_ARR_GAMMA,    /* "gamma:SHAPE": below 1 in bursts, 1 is Poisson, above 1 more even (vLLM's burstiness) */
	TRACE_ARR_BURST,    /* "burst:N": N at once, N / rate seconds apart */
};

struct trace_arrivals {
	enum trace_arrival_kind kind;
	double rate_per_s;
	double shape;	   /* TRACE_ARR_GAMMA */
	uint32_t nr_burst; /* TRACE_ARR_BURST */
};

/* All but the rate. 0, or -EINVAL with @err. */
int trace_arrivals_parse(const char *text, struct trace_arrivals *out, struct fh_err *err);
/* Seconds until the next arrival; @i counts arrivals from 0. */
double trace_arrivals_gap_s(const struct trace_arrivals *a, uint64_t i, struct trace_rng *r);

/* Draw @nr requests. 0 or -ENOMEM; trace_free() is due in both cases. */
int trace_draw(const struct trace_arrivals *a, const struct trace_length *prompt, const struct trace_length *gen,
	       size_t nr, uint64_t seed, struct trace *out);

/* Requests a second, from the first arrival to the last; 0 for fewer than two. */
double trace_rate(const struct trace *t);
/* Stretch or press the times so that its rate becomes @rate_per_s. */
void trace_set_rate(struct trace *t, double rate_per_s);

#endif /* FH_TOOLS_TRACE_H */
