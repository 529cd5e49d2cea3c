// SPDX-License-Identifier: Apache-2.0
/*
 * Text for front ends: tokenizer and chat template behind one table.
 *
 * Messages come in OpenAI's form and go to the template in the form that
 * templates expect: content parts that are all text become one string, and a
 * tool call's arguments, JSON text on the wire, become an object.
 *
 * A template prints the begin-of-text token itself where its model wants one,
 * so its result is to be tokenized with FH_TOK_SPECIAL and without FH_TOK_BOS.
 *
 * Immutable once open.
 */
#include "runtime/daemon/text.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/chat.h"

#define MAX_TEMPLATE_BYTES (4u << 20)

struct fhd_text {
	const struct fh_tokenizer *tok;
	struct fh_template *template;
	const char *name;
	bool chat;
	bool adds_bos;	 /* FH_TOK_BOS gives a token */
	char *bos, *eos; /* their texts; "" where the model has none */
};

static const char chatml[] = "{% if adds_bos %}{{ bos_token }}{% endif %}"
			     "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
			     "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

static const char plain[] = "{% if adds_bos %}{{ bos_token }}{% endif %}"
			    "{% for m in messages %}{{ m.role | capitalize }}: {{ m.content }}\n\n{% endfor %}"
			    "{% if add_generation_prompt %}Assistant:{% endif %}";

/* ---- opening ---- */

/* Is @text one special token of the vocabulary? */
static bool is_token(const struct fh_tokenizer *tok, const char *text)
{
	uint32_t *ids = NULL, nr = 0;
	bool yes;

	if (fh_tokenize(tok, text, strlen(text), FH_TOK_SPECIAL, &ids, &nr))
		return false;
	yes = nr == 1 && fh_tokenizer_is_special(tok, ids[0]);
	free(ids);
	return yes;
}

static bool adds_bos(const struct fh_tokenizer *tok)
{
	uint32_t *ids = NULL, nr = 0;
	bool yes;

	if (fh_tokenize(tok, "", 0, FH_TOK_BOS, &ids, &nr))
		return false;
	yes = nr && ids[0] == fh_tokenizer_bos(tok);
	free(ids);
	return yes;
}

static char *piece_text(const struct fh_tokenizer *tok, uint32_t id)
{
	struct fh_str s = id == FH_NO_TOKEN ? (struct fh_str){"", 0} : fh_tokenizer_piece(tok, id);

	return strndup(s.p ? s.p : "", s.n);
}

static int read_template(struct fhd_text *t, const char *path, struct fh_err *err)
{
	char *text = malloc(MAX_TEMPLATE_BYTES + 1);
	FILE *f = fopen(path, "re");
	struct fh_err why;
	size_t n;
	int rc = 0;

	if (!f || !text) {
		rc = fh_errf(err, f ? -ENOMEM : -errno, "%s: %s", path, strerror(f ? ENOMEM : errno));
		goto out;
	}
	n = fread(text, 1, MAX_TEMPLATE_BYTES + 1, f);
	if (ferror(f) || n > MAX_TEMPLATE_BYTES)
		rc = fh_errf(err, -EINVAL, "%s: it cannot be read, or is larger than %u MiB", path,
			     MAX_TEMPLATE_BYTES >> 20);
	else if (fh_template_parse(text, n, &t->template, &why))
		rc = fh_errf(err, -EINVAL, "%s: %s", path, why.msg);
	t->name = "the file's";
	t->chat = true;
out:
	if (f)
		fclose(f);
	free(text);
	return rc;
}

static int find_template(struct fhd_text *t, const struct fh_model *m, const char *file, struct fh_err *err)
{
	struct fh_str own;

	if (file)
		return read_template(t, file, err);
	t->chat = true;
	if (!fh_gguf_str(m->gguf, "tokenizer.chat_template", &own) && own.n) {
		t->name = "the model's";
		return fh_template_parse(own.p, own.n, &t->template, err);
	}
	if (is_token(t->tok, "<|im_start|>") && is_token(t->tok, "<|im_end|>")) {
		t->name = "ChatML";
		return fh_template_parse(chatml, strlen(chatml), &t->template, err);
	}
	t->chat = false;
	t->name = "plain";
	return fh_template_parse(plain, strlen(plain), &t->template, err);
}

int fhd_text_open(const struct fh_model *m, const struct fh_tokenizer *tok, const char *template_file,
		  struct fhd_text **out, struct fh_err *err)
{
	struct fhd_text *t = calloc(1, sizeof(*t));
	int rc;

	if (!t)
		return fh_errf(err, -ENOMEM, "out of memory");
	t->tok = tok;
	t->adds_bos = adds_bos(tok);
	t->bos = piece_text(tok, fh_tokenizer_bos(tok));
	t->eos = piece_text(tok, fh_tokenizer_eos(tok));
	rc = t->bos && t->eos ? find_template(t, m, template_file, err) : fh_errf(err, -ENOMEM, "out of memory");
	if (rc) {
		fhd_text_close(t);
		return rc;
	}
	*out = t;
	return 0;
}

void fhd_text_close(struct fhd_text *t)
{
	if (!t)
		return;
	fh_template_free(t->template);
	free(t->bos);
	free(t->eos);
	free(t);
}

const char *fhd_text_template_name(const struct fhd_text *t)
{
	return t->name;
}

bool fhd_text_is_chat(const struct fhd_text *t)
{
	return t->chat;
}

/* ---- messages ---- */

/* Content parts that are all text, as one string; lines stay lines. */
static int join_parts(json_t *message, size_t index, struct fh_err *err)
{
	json_t *parts = json_object_get(message, "content"), *part, *joined;
	char *text = NULL;
	size_t bytes, i;
	FILE *f;

	if (!json_is_array(parts))
		return 0;
	f = open_memstream(&text, &bytes);
	if (!f)
		return fh_errf(err, -ENOMEM, "out of memory");
	json_array_foreach (parts, i, part) {
		json_t *s = json_object_get(part, "text");

		if (!json_is_string(s)) {
			fclose(f);
			free(text);
			return fh_errf(err, -EINVAL, "messages[%zu].content[%zu]: only text is supported", index, i);
		}
		if (i)
			fputc('\n', f);
		fwrite(json_string_value(s), 1, json_string_length(s), f);
	}
	if (fclose(f)) {
		free(text);
		return fh_errf(err, -ENOMEM, "out of memory");
	}
	joined = json_stringn(text, bytes);
	free(text);
	return json_object_set_new(message, "content", joined) ? fh_errf(err, -ENOMEM, "out of memory") : 0;
}

static void decode_arguments(json_t *message)
{
	json_t *call;
	size_t i;

	json_array_foreach (json_object_get(message, "tool_calls"), i, call) {
		json_t *f = json_object_get(call, "function"), *text = json_object_get(f, "arguments"), *args;

		args = json_is_string(text) ? json_loadb(json_string_value(text), json_string_length(text), 0, NULL)
					    : NULL;
		if (json_is_object(args))
			json_object_set(f, "arguments", args);
		json_decref(args);
	}
}

static int prepare_messages(json_t *messages, struct fh_err *err)
{
	json_t *m;
	size_t i;
	int rc = 0;

	if (!json_is_array(messages))
		return fh_errf(err, -EINVAL, "messages must be an array");
	json_array_foreach (messages, i, m) {
		if (!json_is_object(m))
			return fh_errf(err, -EINVAL, "messages[%zu] must be an object", i);
		rc = join_parts(m, i, err);
		if (rc)
			return rc;
		decode_arguments(m);
	}
	return 0;
}

/* The template's variables; @extra may override all but the messages. */
static json_t *make_vars(const struct fhd_text *t, json_t *messages, json_t *extra, bool add_generation_prompt)
{
	json_t *vars = json_pack("{s:s, s:s, s:b, s:b}", "bos_token", t->bos, "eos_token", t->eos, "adds_bos",
				 t->adds_bos, "add_generation_prompt", add_generation_prompt);

	if (!vars)
		return NULL;
	if ((extra && json_object_update(vars, extra)) || json_object_set(vars, "messages", messages)) {
		json_decref(vars);
		return NULL;
	}
	return vars;
}

static int text_apply(void *ctx, const char *messages_json, const char *extra_json, bool add_generation_prompt,
		      char **text, size_t *bytes, struct fh_err *err)
{
	const struct fhd_text *t = ctx;
	json_error_t where;
	json_t *messages = json_loads(messages_json, 0, &where), *extra = NULL, *vars = NULL;
	int rc;

	if (!messages)
		return fh_errf(err, -EINVAL, "messages: %s", where.text);
	rc = prepare_messages(messages, err);
	if (rc)
		goto out;
	extra = extra_json ? json_loads(extra_json, 0, &where) : NULL;
	if (extra_json && !json_is_object(extra)) {
		rc = fh_errf(err, -EINVAL, "the template's variables must be a JSON object");
		goto out;
	}
	vars = make_vars(t, messages, extra, add_generation_prompt);
	rc = vars ? fh_template_render(t->template, vars, text, bytes, err) : fh_errf(err, -ENOMEM, "out of memory");
out:
	json_decref(vars);
	json_decref(extra);
	json_decref(messages);
	return rc;
}

/* ---- the rest of the table ---- */

static int text_tokenize(void *ctx, const char *text, size_t bytes, unsigned int flags, uint32_t **ids, uint32_t *nr)
{
	return fh_tokenize(((struct fhd_text *)ctx)->tok, text, bytes, flags, ids, nr);
}

static size_t text_detokenize(void *ctx, struct fh_detok *d, uint32_t id, char *out, size_t cap)
{
	return fh_detok_push(((struct fhd_text *)ctx)->tok, d, id, out, cap);
}

static size_t text_token_bytes(void *ctx, uint32_t id, char *out, size_t cap)
{
	const struct fhd_text *t = ctx;

	return fh_token_bytes(t->tok, id, false, out, cap);
}

static size_t text_detokenize_end(void *ctx, struct fh_detok *d, char *out, size_t cap)
{
	return fh_detok_end(((struct fhd_text *)ctx)->tok, d, out, cap);
}

struct fh_text_ops fhd_text_ops(struct fhd_text *t)
{
	return (struct fh_text_ops){
		.ctx = t,
		.tokenize = text_tokenize,
		.detokenize = text_detokenize,
		.detokenize_end = text_detokenize_end,
		.token_bytes = text_token_bytes,
		.apply_template = text_apply,
	};
}
