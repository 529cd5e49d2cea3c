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

#include "runtime/accel/accel.h"
#include "runtime/base/log.h"
#include "runtime/engine/engine.h"
#include "runtime/model/model.h"
#include "runtime/net/chan.h"
#include "tests/unit/chan_client.h"

enum { BATCH = 200, MAX_ROUNDS = 1 << 20, PAUSE_US = 100 }; /* the engine spins for 20 us */

struct server {
	struct fh_model *m;
	struct fh_tokenizer *tok;
	struct fh_accel *a;
	struct fh_engine *e;
	struct fh_chans *f;
	struct fh_service svc;
	char dir[32], path[64];
};

static int do_submit(void *ctx, struct fh_request *r, uint32_t *retry_after_ms, struct fh_err *err)
{
	return fh_engine_submit(ctx, r, retry_after_ms, err);
}

static void do_kick(void *ctx)
{
	fh_engine_kick(ctx);
}

static void must(int rc, const struct fh_err *err)
{
	if (!rc)
		return;
	fprintf(stderr, "chan_rtt: %s\n", err->msg);
	exit(2);
}

static void up(struct server *s, const char *model)
{
	struct fh_accel_config ac = {.max_seqs = 8, .max_tokens = 64, .max_logits = 8, .max_blocks_per_seq = 8};
	struct fh_engine_config ec = {
		.nr_blocks = 64, .max_seqs = 8, .max_step_tokens = 64, .max_queue = 64, .nr_ctx = 256};
	struct fh_chans_config cc = {.max_channels = 4};
	struct fh_err err = {0};
	char path[512];

	snprintf(path, sizeof(path), "null:%s", model);
	must(fh_model_open(path, &s->m, &err), &err);
	must(fh_tokenizer_open(s->m->gguf, &s->tok, &err), &err);
	must(fh_accel_null.open(&ac, &s->a, &err), &err);
	must(s->a->ops->load(s->a, s->m, &err), &err);
	must(s->a->ops->kv_alloc(s->a, ec.nr_blocks, &err), &err);
	ec.accel = s->a;
	ec.tok = s->tok;
	must(fh_engine_create(&ec, &s->e, &err), &err);
	s->svc = (struct fh_service){.ctx = s->e, .submit = do_submit, .kick = do_kick};
	strcpy(s->dir, "/tmp/fhrttXXXXXX");
	if (!mkdtemp(s->dir))
		exit(2);
	snprintf(s->path, sizeof(s->path), "%s/sock", s->dir);
	cc.unix_path = s->path;
	must(fh_chans_create(&cc, &s->svc, &s->f, &err), &err);
	must(fh_engine_attach(s->e, fh_chans_frontend(s->f), &err), &err);
	must(fh_engine_start(s->e, &err), &err);
	must(fh_chans_start(s->f, &err), &err);
}

static void down(struct server *s)
{
	fh_chans_stop(s->f, 1000);
	fh_engine_stop(s->e, 0);
	fh_engine_detach(s->e, fh_chans_frontend(s->f));
	fh_chans_destroy(s->f);
	fh_engine_destroy(s->e);
	s->a->ops->close(s->a);
	fh_tokenizer_close(s->tok);
	fh_model_close(s->m);
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

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static double median_us(uint32_t *ns, size_t n)
{
	qsort(ns, n, sizeof(*ns), compare);
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
