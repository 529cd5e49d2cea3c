// SPDX-License-Identifier: Apache-2.0
/*
 * loadgen: drives an OpenAI-style HTTP server and says how fast it answered.
 *
 * A closed loop: each of C keep-alive connections has one request outstanding,
 * so latency is measured from the moment of sending and throughput is what the
 * server sustains at that concurrency.  (It is no tool for a given rate of
 * arrivals: a slow answer delays the next question.)  Every request has a prompt
 * of its own that differs from its first word on, so that no prefix cache can
 * answer for the model.
 *
 * One thread, epoll, one recv and a scan for line ends a wake-up: a few
 * microseconds a token at most, and it reports the processor time that it took
 * itself.  It uses nothing of the runtime, so that a mistake there cannot hide
 * here.  All memory is allocated at the start, but for growing request buffers.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "tests/perf/loadgen_answer.h"
#include "tests/perf/loadgen_stats.h"

enum {
	MAX_CONNECTIONS = 16384,
	MAX_REQUESTS = 10 * 1000 * 1000,
	MAX_PROMPT = 1 << 20,
	RECV_BYTES = 256 * 1024,
	GIVE_UP_AFTER = 1000, /* failures in a row */
};

struct options {
	const char *url, *path, *model;
	uint32_t connections, requests, warmup;
	uint32_t prompt_bytes, max_tokens;
	uint32_t limit_s;
	bool stream, vary, same, json, usage;
};

enum state { IDLE, CONNECTING, SENDING, WAITING };

struct conn {
	int fd; /* -1: closed */
	enum state state;
	bool measured, wants_out;
	bool reused; /* it has carried an answer before */
	bool again;  /* the request in req is to be sent once more */
	char *req;   /* ours */
	size_t req_len, req_sent, req_cap;
	uint64_t sent_ns;
	struct answer answer;
};

struct loadgen {
	struct options o;
	char host[256];
	struct sockaddr_storage addr;
	socklen_t addr_len;
	int ep;
	struct conn *conn;
	char *buf; /* RECV_BYTES */
	uint64_t *latency_ns, *ttft_ns;
	uint32_t started, finished, recorded, failed, failures_in_row, reconnects;
	uint64_t tokens, events, begin_ns, end_ns;
	uint64_t rng;
	struct hist gaps;
	char first_error[256];
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t rnd(struct loadgen *g)
{
	uint64_t z = g->rng += 0x9e3779b97f4a7c15; /* splitmix64 */

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

/* What went wrong, once: the first is the one worth reading. */
static void __attribute__((format(printf, 2, 3))) failure(struct loadgen *g, const char *fmt, ...)
{
	va_list ap;

	if (g->first_error[0])
		return;
	va_start(ap, fmt);
	vsnprintf(g->first_error, sizeof(g->first_error), fmt, ap);
	va_end(ap);
}

/* A piece of a story, @n bytes: letters, spaces and stops only, so it needs no escapes in JSON. */
static size_t story(struct loadgen *g, char *out, size_t n)
{
	static const char *const words[64] = {
		"once",	  "there",  "was",   "a",	"little", "girl",    "named", "Lily",	"who",	 "loved",
		"to",	  "play",   "in",    "the",	"park",	  "with",    "her",   "red",	"ball",	 "one",
		"day",	  "she",    "saw",   "big",	"dog",	  "and",     "they",  "ran",	"under", "tree",
		"then",	  "it",	    "began", "rain",	"so",	  "went",    "home",  "mother", "said",	 "warm",
		"milk",	  "bird",   "sang",  "song",	"Tom",	  "found",   "shiny", "stone",	"near",	 "river",
		"friend", "smiled", "happy", "garden",	"full",	  "flowers", "blue",  "sky",	"cat",	 "slept",
		"all",	  "night",  "again", "morning",
	};
	size_t at = 0;
	uint64_t bits = 0;

	for (int k = 0; at < n; k++) {
		const char *w;

		if (k % 10 == 0)
			bits = rnd(g);
		w = words[bits & 63];
		bits >>= 6;
		while (*w && at < n)
			out[at++] = *w++;
		if (k % 12 == 11 && at < n)
			out[at++] = '.';
		if (at < n)
			out[at++] = ' ';
	}
	return at;
}

/* Write the next request into @c->req. False: no memory. */
static bool build_request(struct loadgen *g, struct conn *c)
{
	const struct options *o = &g->o;
	bool chat = strstr(o->path, "chat") != NULL;
	const char *limit = strcmp(o->path, "/completion") ? "max_tokens" : "n_predict";
	size_t n = o->prompt_bytes, cap, at, body, head;
	char *text;

	if (o->vary)
		n = n / 2 + rnd(g) % (n + 1);
	cap = n + 1024 + strlen(o->model) + strlen(o->path) + strlen(g->host);
	if (cap > c->req_cap) {
		free(c->req);
		c->req_cap = 2 * cap;
		c->req = malloc(c->req_cap);
		if (!c->req) {
			c->req_cap = 0;
			return false;
		}
	}
	if (o->same)
		g->rng = 1;
	/* The body goes where the longest head would end, then the head right before it. */
	head = cap - n - 512;
	text = c->req + head;
	at = (size_t)sprintf(text, "{%s%s%s", *o->model ? "\"model\":\"" : "", o->model, *o->model ? "\"," : "");
	at += (size_t)sprintf(text + at, chat ? "\"messages\":[{\"role\":\"user\",\"content\":\"" : "\"prompt\":\"");
	at += story(g, text + at, n);
	at += (size_t)sprintf(text + at, "\"%s,\"%s\":%u,\"temperature\":0,\"ignore_eos\":true,\"stream\":%s%s}",
			      chat ? "}]" : "", limit, o->max_tokens, o->stream ? "true" : "false",
			      o->usage && o->stream ? ",\"stream_options\":{\"include_usage\":true}" : "");
	body = at;
	at = (size_t)snprintf(
		c->req, head,
		"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
		o->path, g->host, body);
	memmove(c->req + at, text, body);
	c->req_len = at + body;
	c->req_sent = 0;
	return true;
}

static void watch(struct loadgen *g, struct conn *c, bool out)
{
	struct epoll_event ev = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};

	if (c->wants_out == out)
		return;
	c->wants_out = out;
	epoll_ctl(g->ep, EPOLL_CTL_MOD, c->fd, &ev);
}

static bool conn_open(struct loadgen *g, struct conn *c)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
	int one = 1;

	c->fd = socket(g->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0) {
		failure(g, "socket: %s", strerror(errno));
		return false;
	}
	if (g->addr.ss_family != AF_UNIX)
		setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(c->fd, (struct sockaddr *)&g->addr, g->addr_len) && errno != EINPROGRESS) {
		failure(g, "connect: %s", strerror(errno));
		close(c->fd);
		c->fd = -1;
		return false;
	}
	c->state = CONNECTING;
	c->wants_out = true;
	if (epoll_ctl(g->ep, EPOLL_CTL_ADD, c->fd, &ev)) {
		failure(g, "epoll_ctl: %s", strerror(errno));
		close(c->fd);
		c->fd = -1;
		return false;
	}
	return true;
}

static void conn_close(struct conn *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->reused = false;
	c->state = IDLE;
}

static void conn_fail(struct loadgen *g, struct conn *c);

/*
 * A connection that carried an answer before and breaks ahead of the first byte
 * of the next was closed by the server between the two: the request is sent
 * again on a new one (RFC 9112, 9.3.1), and its time runs on.  False: not so.
 */
static bool conn_retry(struct loadgen *g, struct conn *c)
{
	if (!c->reused || c->answer.state != HEAD || c->answer.head_len)
		return false;
	conn_close(c);
	if (!conn_open(g, c))
		return false;
	g->reconnects++;
	c->again = true;
	c->req_sent = 0;
	return true;
}

static void push(struct loadgen *g, struct conn *c)
{
	while (c->req_sent < c->req_len) {
		ssize_t k = send(c->fd, c->req + c->req_sent, c->req_len - c->req_sent, MSG_NOSIGNAL);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0 && errno == EAGAIN) {
			watch(g, c, true);
			return;
		}
		if (k < 0 && conn_retry(g, c))
			return;
		if (k < 0) {
			failure(g, "send: %s", strerror(errno));
			conn_fail(g, c);
			return;
		}
		c->req_sent += (size_t)k;
	}
	watch(g, c, false);
	c->state = WAITING;
}

/* Send the next request on @c, or let it rest when all have been given out. */
static void conn_next(struct loadgen *g, struct conn *c)
{
	if (g->started == g->o.requests + g->o.warmup) {
		conn_close(c);
		return;
	}
	if (c->fd < 0) {
		if (!conn_open(g, c))
			conn_fail(g, c);
		return;
	}
	if (!build_request(g, c)) {
		failure(g, "no memory");
		conn_close(c);
		g->failures_in_row = GIVE_UP_AFTER;
		return;
	}
	c->measured = g->started++ >= g->o.warmup;
	c->state = SENDING;
	answer_reset(&c->answer, c->measured ? &g->gaps : NULL);
	c->sent_ns = now_ns();
	if (c->measured && !g->begin_ns)
		g->begin_ns = c->sent_ns;
	push(g, c);
}

/* The request on @c is lost; start afresh. */
static void conn_fail(struct loadgen *g, struct conn *c)
{
	bool asked = c->again || (c->state != CONNECTING && c->state != IDLE);

	c->again = false;
	conn_close(c);
	if (asked)
		g->finished++;
	if (++g->failures_in_row < GIVE_UP_AFTER)
		conn_next(g, c);
}

/* The answer on @c is complete. */
static void conn_done(struct loadgen *g, struct conn *c, uint64_t now)
{
	const struct answer *a = &c->answer;

	g->finished++;
	if (a->status == 200) {
		g->failures_in_row = 0;
		if (c->measured) {
			g->latency_ns[g->recorded] = now - c->sent_ns;
			g->ttft_ns[g->recorded++] = (a->first_ns ? a->first_ns : now) - c->sent_ns;
			g->tokens += a->usage ? a->usage : a->events;
			g->events += a->events;
			g->end_ns = now;
		}
	} else {
		failure(g, "status %d: %.*s", a->status, (int)(a->line_len < 200 ? a->line_len : 200), a->line);
		g->failures_in_row++;
	}
	c->reused = true;
	if (a->closes)
		conn_close(c);
	if (g->failures_in_row < GIVE_UP_AFTER)
		conn_next(g, c);
	else
		conn_close(c);
}

static void on_readable(struct loadgen *g, struct conn *c)
{
	ssize_t k = recv(c->fd, g->buf, RECV_BYTES, 0);
	uint64_t now = now_ns();

	if (k < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (k > 0 && !answer_take(&c->answer, g->buf, (size_t)k, now)) {
		failure(g, "malformed answer, near: %.100s", c->answer.head);
		conn_fail(g, c);
		return;
	}
	if (k <= 0 && (k < 0 || !answer_eof(&c->answer, now))) {
		if (conn_retry(g, c))
			return;
		failure(g, "connection lost: %s", k ? strerror(errno) : "closed by the server");
		conn_fail(g, c);
		return;
	}
	if (c->answer.state == DONE)
		conn_done(g, c, now);
}

static void on_connected(struct loadgen *g, struct conn *c)
{
	int soerr = 0;
	socklen_t len = sizeof(soerr);

	getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &soerr, &len);
	if (soerr) {
		failure(g, "connect: %s", strerror(soerr));
		conn_fail(g, c);
		return;
	}
	if (!c->again) {
		conn_next(g, c);
		return;
	}
	c->again = false;
	c->state = SENDING;
	push(g, c);
}

/* Until all requests are answered, time is up, or nothing works. */
static void drive(struct loadgen *g)
{
	uint64_t deadline = now_ns() + (uint64_t)g->o.limit_s * 1000000000;
	struct epoll_event ev[256];

	for (uint32_t i = 0; i < g->o.connections; i++) {
		g->conn[i].state = IDLE;
		g->conn[i].fd = -1;
	}
	for (uint32_t i = 0; i < g->o.connections; i++)
		conn_next(g, &g->conn[i]);
	while (g->finished < g->o.requests + g->o.warmup && g->failures_in_row < GIVE_UP_AFTER) {
		int n = epoll_wait(g->ep, ev, 256, 1000);

		for (int i = 0; i < n; i++) {
			struct conn *c = ev[i].data.ptr;

			if (c->fd >= 0 && c->state == CONNECTING)
				on_connected(g, c);
			else if (c->fd >= 0 && (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
				on_readable(g, c);
			else if (c->fd >= 0 && (ev[i].events & EPOLLOUT) && c->state == SENDING)
				push(g, c);
		}
		if (now_ns() > deadline) {
			failure(g, "time is up (--limit %u s)", g->o.limit_s);
			break;
		}
	}
	if (!g->end_ns)
		g->end_ns = now_ns();
	g->failed = g->o.requests - g->recorded; /* those never answered failed too */
}

static void print_row(const struct loadgen *g, const char *name, const char *key, const struct summary *s)
{
	if (g->o.json)
		printf(",\n \"mean_%s_ms\": %.4f, \"median_%s_ms\": %.4f, \"p90_%s_ms\": %.4f, \"p99_%s_ms\": %.4f, "
		       "\"p99.9_%s_ms\": %.4f, \"max_%s_ms\": %.4f",
		       key, s->mean, key, s->p50, key, s->p90, key, s->p99, key, s->p999, key, s->max);
	else
		printf("%-14s p50 %9.3f  p90 %9.3f  p99 %9.3f  p99.9 %9.3f  max %9.3f ms\n", name, s->p50, s->p90,
		       s->p99, s->p999, s->max);
}

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void report(struct loadgen *g)
{
	double s = (double)(g->end_ns - g->begin_ns) / 1e9, cpu = cpu_seconds();
	struct summary latency = summarise(g->latency_ns, g->recorded), ttft = summarise(g->ttft_ns, g->recorded),
		       gap = {0};
	const struct hist *h = &g->gaps;

	if (h->total)
		gap = (struct summary){.mean = h->sum / (double)h->total / 1e6,
				       .p50 = hist_quantile_ns(h, 0.5) / 1e6,
				       .p90 = hist_quantile_ns(h, 0.9) / 1e6,
				       .p99 = hist_quantile_ns(h, 0.99) / 1e6,
				       .p999 = hist_quantile_ns(h, 0.999) / 1e6,
				       .max = (double)h->max / 1e6};
	if (s <= 0)
		s = 1e-9;
	if (g->o.json) {
		printf("{\"connections\": %u, \"duration\": %.6f, \"completed\": %u, \"failed\": %u,\n"
		       " \"total_output_tokens\": %" PRIu64 ", \"events\": %" PRIu64
		       ", \"request_throughput\": %.2f, \"output_throughput\": %.2f, \"reconnects\": %u, "
		       "\"client_cpu_s\": %.4f",
		       g->o.connections, s, g->recorded, g->failed, g->tokens, g->events, g->recorded / s,
		       (double)g->tokens / s, g->reconnects, cpu);
	} else {
		printf("%u connections: %u answers in %.3f s, %u failed; %.1f requests/s, %.1f tokens/s "
		       "(%" PRIu64 " tokens, %" PRIu64 " events); %u reconnects; own CPU %.3f s\n",
		       g->o.connections, g->recorded, s, g->failed, g->recorded / s, (double)g->tokens / s, g->tokens,
		       g->events, g->reconnects, cpu);
	}
	print_row(g, "latency", "e2el", &latency);
	if (g->o.stream) {
		print_row(g, "first token", "ttft", &ttft);
		print_row(g, "between", "itl", &gap);
	}
	if (g->o.json)
		printf("}\n");
	if (g->first_error[0])
		fprintf(stderr, "loadgen: first failure: %s\n", g->first_error);
}

/* http://HOST:PORT or unix:PATH */
static bool resolve(struct loadgen *g)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
	struct sockaddr_un *un = (struct sockaddr_un *)&g->addr;
	const char *s = g->o.url;
	char host[200], port[16] = "80";
	int rc;

	if (!strncmp(s, "unix:", 5)) {
		if (strlen(s + 5) >= sizeof(un->sun_path))
			return false;
		un->sun_family = AF_UNIX;
		strcpy(un->sun_path, s + 5);
		g->addr_len = sizeof(*un);
		strcpy(g->host, "localhost");
		return true;
	}
	if (strncmp(s, "http://", 7))
		return false;
	if (sscanf(s + 7, "[%199[^]]]:%15[0-9]", host, port) < 1 && sscanf(s + 7, "%199[^:/]:%15[0-9]", host, port) < 1)
		return false;
	rc = getaddrinfo(host, port, &hints, &found);
	if (rc) {
		fprintf(stderr, "loadgen: %s: %s\n", host, gai_strerror(rc));
		return false;
	}
	memcpy(&g->addr, found->ai_addr, found->ai_addrlen);
	g->addr_len = found->ai_addrlen;
	freeaddrinfo(found);
	snprintf(g->host, sizeof(g->host), "%s:%s", host, port);
	return true;
}

static void usage(FILE *f)
{
	fputs("usage: loadgen --url http://HOST:PORT|unix:PATH [options]\n\n"
	      "Keeps connections busy with completions, one request each at a time, and reports latency.\n\n"
	      "  --connections C         (1)\n"
	      "  --requests N            measured ones (1000)\n"
	      "  --warmup N              before them, not measured (0)\n"
	      "  --prompt-tokens-ish B   bytes of prompt (200); each request has its own text\n"
	      "  --vary                  and its own length, half to one and a half times as long\n"
	      "  --same                  one prompt for all, to measure a prefix cache\n"
	      "  --max-tokens T          (16)\n"
	      "  --stream 0|1            (0)\n"
	      "  --usage                 ask for token counts in streams\n"
	      "  --model NAME            (none)\n"
	      "  --path PATH             /v1/completions, /v1/chat/completions or llama-server's /completion\n"
	      "  --limit S               give up after so many seconds (600)\n"
	      "  --json\n\n"
	      "example:\n"
	      "  loadgen --url http://127.0.0.1:8080 --connections 8 --requests 2000 --max-tokens 64 --stream 1\n",
	      f);
}

/* A number of @min to @max into *@out, or the end. */
static bool number(const char *name, const char *text, uint32_t min, uint32_t max, uint32_t *out)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (end == text || *end || *text == '-' || v < min || v > max) {
		fprintf(stderr, "loadgen: --%s %s: want a number from %u to %u\n", name, text, min, max);
		return false;
	}
	*out = (uint32_t)v;
	return true;
}

static int parse_args(struct options *o, int argc, char **argv)
{
	enum {
		URL = 256,
		CONNS,
		REQS,
		WARMUP,
		PROMPT,
		TOKENS,
		STREAM,
		LIMIT,
		MODEL,
		PATH,
		VARY,
		SAME,
		JSON,
		USAGE,
		HELP
	};
	static const struct option opts[] = {
		{"url", 1, NULL, URL},
		{"connections", 1, NULL, CONNS},
		{"requests", 1, NULL, REQS},
		{"warmup", 1, NULL, WARMUP},
		{"prompt-tokens-ish", 1, NULL, PROMPT},
		{"max-tokens", 1, NULL, TOKENS},
		{"stream", 1, NULL, STREAM},
		{"limit", 1, NULL, LIMIT},
		{"model", 1, NULL, MODEL},
		{"path", 1, NULL, PATH},
		{"vary", 0, NULL, VARY},
		{"same", 0, NULL, SAME},
		{"json", 0, NULL, JSON},
		{"usage", 0, NULL, USAGE},
		{"help", 0, NULL, HELP},
		{0},
	};
	uint32_t stream = 0;
	int opt, at;

	while ((opt = getopt_long(argc, argv, "", opts, &at)) != -1) {
		bool ok = true;

		switch (opt) {
		case URL: o->url = optarg; break;
		case MODEL: o->model = optarg; break;
		case PATH: o->path = optarg; break;
		case CONNS: ok = number(opts[at].name, optarg, 1, MAX_CONNECTIONS, &o->connections); break;
		case REQS: ok = number(opts[at].name, optarg, 1, MAX_REQUESTS, &o->requests); break;
		case WARMUP: ok = number(opts[at].name, optarg, 0, MAX_REQUESTS, &o->warmup); break;
		case PROMPT: ok = number(opts[at].name, optarg, 1, MAX_PROMPT, &o->prompt_bytes); break;
		case TOKENS: ok = number(opts[at].name, optarg, 1, 1 << 20, &o->max_tokens); break;
		case STREAM: ok = number(opts[at].name, optarg, 0, 1, &stream); break;
		case LIMIT: ok = number(opts[at].name, optarg, 1, 86400, &o->limit_s); break;
		case VARY: o->vary = true; break;
		case SAME: o->same = true; break;
		case JSON: o->json = true; break;
		case USAGE: o->usage = true; break;
		case HELP: usage(stdout); return 1;
		default: ok = false;
		}
		if (!ok)
			return 2;
	}
	o->stream = stream;
	if (!o->url || optind != argc || strpbrk(o->model, "\"\\")) {
		usage(stderr);
		return 2;
	}
	return 0;
}

static bool setup(struct loadgen *g)
{
	struct rlimit files;

	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	g->ep = epoll_create1(EPOLL_CLOEXEC);
	g->conn = calloc(g->o.connections, sizeof(*g->conn));
	g->buf = malloc(RECV_BYTES);
	g->latency_ns = calloc(g->o.requests, sizeof(uint64_t));
	g->ttft_ns = calloc(g->o.requests, sizeof(uint64_t));
	/* Another run, another series of prompts: the server may have kept the last one's. */
	g->rng = now_ns() ^ ((uint64_t)getpid() << 32);
	return g->ep >= 0 && g->conn && g->buf && g->latency_ns && g->ttft_ns;
}

int main(int argc, char **argv)
{
	static struct loadgen g = {.o = {.path = "/v1/completions",
					 .model = "",
					 .connections = 1,
					 .requests = 1000,
					 .prompt_bytes = 200,
					 .max_tokens = 16,
					 .limit_s = 600}};
	int rc = parse_args(&g.o, argc, argv);

	if (rc)
		return rc == 1 ? 0 : 2;
	if (!resolve(&g)) {
		fprintf(stderr, "loadgen: --url %s: want http://HOST:PORT or unix:PATH\n", g.o.url);
		return 2;
	}
	if (!setup(&g)) {
		fprintf(stderr, "loadgen: cannot start: %s\n", strerror(errno));
		return 1;
	}
	drive(&g);
	report(&g);
	for (uint32_t i = 0; i < g.o.connections; i++) {
		conn_close(&g.conn[i]);
		free(g.conn[i].req);
	}
	free(g.conn);
	free(g.buf);
	free(g.latency_ns);
	free(g.ttft_ns);
	close(g.ep);
	return g.failed ? 1 : 0;
}
