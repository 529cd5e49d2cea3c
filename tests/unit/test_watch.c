// SPDX-License-Identifier: Apache-2.0
/*
 * What those who watch are told: the arithmetic and the JSON of samples, then
 * the endpoints over loopback sockets, with numbers that the test sets.
 * fh_http_start() starts threads: ThreadSanitizer runs this.
 */
#include <math.h>

#include "runtime/net/watch.h"
#include "tests/unit/http_server.h"

#define SECOND 1000000000ull

/* ---- samples ---- */

static json_t *look(const struct fh_watch *w)
{
	const struct fh_watch_facts f = {
		.version = "1", .model = "a \"model\"", .health = "ok", .time_ms = 5, .nr_viewers = 2};
	struct fh_buf b = {0};
	json_error_t why;
	json_t *j;

	fh_watch_json(w, &f, &b);
	fh_buf_lit(&b, "}");
	cr_assert(!b.failed);
	j = json_loadb(b.data, b.len, JSON_REJECT_DUPLICATES, &why);
	cr_assert(j, "%s in %.*s", why.text, (int)b.len, b.data);
	fh_buf_free(&b);
	return j;
}

/* The number at @path, such as "kv.held"; NaN: null or not there. */
static double at(json_t *j, const char *path)
{
	char copy[128], *rest = copy, *name;

	snprintf(copy, sizeof(copy), "%s", path);
	while ((name = strsep(&rest, ".")))
		j = json_object_get(j, name);
	return json_is_number(j) ? json_number_value(j) : NAN;
}

#define expect_at(j, path, want)                                                                                       \
	cr_expect(fabs(at(j, path) - (want)) < 1e-6 * (1 + fabs((double)(want))), "%s: %g", path, at(j, path))

Test(watch, rates_are_differences_by_time)
{
	static struct fh_watch w;
	struct fh_vitals v = {.generated_tokens = 100, .prompt_tokens = 50, .prices = {.prompt = 1, .completion = 2}};
	json_t *j;

	fh_watch_begin(&w, 7 * SECOND);
	fh_watch_add(&w, &v, 1000 * SECOND);
	j = look(&w);
	cr_expect(json_is_null(json_object_get(j, "rates")), "nothing is known of a second after a thousand");
	expect_at(j, "uptime_s", 993);
	expect_at(j, "tokens.generated", 100);
	json_decref(j);
	v.generated_tokens = 400;
	v.prompt_tokens = 60;
	v.cached_tokens = 4;
	v.finished[FH_FINISH_STOP] = 3;
	v.refused[1] = 1;
	fh_watch_add(&w, &v, 1002 * SECOND);
	j = look(&w);
	expect_at(j, "rates.over_s", 2);
	expect_at(j, "rates.generation_tokens", 150);
	expect_at(j, "rates.prompt_tokens", 5);
	expect_at(j, "rates.cached_tokens", 2);
	expect_at(j, "rates.finished", 1.5);
	expect_at(j, "rates.refused", 0.5);
	/* 300 tokens of 2 and 6 that were computed of 1, in two seconds. */
	expect_at(j, "rates.cost_per_hour", 606.0 * 1800 / FH_MONEY_UNIT);
	expect_at(j, "requests.refused.total", 1);
	expect_at(j, "requests.refused.budget", 1);
	expect_at(j, "requests.finished.stop", 3);
	cr_expect_str_eq(json_string_value(json_object_get(j, "model")), "a \"model\"");
	json_decref(j);
}

Test(watch, percentiles_are_of_the_last_minute)
{
	static struct fh_watch w;
	struct fh_vitals v = {.ttft_us = {[FH_CLASS_INTERACTIVE] = 250000}};
	json_t *j;

	/* A thousand slow ones, long ago. */
	v.ttft.nr[18] = 1000;
	v.ttft_missed = 1000;
	fh_watch_begin(&w, 0);
	fh_watch_add(&w, &v, SECOND);
	j = look(&w);
	expect_at(j, "window_s", 1);
	expect_at(j, "ttft.count", 1000);
	cr_expect(at(j, "ttft.p50_ms") > 5000);
	expect_at(j, "ttft.missed", 1000);
	expect_at(j, "ttft.deadline_ms.interactive", 250);
	cr_expect(json_is_null(json_object_get(json_object_get(json_object_get(j, "ttft"), "deadline_ms"), "batch")));
	cr_expect(isnan(at(j, "itl.p50_ms")) && at(j, "itl.count") == 0);
	json_decref(j);
	for (uint64_t s = 2; s <= 300; s++) {
		/* Two fast ones a second: up to 50 us. */
		v.ttft.nr[2] += 2;
		v.ttft_kept += 2;
		fh_watch_add(&w, &v, s * SECOND);
	}
	j = look(&w);
	expect_at(j, "window_s", 60);
	expect_at(j, "ttft.count", 120);
	expect_at(j, "ttft.kept", 120);
	expect_at(j, "ttft.missed", 0);
	cr_expect(at(j, "ttft.p50_ms") > 0.02 && at(j, "ttft.p99_ms") <= 0.05);
	json_decref(j);
	/* Nobody watched for an hour: then it is that hour's. */
	v.ttft.nr[2] += 10;
	fh_watch_add(&w, &v, 3900 * SECOND);
	j = look(&w);
	expect_at(j, "window_s", 3600);
	expect_at(j, "ttft.count", 10);
	json_decref(j);
}

Test(watch, levels_audit_and_cost)
{
	static struct fh_watch w;
	struct fh_vitals v = {.nr_blocks = 100, .nr_blocks_free = 60, .nr_blocks_cached = 15, .nr_waiting = 3};
	json_t *j, *a;

	fh_watch_begin(&w, 0);
	fh_watch_add(&w, &v, SECOND);
	j = look(&w);
	expect_at(j, "kv.held", 25);
	expect_at(j, "requests.waiting", 3);
	cr_expect(json_is_null(json_object_get(j, "audit")));
	cr_expect(json_is_null(json_object_get(j, "cost")));
	json_decref(j);
	v.prices = (struct fh_prices){.prompt = 500000, .cached = 50000, .completion = 1500000};
	v.prompt_tokens = 3000000;
	v.cached_tokens = 1000000;
	v.generated_tokens = 2000000;
	v.audit = (struct fh_vitals_audit){.on = true, .strict = true, .error = -ENOSPC, .nr_entries = 9, .nr_lost = 1};
	fh_watch_add(&w, &v, 2 * SECOND);
	j = look(&w);
	/* 2 M * 0.50 + 1 M * 0.05 + 2 M * 1.50 */
	expect_at(j, "cost.since_start", 4.05);
	expect_at(j, "cost.price_per_million.completion", 1.5);
	a = json_object_get(j, "audit");
	cr_expect_str_eq(json_string_value(json_object_get(a, "mode")), "strict");
	cr_expect_str_eq(json_string_value(json_object_get(a, "error")), strerror(ENOSPC));
	cr_expect(json_is_null(json_object_get(a, "root")), "nothing was published");
	json_decref(j);
	v.audit.nr_published = 9;
	memset(v.audit.root, 0xff, sizeof(v.audit.root));
	fh_watch_add(&w, &v, 3 * SECOND);
	j = look(&w);
	cr_expect_str_eq(json_string_value(json_object_get(json_object_get(j, "audit"), "root")),
			 "//////////////////////////////////////////8=");
	json_decref(j);
}

/* Thoughts have a price of their own, and are no other tokens. */
Test(watch, thoughts_cost_what_they_cost)
{
	struct fh_vitals v = {.generated_tokens = 10, .reasoning_tokens = 4};
	static struct fh_watch w;
	json_t *j;

	v.prices = (struct fh_prices){.completion = 1000000, .reasoning = 250000};
	fh_watch_begin(&w, SECOND);
	fh_watch_add(&w, &v, 2 * SECOND);
	j = look(&w);
	expect_at(j, "tokens.reasoning", 4);
	expect_at(j, "cost.price_per_million.reasoning", 0.25);
	expect_at(j, "cost.since_start", (6 * 1.0 + 4 * 0.25) / 1e6);
	json_decref(j);
}

/* Watts are those of the last minute, and money is made of what was measured where anything was. */
Test(watch, energy_and_what_the_host_costs)
{
	struct fh_vitals v = {.host = {.on = true, .hour = 2, .watts = 900, .kwh_price = 0.5, .overhead = 1.5}};
	static struct fh_watch w;
	json_t *j;

	v.prompt_tokens = 3000000;
	v.cached_tokens = 1000000;
	v.generated_tokens = 1000000;
	fh_watch_begin(&w, 0);
	fh_watch_add(&w, &v, 3600 * SECOND);
	j = look(&w);
	cr_expect(json_is_null(json_object_get(j, "energy")));
	expect_at(j, "host.per_hour", 2 + 0.9 * 0.5);
	expect_at(j, "host.since_start", 2 + 0.9 * 0.5);
	expect_at(j, "host.per_million", (2 + 0.9 * 0.5) / 4);
	cr_expect(json_is_false(json_object_get(json_object_get(j, "host"), "power_measured")));
	json_decref(j);
	/* An hour with 1 kWh of work in half of it, and 0.2 kWh of rest. */
	v.energy = (struct fh_vitals_energy){.on = true,
					     .busy_uj = 3600000000000,
					     .idle_uj = 720000000000,
					     .busy_ns = 1800 * SECOND,
					     .idle_ns = 1800 * SECOND,
					     .cpu_uj = 4320000000000};
	fh_watch_begin(&w, 0);
	fh_watch_add(&w, &v, 3600 * SECOND);
	j = look(&w);
	expect_at(j, "energy.joules", 4320000);
	expect_at(j, "energy.busy", 3600000);
	expect_at(j, "energy.joules_per_token", 3600000 / 3e6);
	expect_at(j, "energy.watts", 1200);
	expect_at(j, "host.since_start", 2 + 1.2 * 1.5 * 0.5);
	json_decref(j);
	v.energy.idle_uj += 600 * 30000000ull;
	v.energy.idle_ns += 30 * SECOND;
	fh_watch_add(&w, &v, 3700 * SECOND);
	v.energy.idle_uj += 300 * 30000000ull;
	v.energy.idle_ns += 30 * SECOND;
	v.generated_tokens += 1000;
	fh_watch_add(&w, &v, 3730 * SECOND);
	j = look(&w);
	expect_at(j, "energy.watts", (600.0 + 300) / 2);
	expect_at(j, "host.per_hour", 2 + 0.45 * 1.5 * 0.5);
	json_decref(j);
}

static void make_tenant(struct fh_tenant_use *t, uint32_t i)
{
	*t = (struct fh_tenant_use){.uj = 2500000};
	snprintf(t->name, sizeof(t->name), "tenant-%u", i);
	t->ends_s[FH_SPAN_DAY] = UINT64_MAX;
	t->ends_s[FH_SPAN_MINUTE] = 100;
	t->tokens[FH_SPAN_DAY] = 10 + i;
	t->tokens[FH_SPAN_MINUTE] = 5;
	t->money[FH_SPAN_DAY] = FH_MONEY_UNIT / 4;
	t->limits.tokens[FH_SPAN_DAY] = 1000;
}

Test(watch, tenants)
{
	struct fh_tenant_use t[4];
	struct fh_buf b = {0};
	json_t *j;

	for (uint32_t i = 0; i < 4; i++)
		make_tenant(&t[i], i);
	fh_watch_tenants_json(NULL, 0, 50, &b);
	fh_buf_lit(&b, "\n");
	cr_expect(!strncmp(b.data, "null", 4));
	b.len = 0;
	fh_watch_tenants_json(t, 4, 50, &b);
	j = json_loadb(b.data, b.len, 0, NULL);
	cr_expect_eq(json_array_size(j), 4);
	expect_at(json_array_get(j, 3), "joules", 2.5);
	expect_at(json_array_get(j, 3), "day.tokens.used", 13);
	expect_at(json_array_get(j, 3), "day.tokens.limit", 1000);
	expect_at(json_array_get(j, 3), "day.money.used", 0.25);
	expect_at(json_array_get(j, 3), "minute.tokens.used", 5);
	json_decref(j);
	/* Its minute is over. */
	b.len = 0;
	fh_watch_tenants_json(&t[2], 1, 100, &b);
	j = json_loadb(b.data, b.len, 0, NULL);
	cr_expect_eq(json_array_size(j), 1);
	expect_at(json_array_get(j, 0), "day.tokens.used", 12);
	expect_at(json_array_get(j, 0), "minute.tokens.used", 0);
	cr_expect(isnan(at(json_array_get(j, 0), "minute.tokens.limit")));
	json_decref(j);
	fh_buf_free(&b);
}

/* ---- the endpoints ---- */

static _Atomic uint64_t set_tokens;
static _Atomic uint32_t nr_asked, nr_tenants;

static void give_vitals(void *ctx, struct fh_vitals *out)
{
	(void)ctx;
	atomic_fetch_add(&nr_asked, 1);
	*out = (struct fh_vitals){.nr_blocks = 10, .nr_blocks_free = 10, .generated_tokens = atomic_load(&set_tokens)};
}

static uint32_t give_tenants(void *ctx, struct fh_tenant_use *out, uint32_t max)
{
	uint32_t nr = atomic_load(&nr_tenants);

	(void)ctx;
	nr = nr < max ? nr : max;
	for (uint32_t i = 0; i < nr; i++)
		make_tenant(&out[i], i);
	return nr;
}

static bool give_tenant(void *ctx, uint32_t account, struct fh_tenant_use *out)
{
	(void)ctx;
	make_tenant(out, account);
	return account < atomic_load(&nr_tenants);
}

static struct server *watched(bool epoll, uint32_t period_ms)
{
	struct server *s = server_make(epoll);

	atomic_store(&set_tokens, 0);
	atomic_store(&nr_asked, 0);
	atomic_store(&nr_tenants, 0);
	s->e.svc.vitals = give_vitals;
	s->e.svc.tenants = give_tenants;
	s->e.svc.tenant = give_tenant;
	s->cfg.watch_period_ms = period_ms;
	return s;
}

static struct client viewer(struct server *s, const char *extra)
{
	struct client c = client_open(s->url);

	cr_assert(client_request(&c, "GET", "/v1/freehold/events", extra, ""));
	return c;
}

/* The next event of a stream; NULL: it has ended. The head, and the framing in chunks, are skipped. */
static json_t *next_event(struct client *c)
{
	for (;;) {
		char *data = c->n ? strstr(c->in, "data: ") : NULL, *end = data ? strstr(data, "\n\n") : NULL;
		json_t *j;

		if (end) {
			*end = 0;
			j = json_loads(data + 6, 0, NULL);
			cr_assert(j, "%s", data);
			client_use(c, (size_t)(end + 2 - c->in));
			return j;
		}
		if (!client_more(c))
			return NULL;
	}
}

HTTP_TEST(events_follow_the_counters)
{
	struct server *s = watched(epoll, 20);
	struct client c;
	struct reply r;
	json_t *j;
	double seen = 0;

	server_start(s);
	r = fetch(s->url, "GET", "/v1/freehold/status", "");
	cr_expect_str_eq(reply_header(&r, "Content-Type"), "application/json");
	cr_expect_str_eq(reply_header(&r, "Cache-Control"), "no-store");
	expect_reply(r, 200, "\"object\":\"freehold.status\"");
	r = fetch(s->url, "HEAD", "/v1/freehold/events", "");
	expect_reply(r, 200, "");
	r = fetch(s->url, "POST", "/v1/freehold/events", "{}");
	expect_reply(r, 405, "takes GET");
	c = viewer(s, NULL);
	j = next_event(&c);
	cr_assert(j);
	cr_expect(strstr(json_string_value(json_object_get(j, "health")), "ok"));
	expect_at(j, "tokens.generated", 0);
	expect_at(j, "viewers", 0);
	json_decref(j);
	atomic_store(&set_tokens, 777);
	for (int i = 0; i < 100 && seen != 777; i++) {
		j = next_event(&c);
		cr_assert(j);
		seen = at(j, "tokens.generated");
		expect_at(j, "viewers", 1);
		json_decref(j);
	}
	cr_expect_eq(seen, 777);
	r = fetch(s->url, "GET", "/metrics", "");
	expect_reply(r, 200, "freehold_http_viewers 1\n");
	client_close(&c);
	server_down(s);
}

HTTP_TEST(many_viewers_cost_one_sample)
{
	struct server *s = watched(epoll, 50);
	struct client c[16], late;
	struct reply r;
	uint32_t asked;

	server_start(s);
	for (int i = 0; i < 16; i++) {
		c[i] = viewer(s, NULL);
		json_decref(next_event(&c[i]));
	}
	late = viewer(s, NULL);
	r = client_reply(&late);
	cr_expect_str_eq(reply_header(&r, "Retry-After"), "10");
	expect_reply(r, 503, "too_many_viewers");
	asked = atomic_load(&nr_asked);
	for (int n = 0; n < 6; n++)
		for (int i = 0; i < 16; i++)
			json_decref(next_event(&c[i]));
	asked = atomic_load(&nr_asked) - asked;
	cr_expect(asked >= 5 && asked <= 12, "%u samples for six events of sixteen viewers", asked);
	/* Once one has gone there is room; nobody samples for nobody. */
	client_close(&c[0]);
	usleep(100000);
	cr_assert(client_request(&late, "GET", "/v1/freehold/events", NULL, ""));
	json_decref(next_event(&late));
	for (int i = 1; i < 16; i++)
		client_close(&c[i]);
	client_close(&late);
	usleep(200000);
	asked = atomic_load(&nr_asked);
	usleep(300000);
	cr_expect_eq(atomic_load(&nr_asked), asked);
	server_down(s);
}

HTTP_TEST(a_viewer_who_does_not_read_is_dropped)
{
	struct server *s = watched(epoll, 5);
	struct client slow, good = {.fd = -1};
	static char long_name[60001];
	struct reply r;
	bool dropped = false;

	/* An administrator's events can be large; so are those of a long model's name. */
	memset(long_name, 'm', sizeof(long_name) - 1);
	s->e.svc.model.id = long_name;
	server_start(s);
	slow = client_open_with(s->url, 4096);
	cr_assert(client_request(&slow, "GET", "/v1/freehold/events", NULL, ""));
	good = viewer(s, NULL);
	for (int i = 0; i < 2000 && !dropped; i++) {
		json_decref(next_event(&good));
		if (i % 20)
			continue;
		r = fetch(s->url, "GET", "/metrics", "");
		dropped = strstr(r.body, "freehold_http_viewers_dropped_total 1\n");
		reply_free(&r);
	}
	cr_expect(dropped);
	r = fetch(s->url, "GET", "/metrics", "");
	expect_reply(r, 200, "freehold_http_viewers 1\n");
	client_close(&slow);
	client_close(&good);
	server_down(s);
}

/* A stream has no end of its own: it ends with the server, at once and in order. */
HTTP_TEST(a_server_that_drains_ends_streams)
{
	struct server *s = watched(epoll, 20);
	uint64_t begin;
	struct client c;
	json_t *j;

	server_start(s);
	c = viewer(s, NULL);
	json_decref(next_event(&c));
	begin = fh_now_ns();
	server_down(s);
	cr_expect(fh_now_ns() - begin < 1500000000);
	while ((j = next_event(&c)))
		json_decref(j);
	cr_expect(c.n >= 5 && !strcmp(c.in + c.n - 5, "0\r\n\r\n"), "the last chunk");
	client_close(&c);
}

static char key_path[] = "/tmp/freehold-watch-XXXXXX";

static void write_keys(const char *text)
{
	FILE *f = fopen(key_path, "w");

	fputs(text, f);
	fclose(f);
}

HTTP_TEST(a_stream_is_guarded_while_it_lasts)
{
	struct server *s = watched(epoll, 20);
	struct fh_err err;
	struct client c, other;
	struct reply r;
	json_t *j;

	strcpy(key_path + strlen(key_path) - 6, "XXXXXX");
	close(mkstemp(key_path));
	write_keys("one\ntwo\n");
	s->cfg.api_key_file = key_path;
	server_start(s);
	r = fetch(s->url, "GET", "/v1/freehold/events", "");
	expect_reply(r, 401, "invalid_api_key");
	r = fetch(s->url, "GET", "/v1/freehold/status", "");
	expect_reply(r, 401, "invalid_api_key");
	c = viewer(s, "Authorization: Bearer one\r\n");
	other = viewer(s, "Authorization: Bearer two\r\n");
	json_decref(next_event(&c));
	write_keys("two\n");
	cr_assert_eq(fh_http_reload_keys(s->h, &err), 0);
	while ((j = next_event(&c)))
		json_decref(j);
	for (int i = 0; i < 5; i++) {
		j = next_event(&other);
		cr_expect(j, "who still may goes on watching");
		json_decref(j);
	}
	client_close(&c);
	client_close(&other);
	server_down(s);
	unlink(key_path);
}

HTTP_TEST(the_page)
{
	struct server *s = watched(epoll, 1000);
	const char *csp;
	struct reply r;

	server_start(s);
	r = fetch(s->url, "GET", "/", "");
	cr_expect_str_eq(reply_header(&r, "Content-Type"), "text/html; charset=utf-8");
	cr_expect_str_eq(reply_header(&r, "X-Content-Type-Options"), "nosniff");
	cr_expect_str_eq(reply_header(&r, "Referrer-Policy"), "no-referrer");
	csp = reply_header(&r, "Content-Security-Policy");
	cr_expect(csp && strstr(csp, "default-src 'none'") && strstr(csp, "script-src 'sha256-") &&
		  strstr(csp, "frame-ancestors 'none'") && !strstr(csp, "unsafe"));
	expect_reply(r, 200, "<title>Freehold</title>");
	r = fetch(s->url, "HEAD", "/", "");
	expect_reply(r, 200, "");
	r = fetch(s->url, "GET", "/index.html", "");
	expect_reply(r, 404, "unknown_url");
	server_down(s);
}

/* ---- keys ---- */

static _Atomic(struct fh_key_errand *) held;
static _Atomic bool take_errands;

static int take_errand(void *ctx, struct fh_key_errand *e)
{
	(void)ctx;
	if (!atomic_load(&take_errands))
		return -EAGAIN;
	atomic_store(&held, e);
	return 0;
}

static struct fh_key_errand *wait_errand(void)
{
	struct fh_key_errand *e = NULL;

	for (int i = 0; i < 5000 && !(e = atomic_exchange(&held, NULL)); i++)
		usleep(1000);
	cr_assert(e);
	return e;
}

/* Everybody who has a key is an administrator here, but for "user". */
static enum fh_guard_verdict bearer(const struct fh_guard *g, const char *key, size_t n, uint64_t now_s,
				    struct fh_grant *out)
{
	(void)g;
	(void)now_s;
	*out = (struct fh_grant){.who = {.how = FH_ID_KEY}, .tenant_nr = 7, .endpoints = FH_GRANT_ALL, .model = true};
	snprintf(out->who.tenant, sizeof(out->who.tenant), "tenant-%d", n == 4 ? 3 : 1);
	out->account[FH_BUDGET_TENANT] = n == 4 ? 3 : 1;
	if (n != 4 || memcmp(key, "user", 4))
		out->endpoints |= FH_GRANT_ADMIN;
	return FH_GUARD_OK;
}

static void no_free(struct fh_guard *g)
{
	(void)g;
}

static enum fh_guard_verdict still(const struct fh_guard *g, const struct fh_identity *who, uint64_t now_s)
{
	(void)g;
	(void)who;
	(void)now_s;
	return FH_GUARD_OK;
}

static const struct fh_guard_ops guard_ops = {.bearer = bearer, .still = still, .free = no_free};

#define ADMIN "Authorization: Bearer admin\r\n"
#define USER "Authorization: Bearer user\r\n"

static struct reply ask_with(struct server *s, const char *method, const char *path, const char *key)
{
	struct client c = client_open(s->url);
	struct reply r;

	cr_assert(client_request(&c, method, path, key, ""));
	r = client_reply(&c);
	client_close(&c);
	return r;
}

static struct server *guarded(bool epoll)
{
	static struct fh_guard guard = {.ops = &guard_ops, .nr_refs = 1};
	struct server *s = watched(epoll, 20);

	s->cfg.guarded = true;
	s->cfg.guard = &guard;
	s->e.svc.keys = take_errand;
	atomic_store(&take_errands, true);
	server_start(s);
	return s;
}

HTTP_TEST(tenants_are_their_own_or_all)
{
	struct server *s = guarded(epoll);
	struct reply r;

	atomic_store(&nr_tenants, 5);
	r = ask_with(s, "GET", "/v1/freehold/status", ADMIN);
	cr_expect(strstr(r.body, "\"tenant\":\"tenant-4\"") && strstr(r.body, "\"admin\":true"));
	expect_reply(r, 200, "\"tenant\":\"tenant-0\"");
	/* One more at once: what is listed is what is there now. */
	atomic_store(&nr_tenants, 6);
	usleep(30000);
	r = ask_with(s, "GET", "/v1/freehold/status", ADMIN);
	expect_reply(r, 200, "\"tenant\":\"tenant-5\"");
	r = ask_with(s, "GET", "/v1/freehold/status", USER);
	cr_expect(!strstr(r.body, "tenant-4") && !strstr(r.body, "tenant-0"), "%s", r.body);
	expect_reply(r, 200, "\"you\":{\"tenant\":\"tenant-3\",\"admin\":false},\"tenants\":[{\"tenant\":\"tenant-3\"");
	server_down(s);
}

HTTP_TEST(keys_are_for_administrators)
{
	struct server *s = guarded(epoll);
	struct fh_key_errand *e;
	struct client c;
	struct reply r;

	r = ask_with(s, "GET", "/v1/freehold/keys", USER);
	expect_reply(r, 403, "missing_scope");
	r = ask_with(s, "DELETE", "/v1/freehold/keys/0123456789abcdef", USER);
	expect_reply(r, 403, "missing_scope");
	cr_expect_eq(atomic_load(&held), NULL);
	r = ask_with(s, "DELETE", "/v1/freehold/keys/nothing", ADMIN);
	expect_reply(r, 404, "key_not_found");
	r = ask_with(s, "GET", "/v1/freehold/keys/0123456789abcdef", ADMIN);
	cr_expect_str_eq(reply_header(&r, "Allow"), "DELETE");
	expect_reply(r, 405, "takes DELETE");
	c = client_open(s->url);
	cr_assert(client_request(&c, "GET", "/v1/freehold/keys", ADMIN, ""));
	e = wait_errand();
	cr_expect_str_eq(e->revoke, "");
	cr_expect_str_eq(e->by.tenant, "tenant-1");
	e->out = strdup("[{\"id\":\"x\"}]");
	e->bytes = strlen(e->out);
	e->done(e);
	r = client_reply(&c);
	expect_reply(r, 200, "{\"object\":\"list\",\"has_more\":false,\"data\":[{\"id\":\"x\"}]}");
	cr_assert(client_request(&c, "DELETE", "/v1/freehold/keys/0123456789abcdef", ADMIN, ""));
	e = wait_errand();
	cr_expect_str_eq(e->revoke, "0123456789abcdef");
	e->done(e);
	r = client_reply(&c);
	expect_reply(r, 200, "\"state\":\"revoked\"");
	cr_assert(client_request(&c, "DELETE", "/v1/freehold/keys/0123456789abcdef", ADMIN, ""));
	e = wait_errand();
	/* What is said of it names files, and is for the log. */
	e->rc = fh_errf(&e->err, -EALREADY, "/var/lib/freehold/keys.db: again");
	e->done(e);
	r = client_reply(&c);
	cr_expect_null(strstr(r.body, "keys.db"));
	expect_reply(r, 409, "revoked before");
	/* Who does not wait for his answer is forgotten. */
	cr_assert(client_request(&c, "GET", "/v1/freehold/keys", ADMIN, ""));
	e = wait_errand();
	client_close(&c);
	usleep(50000);
	e->done(e);
	atomic_store(&take_errands, false);
	r = ask_with(s, "GET", "/v1/freehold/keys", ADMIN);
	cr_expect_str_eq(reply_header(&r, "Retry-After"), "1");
	expect_reply(r, 503, "Too many");
	server_down(s);
}

HTTP_TEST(a_server_without_keys_shows_none)
{
	struct server *s = watched(epoll, 20);
	struct reply r;

	server_start(s);
	r = fetch(s->url, "GET", "/v1/freehold/keys", "");
	expect_reply(r, 403, "without keys");
	r = fetch(s->url, "DELETE", "/v1/freehold/keys/0123456789abcdef", "");
	expect_reply(r, 403, "without keys");
	server_down(s);
}
