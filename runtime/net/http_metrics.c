// SPDX-License-Identifier: Apache-2.0
/* Counters of the front end, and their part of /metrics (Prometheus text format 0.0.4). */
#include <inttypes.h>

#include "runtime/net/http_priv.h"

/* The last entry stands for every other status. */
static const uint16_t statuses[FH_NR_STATUS] = {200, 400, 401, 403, 404, 405, 408, 409, 411, 413,
						414, 417, 429, 431, 499, 500, 501, 503, 505, 0};

static const char *const endpoints[FH_NR_EP] = {
	[FH_EP_MODELS] = "/v1/models",
	[FH_EP_MODEL] = "/v1/models/{id}",
	[FH_EP_COMPLETIONS] = "/v1/completions",
	[FH_EP_CHAT] = "/v1/chat/completions",
	[FH_EP_EMBEDDINGS] = "/v1/embeddings",
	[FH_EP_TOKENIZE] = "/tokenize",
	[FH_EP_DETOKENIZE] = "/detokenize",
	[FH_EP_HEALTH] = "/health",
	[FH_EP_METRICS] = "/metrics",
	[FH_EP_VERSION] = "/version",
	[FH_EP_PAGE] = "/",
	[FH_EP_STATUS] = "/v1/freehold/status",
	[FH_EP_EVENTS] = "/v1/freehold/events",
	[FH_EP_KEYS] = "/v1/freehold/keys",
	[FH_EP_KEY] = "/v1/freehold/keys/{id}",
	[FH_EP_NONE] = "none",
};

const char *fh_endpoint_name(enum fh_endpoint ep)
{
	return endpoints[ep];
}

const char *const *fh_endpoint_names(void)
{
	return endpoints;
}

void fh_metrics_count(struct fh_http *h, enum fh_endpoint ep, unsigned int status)
{
	unsigned int i = 0;

	while (i < FH_NR_STATUS - 1 && statuses[i] != status)
		i++;
	h->c.requests[ep][i]++;
}

static void print_one(FILE *out, const char *name, const char *type, const char *help, uint64_t v)
{
	fprintf(out, "# HELP freehold_http_%s %s\n# TYPE freehold_http_%s %s\nfreehold_http_%s %" PRIu64 "\n", name,
		help, name, type, name, v);
}

static void print_requests(struct fh_http *h, FILE *out)
{
	fprintf(out,
		"# HELP freehold_http_requests_total Responses by endpoint and status; 499: the client went away.\n"
		"# TYPE freehold_http_requests_total counter\n");
	for (unsigned int ep = 0; ep < FH_NR_EP; ep++) {
		for (unsigned int i = 0; i < FH_NR_STATUS; i++) {
			if (!h->c.requests[ep][i])
				continue;
			fprintf(out, "freehold_http_requests_total{endpoint=\"%s\",status=\"%u\"} %" PRIu64 "\n",
				endpoints[ep], statuses[i], h->c.requests[ep][i]);
		}
	}
}

void fh_metrics_print(struct fh_http *h, FILE *out)
{
	struct fh_http_counters *c = &h->c;

	print_requests(h, out);
	print_one(out, "connections", "gauge", "Open connections.", h->nr_conns);
	print_one(out, "connections_total", "counter", "Connections accepted.", c->accepted);
	print_one(out, "connections_refused_total", "counter", "Connections hung up at once.", c->refused);
	print_one(out, "calls", "gauge", "API calls under way, with those whose client has gone.", h->nr_calls);
	print_one(out, "sequences", "gauge", "Sequences in the engine.", h->nr_seqs_out);
	print_one(out, "received_bytes_total", "counter", "Bytes received.", c->recv_bytes);
	print_one(out, "sent_bytes_total", "counter", "Bytes sent.", c->sent_bytes);
	print_one(out, "copied_payload_bytes_total", "counter",
		  "Payload bytes that the CPU copied between socket buffers and token slots.", c->copied_bytes);
	print_one(out, "tokens_total", "counter", "Tokens turned into text.", c->tokens);
	print_one(out, "timeouts_total", "counter", "Connections ended by a time limit.", c->timeouts);
	print_one(out, "client_gone_total", "counter", "Clients that closed before their answer was complete.",
		  c->client_gone);
	if (h->tls) {
		print_one(out, "tls_handshakes_total", "counter", "TLS handshakes that were completed.",
			  c->tls_handshakes);
		print_one(out, "tls_failures_total", "counter", "TLS handshakes that failed.", c->tls_failed);
		print_one(out, "tls_offloaded_total", "counter", "Connections whose records the kernel seals.",
			  c->tls_offloaded);
		print_one(out, "tls_offload_failures_total", "counter",
			  "Connections that the kernel did not take, so that OpenSSL seals.", c->tls_not_offloaded);
		print_one(out, "tls_rekeys_refused_total", "counter",
			  "Connections ended because the client asked for new keys while the kernel seals.",
			  c->tls_rekeys_refused);
		print_one(out, "tls_key_updates_total", "counter",
			  "New keys that connections got, because theirs had sealed or opened enough.",
			  c->tls_key_updates);
		print_one(out, "tls_worn_total", "counter",
			  "Connections ended after an answer, because the kernel's key had sealed enough.",
			  c->tls_worn);
	}
	print_one(out, "reader_stalls_total", "counter", "Times that a slow reader's tokens had to wait.", c->stalls);
	fh_watch_metrics(h, out);
	fh_hist_print(&c->request_time, "freehold_http_request_duration_seconds",
		      "Last byte of a request to the end of its response.", out);
	fh_hist_print(&c->first_byte, "freehold_http_queue_to_first_byte_seconds",
		      "Last byte of a request to the first byte of its response.", out);
	fh_hist_print(&c->tokenize_time, "freehold_http_tokenize_seconds", "Chat template and tokenizer, a request.",
		      out);
	fh_hist_print(&c->done_to_wire, "freehold_http_done_to_wire_seconds",
		      "The engine's last word on a request to the send that carries it.", out);
}
