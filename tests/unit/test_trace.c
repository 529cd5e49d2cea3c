// SPDX-License-Identifier: Apache-2.0
/*
 * Traces: the published forms, and random ones against what their
 * distributions say.  The sources are included, because the test programs are
 * linked with the library only.
 */
#include <criterion/criterion.h>
#include <unistd.h>

#include "tools/trace.c"
#include "tools/trace_draw.c"

static struct fh_err err;
static struct trace t;

static int parse(const char *text, enum trace_format format)
{
	memset(&err, 0, sizeof(err));
	return trace_parse(text, strlen(text), "file", format, &t, &err);
}

static void expect(size_t i, uint64_t at_ns, uint32_t nr_prompt, uint32_t nr_gen)
{
	cr_assert_lt(i, t.nr);
	/* A second within its minute is read as a double. */
	cr_assert(t.req[i].at_ns + 1 >= at_ns && t.req[i].at_ns <= at_ns + 1, "request %zu at %llu", i,
		  (unsigned long long)t.req[i].at_ns);
	cr_assert_eq(t.req[i].nr_prompt, nr_prompt);
	cr_assert_eq(t.req[i].nr_gen, nr_gen);
}

Test(trace, burstgpt_both_versions)
{
	cr_assert_eq(parse("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
			   "5,ChatGPT,472,18,490,Conversation log\n"
			   "45.5,GPT-4,1087,230,1317,API log\n"
			   "60,GPT-4,100,0,100,API log\n",
			   TRACE_AUTO),
		     0, "%s", err.msg);
	cr_assert_eq(t.nr, 2);
	cr_assert_eq(t.nr_skipped, 1, "one that failed has no answer");
	expect(0, 0, 472, 18);
	expect(1, 40500000000u, 1087, 230);
	trace_free(&t);
	cr_assert_eq(
		parse("Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
		      "7,3,2.5,\"Chat, the\",11,12,23,API log\n",
		      TRACE_BURSTGPT),
		0, "%s", err.msg);
	expect(0, 0, 11, 12);
	trace_free(&t);
}

Test(trace, azure_both_years)
{
	cr_assert_eq(parse("TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
			   "2023-11-16 23:59:59.9799600,4808,10\r\n"
			   "2023-11-17 00:00:00.0319569,3180,8\r\n",
			   TRACE_AUTO),
		     0, "%s", err.msg);
	expect(0, 0, 4808, 10);
	expect(1, 51996900, 3180, 8);
	trace_free(&t);
	/* Out of order, and with a zone. */
	cr_assert_eq(parse("TIMESTAMP,ContextTokens,GeneratedTokens\n"
			   "2024-05-10 00:00:01.017335+00:00,2399,6\n"
			   "2024-05-10 00:00:00.009930+00:00,2162,5",
			   TRACE_AZURE),
		     0, "%s", err.msg);
	expect(0, 0, 2162, 5);
	expect(1, 1007405000, 2399, 6);
	trace_free(&t);
}

Test(trace, mooncake_with_its_blocks)
{
	cr_assert_eq(
		parse("{\"timestamp\": 100, \"input_length\": 1200, \"output_length\": 50, \"hash_ids\": [0, 1, 2]}\n"
		      "\n{\"timestamp\": 350, \"input_length\": 600, \"output_length\": 2, \"hash_ids\": [0, 9]}\n",
		      TRACE_AUTO),
		0, "%s", err.msg);
	expect(0, 0, 1200, 50);
	expect(1, 250000000, 600, 2);
	cr_assert_eq(t.req[0].nr_hashes, 3);
	cr_assert_eq(t.req[1].nr_hashes, 2);
	cr_assert_eq(t.hash[t.req[1].hashes_from], 0);
	cr_assert_eq(t.hash[t.req[1].hashes_from + 1], 9);
	trace_free(&t);
}

Test(trace, what_does_not_fit_is_named_with_its_line)
{
	static const struct {
		const char *text, *says;
	} cases[] = {
		{"", "file: there is no request"},
		{"a,b\n1,2\n", "file:1: this is no trace"},
		{"TIMESTAMP,ContextTokens,GeneratedTokens\n", "there is no request"},
		{"TIMESTAMP,ContextTokens,GeneratedTokens\n17,1,1\n", "file:2: the time is no date"},
		{"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-16 18:17:03,1,1\n", "file:2: the time is no date"},
		{"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,1\n", "file:2: the line has too few"},
		{"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,-1,1\n", "file:2: a number of tokens"},
		{"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,1,99999999\n", "negative or too large"},
		{"Timestamp,Request tokens,Response tokens\nx,1,1\n", "file:2: the time is no number"},
		{"{\"timestamp\": 1}\n", "file:1: timestamp (in ms)"},
		{"{\"timestamp\": 1, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [-1]}", "hash_ids must"},
		{"{\"timestamp\": 1, \"input_length\": 1, \"output_length\": 1}\n{", "file:2: the line is no JSON"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cr_assert_eq(parse(cases[i].text, TRACE_AUTO), -EINVAL, "case %zu", i);
		cr_assert_not_null(strstr(err.msg, cases[i].says), "case %zu: %s", i, err.msg);
		trace_free(&t);
	}
	cr_assert_eq(parse("{\"timestamp\": 1, \"input_length\": 1, \"output_length\": 1}", TRACE_AZURE), -EINVAL);
	trace_free(&t);
	cr_assert_eq(trace_load("/nowhere/trace.csv", TRACE_AUTO, &t, &err), -ENOENT);
	cr_assert_not_null(strstr(err.msg, "/nowhere/trace.csv"));
}

Test(trace, a_file_is_read_whole)
{
	char path[] = "/tmp/fh-trace-XXXXXX";
	int fd = mkstemp(path);
	FILE *f = fdopen(fd, "w");

	cr_assert_not_null(f);
	fputs("TIMESTAMP,ContextTokens,GeneratedTokens\n", f);
	/* More than one buffer of the reader. */
	for (int i = 0; i < 40000; i++)
		fprintf(f, "2023-11-16 %02d:%02d:%02d.%07d,%d,7\n", i / 3600, i / 60 % 60, i % 60, i % 10, 1 + i);
	fclose(f);
	cr_assert_eq(trace_load(path, TRACE_AUTO, &t, &err), 0, "%s", err.msg);
	cr_assert_eq(t.nr, 40000);
	expect(39999, 39999000000900u, 40000, 7);
	cr_assert_float_eq(trace_rate(&t), 1, 1e-6);
	trace_set_rate(&t, 4);
	cr_assert_float_eq(trace_rate(&t), 4, 1e-6);
	trace_free(&t);
	unlink(path);
}

/* Mean and variance of gaps and lengths are those of the distribution. */
Test(trace, drawn_traces_have_their_moments)
{
	static const struct {
		const char *arrivals;
		double cv2; /* variance of the gaps over their squared mean */
	} cases[] = {{"constant", 0}, {"poisson", 1}, {"gamma:0.25", 4}, {"gamma:4", 0.25}, {"burst:10", 9}};
	struct trace_length p, g;
	enum { N = 200000 };

	cr_assert_eq(trace_length_parse("log:32:4096", &p, &err), 0, "%s", err.msg);
	cr_assert_eq(trace_length_parse("10:20", &g, &err), 0, "%s", err.msg);
	for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
		struct trace_arrivals a = {.rate_per_s = 50};
		double sum = 0, squares = 0, log_sum = 0, gen_sum = 0;

		cr_assert_eq(trace_arrivals_parse(cases[c].arrivals, &a, &err), 0, "%s", err.msg);
		cr_assert_eq(trace_draw(&a, &p, &g, N, 7 + c, &t), 0);
		for (size_t i = 1; i < N; i++) {
			double gap = (double)(t.req[i].at_ns - t.req[i - 1].at_ns) * 1e-9;

			sum += gap;
			squares += gap * gap;
		}
		for (size_t i = 0; i < N; i++) {
			cr_assert(t.req[i].nr_prompt >= 32 && t.req[i].nr_prompt <= 4096);
			cr_assert(t.req[i].nr_gen >= 10 && t.req[i].nr_gen <= 20);
			log_sum += log(t.req[i].nr_prompt);
			gen_sum += t.req[i].nr_gen;
		}
		sum /= N - 1;
		cr_assert_float_eq(sum, 0.02, 0.0004, "%s: a mean of %g s", cases[c].arrivals, sum);
		cr_assert_float_eq(squares / (N - 1) / (sum * sum) - 1, cases[c].cv2, 0.1 * (cases[c].cv2 + 0.01),
				   "%s: variance", cases[c].arrivals);
		cr_assert_float_eq(log_sum / N, (log(32) + log(4096)) / 2, 0.02);
		cr_assert_float_eq(gen_sum / N, 15, 0.05);
		trace_free(&t);
	}
}

Test(trace, wrong_words_for_lengths_and_arrivals_are_refused)
{
	static const char *const lengths[] = {"", "x", "0", "5:", "9:3", "log:1", "log:0:5", "lognormal:10:9", "1e99"};
	static const char *const arrivals[] = {"", "poison", "gamma:", "gamma:0", "gamma:x", "burst:0", "burst:2x"};
	struct trace_arrivals a = {.rate_per_s = 1};
	struct trace_length l;

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
		cr_assert_eq(trace_length_parse(lengths[i], &l, &err), -EINVAL, "'%s'", lengths[i]);
	for (size_t i = 0; i < sizeof(arrivals) / sizeof(arrivals[0]); i++)
		cr_assert_eq(trace_arrivals_parse(arrivals[i], &a, &err), -EINVAL, "'%s'", arrivals[i]);
}
