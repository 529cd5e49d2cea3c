// SPDX-License-Identifier: Apache-2.0
/* An answer that is streamed to a slow reader whose key is revoked meanwhile, with a guard that is told what to say. */
#include "tests/unit/http_server.h"

#define KEY "Authorization: Bearer key\r\n"

static _Atomic int verdict; /* enum fh_guard_verdict, on who is in */
static _Atomic int nr_looked_up;

static enum fh_guard_verdict bearer(const struct fh_guard *g, const char *key, size_t n, uint64_t now_s,
				    struct fh_grant *out)
{
	(void)g, (void)now_s;
	atomic_fetch_add(&nr_looked_up, 1);
	if (n < 3 || memcmp(key, "key", 3))
		return FH_GUARD_UNKNOWN;
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

static struct server *guarded_server(bool epoll, struct fh_guard *g)
{
	struct server *s = server_make(epoll);

	atomic_store(&verdict, FH_GUARD_OK);
	s->cfg.guarded = true;
	s->cfg.guard = g;
	server_start(s);
	return s;
}

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
	struct server *s = guarded_server(epoll, &g);
	struct timeval tv = {.tv_usec = 300000};
	struct client slow;
	struct reply r;
	uint32_t nr;

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

/* A connection's key is looked up once for each table; what became of it since, and another key, are seen all the same.
 */
HTTP_TEST(a_key_that_is_shown_again)
{
	static const struct {
		const char *header;
		int verdict, status, nr_looked_up; /* the latter: since the connection was made */
		bool new_table;
	} steps[] = {
		{KEY, FH_GUARD_OK, 200, 1, false},
		{KEY, FH_GUARD_OK, 200, 1, false},
		{KEY, FH_GUARD_REVOKED, 401, 1, false},
		{KEY, FH_GUARD_EXPIRED, 401, 1, false},
		{KEY, FH_GUARD_OK, 200, 1, false},
		{KEY, FH_GUARD_OK, 200, 2, true},
		{KEY, FH_GUARD_OK, 200, 2, false},
		{"Authorization: Bearer kex\r\n", FH_GUARD_OK, 401, 3, false},
		{"Authorization: Bearer ke\r\n", FH_GUARD_OK, 401, 4, false},
		{"", FH_GUARD_OK, 401, 4, false},
		{KEY, FH_GUARD_OK, 200, 5, false},
		{"Authorization: Bearer key2\r\n", FH_GUARD_OK, 200, 6, false},
		{KEY, FH_GUARD_OK, 200, 7, false},
		{KEY, FH_GUARD_OK, 200, 7, false},
	};
	struct fh_guard g = {.ops = &ops, .nr_refs = 1};
	struct server *s = guarded_server(epoll, &g);
	struct client c, again;
	struct reply r;
	int begun;

	c = client_open(s->url);
	begun = atomic_load(&nr_looked_up);
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		if (steps[i].new_table) {
			fh_http_set_guard(s->h, fh_guard_get(&g));
			usleep(50000);
		}
		atomic_store(&verdict, steps[i].verdict);
		client_request(&c, "GET", "/v1/models", steps[i].header, "");
		r = client_reply(&c);
		cr_assert_eq(r.status, steps[i].status, "step %zu: %d", i, r.status);
		cr_assert_eq(atomic_load(&nr_looked_up) - begun, steps[i].nr_looked_up, "step %zu", i);
		reply_free(&r);
	}
	/* Another connection knows nothing of it. */
	again = client_open(s->url);
	client_request(&again, "GET", "/v1/models", KEY, "");
	r = client_reply(&again);
	cr_assert(r.status == 200 && atomic_load(&nr_looked_up) - begun == 8);
	reply_free(&r);
	client_close(&again);
	client_close(&c);
	server_down(s);
}
