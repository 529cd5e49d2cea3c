// SPDX-License-Identifier: Apache-2.0
/*
 * What a round trip through a channel costs, beside one through a Unix socket
 * in the same minute.
 *
 *   ring --where unix:PATH [--rounds R] [--trips N] [--json]
 *
 * A trip through the ring is one request of one token, from fh_generate() to
 * its token, against a live server; with null:VOCAB.gguf for a model it is the
 * way alone.  It is taken three times: watching memory; asking to be woken,
 * where the answer often is there before the sleep; and so after a pause in
 * which the server has gone to sleep, so that both sides have to be woken.  A trip through
 * the socket is 128 bytes to a process that sleeps in recv() and sends 32 back,
 * the sizes of a descriptor and of a completion: what a server with a socket
 * could do at best, if it did nothing.  It is taken without and with the pause.
 *
 * Each round takes all five in turn; what is told is the median over the
 * rounds of each round's median and 99th percentile.
 */
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/lib/freehold.h"

#define SEND_BYTES 128
#define BACK_BYTES 32
#define MAX_ROUNDS 101

#define PAUSE_NS 300000 /* the engine watches memory for 20 us before it sleeps */

enum { ECHO, SPIN, SLEEP, ECHO_PAUSED, PAUSED, NR_WAYS };

struct bench {
	const char *where;
	uint32_t rounds, trips;
	int sock;
	pid_t child;
	struct fh_client *c[NR_WAYS];
	double *took_us; /* [trips] */
	double p50_us[NR_WAYS][MAX_ROUNDS], p99_us[NR_WAYS][MAX_ROUNDS];
};

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void echo_child(int fd)
{
	char buf[SEND_BYTES];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (recv(fd, buf, sizeof(buf), MSG_WAITALL) == sizeof(buf))
		if (send(fd, buf, BACK_BYTES, MSG_NOSIGNAL) != BACK_BYTES)
			break;
	_exit(0);
}

static int start_echo(struct bench *b)
{
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv))
		return -1;
	b->child = fork();
	if (!b->child) {
		close(sv[0]);
		echo_child(sv[1]);
	}
	close(sv[1]);
	b->sock = sv[0];
	return b->child < 0 ? -1 : 0;
}

static int trip_echo(struct bench *b)
{
	char buf[SEND_BYTES] = {0};

	if (send(b->sock, buf, SEND_BYTES, MSG_NOSIGNAL) != SEND_BYTES)
		return -1;
	return recv(b->sock, buf, BACK_BYTES, MSG_WAITALL) == BACK_BYTES ? 0 : -1;
}

static int trip_ring(struct fh_client *c)
{
	const uint32_t id = 1;
	struct fh_params p;
	struct fh_token t;

	fh_params_init(&p);
	p.max_tokens = 1;
	if (fh_generate(c, &id, 1, &p, NULL))
		return -1;
	do {
		if (fh_next_token(c, &t, 5000000))
			return -1;
	} while (!(t.flags & FH_SLOT_LAST));
	return t.finish == FH_FINISH_ERROR ? -1 : 0;
}

static int trip(struct bench *b, int way)
{
	return way == ECHO || way == ECHO_PAUSED ? trip_echo(b) : trip_ring(b->c[way]);
}

static int measure(struct bench *b, int way, uint32_t round)
{
	struct timespec pause = {0, PAUSE_NS};
	bool paused = way >= ECHO_PAUSED;
	uint32_t trips = paused ? b->trips / 10 : b->trips;

	for (uint32_t i = 0; i < trips / 10 + 1; i++)
		if (trip(b, way))
			return -1;
	for (uint32_t i = 0; i < trips; i++) {
		uint64_t begin_ns;

		if (paused)
			nanosleep(&pause, NULL);
		begin_ns = fh_now_ns();
		if (trip(b, way))
			return -1;
		b->took_us[i] = (double)(fh_now_ns() - begin_ns) / 1000;
	}
	qsort(b->took_us, trips, sizeof(double), by_value);
	b->p50_us[way][round] = b->took_us[trips / 2];
	b->p99_us[way][round] = b->took_us[(uint64_t)trips * 99 / 100];
	return 0;
}

static double median(double *v, uint32_t n)
{
	qsort(v, n, sizeof(*v), by_value);
	return v[n / 2];
}

static void report(struct bench *b, bool json)
{
	static const char *const names[] = {"socket", "spinning", "sleeping", "socket_paused", "paused"};
	double p50[NR_WAYS], p99[NR_WAYS];

	for (int w = 0; w < NR_WAYS; w++) {
		p50[w] = median(b->p50_us[w], b->rounds);
		p99[w] = median(b->p99_us[w], b->rounds);
	}
	if (json) {
		for (int w = 0; w < NR_WAYS; w++)
			printf("%s\"%s_p50_us\": %.3f, \"%s_p99_us\": %.3f", w ? ", " : "{", names[w], p50[w], names[w],
			       p99[w]);
		printf("}\n");
		return;
	}
	for (int w = 0; w < NR_WAYS; w++)
		printf("%-14s p50 %8.2f us   p99 %8.2f us   %5.2f times the socket's speed\n", names[w], p50[w], p99[w],
		       p50[w >= ECHO_PAUSED ? ECHO_PAUSED : ECHO] / p50[w]);
}

static int open_ring(struct bench *b, int way, int32_t spin_us)
{
	struct fh_open_options o;
	int rc;

	fh_open_options_init(&o);
	o.spin_us = spin_us;
	rc = fh_open(b->where, &o, &b->c[way]);
	if (rc)
		fprintf(stderr, "ring: %s\n", fh_error_message(b->c[way]));
	return rc;
}

static int run(struct bench *b)
{
	if (start_echo(b)) {
		perror("ring: the echo process");
		return -1;
	}
	if (open_ring(b, SPIN, 100000) || open_ring(b, SLEEP, -1))
		return -1;
	b->c[PAUSED] = b->c[SLEEP];
	for (uint32_t r = 0; r < b->rounds; r++)
		for (int w = 0; w < NR_WAYS; w++)
			if (measure(b, w, r)) {
				fprintf(stderr, "ring: %s\n",
					w == ECHO || w == ECHO_PAUSED ? "the echo process ended"
								      : fh_error_message(b->c[w]));
				return -1;
			}
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"where", required_argument, NULL, 'w'},
		{"rounds", required_argument, NULL, 'r'},
		{"trips", required_argument, NULL, 't'},
		{"json", no_argument, NULL, 'j'},
		{NULL, 0, NULL, 0},
	};
	static struct bench b = {.rounds = 5, .trips = 5000};
	bool json = false;
	int opt, rc;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'w': b.where = optarg; break;
		case 'r': b.rounds = (uint32_t)atoi(optarg); break;
		case 't': b.trips = (uint32_t)atoi(optarg); break;
		case 'j': json = true; break;
		default: fprintf(stderr, "usage: ring [--where WHERE] [--rounds R] [--trips N] [--json]\n"); return 2;
		}
	}
	if (!b.rounds || b.rounds > MAX_ROUNDS || b.trips < 1000) {
		fprintf(stderr, "ring: --rounds is 1 to %d, --trips from 1000\n", MAX_ROUNDS);
		return 2;
	}
	b.took_us = calloc(b.trips, sizeof(*b.took_us));
	rc = b.took_us ? run(&b) : -1;
	if (!rc)
		report(&b, json);
	fh_close(b.c[SPIN]);
	fh_close(b.c[SLEEP]);
	if (b.child > 0) {
		close(b.sock);
		waitpid(b.child, NULL, 0);
	}
	free(b.took_us);
	return rc ? 1 : 0;
}
