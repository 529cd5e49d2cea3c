// SPDX-License-Identifier: Apache-2.0
/*
 * What a request over UDP costs, beside a datagram that is echoed.
 *
 *   udp_rtt MODEL.gguf [ROUNDS]
 *
 * A request is one token in, one token out, with the null model over MODEL's
 * vocabulary: everything but the model, by way of libfreehold, the loopback and
 * the front end on io_uring.  The peer is a thread that answers each datagram of
 * that size with one of a token's packet's size, by recvfrom() and sendto(): the
 * least that any server on a kernel's UDP socket costs, before it has looked at
 * anything, and without a cipher.  Batches of both take turns, so that they meet
 * the same machine.
 *
 * Twice: one at a time, where latency is counted; and DEPTH at a time, where
 * requests a second are.  No verdict: two cores are shared by three threads, and
 * the figures say how.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/lib/freehold.h"
#include "runtime/net/udp.h"
#include "runtime/wire/crypt.h"
#include "tests/perf/null_engine.h"

enum { BATCH = 500, MAX_ROUNDS = 1 << 20, DEPTH = 32, REQUEST_BYTES = 62 + 128 + 4, ANSWER_BYTES = 62 + 16 };

struct server {
	struct null_engine n;
	struct fh_udp *u;
	char dir[32], server_key[64], client_key[64], clients[64];
};

static void write_file(const char *path, const char *a, const char *b)
{
	FILE *f = fopen(path, "w");

	if (!f || fprintf(f, "%s%s\n", a, b) < 0 || fclose(f))
		die("a key cannot be written");
}

static void make_keys(struct server *s)
{
	char secret[FHW_KEY_TEXT], public[FHW_KEY_TEXT];
	struct fhw_keypair k;
	uint8_t raw[FHW_KEY_BYTES];

	strcpy(s->dir, "/tmp/fhrttXXXXXX");
	if (!mkdtemp(s->dir) || fhw_crypt_init())
		die("no folder for the keys");
	snprintf(s->server_key, sizeof(s->server_key), "%s/server", s->dir);
	snprintf(s->client_key, sizeof(s->client_key), "%s/client", s->dir);
	snprintf(s->clients, sizeof(s->clients), "%s/clients", s->dir);
	for (int i = 0; i < 2; i++) {
		randombytes_buf(raw, sizeof(raw));
		fhw_keypair_from(raw, &k);
		fhw_key_text(raw, secret);
		write_file(i ? s->client_key : s->server_key, "", secret);
	}
	fhw_key_text(k.public, public);
	write_file(s->clients, "client ", public);
}

static void up(struct server *s, const char *model)
{
	struct fh_udp_config uc = {.listen = "127.0.0.1:0"};
	struct fh_err err = {0};

	make_keys(s);
	uc.key_file = s->server_key;
	uc.clients_file = s->clients;
	null_engine_open(&s->n, model, 64, 256);
	must(fh_udp_create(&uc, &s->n.svc, &s->u, &err), &err);
	null_engine_start(&s->n, fh_udp_frontend(s->u, 0));
	must(fh_udp_start(s->u, &err), &err);
}

static void down(struct server *s)
{
	fh_udp_stop(s->u, 1000);
	null_engine_stop(&s->n, fh_udp_frontend(s->u, 0));
	fh_udp_destroy(s->u);
	null_engine_close(&s->n);
	unlink(s->server_key);
	unlink(s->client_key);
	unlink(s->clients);
	rmdir(s->dir);
}

/* ---- the peer ---- */

static void *echo_main(void *arg)
{
	int fd = *(int *)arg;
	char buf[REQUEST_BYTES];
	struct sockaddr_in from;
	socklen_t n = sizeof(from);

	while (recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &n) > 1)
		if (sendto(fd, buf, ANSWER_BYTES, 0, (struct sockaddr *)&from, n) < 0)
			break;
	return NULL;
}

static int echo_socket(int to)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(a);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || (to >= 0 && getsockname(to, (struct sockaddr *)&a, &n)))
		die("no socket");
	if (to < 0 ? bind(fd, (struct sockaddr *)&a, n) : connect(fd, (struct sockaddr *)&a, n))
		die("no socket");
	return fd;
}

static void echo_batch(int fd, uint32_t *ns)
{
	char buf[REQUEST_BYTES] = {0};

	for (int i = 0; i < BATCH; i++) {
		uint64_t begin = fh_now_ns();

		if (send(fd, buf, REQUEST_BYTES, 0) < 0 || recv(fd, buf, sizeof(buf), 0) != ANSWER_BYTES)
			die("the echo does not answer");
		ns[i] = (uint32_t)(fh_now_ns() - begin);
	}
}

static uint64_t echo_flood(int fd, uint32_t nr)
{
	char buf[REQUEST_BYTES] = {0};
	uint64_t begin = fh_now_ns();
	uint32_t sent = 0;

	for (uint32_t got = 0; got < nr; got++) {
		for (; sent < nr && sent - got < DEPTH; sent++)
			if (send(fd, buf, REQUEST_BYTES, 0) < 0)
				die("the echo does not answer");
		if (recv(fd, buf, sizeof(buf), 0) != ANSWER_BYTES)
			die("the echo does not answer");
	}
	return fh_now_ns() - begin;
}

/* ---- requests ---- */

static void ask(struct fh_client *c)
{
	static const uint32_t id = 5;
	struct fh_params p;

	fh_params_init(&p);
	p.max_tokens = 1;
	p.flags = FH_REQ_IGNORE_EOS;
	if (fh_generate(c, &id, 1, &p, NULL))
		die(fh_error_message(c));
}

static void take(struct fh_client *c)
{
	struct fh_token t;

	if (fh_next_token(c, &t, 5000000) || t.error || !(t.flags & FH_SLOT_LAST))
		die(fh_error_message(c));
}

static void udp_batch(struct fh_client *c, uint32_t *ns)
{
	for (int i = 0; i < BATCH; i++) {
		uint64_t begin = fh_now_ns();

		ask(c);
		take(c);
		ns[i] = (uint32_t)(fh_now_ns() - begin);
	}
}

static uint64_t udp_flood(struct fh_client *c, uint32_t nr)
{
	uint64_t begin = fh_now_ns();
	uint32_t sent = 0;

	for (uint32_t got = 0; got < nr; got++) {
		for (; sent < nr && sent - got < DEPTH; sent++)
			ask(c);
		take(c);
	}
	return fh_now_ns() - begin;
}

static void print_times(const char *what, uint32_t *ns, uint32_t n)
{
	sort_times(ns, n);
	printf("%-8s median %7.1f us, p99 %7.1f us, p99.9 %7.1f us\n", what, ns[n / 2] / 1000.0,
	       ns[(uint64_t)n * 99 / 100] / 1000.0, ns[(uint64_t)n * 999 / 1000] / 1000.0);
}

int main(int argc, char **argv)
{
	uint32_t rounds = argc > 2 ? (uint32_t)atoi(argv[2]) : 20000, *ns[2];
	uint64_t flood_ns[2] = {0};
	struct fh_open_options o;
	struct server s = {0};
	struct fh_client *c;
	pthread_t echo;
	int fd[2];

	if (argc < 2 || rounds < BATCH || rounds > MAX_ROUNDS) {
		fprintf(stderr, "usage: udp_rtt MODEL.gguf [ROUNDS, %d to %d]\n", BATCH, MAX_ROUNDS);
		return 2;
	}
	fh_log_setup(FH_LOG_ERROR, false);
	up(&s, argv[1]);
	fh_open_options_init(&o);
	o.udp_key_file = s.client_key;
	if (fh_open(fh_udp_url(s.u), &o, &c))
		die(fh_error_message(c));
	fd[0] = echo_socket(-1);
	fd[1] = echo_socket(fd[0]);
	if (pthread_create(&echo, NULL, echo_main, &fd[0]))
		die("no thread");
	rounds -= rounds % BATCH;
	for (int i = 0; i < 2; i++) {
		ns[i] = calloc(rounds, sizeof(uint32_t));
		if (!ns[i])
			die("no memory");
	}
	for (uint32_t n = 0; n < rounds; n += BATCH) {
		udp_batch(c, ns[1] + n);
		echo_batch(fd[1], ns[0] + n);
		flood_ns[1] += udp_flood(c, BATCH);
		flood_ns[0] += echo_flood(fd[1], BATCH);
	}
	printf("%u of each, one at a time\n", rounds);
	print_times("request", ns[1], rounds);
	print_times("echo", ns[0], rounds);
	printf("medians: %.2f times the echo\n", (double)ns[1][rounds / 2] / ns[0][rounds / 2]);
	printf("%u of each, %d at a time: %.0f requests a second, %.0f echoes: %.2f of the echo\n", rounds, DEPTH,
	       rounds * 1e9 / (double)flood_ns[1], rounds * 1e9 / (double)flood_ns[0],
	       (double)flood_ns[0] / (double)flood_ns[1]);
	if (send(fd[1], "", 1, 0) == 1)
		pthread_join(echo, NULL);
	fh_close(c);
	down(&s);
	free(ns[0]);
	free(ns[1]);
	return 0;
}
