// SPDX-License-Identifier: Apache-2.0
/* An answer that is streamed to a slow reader whose key is revoked meanwhile, with a guard that is told what to say. */
#include "tests/unit/http_server.h"

#define KEY "Authorization: Bearer key\r\n"

static _Atomic int verdict; /* enum fh_guard_verdict, on who is in */

static enum fh_guard_verdict bearer(const struct fh_guard *g, const char *key, size_t n, uint64_t now_s,
				    struct fh_grant *out)
{
	(void)g, (void)key, (void)n, (void)now_s;
	*out = (struct fh_grant){
		.who = {.how = FH_ID_KEY, .tenant = "acme"}, .tenant_nr = 1, .endpoints = FH_GRANT_ALL, .model = true};
	return FH_GUARD_OK;
}

static enum fh_guard_verdict still(const struct fh_guard *g, const struct fh_identity *who, uint64_t now_s)
{
	(void)g, (void)who, (void)now_s;
	return atomic_load(&verdict);
}

static void free_nothing(struct fh_guard *g)
{
	(void)g;
}

static const struct fh_guard_ops ops = {.bearer = bearer, .still = still, .free = free_nothing};

static uint32_t metric(struct server *s, const char *name)
{
	struct client c = client_open(s->url);
	struct reply r;
	uint32_t v = 0;
	char *p;

	client_request(&c, "GET", "/metrics", KEY, "");
	r = client_reply(&c);
	cr_assert_eq(r.status, 200);
	p = strstr(r.body, name);
	if (p)
		v = (uint32_t)strtoul(p + strlen(name), NULL, 10);
	reply_free(&r);
	client_close(&c);
	return v;
}

/* What it has got by the time at which its key goes is all that it gets, however late it reads it. */
HTTP_TEST(a_revoked_streams_slow_reader_gets_no_more)
{
	struct fh_guard g = {.ops = &ops, .nr_refs = 1};
	struct server *s = server_make(epoll);
	struct timeval tv = {.tv_usec = 300000};
	struct client slow;
	struct reply r;
	uint32_t nr;

	atomic_store(&verdict, FH_GUARD_OK);
	s->cfg.guarded = true;
	s->cfg.guard = &g;
	server_start(s);
	slow = client_open_with(s->url, 16384);
	client_request(&slow, "POST", "/v1/completions", KEY,
		       "{\"prompt\":\"abcdefgh\",\"max_tokens\":60000,\"stream\":true}");
	for (int i = 0; i < 500 && !metric(s, "\nfreehold_http_reader_stalls_total "); i++)
		usleep(10000);
	/* The engine keeps the request, as it does until its step is over. */
	atomic_store(&s->e.hold, 1);
	echo_kick(&s->e);
	for (int i = 0; i < 500 && !atomic_load(&s->e.held); i++)
		usleep(10000);
	cr_assert(atomic_load(&s->e.held));
	nr = metric(s, "\nfreehold_http_tokens_total ");
	cr_assert(nr > 100 && nr < 50000, "%u", nr);
	atomic_store(&verdict, FH_GUARD_REVOKED);
	for (int i = 0; i < 500 && !atomic_load(&s->e.active[0]->cancel); i++)
		usleep(10000);
	cr_assert(atomic_load(&s->e.active[0]->cancel), "nobody looked at the key again");
	/* It reads on now, and more has been generated than it had been sent. */
	setsockopt(slow.fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	while (client_more(&slow))
		;
	tv.tv_sec = 10;
	setsockopt(slow.fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	atomic_store(&s->e.hold, 0);
	r = client_reply(&slow);
	cr_expect_eq(r.status, 200);
	cr_expect_eq(count(r.body, "\"text\":"), nr, "%u for %u", count(r.body, "\"text\":"), nr);
	cr_expect_eq(count(r.body, "data: {"), nr + 1);
	cr_expect_eq(count(r.body, "revoked while it was answered"), 1);
	cr_expect_eq(atomic_load(&s->e.nr_cancelled), 1);
	reply_free(&r);
	client_close(&slow);
	server_down(s);
}
