// SPDX-License-Identifier: Apache-2.0
/*
 * One request after the other to servers that run side by side, each in turn, on a
 * connection of its own: what one of them takes longer is seen in pairs of requests
 * that were milliseconds apart, whatever else the machine did.
 *
 *   audit_pairs CPU ROUNDS BLOCK PORT[:KEY]...
 *
 * Pins itself to CPU (-1: not).  A round is BLOCK requests of one token to each server,
 * in an order that changes from round to round.  Prints the nanoseconds from the first byte
 * sent to the last one read, a line a request of a block, in the order of the ports.
 *
 * With BLOCK 1 each request finds the caches as the other servers left them.  With more the
 * first WARM of a block are not printed: from there on a server has them to itself, as the
 * only server of a host has.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_SERVERS = 8, MAX_BLOCK = 256, WARM = 4 };

struct server {
	int fd;
	char request[1024];
	size_t n;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void open_server(struct server *s, const char *arg)
{
	static const char body[] = "{\"prompt\":\"Once upon a time there was a little girl\",\"max_tokens\":1,"
				   "\"temperature\":0,\"ignore_eos\":true}";
	const char *key = strchr(arg, ':');
	struct sockaddr_in to = {.sin_family = AF_INET,
				 .sin_port = htons((uint16_t)atoi(arg)),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int on = 1;

	s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s->fd < 0 || connect(s->fd, (struct sockaddr *)&to, sizeof(to)))
		die(arg);
	setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	s->n = (size_t)snprintf(s->request, sizeof(s->request),
				"POST /v1/completions HTTP/1.1\r\nHost: x\r\n%s%s%sContent-Type: application/json\r\n"
				"Content-Length: %zu\r\n\r\n%s",
				key ? "Authorization: Bearer " : "", key ? key + 1 : "", key ? "\r\n" : "",
				sizeof(body) - 1, body);
}

/* The whole answer: a head with a length, and so much. */
static void ask(struct server *s)
{
	char answer[16384];
	const char *length, *end = NULL;
	size_t n = 0, want = 0;

	if (write(s->fd, s->request, s->n) != (ssize_t)s->n)
		die("write");
	while (!end || n < want) {
		ssize_t got = read(s->fd, answer + n, sizeof(answer) - 1 - n);

		if (got <= 0)
			die("read");
		n += (size_t)got;
		answer[n] = 0;
		end = end ? end : strstr(answer, "\r\n\r\n");
		length = end && !want ? strcasestr(answer, "content-length:") : NULL;
		if (length)
			want = (size_t)(end - answer) + 4 + (size_t)atol(length + 15);
	}
	if (strncmp(answer, "HTTP/1.1 200", 12)) {
		fprintf(stderr, "%s\n", answer);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	static struct server server[MAX_SERVERS];
	static uint64_t took[MAX_BLOCK][MAX_SERVERS];
	int nr = argc - 4, rounds, block;
	uint64_t begin;
	cpu_set_t set;

	if (nr < 1 || nr > MAX_SERVERS) {
		fprintf(stderr, "usage: audit_pairs CPU ROUNDS BLOCK PORT[:KEY]...\n");
		return 2;
	}
	block = atoi(argv[3]);
	if (block < 1 || block > MAX_BLOCK || (block > 1 && block <= WARM)) {
		fprintf(stderr, "audit_pairs: blocks of 1, or of %d to %d requests\n", WARM + 1, MAX_BLOCK);
		return 2;
	}
	CPU_ZERO(&set);
	if (atoi(argv[1]) >= 0) {
		CPU_SET((size_t)atoi(argv[1]), &set);
		if (sched_setaffinity(0, sizeof(set), &set))
			die("sched_setaffinity");
	}
	rounds = atoi(argv[2]);
	for (int i = 0; i < nr; i++)
		open_server(&server[i], argv[4 + i]);
	for (int r = 0; r < rounds; r++) {
		for (int k = 0; k < nr; k++) {
			/* Each of them is first, and each comes after each, in turn. */
			int i = r / nr % 2 ? (r + nr - k) % nr : (r + k) % nr;

			for (int n = 0; n < block; n++) {
				begin = now_ns();
				ask(&server[i]);
				took[n][i] = now_ns() - begin;
			}
		}
		for (int n = block > 1 ? WARM : 0; n < block; n++)
			for (int i = 0; i < nr; i++)
				printf("%llu%c", (unsigned long long)took[n][i], i == nr - 1 ? '\n' : ' ');
	}
	return 0;
}
