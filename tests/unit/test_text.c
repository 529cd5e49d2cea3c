// SPDX-License-Identifier: Apache-2.0
/*
 * Text for front ends: which template is taken, and what becomes of OpenAI's
 * messages on their way to it.  The vocabulary is a made-up one of bytes.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/daemon/text.h"
#include "tests/unit/gguf_build.h"

struct fixture {
	char path[64];
	struct fh_model *model;
	struct fh_tokenizer *tok;
	struct fhd_text *text;
};

/* A vocabulary of <unk>, <s>, </s>, all bytes and, with @chatml, its two marks; @template may be NULL. */
static void open_fixture(struct fixture *f, bool chatml, const char *template, const char *template_file)
{
	uint32_t nr = 259 + (chatml ? 2 : 0);
	struct bytes b = header(3, 0, 6u + (template != NULL));
	char piece[8], spec[80];
	struct fh_err err;
	int fd;

	key_str(&b, "general.architecture", "llama");
	key_str(&b, "tokenizer.ggml.model", "llama");
	key_u32(&b, "tokenizer.ggml.bos_token_id", 1);
	key(&b, "tokenizer.ggml.tokens", FH_GGUF_ARR);
	put_u32(&b, FH_GGUF_STR);
	put_u64(&b, nr);
	put_str(&b, "<unk>");
	put_str(&b, "<s>");
	put_str(&b, "</s>");
	for (int i = 0; i < 256; i++) {
		snprintf(piece, sizeof(piece), "<0x%02X>", i);
		put_str(&b, piece);
	}
	if (chatml) {
		put_str(&b, "<|im_start|>");
		put_str(&b, "<|im_end|>");
	}
	key(&b, "tokenizer.ggml.scores", FH_GGUF_ARR);
	put_u32(&b, FH_GGUF_F32);
	put_u64(&b, nr);
	for (uint32_t i = 0; i < nr; i++)
		put_u32(&b, 0);
	key(&b, "tokenizer.ggml.token_type", FH_GGUF_ARR);
	put_u32(&b, FH_GGUF_I32);
	put_u64(&b, nr);
	for (uint32_t i = 0; i < nr; i++)
		put_u32(&b, i == 0 ? 2 : i < 3 || i >= 259 ? 3 : 6);
	if (template)
		key_str(&b, "tokenizer.chat_template", template);
	strcpy(f->path, "/tmp/freehold-text-XXXXXX");
	fd = mkstemp(f->path);
	cr_assert(fd >= 0);
	cr_assert_eq(write(fd, b.p, b.n), (ssize_t)b.n);
	close(fd);
	free(b.p);
	snprintf(spec, sizeof(spec), "null:%s", f->path);
	cr_assert_eq(fh_model_open(spec, &f->model, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_tokenizer_open(f->model->gguf, &f->tok, &err), 0, "%s", err.msg);
	cr_assert_eq(fhd_text_open(f->model, f->tok, template_file, &f->text, &err), 0, "%s", err.msg);
}

static void close_fixture(struct fixture *f)
{
	fhd_text_close(f->text);
	fh_tokenizer_close(f->tok);
	fh_model_close(f->model);
	unlink(f->path);
}

/* The rendered text or the error, malloc'ed. */
static char *apply(struct fixture *f, const char *messages, const char *extra, int *rc)
{
	struct fh_text_ops ops = fhd_text_ops(f->text);
	struct fh_err err = {0};
	char *text = NULL;
	size_t bytes;

	*rc = ops.apply_template(ops.ctx, messages, extra, true, &text, &bytes, &err);
	if (*rc)
		return strdup(err.msg);
	cr_expect_eq(bytes, strlen(text));
	return text;
}

static void expect(struct fixture *f, const char *messages, const char *extra, const char *want)
{
	int rc;
	char *got = apply(f, messages, extra, &rc);

	cr_expect(!rc && !strcmp(got, want), "want: %s\ngot (%d): %s", want, rc, got);
	free(got);
}

static void expect_error(struct fixture *f, const char *messages, const char *extra, const char *part)
{
	int rc;
	char *got = apply(f, messages, extra, &rc);

	cr_expect(rc == -EINVAL && strstr(got, part), "want an error with: %s\ngot (%d): %s", part, rc, got);
	free(got);
}

static const char hello[] = "[{\"role\": \"user\", \"content\": \"Hello\"}]";

Test(text, the_models_own_template)
{
	struct fixture f;

	open_fixture(&f, true, "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}|{{ add_generation_prompt }}",
		     NULL);
	cr_expect_str_eq(fhd_text_template_name(f.text), "the model's");
	expect(&f, hello, NULL, "<s>Hello</s>|True");
	expect(&f, hello, "{\"eos_token\": \"E\", \"messages\": []}", "<s>HelloE|True");
	close_fixture(&f);
}

Test(text, chatml_where_the_vocabulary_has_it)
{
	struct fixture f;

	open_fixture(&f, true, NULL, NULL);
	cr_expect_str_eq(fhd_text_template_name(f.text), "ChatML");
	cr_expect(fhd_text_is_chat(f.text));
	expect(&f, hello, NULL, "<s><|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
	close_fixture(&f);
}

Test(text, plain_paragraphs_elsewhere)
{
	struct fixture f;

	open_fixture(&f, false, NULL, NULL);
	cr_expect_str_eq(fhd_text_template_name(f.text), "plain");
	cr_expect_not(fhd_text_is_chat(f.text));
	expect(&f, hello, NULL, "<s>User: Hello\n\nAssistant:");
	close_fixture(&f);
}

Test(text, content_parts_and_tool_calls)
{
	struct fixture f;

	open_fixture(&f, false,
		     "{% for m in messages %}{{ m.content }};"
		     "{% for c in m.tool_calls %}{{ c.function.arguments.city }}{% endfor %}{% endfor %}",
		     NULL);
	expect(&f,
	       "[{\"content\": [{\"type\": \"text\", \"text\": \"a\"}, {\"type\": \"text\", \"text\": \"b\"}]},"
	       " {\"content\": null, \"tool_calls\": [{\"function\": {\"arguments\": \"{\\\"city\\\": "
	       "\\\"Bern\\\"}\"}}]}]",
	       NULL, "a\nb;None;Bern");
	expect_error(&f, "[{\"content\": [{\"type\": \"image_url\"}]}]", NULL, "messages[0].content[0]: only text");
	close_fixture(&f);
}

Test(text, what_is_wrong_is_said)
{
	struct fixture f;

	open_fixture(&f, false, "{% if messages | length > 1 %}{{ raise_exception('One message!') }}{% endif %}", NULL);
	expect_error(&f, "[{}, {}]", NULL, "One message!");
	expect_error(&f, "[", NULL, "messages: ");
	expect_error(&f, "{}", NULL, "messages must be an array");
	expect_error(&f, "[1]", NULL, "messages[0] must be an object");
	expect_error(&f, "[]", "[]", "must be a JSON object");
	close_fixture(&f);
}

Test(text, a_template_file)
{
	char path[] = "/tmp/freehold-template-XXXXXX";
	static const char good[] = "F:{{ messages[0].content }}\n", bad[] = "\n{% if %}";
	int fd = mkstemp(path);
	struct fhd_text *text;
	struct fixture f;
	struct fh_err err;

	cr_assert_eq(write(fd, good, strlen(good)), (ssize_t)strlen(good));
	open_fixture(&f, false, "not this one", path);
	expect(&f, hello, NULL, "F:Hello");
	cr_assert_eq(pwrite(fd, bad, strlen(bad), 0), (ssize_t)strlen(bad));
	cr_expect_eq(fhd_text_open(f.model, f.tok, path, &text, &err), -EINVAL);
	cr_expect(strstr(err.msg, path) && strstr(err.msg, "line 2"), "%s", err.msg);
	cr_expect_eq(fhd_text_open(f.model, f.tok, "/nonexistent", &text, &err), -ENOENT);
	close(fd);
	unlink(path);
	close_fixture(&f);
}
