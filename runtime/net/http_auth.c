// SPDX-License-Identifier: Apache-2.0
/*
 * Who asks, and whether he may.
 *
 * A request's bearer key says who asks; without one, the certificate that the
 * client showed in the TLS handshake.  The key is looked up in the guard's table
 * first, then in the key file.  Everything is guarded but what was listed as
 * public, and what is not there is not told from what is: without a key nobody
 * learns which endpoints exist.
 */
#include <sodium.h>
#include <string.h>
#include <time.h>

#include "runtime/net/http_priv.h"

#define RECHECK_NS 1000000000u /* keys expire at full seconds */

const char *const *fh_http_endpoints(uint32_t *nr)
{
	*nr = FH_EP_NONE;
	return fh_endpoint_names();
}

int fh_http_read_public(struct fh_http *h, struct fh_err *err)
{
	/* The page holds no numbers: a browser fetches it without a key, and asks for one. */
	h->public_eps = h->cfg.nr_public ? 0 : 1u << FH_EP_HEALTH | 1u << FH_EP_PAGE;
	for (uint32_t i = 0; i < h->cfg.nr_public; i++) {
		const char *path = h->cfg.public_paths[i];
		uint32_t bits = 0;

		if (!strcmp(path, "none") && h->cfg.nr_public == 1)
			return 0;
		for (unsigned int ep = 0; ep < FH_EP_NONE; ep++)
			if (!strcmp(path, fh_endpoint_name(ep)) && !fh_endpoint_is_admin(ep))
				bits |= 1u << ep;
		if (bits & 1u << FH_EP_MODELS)
			bits |= 1u << FH_EP_MODEL;
		if (!bits)
			return fh_errf(err, -EINVAL,
				       "public = %s: there is no such endpoint; one a setting, such as /health or "
				       "/metrics, or none alone",
				       path);
		h->public_eps |= bits;
	}
	return 0;
}

void fh_http_set_guard(struct fh_http *h, struct fh_guard *g)
{
	fh_guard_put(atomic_exchange(&h->new_guard, g));
	fh_io_wake(h->io);
}

void fh_http_take_guard(struct fh_http *h)
{
	struct fh_guard *g;

	if (!atomic_load_explicit(&h->new_guard, memory_order_relaxed))
		return;
	g = atomic_exchange(&h->new_guard, NULL);
	fh_guard_put(h->guard);
	h->guard = g;
	h->guard_nr++;
	h->checked_s = 0;
}

static uint64_t unix_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME_COARSE, &ts);
	return (uint64_t)ts.tv_sec;
}

/* A table looks a key up by its keyed hash, a microsecond's work that the next request of a connection need not repeat.
 */
static enum fh_guard_verdict look_up(struct fh_conn *c, struct fh_span key)
{
	struct fh_shown *shown = &c->shown;
	struct fh_guard *g = c->h->guard;
	uint64_t now_s = unix_time();
	enum fh_guard_verdict v;

	if (shown->n && shown->n == key.n && shown->guard_nr == c->h->guard_nr &&
	    !sodium_memcmp(shown->key, key.p, key.n)) {
		v = g->ops->still(g, &shown->grant.who, now_s);
		if (v == FH_GUARD_OK)
			c->grant = shown->grant;
		return v;
	}
	shown->n = 0;
	v = g->ops->bearer(g, key.p, key.n, now_s, &c->grant);
	if (v == FH_GUARD_OK && c->grant.who.how == FH_ID_KEY && key.n <= sizeof(shown->key)) {
		memcpy(shown->key, key.p, key.n);
		shown->n = (uint32_t)key.n;
		shown->guard_nr = c->h->guard_nr;
		shown->grant = c->grant;
	}
	return v;
}

static enum fh_guard_verdict identify(struct fh_conn *c)
{
	struct fh_http *h = c->h;
	struct fh_span key = fh_auth_bearer(c->head.authorization);
	const struct fh_guard_cert *cert = fh_conn_cert(c);
	enum fh_guard_verdict v = FH_GUARD_UNKNOWN;

	/* Whoever shows a key is its bearer, whatever his certificate says. */
	if (c->head.authorization.n) {
		if (h->guard && key.n)
			v = look_up(c, key);
		if (v == FH_GUARD_UNKNOWN && h->auth && (c->tenant = fh_auth_check(h->auth, c->head.authorization))) {
			c->grant.endpoints = FH_GRANT_ALL;
			c->grant.model = true;
			return FH_GUARD_OK;
		}
	} else if (h->guard && cert) {
		v = h->guard->ops->cert(h->guard, cert, &c->grant);
	}
	if (v == FH_GUARD_OK)
		c->tenant = c->grant.tenant_nr;
	return v;
}

static bool refuse(struct fh_conn *c, int status, const char *code, const char *what)
{
	c->refuse = true;
	fh_oai_errorf(&c->err, status, code, NULL, "%s", what);
	return false;
}

bool fh_endpoint_is_admin(enum fh_endpoint ep)
{
	return ep == FH_EP_KEYS || ep == FH_EP_KEY;
}

static bool is_public(const struct fh_conn *c)
{
	return c->ep != FH_EP_NONE && c->h->public_eps >> c->ep & 1;
}

static bool refuse_unknown(struct fh_conn *c, enum fh_guard_verdict v)
{
	c->grant = (struct fh_grant){0};
	c->tenant = 0;
	switch (v) {
	case FH_GUARD_EXPIRED: return refuse(c, 401, "invalid_api_key", "This API key has expired.");
	case FH_GUARD_REVOKED: return refuse(c, 401, "invalid_api_key", "This API key has been revoked.");
	case FH_GUARD_DISABLED: return refuse(c, 403, "access_terminated", "Access has been taken from this tenant.");
	default: break;
	}
	if (c->head.authorization.n)
		return refuse(c, 401, "invalid_api_key", "This API key is not known here.");
	if (fh_conn_cert(c))
		return refuse(
			c, 401, "invalid_api_key",
			"This certificate is nobody's here; an API key would do: send 'Authorization: Bearer KEY'.");
	return refuse(c, 401, "invalid_api_key", "An API key is needed: send 'Authorization: Bearer KEY'.");
}

/* Why an answer stops in its middle, or does not come. */
static const struct {
	int status;
	const char *code, *what;
} reasons[] = {
	[FH_GUARD_EXPIRED] = {401, "invalid_api_key", "This API key has expired while it was answered."},
	[FH_GUARD_DISABLED] = {403, "access_terminated", "Access was taken from this tenant while it was answered."},
	[FH_GUARD_REVOKED] = {401, "invalid_api_key", "This API key was revoked while it was answered."},
	[FH_GUARD_UNKNOWN] = {401, "invalid_api_key", "This API key was revoked while it was answered."},
};

/* Who came in by the key file, or where nobody is asked, has no number of a table's. */
static enum fh_guard_verdict ask_again(struct fh_conn *c, uint64_t now_s)
{
	struct fh_guard *g = c->h->guard;

	return g && c->grant.tenant_nr ? g->ops->still(g, &c->grant.who, now_s) : FH_GUARD_OK;
}

bool fh_conn_still_admitted(struct fh_conn *c)
{
	enum fh_guard_verdict v = FH_GUARD_OK;

	/* In the turn in which it was let in nothing can have changed. */
	if (fh_io_now_ns(c->h->io) != c->admitted_ns && !is_public(c))
		v = ask_again(c, unix_time());
	return v == FH_GUARD_OK || refuse(c, reasons[v].status, reasons[v].code, reasons[v].what);
}

void fh_http_recheck(struct fh_http *h, uint64_t *timeout_ns)
{
	uint64_t now_s;

	if (!h->guard || !h->nr_calls)
		return;
	if (*timeout_ns > RECHECK_NS)
		*timeout_ns = RECHECK_NS;
	now_s = unix_time();
	if (now_s == h->checked_s)
		return;
	h->checked_s = now_s;
	for (struct fh_conn *c = h->conns, *next; c; c = next) {
		enum fh_guard_verdict v;

		next = c->next;
		v = c->call ? ask_again(c, now_s) : FH_GUARD_OK;
		if (v != FH_GUARD_OK)
			fh_call_revoke(c->call, (unsigned int)reasons[v].status, reasons[v].code, reasons[v].what);
	}
}

bool fh_conn_admit(struct fh_conn *c)
{
	enum fh_guard_verdict v;

	c->grant = (struct fh_grant){0};
	c->tenant = 0;
	c->admitted_ns = fh_io_now_ns(c->h->io);
	if (!c->h->cfg.guarded && !c->h->auth) {
		c->grant.model = true;
		if (fh_endpoint_is_admin(c->ep))
			return refuse(c, 403, "missing_scope", "This server was started without keys.");
		return true;
	}
	v = identify(c);
	if (v != FH_GUARD_OK && is_public(c)) {
		c->grant = (struct fh_grant){.model = true};
		return true;
	}
	if (v != FH_GUARD_OK)
		return refuse_unknown(c, v);
	if (c->ep == FH_EP_NONE || is_public(c))
		return true; /* he may know that it is not there */
	if (fh_endpoint_is_admin(c->ep)) {
		if (c->grant.endpoints & FH_GRANT_ADMIN)
			return true;
		return refuse(c, 403, "missing_scope", "This API key has not the scope 'admin'.");
	}
	if (!(c->grant.endpoints >> c->ep & 1))
		return refuse(c, 403, "missing_scope", "This API key may not use this endpoint.");
	if (!c->grant.model && c->ep >= FH_EP_COMPLETIONS && c->ep <= FH_EP_DETOKENIZE)
		return refuse(c, 403, "model_not_found", "This API key has no access to the model that is served.");
	return true;
}
