// SPDX-License-Identifier: Apache-2.0
/*
 * The load generator's parts: percentiles, histograms, what a chunk says, the
 * search for a rate, deadlines, the bytes of requests, reports.
 */
#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/load/chunk.h"
#include "tools/load/dataset.h"
#include "tools/load/hdr.h"
#include "tools/load/report.h"
#include "tools/load/search.h"

static bool near(double a, double b, double share)
{
	return fabs(a - b) <= share * fabs(b) + 1e-12;
}

/* ---- percentiles ---- */

Test(load, percentiles_are_linear_between_ranks)
{
	/* numpy.percentile([1, 2, 3, 4, 10], q) */
	double v[] = {4, 1, 10, 3, 2};
	struct load_dist d;

	load_dist_of(v, 5, &d);
	cr_expect_float_eq(d.median, 3, 1e-12);
	cr_expect_float_eq(d.p90, 7.6, 1e-9);
	cr_expect_float_eq(d.p99, 9.76, 1e-9);
	cr_expect_float_eq(d.p999, 9.976, 1e-9);
	cr_expect_float_eq(d.mean, 4, 1e-12);
	cr_expect_float_eq(d.std, sqrt(10), 1e-9);
	cr_expect_float_eq(d.max, 10, 0);
	load_dist_of(v, 1, &d);
	cr_expect_float_eq(d.p99, 1, 0);
	load_dist_of(v, 0, &d);
	cr_expect_float_eq(d.max, 0, 0);
	cr_expect_eq(d.nr, 0);
}

/* Every value lies in its bucket, buckets touch, and none is wider than 1/128 of its values. */
Test(load, hdr_buckets)
{
	for (uint32_t i = 0; i + 1 < LOAD_HDR_BUCKETS; i++) {
		uint64_t from = load_hdr_from(i), to = load_hdr_from(i + 1);

		cr_assert_lt(from, to, "bucket %u", i);
		cr_assert_eq(load_hdr_bucket(from), i);
		cr_assert_eq(load_hdr_bucket(to - 1), i);
		cr_assert(to - from <= 1 || (to - from) * 128 <= from);
	}
	cr_assert_eq(load_hdr_bucket(UINT64_MAX), LOAD_HDR_BUCKETS - 1);
}

Test(load, hdr_agrees_with_an_array)
{
	static struct load_hdr h;
	static double v[20000];
	struct load_dist exact, rough;
	struct trace_rng r;

	trace_rng_init(&r, 5);
	for (int i = 0; i < 20000; i++) {
		uint64_t ns = (uint64_t)(1e3 * exp(12 * trace_rng_unit(&r)));

		v[i] = (double)ns / 1e6;
		load_hdr_add(&h, ns);
	}
	load_dist_of(v, 20000, &exact);
	load_dist_of_hdr(&h, &rough);
	cr_expect(near(rough.mean, exact.mean, 1e-9));
	cr_expect(near(rough.std, exact.std, 1e-6));
	cr_expect(near(rough.median, exact.median, 0.008), "%g %g", rough.median, exact.median);
	cr_expect(near(rough.p90, exact.p90, 0.008));
	cr_expect(near(rough.p99, exact.p99, 0.008));
	cr_expect(near(rough.p999, exact.p999, 0.02));
	cr_expect_float_eq(rough.max, exact.max, 1e-12);
	cr_expect_eq(rough.nr, 20000);
}

/* ---- chunks ---- */

static struct load_chunk chunk(const char *json)
{
	struct load_chunk c;

	cr_assert(load_chunk_parse(json, strlen(json), &c), "%s", json);
	return c;
}

Test(load, chunk_text)
{
	cr_expect(chunk("{\"choices\":[{\"text\":\"a\"}]}").has_text);
	cr_expect(!chunk("{\"choices\":[{\"text\":\"\"}]}").has_text);
	cr_expect(chunk("{\"choices\":[{\"text\":\"\"}]}").has_choices);
	cr_expect(!chunk("{\"choices\":[]}").has_choices);
	cr_expect(chunk("{\"choices\" : [ {\"index\":0, \"delta\":{\"content\":\"\\\"\"}}]}").has_text);
	cr_expect(!chunk("{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}").has_text);
	cr_expect(chunk("{\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}").has_text);
	cr_expect(chunk("{\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":\"x\"}}]}").has_text);
	/* Of several choices any one. */
	cr_expect(chunk("{\"choices\":[{\"text\":\"\"},{\"text\":\"b\"}]}").has_text);
	/* Text elsewhere is none of the answer's. */
	cr_expect(!chunk("{\"text\":\"x\",\"content\":\"y\",\"choices\":[{\"logprobs\":{\"text\":\"z\"}}]}").has_text);
}

Test(load, chunk_usage_and_end)
{
	struct load_chunk c = chunk("{\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}],\"usage\":{"
				    "\"prompt_tokens\":12,\"completion_tokens\":34,\"total_tokens\":46,"
				    "\"prompt_tokens_details\":{\"cached_tokens\":7}}}");

	cr_expect_eq(c.prompt_tokens, 12);
	cr_expect_eq(c.completion_tokens, 34);
	cr_expect_eq(c.cached_tokens, 7);
	cr_expect(c.finished);
	cr_expect(!chunk("{\"choices\":[{\"finish_reason\":null}],\"usage\":null}").finished);
	/* A count outside of usage is none. */
	cr_expect_eq(chunk("{\"completion_tokens\":5}").completion_tokens, 0);
}

Test(load, chunk_errors)
{
	struct load_chunk c = chunk("{\"error\":{\"message\":\"too long\",\"code\":400}}");

	cr_expect(c.has_error);
	cr_expect_str_eq(c.error, "too long");
	c = chunk("{\"error\":\"plain\"}");
	cr_expect(c.has_error);
	cr_expect_str_eq(c.error, "plain");
	cr_expect_str_eq(chunk("{\"object\":\"error\",\"message\":\"vLLM's\"}").error, "vLLM's");
	cr_expect(!chunk("{\"error\":null}").has_error);
}

Test(load, chunk_refuses)
{
	static const char *const bad[] = {"",		"[1]",	     "{",	    "{\"a\"}",	   "{\"a\":}",
					  "{\"a\":1",	"{\"a\":\"", "{\"a\":\"\\", "{\"a\":[1,]", "{}x",
					  "{\"a\":1,}", "nope"};
	char deep[400];
	struct load_chunk c;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_expect(!load_chunk_parse(bad[i], strlen(bad[i]), &c), "%s", bad[i]);
	memcpy(deep, "{\"a\":", 5);
	memset(deep + 5, '[', 200);
	cr_expect(!load_chunk_parse(deep, 205, &c));
}

/* ---- search and deadlines ---- */

/* A server that keeps all rates up to @limit. */
static double find(double start, double limit, double precision, uint32_t *probes)
{
	struct load_search s;

	*probes = 0;
	load_search_begin(&s, start, precision, 64);
	do
		++*probes;
	while (load_search_step(&s, s.next <= limit));
	return s.good;
}

Test(load, search_finds_the_limit)
{
	uint32_t n;

	for (double limit = 0.3; limit < 3000; limit *= 1.7) {
		double got = find(1, limit, 0.05, &n);

		cr_expect(got <= limit && got * 1.05 >= limit, "%g: %g", limit, got);
		cr_expect_leq(n, 26);
	}
	cr_expect_float_eq(find(4, 4, 0.01, &n), 4, 0.04);
}

/* Probes that lie, each once: the answer is the same, and no rate is tried more than three times. */
Test(load, search_survives_one_lie)
{
	for (uint32_t lie = 0; lie < 26; lie++) {
		struct load_search s;
		uint32_t n = 0, found = 0;
		bool more = true;

		load_search_begin(&s, 4, 0.05, 64);
		while (more) {
			cr_assert_leq(load_search_repeats(&s), 2);
			more = load_search_step(&s, (s.next <= 37) != (n++ == lie));
		}
		for (uint32_t i = 0; i < s.nr_tried; i++)
			found += s.tried[i].rate == s.good || s.tried[i].rate == s.bad;
		cr_expect(s.sure && found == 2 && n < 50, "%u probes", n);
		cr_expect(s.good <= 37 && s.bad > 37 && s.good * 1.05 * 1.0001 >= s.bad, "%u: %g %g", lie, s.good,
			  s.bad);
	}
}

/* The last probe before the end lies: tried again, and again, it is put right. */
Test(load, search_tries_its_ends_again)
{
	struct load_search s;
	uint32_t nr_lies = 0;
	bool more = true;

	load_search_begin(&s, 10, 0.3, 64);
	while (more) {
		bool truth = s.next <= 30;
		/* 20 holds; the first look at it says otherwise. */
		bool lie = s.next == 20 && load_search_repeats(&s) == 0;

		nr_lies += lie;
		more = load_search_step(&s, truth != lie);
	}
	cr_expect_eq(nr_lies, 1);
	cr_expect(s.sure && s.good > 20 && s.good <= 30 && s.bad > 30, "%g %g", s.good, s.bad);
}

Test(load, search_ends_without_an_answer)
{
	struct load_search s;
	int n = 0;

	load_search_begin(&s, 1, 0.05, 10);
	while (n++ < 100 && load_search_step(&s, false))
		;
	cr_expect_eq(n, 10);
	cr_expect_float_eq(s.good, 0, 0);
}

Test(load, calibration)
{
	struct load_calibration c = {.nr = 2, .at = {{100, 10, 1}, {300, 40, 2}}}, back;
	char path[] = "/tmp/freehold-cal-XXXXXX";
	struct fh_err err;
	uint32_t len[8];
	int fd = mkstemp(path);

	cr_assert_geq(fd, 0);
	close(fd);
	cr_expect_float_eq(load_calibration_deadline(&c, 50, 2).ttft_ms, 20, 1e-9);
	cr_expect_float_eq(load_calibration_deadline(&c, 200, 2).ttft_ms, 50, 1e-9);
	cr_expect_float_eq(load_calibration_deadline(&c, 200, 2).tpot_ms, 3, 1e-9);
	cr_expect_float_eq(load_calibration_deadline(&c, 300, 1).ttft_ms, 40, 1e-9);
	cr_expect_float_eq(load_calibration_deadline(&c, 600, 1).ttft_ms, 80, 1e-9);
	cr_expect_float_eq(load_calibration_deadline(&c, 600, 1).tpot_ms, 2, 1e-9);
	cr_assert_eq(load_calibration_write(path, &c, &err), 0);
	cr_assert_eq(load_calibration_read(path, &back, &err), 0, "%s", err.msg);
	cr_expect_eq(back.nr, 2);
	cr_expect_float_eq(load_calibration_deadline(&back, 200, 2).ttft_ms, 50, 1e-9);
	unlink(path);
	cr_expect_eq(load_calibration_read(path, &back, &err), -EINVAL);
	cr_expect_eq(load_calibration_lengths(32, 4096, 8, len), 8);
	cr_expect(len[0] == 32 && len[1] == 64 && len[7] == 4096);
	cr_expect_eq(load_calibration_lengths(64, 64, 8, len), 1);
	cr_expect_eq(load_calibration_lengths(1, 3, 8, len), 3);
}

/* ---- requests ---- */

static json_t *body_of(const struct load_plan *p, uint32_t i, char **head)
{
	static struct fh_buf b;
	char *body;
	json_t *j;

	fh_buf_reset(&b, SIZE_MAX);
	load_plan_request(p, i, &b);
	fh_buf_put(&b, "", 1);
	body = strstr(b.data, "\r\n\r\n") + 4;
	body[-2] = '\0';
	*head = b.data;
	j = json_loads(body, JSON_REJECT_DUPLICATES, NULL);
	cr_assert(j, "%s", body);
	cr_assert_eq(strtoul(strstr(b.data, "Content-Length:") + 15, NULL, 10), strlen(body));
	return j;
}

static struct trace_req reqs[4] = {{0, 10, 5, 0, 0}, {5, 20, 6, 0, 0}, {6, 1100, 7, 3, 0}, {7, 1100, 7, 3, 1}};
static uint32_t hashes[] = {9, 8, 7, 6};
static struct trace four = {.req = reqs, .nr = 4, .hash = hashes, .nr_hashes = 4};

Test(load, request_of_ids)
{
	struct load_target t = {
		.path = "/v1/completions", .host = "h:1", .prefix = "/x", .stream = true, .ignore_eos = true};
	struct load_deadline d[4] = {{1.5, 0}, {2, 3}};
	struct load_plan p = {.target = &t, .trace = &four, .deadline = d, .prompts = {.first_id = 10, .nr_vocab = 20}};
	char *head;
	json_t *j = body_of(&p, 0, &head), *ids = json_object_get(j, "prompt"), *other;

	cr_expect(!strncmp(head, "POST /x/v1/completions HTTP/1.1\r\nHost: h:1\r\n", 44));
	cr_expect(strstr(head, "\r\nx-freehold-ttft-ms: 1.500\r\n") && !strstr(head, "x-freehold-tpot-ms"));
	cr_assert_eq(json_array_size(ids), 10);
	for (size_t i = 0; i < 10; i++) {
		json_int_t id = json_integer_value(json_array_get(ids, i));

		cr_expect(id >= 10 && id < 20);
	}
	cr_expect_eq(json_integer_value(json_object_get(j, "max_tokens")), 5);
	cr_expect(json_is_true(json_object_get(j, "ignore_eos")) && json_is_true(json_object_get(j, "stream")));
	/* The same again, and with another salt another prompt. */
	other = body_of(&p, 0, &head);
	cr_expect(json_equal(j, other));
	json_decref(other);
	p.prompts.salt = 1;
	other = body_of(&p, 0, &head);
	cr_expect(!json_equal(j, other));
	json_decref(other);
	json_decref(j);
}

/* Over a channel: the same ids, four bytes each; and text as it is. */
Test(load, prompts_without_http)
{
	struct load_target http = {.path = "/v1/completions", .host = "h"}, chan = {.channel = "dev"};
	struct load_plan p = {.target = &http,
			      .trace = &four,
			      .prompts = {.first_id = 10, .nr_vocab = 20000, .nr_prefix = 4, .prefix_share = 1}};
	struct load_text text = {.text = (char *)"caf\xc3\xa9", .bytes = 5};
	struct load_dataset data = {.text = &text, .nr = 1};
	struct fh_buf b = {0};
	char *head;

	for (uint32_t i = 0; i < 4; i++) {
		json_t *j, *ids;
		uint32_t id;

		p.target = &http;
		j = body_of(&p, i, &head);
		ids = json_object_get(j, "prompt");
		p.target = &chan;
		fh_buf_reset(&b, SIZE_MAX);
		load_plan_prompt(&p, i, &b);
		cr_assert_eq(b.len, 4 * json_array_size(ids));
		for (size_t k = 0; k < b.len / 4; k++) {
			memcpy(&id, b.data + 4 * k, 4);
			cr_assert_eq(id, json_integer_value(json_array_get(ids, k)));
		}
		json_decref(j);
	}
	p.prompts = (struct load_prompts){.kind = LOAD_PROMPT_WORDS, .words_per_token = 1};
	fh_buf_reset(&b, SIZE_MAX);
	load_plan_prompt(&p, 0, &b);
	cr_expect(b.len > 20 && b.data[b.len - 1] != ' ' && memchr(b.data, ' ', b.len));
	p.prompts = (struct load_prompts){.kind = LOAD_PROMPT_DATASET, .data = &data};
	fh_buf_reset(&b, SIZE_MAX);
	load_plan_prompt(&p, 3, &b);
	cr_expect(b.len == 5 && !memcmp(b.data, "caf\xc3\xa9", 5));
	fh_buf_free(&b);
}

Test(load, request_of_words_for_chat)
{
	struct load_target t = {
		.path = "/v1/chat/completions", .host = "h", .chat = true, .model = "a\"b", .extra = "\"top_k\":3"};
	struct load_plan p = {
		.target = &t, .trace = &four, .prompts = {.kind = LOAD_PROMPT_WORDS, .words_per_token = 0.5}};
	char *head;
	json_t *j = body_of(&p, 1, &head), *m = json_array_get(json_object_get(j, "messages"), 0);
	const char *text = json_string_value(json_object_get(m, "content"));
	int words = 1;

	cr_assert(text);
	for (const char *s = text; *s; s++)
		words += *s == ' ';
	cr_expect_eq(words, 10);
	cr_expect_str_eq(json_string_value(json_object_get(j, "model")), "a\"b");
	cr_expect_eq(json_integer_value(json_object_get(j, "top_k")), 3);
	cr_expect(json_is_false(json_object_get(j, "stream")) && !json_object_get(j, "stream_options"));
	json_decref(j);
}

/* Mooncake: equal hashes are equal text, and only they. */
Test(load, request_shares_what_the_trace_shares)
{
	struct load_target t = {.path = "/v1/completions", .host = "h"};
	struct load_plan p = {.target = &t, .trace = &four, .prompts = {.nr_vocab = 30000}};
	char *head;
	json_t *a = body_of(&p, 2, &head), *b = body_of(&p, 3, &head);
	json_t *x = json_object_get(a, "prompt"), *y = json_object_get(b, "prompt");
	int same = 0;

	cr_assert(json_array_size(x) == 1100 && json_array_size(y) == 1100);
	/* a has blocks 9 8 7, b has 8 7 6: a's second is b's first. */
	for (size_t i = 0; i < TRACE_MOONCAKE_BLOCK; i++) {
		cr_assert(json_equal(json_array_get(x, TRACE_MOONCAKE_BLOCK + i), json_array_get(y, i)));
		same += json_equal(json_array_get(x, i), json_array_get(y, i));
	}
	cr_expect_lt(same, 10);
	json_decref(a);
	json_decref(b);
}

Test(load, request_with_a_shared_prefix)
{
	struct load_target t = {.path = "/v1/completions", .host = "h"};
	struct load_plan p = {
		.target = &t, .trace = &four, .prompts = {.nr_vocab = 30000, .nr_prefix = 8, .prefix_share = 1}};
	char *head;
	json_t *a = body_of(&p, 0, &head), *b = body_of(&p, 1, &head);
	int same = 0;

	for (size_t i = 0; i < 10; i++)
		same += json_equal(json_array_get(json_object_get(a, "prompt"), i),
				   json_array_get(json_object_get(b, "prompt"), i));
	cr_expect_eq(same, 8);
	cr_expect_eq(json_array_size(json_object_get(a, "prompt")), 10);
	json_decref(a);
	json_decref(b);
}

/* ---- datasets ---- */

static struct load_dataset parse_data(const char *s, int want)
{
	struct load_dataset d;
	struct fh_err err = {.msg = ""};

	cr_assert_eq(load_dataset_parse(s, strlen(s), "f", &d, &err), want, "%s", err.msg);
	cr_assert(!want || strstr(err.msg, "f:") || strstr(err.msg, "f "));
	return d;
}

Test(load, datasets)
{
	struct load_dataset d = parse_data("one\ntwo \r\n\nthree", 0);

	cr_assert_eq(d.nr, 3);
	cr_expect_str_eq(d.text[1].text, "two ");
	cr_expect_str_eq(d.text[2].text, "three");
	load_dataset_free(&d);
	d = parse_data("{\"prompt\":\"p\",\"output_tokens\":9}\n{\"x\":1}\n{\"messages\":[{\"role\":\"user\","
		       "\"content\":\"m\"}]}\n",
		       0);
	cr_assert_eq(d.nr, 2);
	cr_expect_eq(d.nr_skipped, 1);
	cr_expect_eq(d.text[0].nr_out, 9);
	cr_expect_str_eq(d.text[1].text, "m");
	load_dataset_free(&d);
	d = parse_data("[{\"conversations\":[{\"from\":\"human\",\"value\":\"hi\"},{\"from\":\"gpt\",\"value\":\"ho\"}]"
		       "},{\"conversations\":[]}]",
		       0);
	cr_assert_eq(d.nr, 1);
	cr_expect_str_eq(d.text[0].text, "hi");
	load_dataset_free(&d);
	d = parse_data("{\"prompt\":\"p\"}\n{bad\n", -EINVAL);
	load_dataset_free(&d);
	d = parse_data("\n\n", -EINVAL);
	load_dataset_free(&d);
}

/* ---- figures and reports ---- */

#define MS 1000000u

/* Three answers, one of them late, one refusal, one that was lost. */
static struct load_result five[5] = {
	{.outcome = LOAD_OK,
	 .due_ns = 0,
	 .sent_ns = 1 * MS,
	 .first_ns = 10 * MS,
	 .last_ns = 30 * MS,
	 .end_ns = 30 * MS,
	 .nr_in = 7,
	 .nr_out = 11,
	 .nr_events = 10,
	 .counted = true,
	 .status = 200},
	{.outcome = LOAD_OK,
	 .due_ns = 5 * MS,
	 .ready_ns = 5 * MS,
	 .sent_ns = 5 * MS,
	 .first_ns = 25 * MS,
	 .last_ns = 45 * MS,
	 .end_ns = 46 * MS,
	 .nr_in = 7,
	 .nr_out = 5,
	 .nr_events = 5,
	 .counted = true,
	 .status = 200},
	{.outcome = LOAD_OK,
	 .due_ns = 6 * MS,
	 .ready_ns = 6 * MS,
	 .sent_ns = 8 * MS,
	 .first_ns = 1006 * MS,
	 .last_ns = 1006 * MS,
	 .end_ns = 1006 * MS,
	 .nr_in = 7,
	 .nr_out = 1,
	 .nr_events = 1,
	 .counted = true,
	 .status = 200},
	{.outcome = LOAD_REFUSED,
	 .due_ns = 9 * MS,
	 .ready_ns = 9 * MS,
	 .sent_ns = 9 * MS,
	 .end_ns = 10 * MS,
	 .status = 429},
	{.outcome = LOAD_BROKEN,
	 .due_ns = 9 * MS,
	 .ready_ns = 9 * MS,
	 .sent_ns = 10 * MS,
	 .end_ns = 2000 * MS,
	 .status = 200},
};

static struct load_figures figures(const struct load_goals *g, const struct load_deadline *d)
{
	static struct load_hdr itl;
	uint64_t tokens[] = {9, 12, 3};
	struct load_figures f = {0};

	load_hdr_add(&itl, 2 * MS);
	cr_assert_eq(load_figures(five, 5, g, d, &itl, tokens, 3, &f), 0);
	return f;
}

Test(load, figures_of_five)
{
	struct load_goals g = {.ttft_ms = 15, .tpot_ms = 4};
	struct load_deadline d[5] = {{9, 0}, {25, 5}, {2000, 1}, {1, 1}, {1, 1}};
	struct load_figures f = figures(&g, NULL);

	cr_expect_eq(f.nr_by_outcome[LOAD_OK], 3);
	cr_expect_eq(f.nr_by_outcome[LOAD_REFUSED], 1);
	cr_expect_eq(f.nr_good, 1);
	cr_expect_float_eq(f.attainment, 0.2, 1e-12);
	cr_expect_float_eq(f.admitted_attainment, 0.25, 1e-12);
	cr_expect_float_eq(f.duration_s, 2, 1e-12);
	cr_expect_eq(f.output_tokens, 17);
	cr_expect_float_eq(f.dist[LOAD_TTFT].max, 1000, 1e-9);
	cr_expect_float_eq(f.dist[LOAD_TTFT].median, 20, 1e-9);
	/* (30 - 10) / 10 and (45 - 25) / 4; one token has no time per further token. */
	cr_expect_eq(f.dist[LOAD_TPOT].nr, 2);
	cr_expect_float_eq(f.dist[LOAD_TPOT].mean, 3.5, 1e-9);
	cr_expect_float_eq(f.dist[LOAD_SEND_DELAY].max, 2, 1e-9);
	cr_expect_eq(f.dist[LOAD_SEND_DELAY].nr, 5);
	cr_expect_eq(f.max_concurrent, 5);
	cr_expect_float_eq(f.max_output_tokens_per_s, 12, 0);
	/* With deadlines of their own: the second and the third. */
	f = figures(&(struct load_goals){0}, d);
	cr_expect_eq(f.nr_good, 2);
}

/* The names that scripts for `vllm bench serve` read. */
Test(load, json_has_the_names_of_vllm)
{
	static const char *const names[] = {"duration",
					    "completed",
					    "failed",
					    "total_input_tokens",
					    "total_output_tokens",
					    "request_throughput",
					    "request_goodput",
					    "output_throughput",
					    "total_token_throughput",
					    "max_output_tokens_per_s",
					    "max_concurrent_requests",
					    "mean_ttft_ms",
					    "median_ttft_ms",
					    "std_ttft_ms",
					    "p99_ttft_ms",
					    "mean_tpot_ms",
					    "median_tpot_ms",
					    "std_tpot_ms",
					    "p99_tpot_ms",
					    "mean_itl_ms",
					    "median_itl_ms",
					    "std_itl_ms",
					    "p99_itl_ms",
					    "mean_e2el_ms",
					    "median_e2el_ms",
					    "p99_e2el_ms",
					    "p99.9_e2el_ms"};
	struct load_goals g = {.ttft_ms = 15};
	struct load_figures f = figures(&g, NULL);
	struct load_record r = {.res = five, .nr = 5};
	json_t *j = load_report_json(&f, &g, false);

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		cr_expect(json_is_number(json_object_get(j, names[i])), "%s", names[i]);
	cr_expect_float_eq(json_number_value(json_object_get(j, "p99_ttft_ms")), f.dist[LOAD_TTFT].p99, 1e-9);
	cr_expect_eq(json_integer_value(json_object_get(json_object_get(j, "outcomes"), "refused_429")), 1);
	cr_assert_eq(load_report_detail(j, &r), 0);
	cr_expect_eq(json_array_size(json_object_get(j, "ttfts")), 5);
	cr_expect_float_eq(json_real_value(json_array_get(json_object_get(j, "ttfts"), 2)), 1.0, 1e-9);
	cr_expect_str_eq(json_string_value(json_array_get(json_object_get(j, "errors"), 4)), "connection_lost");
	json_decref(j);
}

Test(load, csv_has_a_line_a_request)
{
	struct load_record r = {.res = five, .nr = 5};
	struct load_goals g = {.ttft_ms = 15};
	struct trace_req asked[5] = {{.nr_gen = 7}};
	struct trace t = {.req = asked, .nr = 5};
	char *text = NULL, *line, *save = NULL;
	size_t bytes, commas = 0;
	FILE *f = open_memstream(&text, &bytes);
	int lines = 0;

	load_report_csv(&r, &t, NULL, &g, f);
	fclose(f);
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		size_t n = 0;

		for (char *p = line; *p; p++)
			n += *p == ',';
		commas = commas ? commas : n;
		cr_expect_eq(n, commas, "%s", line);
		lines++;
	}
	cr_expect_eq(lines, 6);
	free(text);
}

Test(load, plots_stay_inside)
{
	double x[] = {0, 1, 2, 5}, y[] = {100, 100, 99, 3};
	struct load_curve c[] = {{.name = "a & <b>", .x = x, .y = y, .nr = 4, .dots = true}, {.name = "none"}};
	struct load_axes a = {.title = "t", .x = "x", .y = "y", .y_max = 100, .mark_y = 99, .mark = "99 %"};
	char *text = NULL;
	size_t bytes;
	FILE *f = open_memstream(&text, &bytes);

	load_plot_svg(&a, c, 2, f);
	load_plot_text(&a, c, 2, 80, f);
	a.log_x = a.log_y = true;
	load_plot_svg(&a, c, 2, f);
	load_plot_text(&a, c, 2, 1000, f);
	fclose(f);
	cr_expect(strstr(text, "a &amp; &lt;b&gt;"));
	cr_expect(!strstr(text, "nan") && !strstr(text, "inf"));
	cr_expect(strstr(text, "prefers-color-scheme: dark"));
	free(text);
}
