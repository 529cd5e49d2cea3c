// SPDX-License-Identifier: Apache-2.0
/*
 * How long from a request to its only token: once watching memory, once
 * sleeping, in microseconds.
 *
 *	cc latency.c $(pkg-config --cflags --libs freehold) -o latency
 *	./latency 2000 unix:/run/freehold/channel.sock
 *
 * Against a server of a model that computes nothing (freehold serve -m
 * null:VOCAB.gguf) this is the cost of the way, not of the model.
 */
#include <freehold.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* One request of one token; how long it took, or less than 0. */
static double round_trip(struct fh_client *c)
{
	const uint32_t id = 1;
	struct fh_params p;
	struct fh_token t;
	double begin = now_us();

	fh_params_init(&p);
	p.max_tokens = 1;
	if (fh_generate(c, &id, 1, &p, NULL))
		return -1;
	do {
		if (fh_next_token(c, &t, -1))
			return -1;
	} while (!(t.flags & FH_SLOT_LAST));
	return now_us() - begin;
}

static int measure(const char *where, int nr, int32_t spin_us)
{
	double *took = calloc((size_t)nr, sizeof(*took));
	struct fh_open_options o;
	struct fh_client *c;
	int i = 0, rc;

	fh_open_options_init(&o);
	o.spin_us = spin_us;
	rc = fh_open(where, &o, &c);
	/* The first tenth warms up. */
	for (i = -nr / 10; !rc && i < nr; i++) {
		double us = round_trip(c);

		rc = us < 0;
		if (i >= 0)
			took[i] = us;
	}
	if (rc) {
		fprintf(stderr, "latency: %s\n", fh_error_message(c));
	} else {
		qsort(took, (size_t)nr, sizeof(*took), by_value);
		printf("%-8s p50 %.1f us, p99 %.1f us\n", spin_us < 0 ? "sleeping" : "spinning", took[nr / 2],
		       took[nr * 99 / 100]);
	}
	fh_close(c);
	free(took);
	return rc;
}

int main(int argc, char **argv)
{
	int nr = argc > 1 ? atoi(argv[1]) : 1000;
	const char *where = argc > 2 ? argv[2] : NULL;

	if (nr < 100)
		nr = 100;
	return measure(where, nr, 10000) || measure(where, nr, -1) ? 1 : 0;
}
