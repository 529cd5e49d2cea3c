// SPDX-License-Identifier: Apache-2.0
/*
 * Requests as OpenTelemetry has them: OTLP in its JSON encoding (identities in
 * hexadecimal, 64-bit numbers as text), attributes by the semantic conventions
 * for generative AI.
 */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/daemon/otlp.h"
#include "uapi/freehold.h"

enum { KIND_INTERNAL = 1, KIND_SERVER = 2, STATUS_ERROR = 2 };

static const char *const operations[] = {
	[FH_SPAN_CHAT] = "chat", [FH_SPAN_COMPLETION] = "text_completion", [FH_SPAN_EMBEDDINGS] = "embeddings"};

/* network.transport, network.protocol.name */
static const char *const transports[] = {[FH_SPAN_TCP] = "tcp",
					 [FH_SPAN_UNIX] = "unix",
					 [FH_SPAN_UDP] = "udp",
					 [FH_SPAN_SHARED_MEMORY] = "shared_memory"};
static const char *const protocols[] = {
	[FH_SPAN_HTTP] = "http", [FH_SPAN_CHANNEL] = "freehold-channel", [FH_SPAN_DATAGRAM] = "freehold-udp"};

static const char *finish_name(uint8_t finish)
{
	switch (finish) {
	case FH_FINISH_STOP: return "stop";
	case FH_FINISH_LENGTH: return "length";
	case FH_FINISH_BUDGET: return "budget";
	case FH_FINISH_FILTER: return "content_filter";
	case FH_FINISH_DEADLINE: return "deadline";
	case FH_FINISH_ERROR: return "error";
	default: return "abort";
	}
}

static void hex(const uint8_t *p, size_t n, char *out)
{
	for (size_t i = 0; i < n; i++)
		sprintf(out + 2 * i, "%02x", p[i]);
}

/* ---- attributes: a list of pairs for spans, an object for logs ---- */

struct attributes {
	json_t *to;
	bool plain;
};

static json_t *number_text(uint64_t v)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, v);
	return json_string(text);
}

static void put(const struct attributes *a, const char *key, const char *type, json_t *value)
{
	if (a->plain)
		json_object_set_new(a->to, key, value);
	else
		json_array_append_new(a->to, json_pack("{s:s, s:{s:o}}", "key", key, "value", type, value));
}

static void put_text(const struct attributes *a, const char *key, const char *text)
{
	if (*text)
		put(a, key, "stringValue", json_string(text));
}

static void put_number(const struct attributes *a, const char *key, uint64_t v)
{
	put(a, key, "intValue", a->plain ? json_integer((json_int_t)v) : number_text(v));
}

static void put_real(const struct attributes *a, const char *key, double v)
{
	/* What a float has of it, and no digits that nobody asked for. */
	put(a, key, "doubleValue", json_real(round(v * 1e6) / 1e6));
}

static void put_finish(const struct attributes *a, const struct fh_trace_span *s)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < s->nr_choices; i++)
		json_array_append_new(list, a->plain ? json_string(finish_name(s->finish[i]))
						     : json_pack("{s:s}", "stringValue", finish_name(s->finish[i])));
	put(a, "gen_ai.response.finish_reasons", "arrayValue", a->plain ? list : json_pack("{s:o}", "values", list));
}

static void put_request(const struct attributes *a, const struct fhd_otlp_setup *o, const struct fh_trace_span *s)
{
	put_text(a, "gen_ai.operation.name", operations[s->operation]);
	put_text(a, "gen_ai.provider.name", "freehold");
	put_text(a, "gen_ai.request.model", o->model);
	put_text(a, "gen_ai.response.model", o->model);
	put_text(a, "gen_ai.response.id", s->id);
	if (s->max_tokens)
		put_number(a, "gen_ai.request.max_tokens", s->max_tokens);
	if (s->operation != FH_SPAN_EMBEDDINGS) {
		put_real(a, "gen_ai.request.temperature", (double)s->temperature);
		put_real(a, "gen_ai.request.top_p", (double)s->top_p);
		if (s->top_k)
			put_number(a, "gen_ai.request.top_k", s->top_k);
		if (s->has_seed)
			put_number(a, "gen_ai.request.seed", s->seed);
		if (s->n > 1)
			put_number(a, "gen_ai.request.choice.count", s->n);
		put(a, "gen_ai.request.stream", "boolValue", json_boolean(s->stream));
		put_finish(a, s);
		put_number(a, "gen_ai.usage.output_tokens", s->nr_generated);
		put_number(a, "gen_ai.usage.reasoning.output_tokens", s->nr_reasoning);
	}
	put_number(a, "gen_ai.usage.input_tokens", s->nr_prompt);
	put_number(a, "gen_ai.usage.cache_read.input_tokens", s->nr_cached);
	put_text(a, "network.transport", transports[s->transport]);
	put_text(a, "network.protocol.name", protocols[s->protocol]);
	if (s->protocol == FH_SPAN_HTTP)
		put_number(a, "http.response.status_code", s->status);
	else
		put_number(a, "freehold.request.serial", s->serial);
	if (s->status >= 400)
		put_text(a, "error.type", *s->error ? s->error : s->status == 499 ? "client_gone" : "error");
	put_text(a, "freehold.tenant", s->tenant);
	put_text(a, "freehold.user", s->user);
}

/* ---- spans ---- */

static json_t *span(const struct fh_trace_span *s, const char *name, uint32_t child, uint64_t begin_ns, uint64_t end_ns,
		    int64_t offset_ns)
{
	char trace[33], id[17], parent[17];
	uint8_t child_id[8];
	json_t *j;

	hex(s->context.trace_id, 16, trace);
	memcpy(child_id, s->span_id, sizeof(child_id));
	child_id[7] ^= (uint8_t)child;
	hex(child_id, 8, id);
	hex(child ? s->span_id : s->context.parent_id, 8, parent);
	j = json_pack("{s:s, s:s, s:s, s:i, s:o, s:o}", "traceId", trace, "spanId", id, "name", name, "kind",
		      child ? KIND_INTERNAL : KIND_SERVER, "startTimeUnixNano",
		      number_text(begin_ns + (uint64_t)offset_ns), "endTimeUnixNano",
		      number_text(end_ns + (uint64_t)offset_ns));
	if (child || s->context.known)
		json_object_set_new(j, "parentSpanId", json_string(parent));
	if (*s->state)
		json_object_set_new(j, "traceState", json_string(s->state));
	return j;
}

/* A part of it, where it came to that: from @begin_ns to @end_ns, or to the end if that did not come. */
static void add_part(json_t *to, const struct fh_trace_span *s, const char *name, uint32_t child, uint64_t begin_ns,
		     uint64_t end_ns, int64_t offset_ns)
{
	uint64_t last = s->done_ns ? s->done_ns : s->end_ns;

	if (!begin_ns)
		return;
	end_ns = end_ns ? end_ns : last;
	json_array_append_new(to, span(s, name, child, begin_ns, end_ns > begin_ns ? end_ns : begin_ns, offset_ns));
}

static void add_spans(json_t *to, const struct fhd_otlp_setup *o, const struct fh_trace_span *s, int64_t offset_ns)
{
	struct attributes a = {.to = json_array()};
	char name[192];
	json_t *j;

	snprintf(name, sizeof(name), "%s %.128s", operations[s->operation], o->model);
	j = span(s, name, 0, s->arrival_ns, s->end_ns, offset_ns);
	put_request(&a, o, s);
	json_object_set_new(j, "attributes", a.to);
	if (s->status >= 500)
		json_object_set_new(j, "status", json_pack("{s:i, s:s}", "code", STATUS_ERROR, "message", s->error));
	json_array_append_new(to, j);
	add_part(to, s, "queue", 1, s->arrival_ns, s->started_ns, offset_ns);
	add_part(to, s, "prefill", 2, s->started_ns, s->first_token_ns, offset_ns);
	add_part(to, s, "decode", 3, s->first_token_ns, 0, offset_ns);
}

static json_t *resource(const struct fhd_otlp_setup *o)
{
	struct attributes a = {.to = json_array()};
	char host[256] = "";

	gethostname(host, sizeof(host) - 1);
	put_text(&a, "service.name", o->service);
	for (char **p = o->resource; p && *p; p += 2)
		if (strcmp(*p, "service.name"))
			put(&a, p[0], "stringValue", json_string(p[1]));
	if (!fhd_otlp_attribute(o->resource, "service.version"))
		put_text(&a, "service.version", o->version);
	if (!fhd_otlp_attribute(o->resource, "host.name"))
		put_text(&a, "host.name", host);
	return json_pack("{s:o}", "attributes", a.to);
}

char *fhd_otlp_json(const struct fhd_otlp_setup *o, const struct fh_trace_span *spans, uint32_t nr, int64_t offset_ns)
{
	json_t *list = json_array(), *j;
	char *text;

	for (uint32_t i = 0; i < nr; i++)
		add_spans(list, o, &spans[i], offset_ns);
	j = json_pack("{s:[{s:o, s:[{s:{s:s, s:s}, s:o}]}]}", "resourceSpans", "resource", resource(o), "scopeSpans",
		      "scope", "name", "freehold", "version", o->version, "spans", list);
	text = json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9));
	json_decref(j);
	return text;
}

/* ---- logs ---- */

char *fhd_otlp_log_line(const struct fhd_otlp_setup *o, const struct fh_trace_span *s, int64_t offset_ns)
{
	struct attributes a = {.to = json_object(), .plain = true};
	char trace[33], id[17], *text, *line = NULL;
	bool bad = s->status >= 500;
	json_t *j;

	hex(s->context.trace_id, 16, trace);
	hex(s->span_id, 8, id);
	put_request(&a, o, s);
	put_real(&a, "freehold.duration", (double)(s->end_ns - s->arrival_ns) / 1e9);
	if (s->first_token_ns > s->arrival_ns)
		put_real(&a, "freehold.time_to_first_token", (double)(s->first_token_ns - s->arrival_ns) / 1e9);
	j = json_pack("{s:I, s:s, s:i, s:s, s:s, s:s, s:{s:s}, s:o}", "Timestamp",
		      (json_int_t)(s->end_ns + (uint64_t)offset_ns), "SeverityText", bad ? "ERROR" : "INFO",
		      "SeverityNumber", bad ? 17 : 9, "Body", "request", "TraceId", trace, "SpanId", id, "Resource",
		      "service.name", o->service, "Attributes", a.to);
	text = json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9));
	json_decref(j);
	if (text && asprintf(&line, "%s\n", text) < 0)
		line = NULL;
	free(text);
	return line;
}
