/* SPDX-License-Identifier: Apache-2.0 */
/* A whole server for a test: the front end in front of the small service, started and stopped. */
#ifndef FH_TESTS_HTTP_SERVER_H
#define FH_TESTS_HTTP_SERVER_H

#include <criterion/criterion.h>

#include "tests/unit/http_client.h"
#include "tests/unit/http_service.h"

struct server {
	struct echo_engine e;
	struct fh_http_config cfg;
	struct fh_http *h;
	const char *url;
};

static inline struct server *server_make(bool force_epoll)
{
	struct server *s = aligned_alloc(64, (sizeof(*s) + 63) / 64 * 64);

	memset(s, 0, sizeof(*s));
	echo_init(&s->e);
	s->cfg = (struct fh_http_config){
		.listen = {"127.0.0.1:0"}, .nr_listen = 1, .force_epoll = force_epoll, .version = "1.2.3"};
	return s;
}

static inline void server_start(struct server *s)
{
	struct fh_err err = {0};

	cr_assert_eq(fh_http_create(&s->cfg, &s->e.svc, &s->h, &err), 0, "%s", err.msg);
	if (s->cfg.force_epoll)
		cr_assert(!strncmp(fh_http_backend(s->h), "epoll", 5));
	echo_start(&s->e, fh_http_frontend(s->h));
	cr_assert_eq(fh_http_start(s->h, &err), 0, "%s", err.msg);
	s->url = fh_http_url(s->h, 0);
}

static inline struct server *server_up(bool force_epoll)
{
	struct server *s = server_make(force_epoll);

	server_start(s);
	return s;
}

static inline void server_down(struct server *s)
{
	fh_http_stop(s->h, 2000);
	cr_expect_eq(atomic_load(&s->e.nr_inside), 0, "the engine still has requests");
	echo_stop(&s->e);
	fh_http_destroy(s->h);
	free(s);
}

#define expect_reply(r, want, text)                                                                                    \
	do {                                                                                                           \
		cr_expect_eq((r).status, want, "status %d, wanted %d: %.400s", (r).status, want, (r).body);            \
		cr_expect((r).body &&strstr((r).body, text), "no '%s' in: %.400s", text, (r).body);                    \
		reply_free(&(r));                                                                                      \
	} while (0)

/* Each test below runs on both backends. */
#define HTTP_TEST(name)                                                                                                \
	static void run_##name(bool epoll);                                                                            \
	Test(http, name##_uring, .timeout = 60)                                                                        \
	{                                                                                                              \
		run_##name(false);                                                                                     \
	}                                                                                                              \
	Test(http, name##_epoll, .timeout = 60)                                                                        \
	{                                                                                                              \
		run_##name(true);                                                                                      \
	}                                                                                                              \
	static void run_##name(bool epoll)

/* By hand: sanitizers make each strstr() read all that is left, and answers are long. */
static inline unsigned int count(const char *s, const char *what)
{
	unsigned int n = 0;

	for (; s && *s; s++) {
		size_t i = 0;

		while (what[i] && s[i] == what[i])
			i++;
		n += !what[i];
	}
	return n;
}

#endif /* FH_TESTS_HTTP_SERVER_H */
