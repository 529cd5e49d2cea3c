// SPDX-License-Identifier: Apache-2.0
/*
 * Prompts, messages and inputs become token ids; /tokenize and /detokenize
 * are answered here, because all that they do is this.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/err.h"
#include "runtime/net/openai_priv.h"

static int no_memory(struct fh_oai_parser *p)
{
	return fh_oai_errorf(p->err, 500, NULL, NULL, "Out of memory.");
}

static int alloc_prompts(struct fh_oai_parser *p, size_t nr)
{
	p->o->prompts = calloc(nr, sizeof(*p->o->prompts));
	if (!p->o->prompts)
		return no_memory(p);
	p->o->nr_prompts = (uint32_t)nr;
	return 0;
}

static int tokenize_into(struct fh_oai_parser *p, const char *text, size_t bytes, unsigned int flags,
			 struct fh_oai_prompt *out)
{
	int rc = p->text->tokenize(p->text->ctx, text, bytes, flags, &out->ids, &out->nr);

	if (rc == -ENOMEM)
		return no_memory(p);
	if (rc)
		return fh_oai_errorf(p->err, 400, NULL, NULL,
				     "This text cannot be tokenized with this model's vocabulary.");
	out->text = text;
	out->text_bytes = bytes;
	return 0;
}

static int read_text(struct fh_oai_parser *p, json_t *v, struct fh_oai_prompt *out)
{
	unsigned int flags = FH_TOK_SPECIAL | (p->o->special ? FH_TOK_BOS : 0);

	return tokenize_into(p, json_string_value(v), json_string_length(v), flags, out);
}

static int read_ids(struct fh_oai_parser *p, const char *name, json_t *v, struct fh_oai_prompt *out)
{
	json_t *item;
	size_t i;

	out->ids = malloc((json_array_size(v) + 1) * sizeof(*out->ids));
	if (!out->ids)
		return no_memory(p);
	json_array_foreach (v, i, item) {
		json_int_t id = json_is_integer(item) ? json_integer_value(item) : -1;

		if (id < 0 || id >= (json_int_t)p->model->nr_vocab)
			return fh_oai_errorf(p->err, 400, NULL, name,
					     "'%s' has at %zu what is no token id; ids are 0 to %u.", name, i,
					     p->model->nr_vocab - 1);
		out->ids[out->nr++] = (uint32_t)id;
	}
	return 0;
}

/* A string, strings, ids, or lists of ids: what OpenAI takes for a prompt and for an input. */
static int read_prompts_or_ids(struct fh_oai_parser *p, const char *name, json_t *v)
{
	json_t *item;
	size_t i;
	int rc = 0;

	if (json_is_string(v)) {
		rc = alloc_prompts(p, 1);
		return rc ? rc : read_text(p, v, &p->o->prompts[0]);
	}
	if (!json_is_array(v) || !json_array_size(v))
		return fh_oai_errorf(
			p->err, 400, NULL, name,
			"'%s' must be a string, an array of strings, of token ids, or of arrays of token ids.", name);
	if (json_is_number(json_array_get(v, 0))) {
		rc = alloc_prompts(p, 1);
		return rc ? rc : read_ids(p, name, v, &p->o->prompts[0]);
	}
	if (json_array_size(v) > FH_OAI_MAX_SEQS)
		return fh_oai_errorf(p->err, 400, NULL, name, "'%s' may hold at most %d prompts.", name,
				     FH_OAI_MAX_SEQS);
	rc = alloc_prompts(p, json_array_size(v));
	json_array_foreach (v, i, item) {
		if (rc)
			break;
		if (json_is_string(item))
			rc = read_text(p, item, &p->o->prompts[i]);
		else if (json_is_array(item))
			rc = read_ids(p, name, item, &p->o->prompts[i]);
		else
			rc = fh_oai_errorf(p->err, 400, NULL, name,
					   "'%s' mixes types: item %zu is neither a string nor an array of ids.", name,
					   i);
	}
	return rc;
}

/* Chat */

static int bad_message(struct fh_oai_parser *p, size_t i, const char *field, const char *what)
{
	char param[64];

	snprintf(param, sizeof(param), "messages[%zu]%s", i, field);
	return fh_oai_errorf(p->err, 400, NULL, param, "'%s' %s.", param, what);
}

/* Text parts, joined by newlines, take the place of the list: templates expect a string. */
static int flatten_parts(struct fh_oai_parser *p, size_t i, json_t *message, json_t *parts)
{
	struct fh_buf b = {0};
	json_t *part, *text;
	size_t k;
	int rc = 0;

	json_array_foreach (parts, k, part) {
		const char *type = json_string_value(json_object_get(part, "type"));
		json_t *t = json_object_get(part, "text");

		if (!type || strcmp(type, "text") || !json_is_string(t)) {
			rc = bad_message(p, i, ".content",
					 "has a part that is not of type \"text\"; this model reads text only");
			break;
		}
		if (k)
			fh_buf_lit(&b, "\n");
		fh_buf_put(&b, json_string_value(t), json_string_length(t));
	}
	if (!rc) {
		text = json_stringn(b.data ? b.data : "", b.len);
		if (b.failed || !text || json_object_set_new(message, "content", text))
			rc = no_memory(p);
	}
	fh_buf_free(&b);
	return rc;
}

static int check_message(struct fh_oai_parser *p, size_t i, json_t *m)
{
	json_t *role = json_object_get(m, "role"), *content = json_object_get(m, "content");

	if (!json_is_object(m))
		return bad_message(p, i, "", "must be an object");
	if (!json_is_string(role) || !json_string_length(role))
		return bad_message(p, i, ".role", "must be a string such as \"user\"");
	if (json_is_array(content))
		return flatten_parts(p, i, m, content);
	if (json_is_string(content))
		return 0;
	/* An assistant that called a tool has no content. */
	if ((!content || json_is_null(content)) && !strcmp(json_string_value(role), "assistant"))
		return 0;
	return bad_message(p, i, ".content", "must be a string or an array of text parts");
}

static char *template_extra(struct fh_oai *o)
{
	json_t *extra = json_object();
	char *s;

	if (json_is_object(o->template_vars))
		json_object_update(extra, o->template_vars);
	if (o->reasoning_effort)
		json_object_set(extra, "reasoning_effort", o->reasoning_effort);
	s = json_dumps(extra, JSON_COMPACT);
	json_decref(extra);
	return s;
}

static int render(struct fh_oai_parser *p, char **text, size_t *bytes)
{
	struct fh_oai *o = p->o;
	char *messages = json_dumps(o->messages, JSON_COMPACT), *extra = NULL, *out = NULL;
	struct fh_err err = {0};
	int rc = -ENOMEM;

	if (!messages)
		goto err_free;
	if (o->template_vars || o->reasoning_effort) {
		extra = template_extra(o);
		if (!extra)
			goto err_free;
	}
	rc = p->text->apply_template(p->text->ctx, messages, extra, !o->no_generation_prompt, &out, bytes, &err);
	if (!rc)
		*text = out;
err_free:
	free(messages);
	free(extra);
	if (rc == -ENOMEM)
		return no_memory(p);
	return rc ? fh_oai_errorf(p->err, 400, NULL, "messages", "The model's chat template refused: %.480s", err.msg)
		  : 0;
}

static int read_messages(struct fh_oai_parser *p)
{
	struct fh_oai *o = p->o;
	unsigned int flags = FH_TOK_SPECIAL | (o->has_special && o->special ? FH_TOK_BOS : 0);
	char *text = NULL;
	size_t bytes = 0, i;
	json_t *m;
	int rc;

	if (!json_is_array(o->messages) || !json_array_size(o->messages))
		return fh_oai_errorf(p->err, 400, NULL, "messages",
				     "'messages' must be an array of at least one message.");
	if (o->template_vars && !json_is_object(o->template_vars))
		return fh_oai_errorf(p->err, 400, NULL, "chat_template_kwargs",
				     "'chat_template_kwargs' must be an object.");
	if (!p->model->has_template)
		return fh_oai_errorf(p->err, 400, NULL, "messages",
				     "The model '%.200s' carries no chat template; use /v1/completions.", p->model->id);
	json_array_foreach (o->messages, i, m) {
		rc = check_message(p, i, m);
		if (rc)
			return rc;
	}
	rc = render(p, &text, &bytes);
	if (!rc)
		rc = alloc_prompts(p, 1);
	if (!rc)
		rc = tokenize_into(p, text, bytes, flags, &o->prompts[0]);
	if (!rc)
		o->prompts[0].text = NULL; /* ours, and about to go */
	free(text);
	return rc;
}

/* /tokenize and /detokenize */

size_t fh_oai_token_text(const struct fh_text_ops *text, uint32_t id, char *out)
{
	struct fh_detok d = {.started = true};
	size_t n = text->detokenize(text->ctx, &d, id, out, FH_DETOK_MAX);

	return n + text->detokenize_end(text->ctx, &d, out + n, FH_DETOK_MAX - n);
}

size_t fh_oai_token_bytes(const struct fh_text_ops *text, uint32_t id, char *out)
{
	struct fh_detok d = {.started = true};
	size_t n;

	if (text->token_bytes)
		return text->token_bytes(text->ctx, id, out, FH_DETOK_MAX);
	n = text->detokenize(text->ctx, &d, id, out, FH_DETOK_MAX);
	memcpy(out + n, d.pending, d.nr_pending);
	return n + d.nr_pending;
}

static void put_token_strs(struct fh_oai_parser *p, const struct fh_oai_prompt *prompt)
{
	struct fh_buf *b = &p->o->reply;
	char piece[FH_DETOK_MAX];

	fh_buf_lit(b, "[");
	for (uint32_t i = 0; i < prompt->nr; i++) {
		if (i)
			fh_buf_lit(b, ",");
		fh_buf_lit(b, "\"");
		fh_buf_json(b, piece, fh_oai_token_text(p->text, prompt->ids[i], piece));
		fh_buf_lit(b, "\"");
	}
	fh_buf_lit(b, "]");
}

static int answer_tokenize(struct fh_oai_parser *p)
{
	struct fh_oai_prompt *prompt;
	struct fh_buf *b = &p->o->reply;
	int rc;

	if (p->o->messages)
		rc = read_messages(p);
	else if (!json_is_string(p->o->prompt))
		rc = fh_oai_errorf(p->err, 400, NULL, "prompt", "Send 'prompt', a string, or 'messages'.");
	else
		rc = read_prompts_or_ids(p, "prompt", p->o->prompt);
	if (rc)
		return rc;
	prompt = &p->o->prompts[0];
	fh_buf_lit(b, "{\"count\":");
	fh_buf_u64(b, prompt->nr);
	fh_buf_lit(b, ",\"max_model_len\":");
	fh_buf_u64(b, p->model->nr_ctx);
	fh_buf_lit(b, ",\"tokens\":[");
	for (uint32_t i = 0; i < prompt->nr; i++) {
		if (i)
			fh_buf_lit(b, ",");
		fh_buf_u64(b, prompt->ids[i]);
	}
	fh_buf_lit(b, "],\"token_strs\":");
	if (p->o->token_strs)
		put_token_strs(p, prompt);
	else
		fh_buf_lit(b, "null");
	fh_buf_lit(b, "}");
	return b->failed ? no_memory(p) : 0;
}

static int answer_detokenize(struct fh_oai_parser *p)
{
	struct fh_buf *b = &p->o->reply;
	char piece[FH_DETOK_MAX];
	struct fh_detok d = {0};
	int rc;

	if (!json_is_array(p->o->tokens))
		return fh_oai_errorf(p->err, 400, NULL, "tokens", "'tokens' must be an array of token ids.");
	rc = alloc_prompts(p, 1);
	if (!rc)
		rc = read_ids(p, "tokens", p->o->tokens, &p->o->prompts[0]);
	if (rc)
		return rc;
	fh_buf_lit(b, "{\"prompt\":\"");
	for (uint32_t i = 0; i < p->o->prompts[0].nr; i++) {
		size_t n = p->text->detokenize(p->text->ctx, &d, p->o->prompts[0].ids[i], piece, sizeof(piece));

		fh_buf_json(b, piece, n);
	}
	fh_buf_json(b, piece, p->text->detokenize_end(p->text->ctx, &d, piece, sizeof(piece)));
	fh_buf_lit(b, "\"}");
	return b->failed ? no_memory(p) : 0;
}

int fh_oai_read_prompts(struct fh_oai_parser *p)
{
	switch (p->o->kind) {
	case FH_OAI_COMPLETION:
		if (!p->o->prompt)
			return fh_oai_errorf(p->err, 400, NULL, "prompt", "'prompt' is missing.");
		return read_prompts_or_ids(p, "prompt", p->o->prompt);
	case FH_OAI_CHAT: return read_messages(p);
	case FH_OAI_EMBED:
		if (!p->model->can_embed)
			return fh_oai_errorf(p->err, 400, NULL, "model", "The model '%.200s' cannot make embeddings.",
					     p->model->id);
		if (!p->o->input)
			return fh_oai_errorf(p->err, 400, NULL, "input", "'input' is missing.");
		return read_prompts_or_ids(p, "input", p->o->input);
	case FH_OAI_TOKENIZE: return answer_tokenize(p);
	case FH_OAI_DETOKENIZE: return answer_detokenize(p);
	}
	return -EINVAL;
}
