// SPDX-License-Identifier: Apache-2.0
/*
 * What a round trip through a channel costs, beside one through a Unix socket.
 *
 *   chan_rtt MODEL.gguf [ROUNDS]
 *
 * A round trip is one request of one token and the completion that answers it,
 * with the null model over MODEL's vocabulary: everything but the model.  The
 * peer is a packet of the size of a descriptor to another thread, and one of the
 * size of a completion back, both blocking: the least that any server on a
 * Unix socket costs, before it has parsed anything.  Batches of both take
 * turns, so that they meet the same machine; medians are compared.
 *
 * Twice: without a pause, while the client of the channel spins; and with a pause
 * before each round trip in which both sides fall asleep (the engine in
 * futex_waitv(), the client on the futex of its completion ring), and the same
 * pause for the socket.  The exit status is 1 when spinning is less than 5 times
 * faster, or sleeping is slower.
 */
#define CHAN_CLIENT_ALONE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/log.h"
#include "runtime/net/chan.h"
#include "tests/perf/null_engine.h"
#include "tests/unit/chan_client.h"

enum { BATCH = 200, MAX_ROUNDS = 1 << 20, PAUSE_US = 100 }; /* the engine spins for 20 us */

struct server {
	struct null_engine n;
	struct fh_chans *f;
	char dir[32], path[64];
};

static void up(struct server *s, const char *model)
{
	struct fh_chans_config cc = {.max_channels = 4};
	struct fh_err err = {0};

	null_engine_open(&s->n, model, 8, 64);
	strcpy(s->dir, "/tmp/fhrttXXXXXX");
	if (!mkdtemp(s->dir))
		die("no folder for the socket");
	snprintf(s->path, sizeof(s->path), "%s/sock", s->dir);
	cc.unix_path = s->path;
	must(fh_chans_create(&cc, &s->n.svc, &s->f, &err), &err);
	null_engine_start(&s->n, fh_chans_frontend(s->f));
	must(fh_chans_start(s->f, &err), &err);
}

static void down(struct server *s)
{
	fh_chans_stop(s->f, 1000);
	null_engine_stop(&s->n, fh_chans_frontend(s->f));
	fh_chans_destroy(s->f);
	null_engine_close(&s->n);
	rmdir(s->dir);
}

/* The peer: answers each packet with a shorter one. */
static void *echo_main(void *arg)
{
	int fd = *(int *)arg;
	char buf[FH_SQ_ENTRY_BYTES];

	while (recv(fd, buf, sizeof(buf), 0) > 0)
		if (send(fd, buf, sizeof(struct fh_cqe), MSG_NOSIGNAL) < 0)
			break;
	return NULL;
}

static void socket_batch(int fd, bool pause, uint32_t *ns)
{
	char buf[FH_SQ_ENTRY_BYTES] = {0};

	for (int i = 0; i < BATCH; i++) {
		uint64_t begin;

		if (pause)
			usleep(PAUSE_US);
		begin = fh_now_ns();
		cr_assert_eq(send(fd, buf, sizeof(buf), 0), (ssize_t)sizeof(buf));
		cr_assert_eq(recv(fd, buf, sizeof(buf), 0), (ssize_t)sizeof(struct fh_cqe));
		ns[i] = (uint32_t)(fh_now_ns() - begin);
	}
}

static void channel_batch(struct client *c, bool pause, uint32_t *ns)
{
	struct fh_req_desc d = client_desc(1, 0, 1, 1);
	struct fh_cqe e;

	c->how = pause ? CLIENT_FUTEX : CLIENT_SPIN;
	for (int i = 0; i < BATCH; i++) {
		uint64_t begin;

		if (pause)
			usleep(PAUSE_US);
		begin = fh_now_ns();
		client_submit(c, &d);
		cr_assert(client_next(c, &e));
		ns[i] = (uint32_t)(fh_now_ns() - begin);
		cr_assert(!e.error && e.slot.flags & FH_SLOT_LAST);
	}
}

static double median_us(uint32_t *ns, size_t n)
{
	sort_times(ns, n);
	return ns[n / 2] / 1000.0;
}

int main(int argc, char **argv)
{
	uint32_t rounds = argc > 2 ? (uint32_t)atoi(argv[2]) : 20000, n = 0, *ns[2][2];
	double us[2][2]; /* [pause][channel] */
	bool bad;
	struct server s = {0};
	pthread_t echo;
	struct client c;
	int fd[2];

	if (argc < 2 || rounds < BATCH || rounds > MAX_ROUNDS) {
		fprintf(stderr, "usage: chan_rtt MODEL.gguf [ROUNDS, %d to %d]\n", BATCH, MAX_ROUNDS);
		return 2;
	}
	fh_log_setup(FH_LOG_ERROR, false);
	up(&s, argv[1]);
	client_open(&c, fh_chans_url(s.f), 8, 64, 4096);
	client_arena(&c)[0] = 5;
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd), 0);
	cr_assert_eq(pthread_create(&echo, NULL, echo_main, &fd[1]), 0);
	rounds -= rounds % BATCH;
	for (int i = 0; i < 4; i++) {
		ns[i / 2][i % 2] = calloc(rounds, sizeof(uint32_t));
		cr_assert(ns[i / 2][i % 2]);
	}
	for (n = 0; n < rounds; n += BATCH) {
		for (int pause = 0; pause < 2; pause++) {
			channel_batch(&c, pause, ns[pause][1] + n);
			socket_batch(fd[0], pause, ns[pause][0] + n);
		}
	}
	for (int i = 0; i < 4; i++)
		us[i / 2][i % 2] = median_us(ns[i / 2][i % 2], rounds);
	printf("%u round trips of each kind; medians\n"
	       "spinning: channel %.2f us, Unix socket %.2f us: %.1f times faster\n"
	       "sleeping: channel %.2f us, Unix socket %.2f us: %.2f times faster\n",
	       rounds, us[0][1], us[0][0], us[0][0] / us[0][1], us[1][1], us[1][0], us[1][0] / us[1][1]);
	bad = us[0][0] < 5 * us[0][1] || us[1][1] > us[1][0];
	shutdown(fd[0], SHUT_RDWR);
	pthread_join(echo, NULL);
	client_close(&c);
	down(&s);
	for (int i = 0; i < 4; i++)
		free(ns[i / 2][i % 2]);
	return bad;
}
