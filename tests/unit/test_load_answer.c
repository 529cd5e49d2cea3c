// SPDX-License-Identifier: Apache-2.0
/*
 * HTTP answers and server-sent events as servers send them, cut at every byte:
 * however the bytes arrive, they mean the same.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/load/answer.h"

#define HEAD "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
#define EV(t) "data: {\"choices\":[{\"text\":\"" t "\"}]}"
#define USAGE "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5}}"

static int nr_text;

static void on_text(struct load_answer *a, uint64_t now)
{
	(void)a;
	(void)now;
	nr_text++;
}

/* Chunked: each line of @body, a zero-terminated list, is a chunk. */
static char *chunked(const char *const *body, const char *ext)
{
	char *out = malloc(1 << 16);
	size_t n = (size_t)sprintf(out, HEAD "Transfer-Encoding: chunked\r\n\r\n");

	for (; *body; body++)
		n += (size_t)sprintf(out + n, "%zx%s\r\n%s\r\n", strlen(*body), ext, *body);
	sprintf(out + n, "0\r\n\r\n");
	return out;
}

/* Feed in two parts, cut at @cut; each part from memory of exactly its size. */
static bool feed(struct load_answer *a, const char *s, size_t n, size_t cut)
{
	bool ok = true;

	a->on_text = on_text;
	load_answer_reset(a);
	for (int part = 0; part < 2 && ok; part++) {
		size_t len = part ? n - cut : cut;
		char *p = malloc(len ? len : 1);

		memcpy(p, part ? s + cut : s, len);
		ok = load_answer_take(a, p, len, (uint64_t)(100 + part));
		free(p);
	}
	return ok;
}

/* @s means 3 events with text and 5 tokens, wherever it is cut. */
static void check_stream(const char *s, bool to_close)
{
	struct load_answer a = {0};
	size_t n = strlen(s);

	for (size_t cut = 0; cut <= n; cut++) {
		nr_text = 0;
		cr_assert(feed(&a, s, n, cut), "cut at %zu: %s", cut, a.error);
		cr_assert(load_answer_eof(&a, 102) || !to_close);
		cr_assert_eq(a.state, LOAD_DONE, "cut at %zu", cut);
		cr_assert_eq(a.status, 200);
		cr_assert(a.streamed && a.finished && !a.failed);
		cr_assert_eq(a.nr_events, 3, "cut at %zu: %u", cut, a.nr_events);
		cr_assert_eq(nr_text, 3);
		cr_assert_eq(a.completion_tokens, 5);
		cr_assert_eq(a.prompt_tokens, 3);
		cr_assert(a.begin_ns && a.first_ns && a.first_ns <= a.last_ns);
	}
	load_answer_free(&a);
}

Test(load_answer, chunk_an_event)
{
	static const char *const body[] = {EV("a") "\n\n", EV("b") "\n\n",     EV("c") "\n\n",
					   USAGE "\n\n",   "data: [DONE]\n\n", NULL};
	char *s = chunked(body, "");

	check_stream(s, false);
	free(s);
}

Test(load_answer, all_in_one_chunk_with_crlf_and_comments)
{
	static const char *const body[] = {": ping\r\n\r\n" EV("a") "\r\n\r\nevent: x\r\n" EV(
						   "b") "\r\n\r\n: hm\r\n" EV("c") "\r\n\r\n" USAGE
										   "\r\n\r\ndata: [DONE]\r\n\r\n",
					   NULL};
	char *s = chunked(body, ";name=\"value\"");

	check_stream(s, false);
	free(s);
}

Test(load_answer, events_cut_by_chunks)
{
	static const char *const body[] = {
		"da", "ta: {\"choices\":[{\"te", "xt\":\"a\"}]}\n", "\n" EV("b") "\n\n" EV("c"),
		"\n", "\n" USAGE "\n\nda",	 "ta: [DONE]\n\n",  NULL};
	char *s = chunked(body, " ");

	check_stream(s, false);
	free(s);
}

/* Lone carriage returns end lines too; data may take several lines; a space after the colon is no part of it. */
Test(load_answer, the_letter_of_the_standard)
{
	check_stream(HEAD "Connection: close\r\n\r\n"
			  "data:{\"choices\":\rdata: [{\"text\":\"a\"}]}\r\r" EV("b") "\r\r" EV(
				  "c") "\r\r" USAGE "\r\rid: 7\rretry: 10\rnonsense\rdata:[DONE]\r\r",
		     true);
}

Test(load_answer, to_the_end_of_the_connection_and_no_last_line)
{
	check_stream("HTTP/1.0 200 OK\nContent-type:text/event-stream\n\n" EV("a") "\n\n" EV("b") "\n\n" EV(
			     "c") "\n\n" USAGE "\n\ndata: [DONE]",
		     true);
}

Test(load_answer, continue_comes_first)
{
	check_stream("HTTP/1.1 100 Continue\r\n\r\n" HEAD
		     "Connection: close\r\n\r\n" EV("a") "\n\n" EV("b") "\n\n" EV("c") "\n\n" USAGE
										       "\n\ndata: [DONE]\n\n",
		     true);
}

static struct load_answer take(const char *s)
{
	struct load_answer a = {0};

	load_answer_reset(&a);
	load_answer_take(&a, s, strlen(s), 7);
	return a;
}

Test(load_answer, plain_answer)
{
	struct load_answer a =
		take("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 200\r\n\r\n"
		     "{\"choices\":[{\"text\":\"x\",\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":2}}");

	cr_expect(a.state == LOAD_BODY);
	cr_expect(load_answer_take(&a, "", 0, 8));
	load_answer_free(&a);
	a = take("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n"
		 "{\"choices\":[{\"text\":\"x\"}],\"a\":[1,2,3,4]}");
	cr_expect_eq(a.state, LOAD_DONE);
	cr_expect(!a.streamed && !a.closes && a.nr_events == 1 && a.first_ns == 7);
	load_answer_free(&a);
}

Test(load_answer, refusals)
{
	struct load_answer a = take("HTTP/1.1 429 Too Many Requests\r\nretry-after:  3\r\nContent-Length: 34\r\n\r\n"
				    "{\"error\":{\"message\":\"queue full\"}}");

	cr_expect_eq(a.state, LOAD_DONE);
	cr_expect_eq(a.status, 429);
	cr_expect_eq(a.retry_after_s, 3);
	cr_expect_str_eq(a.error, "queue full");
	load_answer_free(&a);
	a = take("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 9\r\n\r\n<html>no\n");
	cr_expect_eq(a.state, LOAD_DONE);
	cr_expect_str_eq(a.error, "<html>no\n");
	load_answer_free(&a);
	/* Text under another status is no answer. */
	a = take("HTTP/1.1 201 Created\r\nContent-Length: 27\r\n\r\n{\"choices\":[{\"text\":\"x\"}]} ");
	cr_expect(a.state == LOAD_DONE && !a.nr_events && !a.choice_ns);
	load_answer_free(&a);
}

Test(load_answer, errors_within_a_stream)
{
	struct load_answer a =
		take(HEAD "Content-Length: 66\r\n\r\n" EV("a") "\n\ndata: {\"error\":{\"message\":\"o\"}}");

	load_answer_take(&a, "\n", 1, 8);
	cr_expect(a.failed && a.nr_events == 1);
	cr_expect_str_eq(a.error, "o");
	load_answer_free(&a);
	a = take(HEAD "Content-Length: 21\r\n\r\nerror: {\"code\":500}\n\n");
	cr_expect(a.failed && a.state == LOAD_DONE);
	load_answer_free(&a);
}

Test(load_answer, what_is_malformed)
{
	static const char *const bad[] = {
		"HTTP/2 200\r\n\r\n",
		"SSH-2.0-x\r\n\r\n",
		"HTTP/1.1 999 x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		HEAD "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
		HEAD "Transfer-Encoding: chunked\r\n\r\n\r\n",
		HEAD "Transfer-Encoding: chunked\r\n\r\n1\r\nab",
		HEAD "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
		HEAD "\r\ndata: nonsense\n\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct load_answer a = {0};

		load_answer_reset(&a);
		cr_expect(!load_answer_take(&a, bad[i], strlen(bad[i]), 1), "%zu", i);
		cr_expect(strstr(a.error, "malformed"), "%zu: %s", i, a.error);
		load_answer_free(&a);
	}
}

Test(load_answer, one_after_the_other)
{
	struct load_answer a = {.on_text = on_text};
	char *s = strdup(HEAD "Content-Length: 0\r\n\r\n");

	for (int i = 0; i < 3; i++) {
		load_answer_reset(&a);
		cr_expect(load_answer_take(&a, s, strlen(s), 1));
		cr_expect(a.state == LOAD_DONE && !a.closes);
	}
	free(s);
	load_answer_free(&a);
}
