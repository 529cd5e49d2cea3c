// SPDX-License-Identifier: Apache-2.0
/* Endpoints: which are there, who may use them, and the answers that need no engine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/net/http_priv.h"

static bool is_post(enum fh_endpoint ep)
{
	return ep >= FH_EP_COMPLETIONS && ep <= FH_EP_DETOKENIZE;
}

/* The path alone: no scheme and host, no query. */
static struct fh_span path_of(struct fh_span t)
{
	const char *q, *slash;

	if (t.n > 7 && !strncasecmp(t.p, "http://", 7)) {
		slash = memchr(t.p + 7, '/', t.n - 7);
		if (!slash)
			return (struct fh_span){"/", 1};
		t.n -= (size_t)(slash - t.p);
		t.p = slash;
	}
	q = memchr(t.p, '?', t.n);
	if (q)
		t.n = (size_t)(q - t.p);
	return t;
}

/* What stands behind the '?'. */
static struct fh_span query_of(struct fh_span t)
{
	const char *q = memchr(t.p, '?', t.n);

	return q ? (struct fh_span){q + 1, t.n - (size_t)(q + 1 - t.p)} : (struct fh_span){t.p, 0};
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decode into @out; false when it does not fit or is malformed. */
static bool decode(struct fh_span s, char *out, size_t cap)
{
	size_t n = 0;

	for (size_t i = 0; i < s.n; i++) {
		char ch = s.p[i];

		if (ch == '%') {
			int hi = i + 2 < s.n ? hex(s.p[i + 1]) : -1, lo = i + 2 < s.n ? hex(s.p[i + 2]) : -1;

			if (i + 2 < s.n && hi >= 0 && lo >= 0)
				ch = (char)(hi << 4 | lo);
			else
				return false;
			i += 2;
		}
		if (!ch || n + 1 >= cap)
			return false;
		out[n++] = ch;
	}
	out[n] = '\0';
	return true;
}

/* /v1/models/ID, and its like. */
static bool has_id(struct fh_conn *c, struct fh_span path, const char *before)
{
	size_t n = strlen(before);

	if (path.n <= n || memcmp(path.p, before, n))
		return false;
	if (!decode((struct fh_span){path.p + n, path.n - n}, c->path_id, sizeof(c->path_id)))
		c->path_id[0] = '\0';
	return true;
}

static enum fh_endpoint find_endpoint(struct fh_conn *c, struct fh_span path)
{
	for (enum fh_endpoint ep = 0; ep < FH_EP_NONE; ep++) {
		const char *name = fh_endpoint_name(ep);

		if (ep != FH_EP_MODEL && ep != FH_EP_KEY && path.n == strlen(name) && !memcmp(path.p, name, path.n))
			return ep;
	}
	if (has_id(c, path, "/v1/models/"))
		return FH_EP_MODEL;
	return has_id(c, path, "/v1/freehold/keys/") ? FH_EP_KEY : FH_EP_NONE;
}

/* What it takes, as 405 says it. */
static const char *methods(enum fh_endpoint ep)
{
	return is_post(ep) ? "POST" : ep == FH_EP_KEY ? "DELETE" : "GET";
}

static bool takes(enum fh_endpoint ep, enum fh_http_method m)
{
	if (is_post(ep))
		return m == FH_HTTP_POST;
	return ep == FH_EP_KEY ? m == FH_HTTP_DELETE : m == FH_HTTP_GET || m == FH_HTTP_HEAD;
}

const char *fh_endpoint_allow(enum fh_endpoint ep)
{
	return is_post(ep) ? "Allow: POST\r\n" : ep == FH_EP_KEY ? "Allow: DELETE\r\n" : "Allow: GET, HEAD\r\n";
}

void fh_route(struct fh_conn *c)
{
	struct fh_span path = path_of(c->head.target);
	bool admitted;

	c->ep = find_endpoint(c, path);
	/* First of all the key: without one nobody learns what is there. */
	admitted = fh_conn_admit(c);
	if (c->h->fe.audit)
		fh_conn_identify(c);
	if (!admitted)
		return;
	if (c->ep == FH_EP_NONE) {
		c->refuse = true;
		fh_oai_errorf(&c->err, 404, "unknown_url", NULL, "There is no endpoint '%.*s'.",
			      (int)(path.n < 200 ? path.n : 200), path.p);
	} else if (!takes(c->ep, c->head.method)) {
		c->refuse = true;
		fh_oai_errorf(&c->err, 405, "method_not_allowed", NULL, "'%s' takes %s.", fh_endpoint_name(c->ep),
			      methods(c->ep));
	} else if (c->ep == FH_EP_KEYS) {
		fh_conn_keys_query(c, query_of(c->head.target));
	} else if (c->ep == FH_EP_EVENTS && fh_viewer_open(c)) {
		c->refuse = true;
		fh_oai_errorf(&c->err, 503, NULL, NULL, "There is no memory for one more viewer.");
	}
}

static void put_model(struct fh_buf *b, const struct fh_model_info *m)
{
	fh_buf_lit(b, "{\"id\":\"");
	fh_buf_json(b, m->id, strlen(m->id));
	fh_buf_lit(b, "\",\"object\":\"model\",\"created\":");
	fh_buf_u64(b, m->created);
	fh_buf_lit(b, ",\"owned_by\":\"freehold\",\"root\":\"");
	fh_buf_json(b, m->id, strlen(m->id));
	fh_buf_lit(b, "\",\"parent\":null,\"max_model_len\":");
	fh_buf_u64(b, m->nr_ctx);
	/* As llama.cpp has it: who makes prompts of ids wants to know. */
	fh_buf_lit(b, ",\"meta\":{\"n_vocab\":");
	fh_buf_u64(b, m->nr_vocab);
	fh_buf_lit(b, "}}");
}

static void answer_models(struct fh_conn *c)
{
	const struct fh_model_info *m = &c->h->svc->model;
	struct fh_buf b = {0};

	if (c->ep == FH_EP_MODEL) {
		if (strcmp(c->path_id, m->id) || !c->grant.model) {
			fh_oai_errorf(&c->err, 404, "model_not_found", "model", "The model '%.150s' does not exist.",
				      c->path_id);
			if (fh_conn_audit_refusal(c))
				fh_conn_respond_error(c, &c->err, NULL);
			else
				fh_conn_abort(c);
			return;
		}
		put_model(&b, m);
	} else {
		fh_buf_lit(&b, "{\"object\":\"list\",\"data\":[");
		if (c->grant.model)
			put_model(&b, m);
		fh_buf_lit(&b, "]}");
	}
	fh_conn_respond_json(c, 200, NULL, &b);
}

/* The engine's heartbeat, not the socket's. */
const char *fh_http_health(struct fh_http *h, int *rc)
{
	int trouble = h->fe.audit ? h->fe.audit->ops->trouble(h->fe.audit) : 0;

	*rc = h->draining ? -ESHUTDOWN : h->svc->health(h->svc->ctx);
	/* Strict: nothing is served until it can be logged. */
	if (!*rc && trouble && h->fe.audit->strict) {
		*rc = trouble;
		return "audit_failing";
	}
	return !*rc ? "ok" : *rc == -ESHUTDOWN ? "draining" : *rc == -ETIMEDOUT ? "stalled" : "failed";
}

static void answer_health(struct fh_conn *c)
{
	struct fh_auditor *audit = c->h->fe.audit;
	int rc, trouble = audit ? audit->ops->trouble(audit) : 0;
	const char *word = fh_http_health(c->h, &rc);
	struct fh_buf b = {0};

	fh_buf_printf(&b, "{\"status\":\"%s\"", word);
	if (trouble && (!rc || !strcmp(word, "audit_failing")))
		fh_buf_printf(&b, ",\"audit\":\"%s\"", strerror(-trouble));
	fh_buf_lit(&b, "}");
	fh_conn_respond_json(c, rc ? 503 : 200, NULL, &b);
}

static void answer_metrics(struct fh_conn *c)
{
	char *text = NULL;
	size_t n = 0;
	FILE *out = open_memstream(&text, &n);

	if (!out) {
		fh_conn_abort(c);
		return;
	}
	c->h->svc->metrics(c->h->svc->ctx, out);
	fh_metrics_print(c->h, out);
	if (fclose(out))
		fh_conn_abort(c);
	else
		fh_conn_respond(c, 200, "text/plain; version=0.0.4; charset=utf-8", NULL, text, n);
	free(text);
}

static void answer_version(struct fh_conn *c)
{
	struct fh_buf b = {0};

	fh_buf_lit(&b, "{\"version\":\"");
	fh_buf_json(&b, c->h->cfg.version, strlen(c->h->cfg.version));
	fh_buf_lit(&b, "\"}");
	fh_conn_respond_json(c, 200, NULL, &b);
}

void fh_dispatch(struct fh_conn *c, const char *body, size_t n)
{
	switch (c->ep) {
	case FH_EP_MODELS:
	case FH_EP_MODEL: answer_models(c); break;
	case FH_EP_HEALTH: answer_health(c); break;
	case FH_EP_METRICS: answer_metrics(c); break;
	case FH_EP_VERSION: answer_version(c); break;
	case FH_EP_PAGE: fh_conn_answer_page(c); break;
	case FH_EP_STATUS: fh_conn_answer_status(c); break;
	case FH_EP_EVENTS: fh_conn_answer_events(c); break;
	case FH_EP_KEYS:
	case FH_EP_KEY: fh_conn_answer_keys(c); break;
	case FH_EP_COMPLETIONS: fh_call_start(c, FH_OAI_COMPLETION, body, n); break;
	case FH_EP_CHAT: fh_call_start(c, FH_OAI_CHAT, body, n); break;
	case FH_EP_EMBEDDINGS: fh_call_start(c, FH_OAI_EMBED, body, n); break;
	case FH_EP_TOKENIZE: fh_call_start(c, FH_OAI_TOKENIZE, body, n); break;
	case FH_EP_DETOKENIZE: fh_call_start(c, FH_OAI_DETOKENIZE, body, n); break;
	default: fh_conn_abort(c); break; /* fh_route() has refused it */
	}
}
