// SPDX-License-Identifier: Apache-2.0
/*
 * Keys over HTTP, for administrators: list them, a page at a time, revoke one.
 *
 * The database belongs to another thread and may make it wait, so a request
 * becomes an errand: it is handed over, the connection waits, and the answer
 * comes back through a list.  When a revocation is answered, the table without
 * that key has been handed to the front ends.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/net/http_priv.h"

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#define SOME_KEYS 100  /* of a list, unless it is said how many */
#define MOST_KEYS 1000 /* that may be asked for at once: as many as are put together in some milliseconds */

struct fh_errand {
	struct fh_key_errand e;
	struct fh_http *h;
	struct fh_conn *conn; /* NULL: it has gone */
	struct fh_errand *next;
};

/* On the thread of the keys. */
static void on_done(struct fh_key_errand *e)
{
	struct fh_errand *r = container_of(e, struct fh_errand, e);
	struct fh_http *h = r->h;

	r->next = atomic_load(&h->errands);
	while (!atomic_compare_exchange_weak(&h->errands, &r->next, r))
		;
	fh_io_wake(h->io);
}

static void errand_free(struct fh_errand *r)
{
	free(r->e.out);
	free(r);
}

void fh_errand_forget(struct fh_conn *c)
{
	if (c->errand)
		c->errand->conn = NULL;
	c->errand = NULL;
}

static void fail(struct fh_conn *c, int status, const char *code, const char *what, const char *extra)
{
	fh_oai_errorf(&c->err, status, code, NULL, "%s", what);
	fh_conn_respond_error(c, &c->err, extra);
}

/* What is in e->err names files of this host, and is for the log. */
static void answer_failure(struct fh_conn *c, int rc)
{
	static const char later[] = "Retry-After: 1\r\n";

	switch (rc) {
	case -ENOENT: fail(c, 404, "key_not_found", "There is no key of this id.", NULL); break;
	case -EALREADY: fail(c, 409, NULL, "This key was revoked before.", NULL); break;
	case -EROFS:
		fail(c, 503, "audit_unavailable",
		     "This server changes only what it can log, and its audit log cannot be written.", later);
		break;
	default: fail(c, 503, NULL, "The key database cannot be used now; the server's log says why.", later); break;
	}
}

static void answer(struct fh_conn *c, const struct fh_key_errand *e)
{
	struct fh_buf b = {0};

	if (e->rc) {
		answer_failure(c, e->rc);
		return;
	}
	if (e->revoke[0]) {
		fh_buf_printf(&b, "{\"object\":\"freehold.key\",\"id\":\"%s\",\"state\":\"revoked\"}", e->revoke);
	} else {
		fh_buf_printf(&b, "{\"object\":\"list\",\"has_more\":%s,\"data\":", e->more ? "true" : "false");
		fh_buf_put(&b, e->out, e->bytes);
		fh_buf_lit(&b, "}");
	}
	fh_conn_respond_json(c, 200, FH_NO_STORE, &b);
}

void fh_errands_take(struct fh_http *h)
{
	struct fh_errand *r, *next;

	if (!atomic_load_explicit(&h->errands, memory_order_relaxed))
		return;
	for (r = atomic_exchange(&h->errands, NULL); r; r = next) {
		struct fh_conn *c = r->conn;

		next = r->next;
		if (c) {
			c->errand = NULL;
			answer(c, &r->e);
		}
		errand_free(r);
	}
}

void fh_errands_free(struct fh_http *h)
{
	struct fh_errand *r = atomic_load(&h->errands), *next;

	for (; r; r = next) {
		next = r->next;
		errand_free(r);
	}
}

/* As keys are named: hexadecimal digits, in small letters. */
static bool is_id(const char *s)
{
	return strlen(s) == 2 * FH_IDENTITY_KEY_BYTES && strspn(s, "0123456789abcdef") == strlen(s);
}

static bool refuse_query(struct fh_conn *c, const char *param, const char *what)
{
	c->refuse = true;
	fh_oai_errorf(&c->err, 400, NULL, param, "%s", what);
	return false;
}

/* One "NAME=VALUE". */
static bool read_parameter(struct fh_conn *c, struct fh_span p)
{
	char text[32];
	uint32_t n = 0;

	if (p.n >= sizeof(text))
		return refuse_query(c, NULL, "A list of keys takes 'after=ID' and 'limit=NUMBER'.");
	memcpy(text, p.p, p.n);
	text[p.n] = 0;
	if (!strncmp(text, "after=", 6)) {
		if (!is_id(text + 6))
			return refuse_query(c, "after", "A key's id is 16 hexadecimal digits.");
		strcpy(c->path_id, text + 6);
		return true;
	}
	if (strncmp(text, "limit=", 6))
		return refuse_query(c, NULL, "A list of keys takes 'after=ID' and 'limit=NUMBER'.");
	for (const char *d = text + 6; *d >= '0' && *d <= '9' && n <= MOST_KEYS; d++)
		n = n * 10 + (uint32_t)(*d - '0');
	if (!n || n > MOST_KEYS || strspn(text + 6, "0123456789") != p.n - 6)
		return refuse_query(c, "limit", "'limit' is a number from 1 to 1000.");
	c->limit = n;
	return true;
}

bool fh_conn_keys_query(struct fh_conn *c, struct fh_span query)
{
	c->path_id[0] = 0;
	c->limit = SOME_KEYS;
	while (query.n) {
		const char *end = memchr(query.p, '&', query.n);
		size_t n = end ? (size_t)(end - query.p) : query.n;

		if (n && !read_parameter(c, (struct fh_span){query.p, n}))
			return false;
		n += end != NULL;
		query = (struct fh_span){query.p + n, query.n - n};
	}
	return true;
}

void fh_conn_answer_keys(struct fh_conn *c)
{
	const struct fh_service *svc = c->h->svc;
	struct fh_errand *r;

	if (c->ep == FH_EP_KEY && !is_id(c->path_id)) {
		fail(c, 404, "key_not_found", "A key's id is 16 hexadecimal digits.", NULL);
		return;
	}
	r = svc->keys ? calloc(1, sizeof(*r)) : NULL;
	if (!r) {
		fail(c, svc->keys ? 503 : 501, NULL,
		     svc->keys ? "There is no memory for that." : "This server has no key database.", NULL);
		return;
	}
	r->h = c->h;
	r->conn = c;
	r->e.done = on_done;
	r->e.by = c->grant.who;
	/* Both are an id, or nothing. */
	memcpy(c->ep == FH_EP_KEY ? r->e.revoke : r->e.after, c->path_id, sizeof(r->e.after) - 1);
	r->e.limit = c->limit;
	c->errand = r;
	if (svc->keys(svc->ctx, &r->e)) {
		fh_errand_forget(c);
		errand_free(r);
		fail(c, 503, NULL, "Too many such requests are under way.", "Retry-After: 1\r\n");
	}
}
