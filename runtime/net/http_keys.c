// SPDX-License-Identifier: Apache-2.0
/*
 * Keys over HTTP, for administrators: list them, revoke one.
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

static void answer(struct fh_conn *c, const struct fh_key_errand *e)
{
	struct fh_buf b = {0};

	if (e->rc) {
		int status = e->rc == -ENOENT ? 404 : e->rc == -EALREADY ? 409 : 503;

		fh_oai_errorf(&c->err, status, status == 404 ? "key_not_found" : NULL, NULL, "%s",
			      status == 503 ? "The key database cannot be used now; the server's log says why."
					    : e->err.msg);
		fh_conn_respond_error(c, &c->err, status == 503 ? "Retry-After: 1\r\n" : NULL);
		return;
	}
	if (e->revoke[0]) {
		fh_buf_printf(&b, "{\"object\":\"freehold.key\",\"id\":\"%s\",\"state\":\"revoked\"}", e->revoke);
	} else {
		fh_buf_lit(&b, "{\"object\":\"list\",\"data\":");
		fh_buf_put(&b, e->out, e->bytes);
		fh_buf_lit(&b, "}");
	}
	if (b.failed)
		fh_conn_abort(c);
	else
		fh_conn_respond(c, 200, "application/json", "Cache-Control: no-store\r\n", b.data, b.len);
	fh_buf_free(&b);
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

static void fail(struct fh_conn *c, int status, const char *code, const char *what, const char *extra)
{
	fh_oai_errorf(&c->err, status, code, NULL, "%s", what);
	fh_conn_respond_error(c, &c->err, extra);
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
	if (c->ep == FH_EP_KEY)
		memcpy(r->e.revoke, c->path_id, sizeof(r->e.revoke) - 1);
	c->errand = r;
	if (svc->keys(svc->ctx, &r->e)) {
		fh_errand_forget(c);
		errand_free(r);
		fail(c, 503, NULL, "Too many such requests are under way.", "Retry-After: 1\r\n");
	}
}
