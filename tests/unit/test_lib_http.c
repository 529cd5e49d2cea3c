// SPDX-License-Identifier: Apache-2.0
/*
 * libfreehold over HTTP: against the real front end with its small service, and
 * against a scripted server that breaks off, lies and dawdles.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>

#include "runtime/lib/freehold.h"
#include "runtime/lib/http_answer.h"
#include "tests/unit/http_server.h"

static struct fh_client *open_url(const char *url, const struct fh_open_options *o)
{
	struct fh_client *c;
	char where[256];
	int rc;

	snprintf(where, sizeof(where), "%s%s", strncmp(url, "unix:", 5) ? "" : "http+", url);
	rc = fh_open(where, o, &c);
	cr_assert_eq(rc, 0, "%s: %d: %s", where, rc, fh_error_message(c));
	return c;
}

static uint64_t ask(struct fh_client *c, uint32_t token, uint32_t nr)
{
	uint32_t ids[2] = {token, token + 1};
	struct fh_params p;
	uint64_t id = 0;
	int rc;

	fh_params_init(&p);
	p.max_tokens = nr;
	p.user_data = token;
	rc = fh_generate(c, ids, 2, &p, &id);
	cr_assert_eq(rc, 0, "%d: %s", rc, fh_error_message(c));
	return id;
}

static void echo_over(const char *url)
{
	struct fh_client *c = open_url(url, NULL);
	struct fh_client_info info = {.size = sizeof(info)};
	struct fh_token t;

	fh_get_info(c, &info);
	cr_expect_str_eq(info.model, "echo/model");
	cr_expect(info.nr_ctx == 1u << 24 && !(info.flags & (FH_INFO_PEER | FH_INFO_VOCAB)));
	for (int round = 0; round < 3; round++) {
		uint64_t id = ask(c, 'a', 5);

		for (uint32_t i = 0; i < 5; i++) {
			int rc = fh_next_token(c, &t, 5000000);

			cr_assert_eq(rc, 0, "%d: %s", rc, fh_error_message(c));
			cr_expect(t.id == id && t.token == 'a' + i % 2 && t.index == i && t.user_data == 'a');
			cr_expect(t.text_bytes == 1 && t.text[0] == (char)t.token);
			cr_expect_eq(t.flags, i == 4 ? FH_SLOT_LAST : 0);
		}
		cr_expect_eq(t.finish, FH_FINISH_LENGTH);
		cr_expect_eq(fh_next_token(c, &t, 0), -ENODATA);
	}
	fh_close(c);
}

Test(lib_http, echo, .timeout = 60)
{
	struct server *s = server_up(false);

	echo_over(s->url);
	server_down(s);
}

Test(lib_http, unix_socket, .timeout = 60)
{
	struct server *s = server_make(false);
	char dir[] = "/tmp/freehold-lib-XXXXXX", listen[64];

	cr_assert(mkdtemp(dir));
	snprintf(listen, sizeof(listen), "unix:%s/h", dir);
	s->cfg.listen[0] = listen;
	server_start(s);
	echo_over(s->url);
	server_down(s);
	rmdir(dir);
}

/* Text in and out, cut by a control token in the middle of a character. */
Test(lib_http, text, .timeout = 60)
{
	struct server *s = server_up(true);
	struct fh_client *c = open_url(s->url, NULL);
	struct fh_decoder d = {0};
	char all[64] = "";
	const char *text;
	struct fh_params p;
	struct fh_token t;
	int rc;

	fh_params_init(&p);
	p.max_tokens = 8;
	p.flags = FH_REQ_LOGPROBS | FH_REQ_SEED;
	p.seed = UINT64_MAX;
	p.temperature = 0.7f;
	p.top_k = 3;
	p.top_p = 0.5f;
	p.min_p = 0.1f;
	p.typical_p = 0.9f;
	p.repetition_penalty = 1.1f;
	p.presence_penalty = -0.5f;
	p.frequency_penalty = 0.5f;
	cr_assert_eq(fh_generate_text(c, "a\xe2\x82\xac\"", 5, &p, NULL), 0);
	while (!(rc = fh_next_token(c, &t, 5000000))) {
		cr_expect((t.flags & FH_SLOT_LOGPROB) && t.logprob > -0.6f && t.logprob < -0.4f);
		cr_assert_eq(fh_decode(c, &d, &t, &text, NULL), 0);
		strcat(all, text);
	}
	cr_expect_eq(rc, -ENODATA);
	cr_expect_str_eq(all, "a\xe2\x82\xac\"a\xef\xbf\xbd");
	cr_expect_eq(fh_generate_text(c, "\xff", 1, &p, NULL), -EILSEQ);
	cr_expect_eq(fh_token_text(c, 1, &text, &(size_t){0}), -ENODATA);
	fh_close(c);
	server_down(s);
}

Test(lib_http, many_polled, .timeout = 60)
{
	struct server *s = server_up(false);
	struct fh_client *c = open_url(s->url, NULL);
	uint32_t next[100] = {0}, begun = 0, over = 0;
	struct fh_token t;

	cr_assert_geq(fh_fd(c), 0);
	while (over < 100) {
		int rc;

		while (begun < 100 && begun - over < 32) {
			ask(c, begun, 1 + begun * 3);
			begun++;
		}
		while ((rc = fh_try_next(c, &t)) == -EAGAIN) {
			struct pollfd f = {.fd = fh_fd(c), .events = POLLIN};

			cr_assert_eq(poll(&f, 1, 5000), 1);
		}
		cr_assert_eq(rc, 0, "%d: %s", rc, fh_error_message(c));
		cr_assert_eq(t.error, 0, "%s", fh_error_message(c));
		cr_assert_eq(t.index, next[t.user_data]++);
		cr_assert_eq(t.token, t.user_data + t.index % 2);
		over += t.flags & FH_SLOT_LAST;
	}
	fh_close(c);
	server_down(s);
}

Test(lib_http, cancel, .timeout = 60)
{
	struct server *s = server_up(false);
	struct fh_client *c = open_url(s->url, NULL);
	uint64_t id = ask(c, 'a', 1000000);
	struct fh_token t;

	cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
	cr_assert_eq(fh_cancel(c, id), 0);
	cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
	cr_expect(t.id == id && (t.flags & FH_SLOT_LAST) && t.finish == FH_FINISH_CANCELLED);
	cr_expect_eq(fh_cancel(c, id), -ENOENT);
	for (int i = 0; i < 500 && !atomic_load(&s->e.nr_cancelled); i++)
		usleep(10000);
	cr_expect_eq(atomic_load(&s->e.nr_cancelled), 1, "the server goes on");
	id = ask(c, 'b', 1);
	cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
	cr_expect(t.id == id && t.finish == FH_FINISH_LENGTH);
	fh_close(c);
	server_down(s);
}

Test(lib_http, refusals, .timeout = 60)
{
	struct server *s = server_up(false);
	struct fh_client *c = open_url(s->url, NULL);
	struct fh_token t;

	/* The server's own words reach the caller. */
	ask(c, 5000, 1);
	cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
	cr_expect(t.finish == FH_FINISH_ERROR && t.error == -EINVAL && t.flags == (FH_SLOT_LAST | FH_SLOT_NO_TOKEN));
	cr_expect(strstr(fh_error_message(c), "ids are 0 to 257"), "%s", fh_error_message(c));
	atomic_store(&s->e.max_queue, 0);
	ask(c, 'a', 1);
	cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
	cr_expect(t.error == -EAGAIN && t.retry_us == 1500000, "%d %u", t.error, t.retry_us);
	atomic_store(&s->e.max_queue, ECHO_MAX);
	atomic_store(&s->e.fail_at, 2);
	ask(c, 'a', 9);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
	cr_expect(t.finish == FH_FINISH_ERROR && t.error == -EIO, "%d", t.error);
	atomic_store(&s->e.fail_at, 0);
	ask(c, 'a', 1);
	cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
	cr_expect_eq(t.finish, FH_FINISH_LENGTH);
	fh_close(c);
	server_down(s);
}

/* Deadlines and class, as the server's requests have them; and a refusal for a deadline. */
Test(lib_http, wishes, .timeout = 60)
{
	static const uint32_t ttft_us[] = {0, 1, 500, 12345, 3600000000u, UINT32_MAX};
	struct server *s = server_up(false);
	struct fh_client *c = open_url(s->url, NULL);
	uint32_t id = 'a';
	struct fh_params p;
	struct fh_token t;

	for (uint32_t i = 0; i < 6; i++) {
		fh_params_init(&p);
		p.max_tokens = 1;
		p.ttft_us = ttft_us[i];
		p.tpot_us = ttft_us[5 - i];
		p.req_class = i % 3;
		cr_assert_eq(fh_generate(c, &id, 1, &p, NULL), 0, "%s", fh_error_message(c));
		cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
		cr_assert_eq(t.finish, FH_FINISH_LENGTH);
		cr_expect_eq(atomic_load(&s->e.ttft_us), p.ttft_us);
		cr_expect_eq(atomic_load(&s->e.tpot_us), p.tpot_us);
		cr_expect_eq(atomic_load(&s->e.class), p.req_class);
	}
	atomic_store(&s->e.late_us, 123456);
	p.ttft_us = 1000;
	cr_assert_eq(fh_generate(c, &id, 1, &p, NULL), 0);
	cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
	cr_expect_eq(t.finish, FH_FINISH_DEADLINE);
	cr_expect_eq(t.flags, FH_SLOT_LAST | FH_SLOT_NO_TOKEN);
	/* In whole milliseconds, rounded up. */
	cr_expect(t.error == -EAGAIN && t.retry_us == 124000, "%d %u", t.error, t.retry_us);
	cr_expect(strstr(fh_error_message(c), "deadline"), "%s", fh_error_message(c));
	fh_close(c);
	server_down(s);
}

Test(lib_http, not_carried, .timeout = 60)
{
	struct server *s = server_up(false);
	struct fh_client *c = open_url(s->url, NULL);
	struct fh_params p;
	uint32_t id = 1;

#define NOT_CARRIED(field, value, name)                                                                                \
	do {                                                                                                           \
		fh_params_init(&p);                                                                                    \
		p.max_tokens = 1;                                                                                      \
		p.field = value;                                                                                       \
		cr_expect_eq(fh_generate(c, &id, 1, &p, NULL), -EOPNOTSUPP);                                           \
		cr_expect(strstr(fh_error_message(c), name), "%s", fh_error_message(c));                               \
	} while (0)
	NOT_CARRIED(budget_tokens, 1, "budget_tokens");
	NOT_CARRIED(run_id[15], 1, "run_id");
	fh_close(c);
	server_down(s);
}

Test(lib_http, keys_and_models, .timeout = 60)
{
	struct server *s = server_make(false);
	struct fh_open_options o;
	char path[] = "/tmp/freehold-keys-XXXXXX";
	int fd = mkstemp(path);
	struct fh_client *c;
	struct fh_token t;

	cr_assert_eq(write(fd, "secret\n", 7), 7);
	close(fd);
	s->cfg.api_key_file = path;
	server_start(s);
	fh_open_options_init(&o);
	cr_expect_eq(fh_open(s->url, &o, &c), -EACCES);
	cr_expect(strstr(fh_error_message(c), "api_key"), "%s", fh_error_message(c));
	fh_close(c);
	o.api_key = "wrong";
	cr_expect_eq(fh_open(s->url, &o, &c), -EACCES);
	fh_close(c);
	o.api_key = "secret";
	o.model = "another";
	cr_expect_eq(fh_open(s->url, &o, &c), -ENOENT);
	cr_expect(strstr(fh_error_message(c), "another"));
	fh_close(c);
	o.model = "echo/model";
	c = open_url(s->url, &o);
	ask(c, 'a', 1);
	cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
	cr_expect_eq(t.finish, FH_FINISH_LENGTH);
	fh_close(c);
	server_down(s);
	unlink(path);
}

/* The server goes and comes back: the request ends with an error, the handle goes on. */
Test(lib_http, restart, .timeout = 60)
{
	struct server *s = server_up(false);
	struct fh_client *c = open_url(s->url, NULL);
	char listen[128];
	struct fh_params p;
	struct fh_token t;
	uint32_t id = 'a';

	snprintf(listen, sizeof(listen), "%s", strstr(s->url, "//") + 2);
	ask(c, 'a', 1);
	cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
	server_down(s);
	fh_params_init(&p);
	p.max_tokens = 1;
	/* The kept connection is found closed, and there is nobody to connect to. */
	if (!fh_generate(c, &id, 1, &p, NULL)) {
		cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
		cr_expect_eq(t.finish, FH_FINISH_ERROR);
	}
	s = server_make(false);
	s->cfg.listen[0] = listen;
	server_start(s);
	ask(c, 'a', 1);
	cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
	cr_expect_eq(t.finish, FH_FINISH_LENGTH, "%s", fh_error_message(c));
	fh_close(c);
	server_down(s);
}

/* A scripted server */

#define MODELS                                                                                                         \
	"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 25\r\n\r\n{\"data\":[{\"id\":\"m\"}    " \
	"]}"
#define EVENTS "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"

struct script {
	const char *first, *second; /* answers, one a connection or both on one */
	bool hang_up;		    /* after the second */
	int fd;
	char url[64];
	pthread_t thread;
};

static bool read_request(int fd)
{
	char buf[4096];
	size_t n = 0;

	while (n < sizeof(buf) - 1) {
		ssize_t k = recv(fd, buf + n, sizeof(buf) - 1 - n, 0);
		char *end;

		if (k <= 0)
			return false;
		n += (size_t)k;
		buf[n] = '\0';
		end = strstr(buf, "\r\n\r\n");
		if (end && (buf[0] == 'G' || end[strlen(end) - 1] == '}'))
			return true;
	}
	return false;
}

static void *run_script(void *arg)
{
	struct script *s = arg;
	int fd = accept(s->fd, NULL, NULL);

	if (read_request(fd) && send(fd, s->first, strlen(s->first), MSG_NOSIGNAL) > 0 && s->second &&
	    read_request(fd)) {
		for (const char *p = s->second; *p; p++)
			if (send(fd, p, 1, MSG_NOSIGNAL) < 0)
				break;
		if (!s->hang_up)
			read_request(fd);
	}
	close(fd);
	return NULL;
}

static void script_start(struct script *s)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(a);

	s->fd = socket(AF_INET, SOCK_STREAM, 0);
	cr_assert_eq(bind(s->fd, (struct sockaddr *)&a, n), 0);
	cr_assert_eq(listen(s->fd, 4), 0);
	getsockname(s->fd, (struct sockaddr *)&a, &n);
	snprintf(s->url, sizeof(s->url), "http://127.0.0.1:%u", ntohs(a.sin_port));
	cr_assert_eq(pthread_create(&s->thread, NULL, run_script, s), 0);
}

static void script_end(struct script *s)
{
	pthread_join(s->thread, NULL);
	close(s->fd);
}

Test(lib_http, bad_models, .timeout = 60)
{
	static const struct {
		const char *answer;
		int rc;
	} table[] = {
		{"", -EPIPE},
		{"nonsense\r\n\r\n", -EPROTO},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", -EPROTO},
		{"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"data\":[]}", -ENOENT},
		{"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":", -EPIPE},
		{"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", -EPROTO},
		{MODELS "more", -EPROTO},
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct script s = {.first = table[i].answer};
		struct fh_client *c;
		int rc;

		script_start(&s);
		rc = fh_open(s.url, NULL, &c);
		cr_expect_eq(rc, table[i].rc, "answer %zu: %d: %s", i, rc, fh_error_message(c));
		fh_close(c);
		script_end(&s);
	}
}

Test(lib_http, broken_streams, .timeout = 60)
{
	static const struct {
		const char *answer;
		int error, tokens;
	} table[] = {
		{EVENTS "data: {\"choices\":[{\"text\":\"a\",\"token_ids\":[1]}]}\n\n", -EPIPE, 1},
		{EVENTS "data: [DONE]\n\n", -EPROTO, 0},
		{EVENTS "data: {\n\n", -EPROTO, 0},
		{EVENTS "data: [1]\n\n", -EPROTO, 0},
		{EVENTS "data: {\"choices\":[{\"text\":\"a\",\"token_ids\":[-1]}]}\n\n", -EPROTO, 0},
		{EVENTS "data: {\"choices\":[{\"text\":\"a\",\"token_ids\":[1,\"x\"]}]}\n\n", -EPROTO, 1},
		{EVENTS "data: {\"error\":{\"message\":\"boom\"}}\n\n", -EIO, 0},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", -EPROTO, 0},
		{"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", -EIO, 0},
		{"HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\n{}", -ESHUTDOWN, 0},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\nzz\r\n",
		 -EPROTO, 0},
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct script s = {.first = MODELS, .second = table[i].answer, .hang_up = true};
		struct fh_token t = {0};
		struct fh_client *c;
		int tokens = 0;

		script_start(&s);
		c = open_url(s.url, NULL);
		ask(c, 1, 9);
		while (!(t.flags & FH_SLOT_LAST)) {
			cr_assert_eq(fh_next_token(c, &t, 5000000), 0, "%s", fh_error_message(c));
			tokens += !(t.flags & FH_SLOT_NO_TOKEN);
		}
		cr_expect(t.finish == FH_FINISH_ERROR, "stream %zu", i);
		cr_expect(t.error == table[i].error, "stream %zu: %d: %s", i, t.error, fh_error_message(c));
		cr_expect_eq(tokens, table[i].tokens, "stream %zu: %d tokens", i, tokens);
		if (t.error == -ESHUTDOWN)
			cr_expect_eq(t.retry_us, 7000000);
		fh_close(c);
		script_end(&s);
	}
}

/* A server that tells no ids: text alone, in whatever lines the standard allows. */
Test(lib_http, text_alone, .timeout = 60)
{
	struct script s = {
		.first = MODELS,
		.second =
			"HTTP/1.1 100 Continue\r\n\r\n" EVENTS
			": hello\r\nevent: x\r\ndata: {\"choices\":\rdata:[{\"text\":\"on\"}]}\r\r"
			"data: {\"choices\":[]}\n\ndata: {\"choices\":[{\"text\":\"e\",\"finish_reason\":\"eos\"}]}\n\n"
			"data: [DONE]\n\n",
		.hang_up = true,
	};
	struct fh_decoder d = {0};
	struct fh_client *c;
	const char *text;
	struct fh_token t;

	script_start(&s);
	c = open_url(s.url, NULL);
	ask(c, 1, 9);
	cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
	cr_assert_eq(t.flags, FH_SLOT_NO_TOKEN);
	cr_assert_eq(fh_decode(c, &d, &t, &text, NULL), 0);
	cr_expect_str_eq(text, "on");
	cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
	cr_expect(t.flags == (FH_SLOT_NO_TOKEN | FH_SLOT_LAST) && t.finish == FH_FINISH_STOP);
	cr_assert_eq(fh_decode(c, &d, &t, &text, NULL), 0);
	cr_expect_str_eq(text, "e");
	fh_close(c);
	script_end(&s);
}

Test(lib_http, mute, .timeout = 60)
{
	struct script s = {.first = MODELS, .second = EVENTS};
	struct fh_open_options o;
	struct fh_client *c;
	struct fh_token t;

	script_start(&s);
	c = open_url(s.url, NULL);
	ask(c, 1, 9);
	cr_expect_eq(fh_next_token(c, &t, 100000), -ETIMEDOUT);
	fh_close(c);
	script_end(&s);
	/* Nobody accepts: the kernel takes the connection, and no answer comes. */
	s = (struct script){.first = ""};
	s.fd = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(a);

	bind(s.fd, (struct sockaddr *)&a, n);
	listen(s.fd, 4);
	getsockname(s.fd, (struct sockaddr *)&a, &n);
	snprintf(s.url, sizeof(s.url), "http://127.0.0.1:%u/", ntohs(a.sin_port));
	fh_open_options_init(&o);
	o.open_us = 100000;
	cr_expect_eq(fh_open(s.url, &o, &c), -ETIMEDOUT);
	fh_close(c);
	close(s.fd);
	cr_expect_eq(fh_open(s.url, &o, &c), -ECONNREFUSED);
	fh_close(c);
}

/* One answer, fed whole and byte by byte, gives the same pieces. */
Test(lib_http, drips, .timeout = 60)
{
	static const char in[] =
		"HTTP/1.1 200 OK\r\nX-A:\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: "
		"chunked\r\n\r\n"
		"3b\r\ndata: {\"choices\":[{\"text\":\"h\xc3\xa9\",\"token_ids\":[1,2,99999]}]}\n\r\n"
		"1\r\n\n\r\n"
		"58\r\ndata: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\",\"token_ids\":[4]}]}\n\ndata: "
		"[DONE]\n\n\r\n"
		"0\r\n\r\n";
	struct fhl_answer a = {0};

	for (size_t step = 1; step <= sizeof(in); step += step < 8 ? 1 : 61) {
		static const uint32_t want[] = {1, 2, 99999, 4};
		uint32_t nr = 0;

		fhl_answer_begin(&a, true);
		for (size_t at = 0; at < sizeof(in) - 1; at += step) {
			size_t n = sizeof(in) - 1 - at < step ? sizeof(in) - 1 - at : step;
			const struct fhl_piece *p;

			cr_assert_eq(fhl_answer_feed(&a, in + at, n), 0, "step %zu: %s", step, a.message);
			while ((p = fhl_answer_next(&a))) {
				cr_assert_lt(nr, 4);
				cr_expect_eq(p->token, want[nr]);
				if (nr == 2)
					cr_expect(p->text_bytes == 3 && !memcmp(a.texts + p->text, "h\xc3\xa9", 3));
				cr_expect_eq(p->flags, nr == 3 ? FH_SLOT_LAST : 0);
				nr++;
			}
		}
		cr_expect_eq(nr, 4);
		cr_expect(a.complete && a.keep_alive && a.status == 200);
		cr_expect_eq(fhl_answer_feed(&a, "x", 1), -EPROTO);
	}
	fhl_answer_free(&a);
}
