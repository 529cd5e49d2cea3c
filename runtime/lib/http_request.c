// SPDX-License-Identifier: Apache-2.0
/*
 * A request's bytes: a head, and a body of JSON in OpenAI's form.
 *
 * The body is written straight into its buffer.  Token ids are most of it, and
 * the rest is a handful of numbers, so no JSON tree is made first; jansson
 * writes the strings, and checks their UTF-8 on the way.
 */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/lib/http.h"

#define HEAD_ROOM 2048u /* before the body, for its head */

void fhl_bytes_free(struct fhl_bytes *b)
{
	free(b->p);
	*b = (struct fhl_bytes){0};
}

static void put(struct fhl_bytes *b, const char *p, size_t n)
{
	if (b->failed)
		return;
	if (b->n + n > b->cap) {
		size_t cap = 2 * (b->n + n);
		char *q = realloc(b->p, cap);

		if (!q) {
			b->failed = true;
			return;
		}
		b->p = q;
		b->cap = cap;
	}
	memcpy(b->p + b->n, p, n);
	b->n += n;
}

static void put_str(struct fhl_bytes *b, const char *s)
{
	put(b, s, strlen(s));
}

static void put_u64(struct fhl_bytes *b, uint64_t v)
{
	char digits[20];
	size_t at = sizeof(digits);

	do {
		digits[--at] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	put(b, digits + at, sizeof(digits) - at);
}

static void put_number(struct fhl_bytes *b, const char *name, double v)
{
	char text[64];

	snprintf(text, sizeof(text), ",\"%s\":%.9g", name, v);
	/* The decimal point of the program's locale. */
	for (char *p = strchr(text, ':'); *p; p++)
		if (*p == ',')
			*p = '.';
	put_str(b, text);
}

static int dump_cb(const char *p, size_t n, void *data)
{
	put(data, p, n);
	return ((struct fhl_bytes *)data)->failed ? -1 : 0;
}

/* A JSON string; -EILSEQ, -ENOMEM. */
static int put_string(struct fhl_bytes *b, const char *s, size_t n)
{
	json_t *v = json_stringn_nocheck(s, n);
	int rc;

	if (!v)
		return -ENOMEM;
	rc = json_dump_callback(v, dump_cb, b, JSON_ENCODE_ANY);
	json_decref(v);
	return !rc ? 0 : b->failed ? -ENOMEM : -EILSEQ;
}

static int put_prompt(struct fhl_bytes *b, const struct fhl_prompt *prompt)
{
	const uint32_t *ids = prompt->data;

	put_str(b, "\"prompt\":");
	if (prompt->text)
		return put_string(b, prompt->data, prompt->bytes);
	for (size_t i = 0; i < prompt->bytes / sizeof(*ids); i++) {
		put(b, i ? "," : "[", 1);
		put_u64(b, ids[i]);
	}
	put(b, "]", 1);
	return 0;
}

static void put_params(struct fhl_bytes *b, const struct fh_params *p)
{
	put_str(b, ",\"stream\":true,\"return_token_ids\":true,\"max_tokens\":");
	put_u64(b, p->max_tokens);
	put_number(b, "temperature", (double)p->temperature);
	if (p->top_k)
		put_number(b, "top_k", p->top_k);
	if (p->top_p < 1)
		put_number(b, "top_p", (double)p->top_p);
	if (p->min_p > 0)
		put_number(b, "min_p", (double)p->min_p);
	if (p->typical_p < 1)
		put_number(b, "typical_p", (double)p->typical_p);
	/* Exactly 1, which copy_params() put there for "none". */
	if (fabsf(p->repetition_penalty - 1) > 0)
		put_number(b, "repetition_penalty", (double)p->repetition_penalty);
	if (fabsf(p->presence_penalty) > 0)
		put_number(b, "presence_penalty", (double)p->presence_penalty);
	if (fabsf(p->frequency_penalty) > 0)
		put_number(b, "frequency_penalty", (double)p->frequency_penalty);
	if (p->flags & FH_REQ_IGNORE_EOS)
		put_str(b, ",\"ignore_eos\":true");
	if (p->flags & FH_REQ_LOGPROBS)
		put_str(b, ",\"logprobs\":0");
	if (p->flags & FH_REQ_SEED) {
		/* JSON integers are signed; the server takes the bits. */
		char text[32];

		snprintf(text, sizeof(text), ",\"seed\":%lld", (long long)(int64_t)p->seed);
		put_str(b, text);
	}
}

/* What a head ends with, before its empty line. */
static int head_tail(struct fh_client *c, char *out, size_t cap, const char *host)
{
	int n = snprintf(out, cap, "Host: %s\r\nUser-Agent: libfreehold/%s\r\n%s%s%s", host, FREEHOLD_VERSION,
			 c->opt.api_key ? "Authorization: Bearer " : "", c->opt.api_key ? c->opt.api_key : "",
			 c->opt.api_key ? "\r\n" : "");

	return n > 0 && (size_t)n < cap ? 0 : -EINVAL;
}

int fhl_request_get(struct fh_client *c, const char *host, const char *target, struct fhl_bytes *out)
{
	char tail[HEAD_ROOM - 128];

	if (head_tail(c, tail, sizeof(tail), host))
		return fh_errf(&c->err, -EINVAL, "%s: the API key is too long", c->where);
	out->n = 0;
	put_str(out, "GET ");
	put_str(out, target);
	put_str(out, " HTTP/1.1\r\n");
	put_str(out, tail);
	put_str(out, "\r\n");
	return out->failed ? fh_errf(&c->err, -ENOMEM, "out of memory") : 0;
}

static int refuse(struct fh_client *c, const char *name)
{
	return fh_errf(&c->err, -EOPNOTSUPP,
		       "%s: HTTP does not carry %s: leave it zero, or open dev: or unix: on the server's host",
		       c->where, name);
}

static int check_carried(struct fh_client *c, const struct fh_params *p)
{
	static const uint8_t none[sizeof(p->run_id)];

	if (p->budget_tokens)
		return refuse(c, "budget_tokens");
	if (memcmp(p->run_id, none, sizeof(none)))
		return refuse(c, "run_id");
	return 0;
}

/* ": 12.345\r\n" after @name, where there is anything to say; UINT32_MAX means none, against the class's own. */
static void put_deadline(struct fhl_bytes *b, const char *name, uint32_t us)
{
	char text[64];

	if (!us)
		return;
	if (us == UINT32_MAX)
		snprintf(text, sizeof(text), "%s: none\r\n", name);
	else
		snprintf(text, sizeof(text), "%s: %u.%03u\r\n", name, us / 1000, us % 1000);
	put_str(b, text);
}

/* Fields of freehold serve; other servers pass them over. */
static void put_wishes(struct fhl_bytes *b, const struct fh_params *p)
{
	put_deadline(b, "X-Freehold-Ttft-Ms", p->ttft_us);
	put_deadline(b, "X-Freehold-Tpot-Ms", p->tpot_us);
	if (p->req_class == FH_CLASS_INTERACTIVE)
		put_str(b, "X-Freehold-Priority: interactive\r\n");
	if (p->req_class == FH_CLASS_BATCH)
		put_str(b, "X-Freehold-Priority: batch\r\n");
}

int fhl_request_completion(struct fh_client *c, const char *host, const struct fhl_prompt *prompt,
			   const struct fh_params *p, struct fhl_bytes *out)
{
	char tail[HEAD_ROOM - 256], head[HEAD_ROOM];
	struct fhl_bytes body = {0};
	int rc = check_carried(c, p);

	if (rc)
		return rc;
	if (head_tail(c, tail, sizeof(tail), host))
		return fh_errf(&c->err, -EINVAL, "%s: the API key is too long", c->where);
	put_str(&body, "{");
	if (c->model[0]) {
		put_str(&body, "\"model\":");
		rc = put_string(&body, c->model, strlen(c->model));
		put_str(&body, ",");
	}
	if (!rc)
		rc = put_prompt(&body, prompt);
	put_params(&body, p);
	put_str(&body, "}");
	if (!rc && !body.failed) {
		snprintf(head, sizeof(head),
			 "POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: "
			 "%zu\r\n%s",
			 body.n, tail);
		out->n = 0;
		put_str(out, head);
		put_wishes(out, p);
		put_str(out, "\r\n");
		put(out, body.p, body.n);
	}
	if (body.failed || out->failed)
		rc = -ENOMEM;
	fhl_bytes_free(&body);
	return rc ? fh_errf(&c->err, rc, "%s",
			    rc == -EILSEQ ? "the prompt is no UTF-8: mend it, or send token ids" : "out of memory")
		  : 0;
}
