// SPDX-License-Identifier: Apache-2.0
/*
 * The HTTP front end when things are not as they should be: limits, bad
 * bodies, full queues, clients that vanish, stall or drip, a failing engine,
 * sockets, keys, draining.  On both backends, as test_http.c.  fh_http_start()
 * starts threads: ThreadSanitizer runs this.
 */
#include <sys/stat.h>

#include "tests/unit/audit_lossy.h"
#include "tests/unit/http_server.h"

HTTP_TEST(limits)
{
	struct server *s = server_make(epoll);
	char *big = malloc(70000);
	struct client c;
	struct reply r;

	s->cfg.max_body_bytes = 1000;
	server_start(s);
	c = client_open(s->url);
	client_puts(&c, "POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n");
	r = client_reply(&c);
	expect_reply(r, 413, "larger");
	client_close(&c);
	c = client_open(s->url);
	memset(big, 'a', 2000);
	big[2000] = 0;
	client_puts(&c, "POST /tokenize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n");
	client_puts(&c, big);
	r = client_reply(&c);
	expect_reply(r, 413, "larger");
	client_close(&c);
	c = client_open(s->url);
	memset(big, 'a', 69999);
	big[69999] = 0;
	client_puts(&c, "GET /health HTTP/1.1\r\nHost: a\r\nX: ");
	client_puts(&c, big);
	r = client_reply(&c);
	expect_reply(r, 431, "32 KiB");
	client_close(&c);
	c = client_open(s->url);
	client_puts(&c, "GET /");
	client_puts(&c, big);
	r = client_reply(&c);
	expect_reply(r, 414, "4096");
	client_close(&c);
	/* A refused body that is not too large is read, and the connection goes on. */
	c = client_open(s->url);
	big[900] = 0;
	client_request(&c, "POST", "/nothing", NULL, big);
	r = client_reply(&c);
	expect_reply(r, 404, "nothing");
	client_request(&c, "GET", "/health", NULL, "");
	r = client_reply(&c);
	expect_reply(r, 200, "ok");
	client_close(&c);
	free(big);
	server_down(s);
}

HTTP_TEST(bad_json)
{
	struct server *s = server_up(epoll);
	struct client c = client_open(s->url);
	static const char *const cases[][2] = {
		{"", "empty"},
		{"{", "no valid JSON"},
		{"[]", "must be a JSON object"},
		{"{\"prompt\":\"a\",\"prompt\":\"b\"}", "duplicate"},
		{"{\"prompt\":\"a\",\"model\":\"gpt-4\"}", "does not exist"},
		{"{\"prompt\":\"a\",\"tools\":[{}]}", "'tools'"},
		{"{\"prompt\":\"a\",\"temperature\":9}", "between 0 and 2"},
		{"{\"prompt\":\"a\",\"logprobs\":6}", "between 0 and 5"},
		{"{}", "'prompt' is missing"},
		{"{\"prompt\":\"a\",\"max_tokens\":99999999}", "context is 16777216 tokens"},
	};
	struct reply r;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		client_request(&c, "POST", "/v1/completions", NULL, cases[i][0]);
		r = client_reply(&c);
		expect_reply(r, i == 4 ? 404 : 400, cases[i][1]);
	}
	client_close(&c);
	server_down(s);
}

HTTP_TEST(queue_full_and_draining)
{
	struct server *s = server_up(epoll);
	struct reply r;

	s->e.max_queue = 0;
	r = fetch(s->url, "POST", "/v1/completions", "{\"prompt\":\"a\"}");
	cr_expect_str_eq(reply_header(&r, "Retry-After"), "2");
	expect_reply(r, 429, "rate_limit_exceeded");
	/* More sequences than the queue holds: the rest follows as others end. */
	s->e.max_queue = 3;
	r = fetch(s->url, "POST", "/v1/completions", "{\"prompt\":\"a\",\"n\":50,\"max_tokens\":3}");
	expect_reply(r, 200, "{\"index\":49,\"text\":\"aaa\"");
	atomic_store(&s->e.refuse, ESHUTDOWN);
	r = fetch(s->url, "POST", "/v1/completions", "{\"prompt\":\"a\"}");
	expect_reply(r, 503, "shutting_down");
	atomic_store(&s->e.refuse, E2BIG);
	r = fetch(s->url, "POST", "/v1/completions", "{\"prompt\":\"a\"}");
	expect_reply(r, 400, "refused as asked");
	server_down(s);
}

/* The device fails in the middle: 500, or an event with the error where the answer has begun. */
HTTP_TEST(engine_fails)
{
	struct server *s = server_up(epoll);
	struct client c = client_open(s->url);
	struct reply r;

	atomic_store(&s->e.fail_at, 3);
	client_request(&c, "POST", "/v1/completions", NULL, "{\"prompt\":\"a\",\"max_tokens\":9,\"n\":3}");
	r = client_reply(&c);
	expect_reply(r, 500, "\"type\":\"server_error\"");
	client_request(&c, "POST", "/v1/completions", NULL, "{\"prompt\":\"a\",\"max_tokens\":9,\"stream\":true}");
	r = client_reply(&c);
	cr_expect_eq(count(r.body, "\"text\":\"a\""), 3);
	cr_expect_eq(count(r.body, "[DONE]"), 0);
	expect_reply(r, 200, "data: {\"error\":{\"message\":\"The engine failed");
	cr_expect(client_at_eof(&c), "after a broken stream the connection must end");
	client_close(&c);
	server_down(s);
}

static void wait_until_idle(struct server *s)
{
	for (int i = 0; i < 500 && atomic_load(&s->e.nr_inside); i++)
		usleep(10000);
}

HTTP_TEST(client_killed_in_mid_stream)
{
	struct server *s = server_up(epoll);

	atomic_store(&s->e.token_us, 1000);
	for (int i = 0; i < 4; i++) {
		struct client c = client_open(s->url);

		client_request(&c, "POST", "/v1/completions", NULL,
			       i % 2 ? "{\"prompt\":\"ab\",\"max_tokens\":1000000,\"stream\":true}"
				     : "{\"prompt\":\"ab\",\"max_tokens\":1000000,\"n\":3}");
		if (i % 2)
			cr_assert(client_more(&c));
		else
			usleep(30000);
		cr_expect_geq(atomic_load(&s->e.nr_inside), 1);
		client_close(&c);
		wait_until_idle(s);
		cr_expect_eq(atomic_load(&s->e.nr_inside), 0, "a closed connection did not cancel its request");
	}
	cr_expect_eq(atomic_load(&s->e.nr_cancelled), 8);
	server_down(s);
}

/* A reader that stops: its sequence stalls, memory does not grow, and others go on. */
HTTP_TEST(back_pressure)
{
	struct server *s = server_up(epoll);
	struct client slow = client_open(s->url);
	struct reply r;
	uint32_t before;
	char *p;

	client_request(&slow, "POST", "/v1/completions", NULL,
		       "{\"prompt\":\"abcdefgh\",\"max_tokens\":60000,\"stream\":true}");
	for (int i = 0; i < 300; i++) {
		usleep(10000);
		r = fetch(s->url, "GET", "/metrics", "");
		p = strstr(r.body, "\nfreehold_http_reader_stalls_total ");
		before = p ? (uint32_t)strtoul(strrchr(strtok(p + 1, "\n"), ' '), NULL, 10) : 0;
		reply_free(&r);
		if (before)
			break;
	}
	cr_expect_geq(before, 1, "the slow reader never stalled");
	r = fetch(s->url, "POST", "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":3}");
	expect_reply(r, 200, "aaa");
	/* It reads on and gets everything. */
	r = client_reply(&slow);
	cr_expect_eq(count(r.body, "data: {"), 60000);
	expect_reply(r, 200, "[DONE]");
	client_close(&slow);
	server_down(s);
}

/* A reader that never reads again is given up, and its request with it. */
HTTP_TEST(write_timeout)
{
	struct server *s = server_make(epoll);
	struct client dead, slow;
	uint64_t until;
	struct reply r;

	s->cfg.write_timeout_ms = 1000;
	server_start(s);
	/* Small windows: the kernel of a peer announces room in steps of its buffer. */
	dead = client_open_with(s->url, 65536);
	slow = client_open_with(s->url, 65536);
	client_request(&dead, "POST", "/v1/completions", NULL,
		       "{\"prompt\":\"a\",\"max_tokens\":10000000,\"stream\":true}");
	client_request(&slow, "POST", "/v1/completions", NULL,
		       "{\"prompt\":\"b\",\"max_tokens\":50000,\"stream\":true}");
	/* One that reads a little now and then is not. */
	until = fh_now_ns() + 3000000000u;
	while (fh_now_ns() < until) {
		cr_assert(client_more(&slow), "the slow reader was given up");
		usleep(50000);
	}
	cr_expect_eq(atomic_load(&s->e.nr_submitted), 2);
	r = client_reply(&slow);
	cr_expect_eq(count(r.body, "data: {"), 50000);
	reply_free(&r);
	wait_until_idle(s);
	cr_expect_eq(atomic_load(&s->e.nr_inside), 0, "the dead reader was not given up");
	cr_expect_eq(atomic_load(&s->e.nr_cancelled), 1, "%u were given up", atomic_load(&s->e.nr_cancelled));
	client_close(&dead);
	client_close(&slow);
	server_down(s);
}

HTTP_TEST(slow_loris)
{
	struct server *s = server_make(epoll);
	struct client c;
	struct reply r;

	s->cfg.header_timeout_ms = 150;
	s->cfg.body_timeout_ms = 150;
	s->cfg.idle_timeout_ms = 300;
	server_start(s);
	c = client_open(s->url);
	client_puts(&c, "GET /health HTTP/1.1\r\nHost: a\r\n");
	/* Bytes that drip do not prolong it. */
	for (int i = 0; i < 4; i++) {
		usleep(50000);
		send(c.fd, "X", 1, MSG_NOSIGNAL);
	}
	r = client_reply(&c);
	expect_reply(r, 408, "in time");
	cr_expect(client_at_eof(&c));
	client_close(&c);
	c = client_open(s->url);
	client_puts(&c, "POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{");
	r = client_reply(&c);
	expect_reply(r, 408, "in time");
	client_close(&c);
	/* A second head that never ends is not the first requester's. */
	c = client_open(s->url);
	client_puts(&c, "GET /health HTTP/1.1\r\nHost: a\r\nX-Request-Id: the-first\r\n\r\n");
	r = client_reply(&c);
	cr_expect_str_eq(reply_header(&r, "X-Request-Id"), "the-first");
	expect_reply(r, 200, "ok");
	client_puts(&c, "GET /health HTTP/1.1\r\n");
	r = client_reply(&c);
	cr_expect_str_neq(reply_header(&r, "X-Request-Id"), "the-first");
	expect_reply(r, 408, "in time");
	client_close(&c);
	c = client_open(s->url);
	cr_expect(client_at_eof(&c), "an idle connection stays open");
	client_close(&c);
	server_down(s);
}

HTTP_TEST(a_thousand_connections)
{
	struct server *s = server_up(epoll);
	struct client *c = calloc(1024, sizeof(*c));
	struct reply r;

	for (int i = 0; i < 1024; i++) {
		c[i] = client_open(s->url);
		cr_assert_geq(c[i].fd, 0, "connection %d", i);
	}
	for (int i = 0; i < 1024; i++)
		client_request(&c[i], "POST", "/v1/completions", NULL,
			       "{\"prompt\":\"xy\",\"max_tokens\":9,\"stream\":true}");
	for (int i = 0; i < 1024; i++) {
		r = client_reply(&c[i]);
		cr_assert_eq(r.status, 200, "connection %d", i);
		cr_assert_eq(count(r.body, "data: {"), 9);
		reply_free(&r);
	}
	for (int i = 0; i < 1024; i++)
		client_close(&c[i]);
	free(c);
	server_down(s);
}

HTTP_TEST(more_than_the_limit)
{
	struct server *s = server_make(epoll);
	struct client c[8];
	struct reply r;

	s->cfg.max_connections = 4;
	server_start(s);
	for (int i = 0; i < 8; i++) {
		c[i] = client_open(s->url);
		client_request(&c[i], "GET", "/health", NULL, "");
	}
	for (int i = 0; i < 4; i++) {
		r = client_reply(&c[i]);
		expect_reply(r, 200, "ok");
	}
	/* The others wait in the backlog (or, if they came too early, were hung up) until there is room. */
	for (int i = 0; i < 4; i++)
		client_close(&c[i]);
	for (int i = 4; i < 8; i++)
		client_close(&c[i]);
	usleep(100000);
	r = fetch(s->url, "GET", "/health", "");
	expect_reply(r, 200, "ok");
	server_down(s);
}

HTTP_TEST(long_bodies)
{
	struct server *s = server_up(epoll);
	struct client c = client_open(s->url);
	char *body = malloc(3 << 20);
	struct reply r;
	size_t n;

	n = (size_t)sprintf(body, "{\"max_tokens\":2,\"prompt\":\"");
	memset(body + n, 'w', 2 << 20);
	strcpy(body + n + (2 << 20), "\"}");
	client_request(&c, "POST", "/v1/completions", NULL, body);
	r = client_reply(&c);
	expect_reply(r, 200, "\"text\":\"ww\"");
	/* Gone while the helper works. */
	for (int i = 0; i < 3; i++) {
		struct client gone = client_open(s->url);

		client_request(&gone, "POST", "/v1/completions", NULL, body);
		client_close(&gone);
	}
	client_request(&c, "POST", "/tokenize", NULL, body);
	r = client_reply(&c);
	expect_reply(r, 200, "{\"count\":2097153,");
	client_close(&c);
	wait_until_idle(s);
	free(body);
	server_down(s);
}

HTTP_TEST(unix_socket)
{
	struct server *s = server_make(epoll);
	char dir[] = "/tmp/fh-http-XXXXXX", path[64], listen[80];
	struct fh_err err = {0};
	struct fh_http *second;
	struct stat st;
	struct reply r;
	FILE *f;

	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	snprintf(listen, sizeof(listen), "unix:%s", path);
	s->cfg.listen[1] = listen;
	s->cfg.nr_listen = 2;
	server_start(s);
	cr_expect_eq(stat(path, &st), 0);
	cr_expect_eq(st.st_mode & 0777, 0660);
	r = fetch(fh_http_url(s->h, 1), "GET", "/health", "");
	expect_reply(r, 200, "ok");
	r = fetch(fh_http_url(s->h, 0), "GET", "/health", "");
	expect_reply(r, 200, "ok");
	/* A live socket is not taken away. */
	s->cfg.listen[0] = listen;
	s->cfg.nr_listen = 1;
	cr_expect_eq(fh_http_create(&s->cfg, &s->e.svc, &second, &err), -EADDRINUSE);
	cr_expect(strstr(err.msg, "another process listens"), "%s", err.msg);
	server_down(s);
	cr_expect_neq(stat(path, &st), 0, "the socket was left behind");
	/* A dead one is, and a file is not. */
	s = server_make(epoll);
	s->cfg.listen[0] = listen;
	{
		struct sockaddr_un sa = {.sun_family = AF_UNIX};
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);

		strcpy(sa.sun_path, path);
		cr_assert_eq(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
		close(fd);
	}
	server_start(s);
	r = fetch(s->url, "GET", "/health", "");
	expect_reply(r, 200, "ok");
	server_down(s);
	s = server_make(epoll);
	s->cfg.listen[0] = listen;
	f = fopen(path, "w");
	fclose(f);
	cr_expect_eq(fh_http_create(&s->cfg, &s->e.svc, &second, &err), -EEXIST);
	cr_expect(strstr(err.msg, "no socket"), "%s", err.msg);
	unlink(path);
	rmdir(dir);
	free(s);
}

HTTP_TEST(api_keys)
{
	struct server *s = server_make(epoll);
	char path[] = "/tmp/fh-keys-XXXXXX";
	int fd = mkstemp(path);
	struct fh_err err = {0};
	struct client c;
	struct reply r;

	cr_assert_eq(write(fd, "# ours\nsk-first\n\nsk-second  \n", 29), 29);
	s->cfg.api_key_file = path;
	server_start(s);
	r = fetch(s->url, "GET", "/health", "");
	expect_reply(r, 200, "ok");
	r = fetch(s->url, "GET", "/metrics", "");
	cr_expect_str_eq(reply_header(&r, "WWW-Authenticate"), "Bearer realm=\"freehold\"");
	expect_reply(r, 401, "An API key is needed");
	r = fetch(s->url, "GET", "/nothing", "");
	expect_reply(r, 401, "invalid_api_key");
	r = fetch(s->url, "POST", "/tokenize", "{\"prompt\":\"a\"}");
	expect_reply(r, 401, "An API key is needed");
	c = client_open(s->url);
	client_request(&c, "POST", "/tokenize", "Authorization: Bearer sk-second\r\n", "{\"prompt\":\"a\"}");
	r = client_reply(&c);
	expect_reply(r, 200, "count");
	client_request(&c, "POST", "/tokenize", "Authorization: Bearer sk-secon\r\n", "{\"prompt\":\"a\"}");
	r = client_reply(&c);
	expect_reply(r, 401, "not known");
	/* Keys can be changed while connections are open. */
	cr_assert_eq(ftruncate(fd, 0), 0);
	cr_expect_eq(fh_http_reload_keys(s->h, &err), -EINVAL);
	cr_assert_eq(pwrite(fd, "sk-third\n", 9, 0), 9);
	cr_expect_eq(fh_http_reload_keys(s->h, &err), 0);
	usleep(50000);
	client_request(&c, "GET", "/version", "Authorization: Bearer sk-third\r\n", "");
	r = client_reply(&c);
	expect_reply(r, 200, "1.2.3");
	client_request(&c, "GET", "/version", "Authorization: Bearer sk-first\r\n", "");
	r = client_reply(&c);
	expect_reply(r, 401, "not known");
	client_close(&c);
	close(fd);
	unlink(path);
	server_down(s);
}

/* Stopping lets a running stream end; what does not end in time is cancelled. */
HTTP_TEST(drain)
{
	for (int late = 0; late < 2; late++) {
		struct server *s = server_up(epoll);
		struct client c = client_open(s->url), idle = client_open(s->url);
		struct reply r;

		atomic_store(&s->e.token_us, 2000);
		client_request(&idle, "GET", "/health", NULL, "");
		r = client_reply(&idle);
		expect_reply(r, 200, "ok");
		client_request(&c, "POST", "/v1/completions", NULL,
			       late ? "{\"prompt\":\"ab\",\"max_tokens\":1000000,\"stream\":true}"
				    : "{\"prompt\":\"ab\",\"max_tokens\":100,\"stream\":true}");
		cr_assert(client_more(&c));
		fh_http_stop(s->h, late ? 100 : 5000);
		cr_expect(client_at_eof(&idle));
		r = client_reply(&c);
		if (late)
			cr_expect_eq(r.status, 0);
		else
			cr_expect(strstr(r.body, "[DONE]"));
		reply_free(&r);
		client_close(&c);
		client_close(&idle);
		server_down(s);
	}
}

/* Strict: an answer whose outcome is not in the audit log is not given to its end. */
HTTP_TEST(lost_outcome)
{
	static const char *const asks[][2] = {
		{"/v1/completions", "{\"prompt\":\"z\",\"max_tokens\":1}"},
		{"/v1/completions", "{\"prompt\":\"z\",\"max_tokens\":1,\"stream\":true}"},
		{"/tokenize", "{\"prompt\":\"z\"}"},
	};
	struct lossy audit = {.base = {.ops = &lossy_ops, .strict = true}};
	struct server *s = server_make(epoll);
	struct fh_err err = {0};
	struct client c;
	struct reply r;

	cr_assert_eq(fh_http_create(&s->cfg, &s->e.svc, &s->h, &err), 0, "%s", err.msg);
	fh_http_frontend(s->h)->audit = &audit.base;
	echo_start(&s->e, fh_http_frontend(s->h));
	cr_assert_eq(fh_http_start(s->h, &err), 0, "%s", err.msg);
	s->url = fh_http_url(s->h, 0);
	for (size_t i = 0; i < 2 * sizeof(asks) / sizeof(asks[0]); i++) {
		const char *const *ask = asks[i / 2];

		atomic_store(&audit.lose, i % 2);
		c = client_open(s->url);
		client_request(&c, "POST", ask[0], NULL, ask[1]);
		r = client_reply(&c);
		if (i % 2) {
			cr_expect(!r.n || !strstr(r.body, "\"z\""), "%s: %s", ask[1], r.body);
			cr_expect(!r.n || !strstr(r.body, "[DONE]"), "%s: %s", ask[1], r.body);
			cr_expect_eq(r.status, 0, "%s: %d", ask[1], r.status);
			cr_expect(client_at_eof(&c));
			reply_free(&r);
		} else {
			expect_reply(r, 200, i / 2 == 2 ? "122" : "\"z\"");
		}
		client_close(&c);
	}
	cr_expect_eq(atomic_load(&audit.nr_lost), 3);
	server_down(s);
}

Test(http, addresses)
{
	static const char *const bad[] = {
		"",	 "127.0.0.1",	     ":8080",		"1.2.3.4:",	"::1:80",
		"unix:", "127.0.0.1:99999x", "127.0.0.1:65536", "127.0.0.1:-1", "no.such.host.invalid:1"};
	struct server *s = server_make(true);
	struct fh_err err;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		s->cfg.listen[0] = bad[i];
		err.msg[0] = 0;
		cr_expect_neq(fh_http_create(&s->cfg, &s->e.svc, &s->h, &err), 0, "%s", bad[i]);
		cr_expect_neq(err.msg[0], 0);
	}
	s->cfg.listen[0] = "[::1]:0";
	if (!fh_http_create(&s->cfg, &s->e.svc, &s->h, &err)) {
		cr_expect(!strncmp(fh_http_url(s->h, 0), "http://[::1]:", 13));
		fh_http_destroy(s->h);
	}
	free(s);
}
