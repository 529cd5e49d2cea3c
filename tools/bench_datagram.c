// SPDX-License-Identifier: Apache-2.0
/*
 * freehold bench datagram: the round trip of a datagram, over a kernel socket
 * and over DPDK, with no protocol, no engine and no model behind it.
 *
 * One process sends back what comes (--echo), another asks (--to).  Every
 * answer is compared with what was asked; what does not come back in time is
 * counted as lost and given up.
 */
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/base/region.h"
#include "runtime/net/dgram_plugin.h"
#include "tools/bench.h"
#include "tools/datagram.h"
#include "tools/device.h"

enum { MIN_BYTES = 16, MAX_WINDOW = 1024, LOST_MS = 200, MAX_QUEUES = 16 };

struct options {
	struct end_options end;
	bool echo, json, tail, metrics;
	uint32_t bytes, count, window, pause_us, seconds, timeout_ms;
};

static _Atomic bool stopped;

static void on_signal(int sig)
{
	(void)sig;
	atomic_store(&stopped, true);
}

static double cpu_s(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* ---- sending back ---- */

struct echo {
	struct end end;
	struct end_options o;
	pthread_t thread;
	_Atomic uint64_t nr;
	int rc;
};

static bool send_back(void *ctx, const uint8_t *data, uint32_t bytes)
{
	struct echo *e = ctx;

	(void)data;
	(void)bytes;
	atomic_fetch_add_explicit(&e->nr, 1, memory_order_relaxed);
	return true;
}

static void *echo_loop(void *arg)
{
	struct echo *e = arg;

	while (!atomic_load_explicit(&stopped, memory_order_relaxed) && e->rc >= 0)
		e->rc = end_take(&e->end, 100000, send_back, e);
	return NULL;
}

static json_t *port_json(struct end *e)
{
	struct fh_dgram_stats s;

	if (!e->port)
		return json_object();
	e->port->ops->stats(e->port, &s);
	return json_pack("{sI sI sI sI sI sI sI sI sI}", "received", (json_int_t)s.nr_recv, "sent",
			 (json_int_t)s.nr_sent, "recv_dropped", (json_int_t)s.nr_recv_dropped, "recv_bad",
			 (json_int_t)s.nr_recv_bad, "send_failed", (json_int_t)s.nr_send_failed, "copied_bytes",
			 (json_int_t)s.copied_bytes, "waits", (json_int_t)s.nr_waits, "empty_polls",
			 (json_int_t)s.nr_empty_polls, "sent_bytes", (json_int_t)s.sent_bytes);
}

static void echo_report(const struct options *o, struct echo *e, uint32_t n, double seconds, double cpu)
{
	json_t *queues = json_array(), *j;
	uint64_t nr = 0;

	for (uint32_t i = 0; i < n; i++) {
		json_array_append_new(queues, port_json(&e[i].end));
		nr += atomic_load(&e[i].nr);
	}
	j = json_pack("{sI sf sf so}", "echoed", (json_int_t)nr, "seconds", seconds, "cpu_s", cpu, "ports", queues);
	if (o->json) {
		json_dumpf(j, stdout, JSON_REAL_PRECISION(6));
		putchar('\n');
	} else {
		printf("%" PRIu64 " datagrams sent back in %.1f s, %.2f s of a core\n", nr, seconds, cpu);
	}
	json_decref(j);
	for (uint32_t i = 0; i < n && o->metrics; i++)
		if (e[i].end.port)
			e[i].end.port->ops->metrics(e[i].end.port, stdout);
}

static int run_echo(const struct options *o)
{
	struct echo *e = calloc(MAX_QUEUES, sizeof(*e));
	uint32_t n = o->end.nr_queues ? o->end.nr_queues : 1, opened = 0, started = 0;
	uint64_t begin = fh_now_ns();
	double cpu;
	struct fh_err err = {0};
	int rc = e ? 0 : fh_errf(&err, -ENOMEM, "out of memory");

	for (; !rc && opened < n; opened += !rc) {
		e[opened].o = o->end;
		e[opened].o.queue = opened;
		rc = end_open(&e[opened].end, &e[opened].o, &err);
	}
	if (rc) {
		fprintf(stderr, "freehold: bench datagram: %s\n", err.msg);
	} else {
		puts("ready");
		fflush(stdout);
	}
	cpu = cpu_s();
	while (!rc && started < n && !pthread_create(&e[started].thread, NULL, echo_loop, &e[started]))
		started++;
	while (started && !atomic_load(&stopped)) {
		usleep(50000);
		if (o->seconds && fh_now_ns() - begin > o->seconds * 1000000000ull)
			atomic_store(&stopped, true);
	}
	for (uint32_t i = 0; i < started; i++) {
		pthread_join(e[i].thread, NULL);
		rc = e[i].rc < 0 ? e[i].rc : rc;
	}
	if (started)
		echo_report(o, e, n, (double)(fh_now_ns() - begin) / 1e9, cpu_s() - cpu);
	while (opened)
		end_close(&e[--opened].end);
	free(e);
	return rc ? 1 : 0;
}

/* ---- asking ---- */

struct slot {
	struct fh_dgram_tail tail; /* first */
	uint64_t seq, sent_ns;	   /* seq 0: free */
	bool tail_out;
	uint8_t *tail_at; /* in the region */
};

struct client {
	struct end end;
	const struct options *o;
	struct fh_region region; /* tails */
	struct slot slots[MAX_WINDOW];
	uint64_t next, nr_lost, nr_wrong, nr_late;
	uint32_t out, nr_times;
	uint64_t *times; /* [count] ns */
	uint8_t payload[FH_DGRAM_MAX_MTU];
};

/* What request @seq says in its byte @i. */
static uint8_t pattern(uint64_t seq, uint32_t i)
{
	return (uint8_t)((seq * 2654435761u >> 7) + i * 167);
}

static bool on_answer(void *ctx, const uint8_t *data, uint32_t bytes)
{
	struct client *c = ctx;
	uint64_t now = fh_now_ns(), seq = 0;
	struct slot *s;

	if (bytes >= 8)
		memcpy(&seq, data, 8);
	s = &c->slots[seq % c->o->window];
	if (bytes != c->o->bytes || !seq || seq >= c->next) {
		c->nr_wrong++;
		return false;
	}
	for (uint32_t i = 8; i < bytes; i++)
		if (data[i] != pattern(seq, i)) {
			c->nr_wrong++;
			return false;
		}
	if (s->seq != seq) {
		c->nr_late++; /* given up already, or here twice */
		return false;
	}
	s->seq = 0;
	c->out--;
	if (c->nr_times < c->o->count)
		c->times[c->nr_times++] = now - s->sent_ns;
	return false;
}

static void tail_done(struct fh_dgram_tail *t)
{
	((struct slot *)t)->tail_out = false;
}

static bool ask(struct client *c, struct slot *s)
{
	/* An odd cut, so that checksums have to be put together. */
	uint32_t cut = c->o->tail ? MIN_BYTES + 1 : c->o->bytes;
	uint64_t seq = c->next;
	struct fh_dgram_tail *tail = NULL;

	memcpy(c->payload, &seq, 8);
	for (uint32_t i = 8; i < c->o->bytes; i++)
		c->payload[i] = pattern(seq, i);
	if (c->o->tail && c->o->bytes > cut) {
		tail = &s->tail;
		*tail = (struct fh_dgram_tail){.done = tail_done, .base = s->tail_at, .bytes = c->o->bytes - cut};
		memcpy(s->tail_at, c->payload + cut, tail->bytes);
		s->tail_out = true;
	}
	s->seq = seq;
	s->sent_ns = fh_now_ns();
	if (!end_send(&c->end, &c->o->end.peer, c->payload, cut, tail)) {
		s->seq = 0;
		s->tail_out = false;
		return false;
	}
	c->next++;
	c->out++;
	return true;
}

static void give_up(struct client *c)
{
	uint64_t now = fh_now_ns();

	for (uint32_t i = 0; i < c->o->window; i++)
		if (c->slots[i].seq && now - c->slots[i].sent_ns > c->o->timeout_ms * 1000000ull) {
			c->slots[i].seq = 0;
			c->out--;
			c->nr_lost++;
		}
}

static int ask_all(struct client *c)
{
	int rc = 0;

	while (rc >= 0 && !atomic_load(&stopped) && (c->next <= c->o->count || c->out)) {
		while (c->next <= c->o->count && c->out < c->o->window) {
			struct slot *s = &c->slots[c->next % c->o->window];

			/* Still on its way, or still in the device's hands. */
			if (s->seq || s->tail_out || !ask(c, s))
				break;
		}
		rc = end_take(&c->end, c->o->timeout_ms * 1000ull, on_answer, c);
		if (!rc)
			give_up(c);
		if (c->o->pause_us && !c->out)
			usleep(c->o->pause_us);
	}
	return rc < 0 ? rc : 0;
}

static int by_time(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static double at_us(const struct client *c, double q)
{
	uint32_t i = (uint32_t)(q * c->nr_times);

	return c->nr_times ? (double)c->times[i < c->nr_times ? i : c->nr_times - 1] / 1e3 : 0;
}

static void ask_report(struct client *c, double seconds, double cpu)
{
	double per_s = seconds > 0 ? c->nr_times / seconds : 0, cpu_us = c->nr_times ? cpu * 1e6 / c->nr_times : 0;
	json_t *j;

	qsort(c->times, c->nr_times, sizeof(c->times[0]), by_time);
	if (!c->o->json) {
		printf("%u round trips of %u bytes, %u at a time: median %.1f us, p99 %.1f us, p99.9 %.1f us; %.0f/s, "
		       "%.1f us "
		       "of a core each; %" PRIu64 " lost, %" PRIu64 " wrong\n",
		       c->nr_times, c->o->bytes, c->o->window, at_us(c, 0.5), at_us(c, 0.99), at_us(c, 0.999), per_s,
		       cpu_us, c->nr_lost, c->nr_wrong);
		return;
	}
	j = json_pack("{si si si sf sf sf sf sf sf sI sI sI so}", "round_trips", (int)c->nr_times, "bytes",
		      (int)c->o->bytes, "window", (int)c->o->window, "median_us", at_us(c, 0.5), "p99_us",
		      at_us(c, 0.99), "p999_us", at_us(c, 0.999), "max_us", at_us(c, 1), "per_s", per_s, "cpu_us",
		      cpu_us, "lost", (json_int_t)c->nr_lost, "wrong", (json_int_t)c->nr_wrong, "late",
		      (json_int_t)c->nr_late, "port", port_json(&c->end));
	json_dumpf(j, stdout, JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(j);
}

static int open_client(struct client *c, struct fh_err *err)
{
	int rc = end_open(&c->end, &c->o->end, err);

	if (rc)
		return rc;
	rc = fh_region_alloc(&c->region, (size_t)c->o->window * FH_DGRAM_MAX_MTU, 0, err);
	if (!rc && c->end.port)
		rc = c->end.port->ops->mem_add(c->end.port, c->region.base, c->region.bytes, err);
	for (uint32_t i = 0; !rc && i < c->o->window; i++)
		c->slots[i].tail_at = c->region.base + (size_t)i * FH_DGRAM_MAX_MTU;
	return rc;
}

static int run_client(const struct options *o)
{
	struct client *c = calloc(1, sizeof(*c));
	struct fh_err err = {0};
	uint64_t begin;
	double cpu;
	int rc;

	if (c)
		c->times = calloc(o->count, sizeof(c->times[0]));
	if (!c || !c->times) {
		free(c);
		fprintf(stderr, "freehold: bench datagram: out of memory\n");
		return 1;
	}
	c->o = o;
	c->next = 1;
	rc = open_client(c, &err);
	if (rc) {
		fprintf(stderr, "freehold: bench datagram: %s\n", err.msg);
	} else {
		begin = fh_now_ns();
		cpu = cpu_s();
		rc = ask_all(c);
		if (rc)
			fprintf(stderr, "freehold: bench datagram: %s\n", strerror(-rc));
		ask_report(c, (double)(fh_now_ns() - begin) / 1e9, cpu_s() - cpu);
	}
	/* First the port, whose device may still read the region. */
	end_close(&c->end);
	fh_region_free(&c->region);
	rc = rc || c->nr_wrong || !c->nr_times;
	free(c->times);
	free(c);
	return rc;
}

/* ---- options ---- */

static const char usage[] =
	"usage: freehold bench datagram --echo ADDR:PORT [options]\n"
	"       freehold bench datagram --to ADDR:PORT [options]\n"
	"\n"
	"The round trip of a UDP datagram, with nothing behind it: one process sends back what\n"
	"comes, another asks and compares. Either end is a kernel socket, or a DPDK device.\n"
	"\n"
	"      --echo ADDR:PORT  send back what comes to this address, until stopped\n"
	"      --to ADDR:PORT    ask there\n"
	"      --bytes N         payload of a request (default 64)\n"
	"      --count N         requests (default 10000)\n"
	"      --window N        requests under way at once (default 1)\n"
	"      --pause-us N      between an answer and the next request (default 0): what waking costs\n"
	"      --timeout-ms N    an answer that takes longer is lost (default 200)\n"
	"      --seconds N       stop sending back after so many\n"
	"      --json            one JSON object instead of lines for people\n"
	"\n"
	"DPDK (needs freehold-dpdk.so, see Documentation/dpdk.md):\n"
	"      --dpdk DEVICE     a device of DPDK, such as 0000:03:00.0 or net_af_packet0,iface=eth1\n"
	"      --eal OPTIONS     of DPDK's environment, then -- and the plug-in's, in one string\n"
	"      --bind ADDR       the device's own address; --echo names it already\n"
	"      --prefix N        of that address (default 24, or 64)\n"
	"      --gateway ADDR    to everything beyond the prefix (default none)\n"
	"      --queues N        of --echo, a thread each (default 1)\n"
	"      --mtu N           largest payload (default: what the link carries)\n"
	"      --tail            requests in two pieces, the second sent from where it lies\n"
	"      --no-offload      checksums by the CPU, pieces copied\n"
	"      --metrics         print the device's counters at the end\n"
	"\n"
	"examples:\n"
	"  freehold bench datagram --echo 0.0.0.0:7000\n"
	"  freehold bench datagram --to 192.0.2.1:7000 --count 100000 --json\n"
	"  freehold bench datagram --echo 192.0.2.1:7000 --dpdk 0000:03:00.0\n"
	"  freehold bench datagram --echo 192.0.2.1:7000 --dpdk net_af_packet0,iface=eth1 --eal '--no-huge -m 64 "
	"--no-pci'\n";

static bool address(const char *option, const char *text, bool need_port, struct fh_dgram_addr *out)
{
	if (fh_dgram_parse(text, out) && (out->port || !need_port))
		return true;
	fprintf(stderr, "freehold: bench datagram: %s %s: an address%s is wanted, such as 192.0.2.1%s\n", option, text,
		need_port ? " and a port" : "", need_port ? ":7000 or [2001:db8::1]:7000" : "");
	return false;
}

static bool parse_options(int argc, char **argv, struct options *o, int *status)
{
	static const struct option longs[] = {
		{"echo", required_argument, NULL, 'e'},
		{"to", required_argument, NULL, 't'},
		{"bytes", required_argument, NULL, 'b'},
		{"count", required_argument, NULL, 'c'},
		{"window", required_argument, NULL, 'w'},
		{"pause-us", required_argument, NULL, 'p'},
		{"seconds", required_argument, NULL, 's'},
		{"json", no_argument, NULL, 'j'},
		{"dpdk", required_argument, NULL, 'd'},
		{"eal", required_argument, NULL, 'E'},
		{"bind", required_argument, NULL, 'B'},
		{"prefix", required_argument, NULL, 'P'},
		{"gateway", required_argument, NULL, 'g'},
		{"queues", required_argument, NULL, 'q'},
		{"mtu", required_argument, NULL, 'm'},
		{"tail", no_argument, NULL, 'T'},
		{"no-offload", no_argument, NULL, 'o'},
		{"metrics", no_argument, NULL, 'M'},
		{"timeout-ms", required_argument, NULL, 'x'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	bool ok = true, to = false;
	int c;

	*status = 2;
	optind = 1;
	while (ok && (c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (c) {
		case 'e':
			ok = address("--echo", optarg, true, &o->end.local);
			o->echo = o->end.server = true;
			break;
		case 't':
			ok = address("--to", optarg, true, &o->end.peer);
			to = true;
			break;
		case 'b': ok = device_number("--bytes", optarg, MIN_BYTES, FH_DGRAM_MAX_MTU, &o->bytes); break;
		case 'c': ok = device_number("--count", optarg, 1, 100000000, &o->count); break;
		case 'w': ok = device_number("--window", optarg, 1, MAX_WINDOW, &o->window); break;
		case 'p': ok = device_number("--pause-us", optarg, 0, 10000000, &o->pause_us); break;
		case 'x': ok = device_number("--timeout-ms", optarg, 1, 600000, &o->timeout_ms); break;
		case 's': ok = device_number("--seconds", optarg, 1, 1000000, &o->seconds); break;
		case 'q': ok = device_number("--queues", optarg, 1, MAX_QUEUES, &o->end.nr_queues); break;
		case 'm': ok = device_number("--mtu", optarg, FH_DGRAM_MIN_MTU, FH_DGRAM_MAX_MTU, &o->end.mtu); break;
		case 'B': ok = address("--bind", optarg, false, &o->end.local); break;
		case 'd': o->end.device = optarg; break;
		case 'E': o->end.eal = optarg; break;
		case 'P': o->end.prefix = optarg; break;
		case 'g': o->end.gateway = optarg; break;
		case 'T': o->tail = true; break;
		case 'o': o->end.no_offload = true; break;
		case 'M': o->metrics = true; break;
		case 'j': o->json = true; break;
		case 'h':
			fputs(usage, stdout);
			*status = 0;
			return false;
		default: ok = false;
		}
	}
	if (ok && o->echo == to) {
		fputs("freehold: bench datagram: one of --echo and --to is wanted\n", stderr);
		ok = false;
	}
	if (!ok || optind != argc) {
		fputs(usage, stderr);
		return false;
	}
	return true;
}

int bench_datagram(int argc, char **argv)
{
	struct options o = {.bytes = 64, .count = 10000, .window = 1, .timeout_ms = LOST_MS};
	struct sigaction stop = {.sa_handler = on_signal};
	int status;

	if (!parse_options(argc, argv, &o, &status))
		return status;
	if (!o.end.prefix)
		o.end.prefix = o.end.local.ip[10] == 0xff && !o.end.local.ip[0] ? "24" : "64";
	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	return o.echo ? run_echo(&o) : run_client(&o);
}
