// SPDX-License-Identifier: Apache-2.0
/* OpenAI's requests: what is read, what is refused by name; and the JSON that answers are written with. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "runtime/net/buf.h"
#include "runtime/net/openai_priv.h"
#include "tests/unit/http_service.h"

static struct echo_engine engine;

static void setup(void)
{
	echo_init(&engine);
}

TestSuite(openai, .init = setup);

static int parse(enum fh_oai_kind kind, const char *body, struct fh_oai *o, struct fh_oai_error *err)
{
	return fh_oai_parse(kind, body, strlen(body), &engine.svc.text, &engine.svc.model, o, err);
}

static void refused(enum fh_oai_kind kind, const char *body, int status, const char *param, const char *words)
{
	struct fh_oai_error err;
	struct fh_oai o;

	cr_expect_eq(parse(kind, body, &o, &err), -EINVAL, "%s", body);
	cr_expect_eq(err.status, status, "%s: %d", body, err.status);
	cr_expect_str_eq(err.param, param, "%s: param %s", body, err.param);
	cr_expect(strstr(err.message, words), "%s: %s", body, err.message);
	fh_oai_free(&o);
}

static struct fh_oai accepted(enum fh_oai_kind kind, const char *body)
{
	struct fh_oai_error err;
	struct fh_oai o;

	cr_expect_eq(parse(kind, body, &o, &err), 0, "%s: %s", body, err.message);
	return o;
}

Test(openai, the_table_is_sorted)
{
	cr_expect(fh_oai_fields_sorted());
}

Test(openai, reads_a_completion)
{
	struct fh_oai o = accepted(
		FH_OAI_COMPLETION,
		"{\"model\":\"echo/"
		"model\",\"prompt\":\"ab\",\"max_tokens\":7,\"min_tokens\":2,\"temperature\":0.5,\"top_p\":0.9,"
		"\"top_k\":40,\"min_p\":0.1,\"typical_p\":0.8,\"repetition_penalty\":1.1,\"presence_penalty\":-1,"
		"\"frequency_penalty\":2,\"seed\":-1,\"n\":2,\"best_of\":3,\"stop\":[\"x\",\"yz\"],\"stop_token_ids\":["
		"5],"
		"\"logit_bias\":{\"7\":-100,\"9\":1.5},\"logprobs\":3,\"ignore_eos\":true,\"echo\":false,\"user\":"
		"\"me\","
		"\"store\":true,\"metadata\":{\"a\":1},\"tools\":null,\"suffix\":\"\"}");

	cr_expect_eq(o.nr_prompts, 1);
	cr_expect_eq(o.prompts[0].nr, 3);
	cr_expect_eq(o.prompts[0].ids[0], ECHO_BOS);
	cr_expect_eq(o.prompts[0].ids[2], 'b');
	cr_expect_eq(o.max_tokens, 7);
	cr_expect_eq(o.min_tokens, 2);
	cr_expect_float_eq(o.sampling.temperature, 0.5f, 1e-6);
	cr_expect_float_eq(o.sampling.top_p, 0.9f, 1e-6);
	cr_expect_eq(o.sampling.top_k, 40);
	cr_expect_float_eq(o.sampling.min_p, 0.1f, 1e-6);
	cr_expect_float_eq(o.sampling.typical_p, 0.8f, 1e-6);
	cr_expect_float_eq(o.sampling.repetition_penalty, 1.1f, 1e-6);
	cr_expect_float_eq(o.sampling.presence_penalty, -1.0f, 1e-6);
	cr_expect_float_eq(o.sampling.frequency_penalty, 2.0f, 1e-6);
	cr_expect(o.has_seed && o.sampling.seed == UINT64_MAX);
	cr_expect(o.n == 2 && o.best_of == 3);
	cr_expect(o.nr_stop == 2 && o.stop[1].bytes == 2 && !memcmp(o.stop[1].text, "yz", 2));
	cr_expect(o.nr_stop_ids == 1 && o.stop_ids[0] == 5);
	cr_expect(o.sampling.nr_bias == 2 && o.sampling.bias[0].token == 7 && o.sampling.bias[0].bias == -100.0f);
	cr_expect(o.logprobs && o.sampling.logprobs && o.sampling.nr_top == 3);
	cr_expect(o.ignore_eos && !o.echo && !o.stream);
	fh_oai_free(&o);
}

Test(openai, has_openais_defaults)
{
	struct fh_oai o = accepted(FH_OAI_COMPLETION,
				   "{\"prompt\":\"a\",\"temperature\":null,\"stop\":null,\"max_tokens\":null}");

	cr_expect_eq(o.max_tokens, 16);
	cr_expect_eq(o.sampling.temperature, 1.0f);
	cr_expect_eq(o.sampling.top_p, 1.0f);
	cr_expect(o.n == 1 && o.best_of == 1 && !o.has_seed && !o.logprobs && !o.sampling.logprobs);
	fh_oai_free(&o);
	/* A chat may fill the context. */
	o = accepted(FH_OAI_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
	cr_expect_eq(o.max_tokens, (1u << 24) - o.prompts[0].nr);
	fh_oai_free(&o);
	/* The default shrinks to what is left; an explicit number does not. */
	engine.svc.model.nr_ctx = 8;
	o = accepted(FH_OAI_COMPLETION, "{\"prompt\":\"abc\"}");
	cr_expect_eq(o.max_tokens, 4);
	fh_oai_free(&o);
	refused(FH_OAI_COMPLETION, "{\"prompt\":\"abc\",\"max_tokens\":5}", 400, "max_tokens", "do not fit");
	refused(FH_OAI_COMPLETION, "{\"prompt\":\"abcdefg\"}", 400, "prompt", "the prompt alone has 8");
	refused(FH_OAI_EMBED, "{\"input\":\"abcdefgh\"}", 400, "input", "alone has 9");
}

Test(openai, reads_every_kind_of_prompt)
{
	struct fh_oai o = accepted(FH_OAI_COMPLETION, "{\"prompt\":[\"a\",\"bc\"]}");

	cr_expect(o.nr_prompts == 2 && o.prompts[1].nr == 3);
	fh_oai_free(&o);
	o = accepted(FH_OAI_COMPLETION, "{\"prompt\":[1,2,3]}");
	cr_expect(o.nr_prompts == 1 && o.prompts[0].nr == 3 && o.prompts[0].ids[2] == 3 && !o.prompts[0].text);
	fh_oai_free(&o);
	o = accepted(FH_OAI_COMPLETION, "{\"prompt\":[[1],[2,3],\"x\"],\"add_special_tokens\":false}");
	cr_expect(o.nr_prompts == 3 && o.prompts[1].ids[1] == 3 && o.prompts[2].nr == 1);
	fh_oai_free(&o);
	o = accepted(FH_OAI_COMPLETION, "{\"prompt\":\"a\\u0000b\"}");
	cr_expect(o.prompts[0].nr == 4 && o.prompts[0].ids[2] == 0);
	fh_oai_free(&o);
	refused(FH_OAI_COMPLETION, "{\"prompt\":[]}", 400, "prompt", "must be a string");
	refused(FH_OAI_COMPLETION, "{\"prompt\":7}", 400, "prompt", "must be a string");
	refused(FH_OAI_COMPLETION, "{\"prompt\":[\"a\",1]}", 400, "prompt", "mixes types");
	refused(FH_OAI_COMPLETION, "{\"prompt\":[1,\"a\"]}", 400, "prompt", "no token id");
	refused(FH_OAI_COMPLETION, "{\"prompt\":[258]}", 400, "prompt", "no token id");
	refused(FH_OAI_COMPLETION, "{\"prompt\":[-1]}", 400, "prompt", "no token id");
	refused(FH_OAI_COMPLETION, "{\"prompt\":[1.5]}", 400, "prompt", "no token id");
	refused(FH_OAI_COMPLETION, "{\"prompt\":[[]]}", 400, "prompt", "no tokens");
	refused(FH_OAI_COMPLETION, "{\"prompt\":\"\",\"add_special_tokens\":false}", 400, "prompt", "no tokens");
	refused(FH_OAI_COMPLETION, "{}", 400, "prompt", "missing");
}

Test(openai, reads_messages)
{
	struct fh_oai o = accepted(FH_OAI_CHAT,
				   "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
				   "{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"assistant\",\"content\":null}],"
				   "\"logprobs\":true,\"top_logprobs\":5,\"tool_choice\":\"none\","
				   "\"response_format\":{\"type\":\"text\"},\"modalities\":[\"text\"]}");
	static const char want[] = "<user>a\nb<assistant><assistant>";

	cr_expect_eq(o.prompts[0].nr, sizeof(want) - 1);
	for (size_t i = 0; i < sizeof(want) - 1; i++)
		cr_expect_eq(o.prompts[0].ids[i], (unsigned char)want[i]);
	cr_expect(o.logprobs && o.sampling.nr_top == 5);
	fh_oai_free(&o);
	refused(FH_OAI_CHAT, "{}", 400, "messages", "at least one");
	refused(FH_OAI_CHAT, "{\"messages\":[]}", 400, "messages", "at least one");
	refused(FH_OAI_CHAT, "{\"messages\":[3]}", 400, "messages[0]", "must be an object");
	refused(FH_OAI_CHAT, "{\"messages\":[{\"content\":\"x\"}]}", 400, "messages[0].role", "must be a string");
	refused(FH_OAI_CHAT, "{\"messages\":[{\"role\":\"user\"}]}", 400, "messages[0].content", "must be a string");
	refused(FH_OAI_CHAT,
		"{\"messages\":[{\"role\":\"user\",\"content\":\"\"},{\"role\":\"user\",\"content\":[{\"type\":\"image_"
		"url\"}]}]}",
		400, "messages[1].content", "reads text only");
	refused(FH_OAI_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"raise\"}]}", 400, "messages",
		"asked to raise");
	refused(FH_OAI_CHAT, "{\"messages\":[{\"role\":\"u\",\"content\":\"\"}],\"top_logprobs\":2}", 400,
		"top_logprobs", "needs 'logprobs'");
	engine.svc.model.has_template = false;
	refused(FH_OAI_CHAT, "{\"messages\":[{\"role\":\"u\",\"content\":\"\"}]}", 400, "messages", "no chat template");
}

/* Fields that would change the answer: by name, with 400. */
Test(openai, refuses_what_it_cannot_honour)
{
	static const char *const fields[][2] = {
		{"tools", "[{\"type\":\"function\"}]"},
		{"tool_choice", "\"auto\""},
		{"functions", "[{}]"},
		{"function_call", "\"auto\""},
		{"response_format", "{\"type\":\"json_object\"}"},
		{"audio", "{\"voice\":\"x\"}"},
		{"modalities", "[\"text\",\"audio\"]"},
		{"guided_json", "{\"a\":1}"},
		{"guided_regex", "\"x\""},
		{"structured_outputs", "{\"regex\":\"x\"}"},
		{"prompt_logprobs", "1"},
		{"use_beam_search", "true"},
		{"length_penalty", "2"},
		{"skip_special_tokens", "false"},
		{"include_stop_str_in_output", "true"},
		{"logits_processors", "[\"x\"]"},
		{"bad_words", "[\"x\"]"},
		{"allowed_token_ids", "[1]"},
		{"truncate_prompt_tokens", "5"},
	};
	char body[256];

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		snprintf(body, sizeof(body), "{\"prompt\":\"a\",\"%s\":%s}", fields[i][0], fields[i][1]);
		refused(FH_OAI_COMPLETION, body, 400, fields[i][0], "not supported");
		snprintf(body, sizeof(body), "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"%s\":%s}",
			 fields[i][0], fields[i][1]);
		refused(FH_OAI_CHAT, body, 400, fields[i][0], "not supported");
	}
	refused(FH_OAI_COMPLETION, "{\"prompt\":\"a\",\"suffix\":\"b\"}", 400, "suffix", "not supported");
	refused(FH_OAI_COMPLETION, "{\"prompt\":\"a\",\"echo\":true,\"logprobs\":1}", 400, "echo", "not scored");
	refused(FH_OAI_EMBED, "{\"input\":\"a\",\"dimensions\":3}", 400, "dimensions", "not supported");
	refused(FH_OAI_COMPLETION, "{\"prompt\":\"a\",\"model\":\"gpt-4\"}", 404, "model", "does not exist");
	refused(FH_OAI_COMPLETION, "{\"prompt\":\"a\",\"model\":3}", 400, "model", "must be a string");
}

Test(openai, reads_deadlines_and_classes)
{
	static const struct {
		const char *json;
		enum fh_class class;
	} classes[] = {{"\"interactive\"", FH_CLASS_INTERACTIVE},
		       {"\"standard\"", FH_CLASS_STANDARD},
		       {"\"batch\"", FH_CLASS_BATCH},
		       {"-5", FH_CLASS_INTERACTIVE},
		       {"0", FH_CLASS_STANDARD},
		       {"3", FH_CLASS_BATCH}};
	struct fh_oai_error err;
	struct fh_oai o;
	char body[128];

	cr_assert_eq(parse(FH_OAI_COMPLETION, "{\"prompt\":\"a\",\"ttft_ms\":250.5,\"tpot_ms\":\"none\"}", &o, &err),
		     0);
	cr_expect_eq(o.ttft_us, 250500);
	cr_expect_eq(o.tpot_us, UINT32_MAX);
	cr_expect(!o.has_class);
	fh_oai_free(&o);
	for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++) {
		snprintf(body, sizeof(body), "{\"prompt\":\"a\",\"priority\":%s}", classes[i].json);
		cr_assert_eq(parse(FH_OAI_COMPLETION, body, &o, &err), 0, "%s", body);
		cr_expect(o.has_class && o.class == classes[i].class, "%s", body);
		fh_oai_free(&o);
	}
}

Test(openai, checks_ranges_and_types)
{
	static const char *const bad[][2] = {
		{"temperature", "-0.1"},
		{"temperature", "2.1"},
		{"temperature", "\"hot\""},
		{"temperature", "1e999"},
		{"top_p", "1.5"},
		{"top_k", "-2"},
		{"top_k", "1.5"},
		{"min_p", "2"},
		{"max_tokens", "0"},
		{"max_tokens", "-1"},
		{"max_tokens", "1.5"},
		{"max_tokens", "4294967296"},
		{"max_tokens", "true"},
		{"n", "0"},
		{"n", "129"},
		{"best_of", "0"},
		{"presence_penalty", "2.5"},
		{"repetition_penalty", "0"},
		{"logprobs", "6"},
		{"logprobs", "true"},
		{"stream", "1"},
		{"seed", "1.5"},
		{"stop", "7"},
		{"stop", "[\"\"]"},
		{"stop", "[\"a\",7]"},
		{"stop", "[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\",\"12\",\"13\",\"14\","
			 "\"15\",\"16\",\"17\"]"},
		{"stop_token_ids", "[999]"},
		{"logit_bias", "[]"},
		{"logit_bias", "{\"x\":1}"},
		{"logit_bias", "{\" 1\":1}"},
		{"logit_bias", "{\"1x\":1}"},
		{"logit_bias", "{\"999\":1}"},
		{"logit_bias", "{\"1\":101}"},
		{"stream_options", "{\"include_usage\":true}"},
		{"ttft_ms", "-1"},
		{"ttft_ms", "\"soon\""},
		{"tpot_ms", "1e9"},
		{"tpot_ms", "true"},
		{"priority", "\"urgent\""},
		{"priority", "1.5"},
	};
	char body[512];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct fh_oai_error err;
		struct fh_oai o;

		snprintf(body, sizeof(body), "{\"prompt\":\"a\",\"%s\":%s}", bad[i][0], bad[i][1]);
		cr_expect_eq(parse(FH_OAI_COMPLETION, body, &o, &err), -EINVAL, "%s was accepted", body);
		cr_expect_eq(err.status, 400, "%s", body);
		cr_expect(!err.param[0] || !strcmp(err.param, bad[i][0]), "%s: %s", body, err.param);
		fh_oai_free(&o);
	}
	refused(FH_OAI_COMPLETION, "{\"prompt\":\"a\",\"n\":3,\"best_of\":2}", 400, "best_of", "less than");
	refused(FH_OAI_COMPLETION, "{\"prompt\":\"a\",\"best_of\":2,\"stream\":true}", 400, "best_of", "streamed");
	refused(FH_OAI_COMPLETION, "{\"prompt\":\"a\",\"min_tokens\":9,\"max_tokens\":3}", 400, "min_tokens",
		"more than");
	refused(FH_OAI_EMBED, "{\"input\":\"a\",\"encoding_format\":\"hex\"}", 400, "encoding_format", "base64");
	refused(FH_OAI_EMBED, "{}", 400, "input", "missing");
	refused(FH_OAI_DETOKENIZE, "{}", 400, "tokens", "array");
	refused(FH_OAI_TOKENIZE, "{}", 400, "prompt", "'messages'");
}

Test(openai, refuses_bad_json)
{
	char deep[300];
	size_t n = (size_t)sprintf(deep, "{\"prompt\":");

	memset(deep + n, '[', 100);
	deep[n + 100] = '\0';
	refused(FH_OAI_COMPLETION, deep, 400, "", "deeper");
	refused(FH_OAI_COMPLETION, "", 400, "", "empty");
	refused(FH_OAI_COMPLETION, "{", 400, "", "no valid JSON");
	refused(FH_OAI_COMPLETION, "{} x", 400, "", "no valid JSON");
	refused(FH_OAI_COMPLETION, "\"a\"", 400, "", "no valid JSON");
	refused(FH_OAI_COMPLETION, "[1]", 400, "", "must be a JSON object");
	refused(FH_OAI_COMPLETION, "{\"prompt\":\"\xff\"}", 400, "", "no valid JSON");
	refused(FH_OAI_COMPLETION, "{\"prompt\":\"a\",\"prompt\":\"b\"}", 400, "", "duplicate");
	/* Brackets in a string are no depth. */
	n = (size_t)sprintf(deep, "{\"prompt\":\"\\\"");
	memset(deep + n, '[', 100);
	strcpy(deep + n + 100, "\"}");
	{
		struct fh_oai o = accepted(FH_OAI_COMPLETION, deep);

		fh_oai_free(&o);
	}
}

Test(openai, too_many_sequences)
{
	char *body = malloc(40000);
	size_t n = (size_t)sprintf(body, "{\"n\":2,\"prompt\":[");

	for (int i = 0; i < 1025; i++)
		n += (size_t)sprintf(body + n, "%s\"a\"", i ? "," : "");
	strcpy(body + n, "]}");
	refused(FH_OAI_COMPLETION, body, 400, "n", "2048");
	free(body);
}

Test(openai, writes_errors_in_openais_form)
{
	struct fh_oai_error err;
	struct fh_buf b = {0};

	fh_oai_errorf(&err, 400, "some_code", "a\"b", "line\n\"%s\"", "x");
	fh_oai_put_error(&b, &err);
	fh_buf_put(&b, "", 1);
	cr_expect_str_eq(
		b.data,
		"{\"error\":{\"message\":\"line\\n\\\"x\\\"\",\"type\":\"invalid_request_error\",\"param\":\"a\\\"b\","
		"\"code\":\"some_code\"}}");
	b.len = 0;
	fh_oai_errorf(&err, 429, NULL, NULL, "busy");
	fh_oai_put_error(&b, &err);
	fh_buf_put(&b, "", 1);
	cr_expect_str_eq(
		b.data,
		"{\"error\":{\"message\":\"busy\",\"type\":\"rate_limit_error\",\"param\":null,\"code\":null}}");
	fh_buf_free(&b);
}

/* The writers */

static const char *text_of(struct fh_buf *b)
{
	fh_buf_put(b, "", 1);
	b->len = 0;
	return b->data;
}

Test(buf, numbers)
{
	struct fh_buf b = {0};

	fh_buf_u64(&b, 0);
	fh_buf_lit(&b, " ");
	fh_buf_u64(&b, UINT64_MAX);
	fh_buf_lit(&b, " ");
	fh_buf_hex(&b, 0xabc, 4);
	cr_expect_str_eq(text_of(&b), "0 18446744073709551615 0abc");
	fh_buf_f32(&b, 0.1f);
	fh_buf_lit(&b, " ");
	fh_buf_f32(&b, -INFINITY);
	fh_buf_lit(&b, " ");
	fh_buf_f32(&b, NAN);
	cr_expect_str_eq(text_of(&b), "0.100000001 -9999 -9999");
	fh_buf_free(&b);
}

Test(buf, json_is_what_jansson_reads)
{
	struct fh_buf b = {0};
	char all[256], *text;
	json_t *v;

	for (int i = 0; i < 128; i++)
		all[i] = (char)i;
	fh_buf_lit(&b, "[\"");
	fh_buf_json(&b, all, 128);
	fh_buf_json(&b, "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 9);
	fh_buf_lit(&b, "\"]");
	v = json_loadb(b.data, b.len, JSON_ALLOW_NUL, NULL);
	cr_assert(v);
	cr_expect_eq(json_string_length(json_array_get(v, 0)), 137);
	cr_expect_eq(memcmp(json_string_value(json_array_get(v, 0)), all, 128), 0);
	json_decref(v);
	b.len = 0;
	/* What is no UTF-8 becomes U+FFFD: lone, overlong, surrogate, too large, cut off. */
	fh_buf_json(&b, "a\x80z\xc0\xafz\xed\xa0\x80z\xf4\x90\x80\x80z\xe2\x82", 17);
	text = strdup(text_of(&b));
	cr_expect(fh_utf8_valid(text, strlen(text)));
	cr_expect_eq(strncmp(text, "a\xef\xbf\xbdz\xef\xbf\xbd\xef\xbf\xbdz", 12), 0);
	free(text);
	fh_buf_free(&b);
}

Test(buf, utf8_against_every_sequence_of_two)
{
	for (int a = 0; a < 256; a++) {
		for (int c = 0; c < 256; c++) {
			char s[2] = {(char)a, (char)c};
			bool want = (a < 0x80 && c < 0x80) || (a >= 0xc2 && a <= 0xdf && c >= 0x80 && c <= 0xbf);

			cr_assert_eq(fh_utf8_valid(s, 2), want, "%02x %02x", a, c);
		}
	}
}

Test(buf, base64)
{
	static const char *const cases[][2] = {{"", ""},
					       {"f", "Zg=="},
					       {"fo", "Zm8="},
					       {"foo", "Zm9v"},
					       {"foob", "Zm9vYg=="},
					       {"fooba", "Zm9vYmE="},
					       {"foobar", "Zm9vYmFy"}};
	struct fh_buf b = {0};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		fh_buf_base64(&b, cases[i][0], strlen(cases[i][0]));
		cr_expect_str_eq(text_of(&b), cases[i][1]);
	}
	fh_buf_base64(&b, "\xff\xfe\xfd", 3);
	cr_expect_str_eq(text_of(&b), "//79");
	fh_buf_free(&b);
}

Test(buf, grows_and_gives_back)
{
	struct fh_buf b = {0};
	char line[3000];

	memset(line, 'x', sizeof(line));
	for (int i = 0; i < 100; i++)
		fh_buf_put(&b, line, sizeof(line));
	cr_expect_eq(b.len, 300000);
	fh_buf_printf(&b, "%s", "yes");
	cr_expect_eq(memcmp(b.data + b.len - 3, "yes", 3), 0);
	fh_buf_reset(&b, 1000);
	cr_expect(!b.data && !b.cap && !b.len);
	fh_buf_puts(&b, "small");
	fh_buf_reset(&b, 4096);
	cr_expect(b.data && !b.len);
	cr_expect(!fh_buf_reserve(&b, SIZE_MAX / 2));
	cr_expect(b.failed);
	fh_buf_free(&b);
}
