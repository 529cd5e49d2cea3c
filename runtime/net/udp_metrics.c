// SPDX-License-Identifier: Apache-2.0
/* The UDP front end's counters, for /metrics. */
#include <inttypes.h>

#include "runtime/net/udp_priv.h"

static void print_one(FILE *out, const char *name, const char *type, const char *help, uint64_t v)
{
	fprintf(out, "# HELP freehold_udp_%s %s\n# TYPE freehold_udp_%s %s\nfreehold_udp_%s %" PRIu64 "\n", name, help,
		name, type, name, v);
}

/* Packets that changed nothing but this. */
static void print_dropped(FILE *out, const struct fhw_server_stats *s)
{
	const struct {
		const char *why;
		uint64_t v;
	} lines[] = {
		{"malformed", s->nr_malformed},	    {"replayed", s->nr_replayed},  {"forged", s->nr_forged},
		{"against_rules", s->nr_rude},	    {"no_session", s->nr_unknown}, {"bad_mac", s->nr_bad_mac},
		{"bad_cookie", s->nr_bad_cookie},   {"unlisted", s->nr_unlisted},  {"rate_limited", s->nr_limited},
		{"handshake", s->nr_bad_handshake},
	};

	fprintf(out, "# HELP freehold_udp_packets_dropped_total Packets that changed nothing else, by reason.\n"
		     "# TYPE freehold_udp_packets_dropped_total counter\n");
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		fprintf(out, "freehold_udp_packets_dropped_total{reason=\"%s\"} %" PRIu64 "\n", lines[i].why,
			lines[i].v);
}

/* All that is counted over all queues. */
struct sums {
	struct fhw_server_stats s;
	struct fh_dgram_stats p;
	uint64_t prompt_bytes, text_bytes, copied_bytes, nr_errors;
};

static void add_words(uint64_t *to, const uint64_t *from, size_t bytes)
{
	for (size_t i = 0; i < bytes / sizeof(*to); i++)
		to[i] += from[i];
}

static void add_up(struct fh_udp *u, struct sums *t)
{
	struct fh_dgram_stats p;

	_Static_assert(!(offsetof(struct fhw_server_stats, nr_sessions) % 8), "counters of 64 bits, then levels");
	u->port->ops->stats(u->port, &p);
	add_words((uint64_t *)&t->p, (const uint64_t *)&p, sizeof(p));
	pthread_mutex_lock(&u->stats_lock);
	add_words((uint64_t *)&t->s, (const uint64_t *)&u->stats, offsetof(struct fhw_server_stats, nr_sessions));
	t->s.nr_sessions += u->stats.nr_sessions;
	t->s.nr_open += u->stats.nr_open;
	t->s.nr_held += u->stats.nr_held;
	t->s.nr_kept += u->stats.nr_kept;
	t->prompt_bytes += u->shown.prompt_bytes;
	t->text_bytes += u->shown.text_bytes;
	t->copied_bytes += u->shown.copied_bytes;
	t->nr_errors += u->shown.nr_errors;
	pthread_mutex_unlock(&u->stats_lock);
}

static void print_port(FILE *out, const struct fh_dgram_stats *p)
{
	print_one(out, "packets_received_total", "counter", "Datagrams that came.", p->nr_recv);
	print_one(out, "received_bytes_total", "counter", "Their payload.", p->recv_bytes);
	print_one(out, "packets_sent_total", "counter", "Datagrams that were sent.", p->nr_sent);
	print_one(out, "sent_bytes_total", "counter", "Their payload.", p->sent_bytes);
	print_one(out, "receive_drops_total", "counter", "Datagrams dropped before they reached us, as far as known.",
		  p->nr_recv_dropped);
	print_one(out, "receive_errors_total", "counter", "Datagrams that came truncated or broken.", p->nr_recv_bad);
	print_one(out, "send_errors_total", "counter", "Datagrams that kernel or device refused.", p->nr_send_failed);
	print_one(out, "sleeps_total", "counter", "Times that the I/O thread slept.", p->nr_waits);
	print_one(out, "wakes_total", "counter", "Times that the engine or a tokenizer woke it.", p->nr_wakes);
	print_one(out, "carrier_copied_bytes_total", "counter",
		  "Payload bytes that the carrier's own code copied; the kernel's copies are not seen.",
		  p->copied_bytes);
}

void fh_udp_metrics(struct fh_udp *u, FILE *out)
{
	struct sums t = {0};

	for (struct fh_udp *at = u; at; at = at->next)
		add_up(at, &t);
	print_one(out, "sessions", "gauge", "Sessions, unfinished handshakes among them.", t.s.nr_sessions);
	print_one(out, "requests", "gauge", "Requests that are not settled with their client.", t.s.nr_open);
	print_one(out, "held_packets", "gauge", "Packets kept because a prompt in them was not read yet.", t.s.nr_held);
	print_one(out, "lingering_packets", "gauge",
		  "Packets of requests that are over, to be sent again until they are acknowledged.", t.s.nr_kept);
	print_one(out, "sessions_total", "counter", "Sessions that were confirmed.", t.s.nr_sessions_total);
	print_one(out, "sessions_lost_total", "counter", "Sessions ended by silence.", t.s.nr_sessions_dead);
	print_one(out, "retries_total", "counter", "Clients that were asked to prove their address.", t.s.nr_retries);
	print_one(out, "refused_total", "counter", "Handshakes refused.", t.s.nr_refused);
	print_one(out, "resets_total", "counter", "Packets of unknown sessions that were answered.", t.s.nr_resets);
	print_one(out, "requests_total", "counter", "Requests that came.", t.s.nr_requests);
	print_one(out, "request_errors_total", "counter", "Of them refused or failed by the engine.", t.nr_errors);
	print_one(out, "tokens_total", "counter", "Token slots sent, each counted once.", t.s.nr_tokens);
	print_one(out, "token_packets_total", "counter", "Packets that carried them the first time.",
		  t.s.nr_token_packets);
	print_one(out, "lost_packets_total", "counter", "Packets of ours that were lost.", t.s.nr_lost);
	print_one(out, "probes_total", "counter", "Packets sent again because nothing was heard.", t.s.nr_probes);
	print_one(out, "spurious_losses_total", "counter", "Packets taken for lost that had arrived.", t.s.nr_spurious);
	print_one(out, "prompt_bytes_total", "counter", "Bytes of prompts.", t.prompt_bytes);
	print_one(out, "text_bytes_total", "counter", "Of them text to be tokenized.", t.text_bytes);
	print_one(out, "copied_bytes_total", "counter",
		  "Payload bytes that the CPU copied: token ids into their sequence, prompts of several packets.",
		  t.copied_bytes);
	print_dropped(out, &t.s);
	print_port(out, &t.p);
	if (u->port->ops->metrics)
		u->port->ops->metrics(u->port, out);
}
