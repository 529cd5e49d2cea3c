// SPDX-License-Identifier: Apache-2.0
/* From a body to a struct fh_oai: JSON, fields, prompts, and what must fit together. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/net/openai_priv.h"

int fh_oai_errorf(struct fh_oai_error *err, int status, const char *code, const char *param, const char *fmt, ...)
{
	va_list ap;

	err->status = status;
	err->type = status == 429 ? "rate_limit_error" : status >= 500 ? "server_error" : "invalid_request_error";
	err->code = code;
	snprintf(err->param, sizeof(err->param), "%s", param ? param : "");
	va_start(ap, fmt);
	vsnprintf(err->message, sizeof(err->message), fmt, ap);
	va_end(ap);
	return -EINVAL;
}

void fh_oai_put_error(struct fh_buf *b, const struct fh_oai_error *err)
{
	fh_buf_lit(b, "{\"error\":{\"message\":\"");
	fh_buf_json(b, err->message, strlen(err->message));
	fh_buf_lit(b, "\",\"type\":\"");
	fh_buf_puts(b, err->type);
	fh_buf_lit(b, "\",\"param\":");
	if (err->param[0]) {
		fh_buf_lit(b, "\"");
		fh_buf_json(b, err->param, strlen(err->param));
		fh_buf_lit(b, "\"");
	} else {
		fh_buf_lit(b, "null");
	}
	fh_buf_lit(b, ",\"code\":");
	if (err->code) {
		fh_buf_lit(b, "\"");
		fh_buf_puts(b, err->code);
		fh_buf_lit(b, "\"}}");
	} else {
		fh_buf_lit(b, "null}}");
	}
}

/* jansson recurses: refuse depth before it does. Strings may hold brackets. */
static bool too_deep(const char *s, size_t n)
{
	unsigned int depth = 0;
	bool in_string = false;

	for (size_t i = 0; i < n; i++) {
		if (in_string) {
			if (s[i] == '\\')
				i++;
			else if (s[i] == '"')
				in_string = false;
			continue;
		}
		switch (s[i]) {
		case '"': in_string = true; break;
		case '{':
		case '[':
			if (++depth > FH_OAI_MAX_DEPTH)
				return true;
			break;
		case '}':
		case ']': depth -= depth ? 1 : 0; break;
		default: break;
		}
	}
	return false;
}

static int load_json(struct fh_oai_parser *p, const char *body, size_t bytes)
{
	json_error_t je;

	if (!bytes)
		return fh_oai_errorf(p->err, 400, NULL, NULL, "The body is empty; send a JSON object.");
	if (too_deep(body, bytes))
		return fh_oai_errorf(p->err, 400, NULL, NULL, "The body is nested deeper than %d levels.",
				     FH_OAI_MAX_DEPTH);
	p->o->root = json_loadb(body, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
	if (!p->o->root)
		return fh_oai_errorf(p->err, 400, NULL, NULL, "The body is no valid JSON: %s, line %d, column %d.",
				     je.text, je.line, je.column);
	if (!json_is_object(p->o->root))
		return fh_oai_errorf(p->err, 400, NULL, NULL, "The body must be a JSON object.");
	return 0;
}

/* What concerns more than one field. */
static int check_together(struct fh_oai_parser *p)
{
	struct fh_oai *o = p->o;

	if (o->kind != FH_OAI_COMPLETION && o->kind != FH_OAI_CHAT)
		return 0;
	if (o->kind == FH_OAI_CHAT && o->sampling.nr_top && !o->logprobs)
		return fh_oai_errorf(p->err, 400, NULL, "top_logprobs", "'top_logprobs' needs 'logprobs': true.");
	if (!o->best_of)
		o->best_of = o->n;
	if (o->best_of < o->n)
		return fh_oai_errorf(p->err, 400, NULL, "best_of", "'best_of' (%u) is less than 'n' (%u).", o->best_of,
				     o->n);
	if (o->best_of > o->n && o->stream)
		return fh_oai_errorf(p->err, 400, NULL, "best_of",
				     "'best_of' cannot be streamed: the best is known last.");
	if (o->echo && o->logprobs)
		return fh_oai_errorf(p->err, 400, "unsupported_parameter", "echo",
				     "'echo' with 'logprobs' is not supported: prompts are not scored here.");
	if (json_object_get(o->root, "stream_options") && !json_is_null(json_object_get(o->root, "stream_options")) &&
	    !o->stream)
		return fh_oai_errorf(p->err, 400, NULL, "stream_options", "'stream_options' needs 'stream': true.");
	o->sampling.logprobs = o->logprobs || o->best_of > o->n;
	return 0;
}

/* The lengths, now that they are known. */
static int check_lengths(struct fh_oai_parser *p)
{
	struct fh_oai *o = p->o;
	bool generate = o->kind == FH_OAI_COMPLETION || o->kind == FH_OAI_CHAT;
	uint32_t longest = 0, room;

	if (!generate && o->kind != FH_OAI_EMBED)
		return 0;
	for (uint32_t i = 0; i < o->nr_prompts; i++) {
		if (!o->prompts[i].nr)
			return fh_oai_errorf(p->err, 400, NULL, o->kind == FH_OAI_EMBED ? "input" : "prompt",
					     "The prompt has no tokens.");
		longest = o->prompts[i].nr > longest ? o->prompts[i].nr : longest;
	}
	if (longest + (generate ? 1 : 0) > p->model->nr_ctx)
		return fh_oai_errorf(p->err, 400, "context_length_exceeded",
				     o->kind == FH_OAI_CHAT    ? "messages"
				     : o->kind == FH_OAI_EMBED ? "input"
							       : "prompt",
				     "This model's context is %u tokens; the prompt alone has %u.", p->model->nr_ctx,
				     longest);
	if (!generate)
		return 0;
	room = p->model->nr_ctx - longest;
	if (!o->max_tokens) {
		/* Nobody asked for so many: what fits will do. */
		o->max_tokens = o->kind == FH_OAI_CHAT || room < FH_OAI_DEFAULT_TOKENS ? room : FH_OAI_DEFAULT_TOKENS;
	} else if (o->max_tokens > room) {
		return fh_oai_errorf(
			p->err, 400, "context_length_exceeded", "max_tokens",
			"This model's context is %u tokens; %u of the prompt and %u to generate do not fit.",
			p->model->nr_ctx, longest, o->max_tokens);
	}
	if (o->min_tokens > o->max_tokens)
		return fh_oai_errorf(p->err, 400, NULL, "min_tokens",
				     "'min_tokens' (%u) is more than 'max_tokens' (%u).", o->min_tokens, o->max_tokens);
	if ((uint64_t)o->nr_prompts * o->best_of > FH_OAI_MAX_SEQS)
		return fh_oai_errorf(p->err, 400, NULL, "n",
				     "%u prompts times %u choices are more than the %d sequences "
				     "that one request may have.",
				     o->nr_prompts, o->best_of, FH_OAI_MAX_SEQS);
	return 0;
}

int fh_oai_parse(enum fh_oai_kind kind, const char *body, size_t bytes, const struct fh_text_ops *text,
		 const struct fh_model_info *model, struct fh_oai *o, struct fh_oai_error *err)
{
	struct fh_oai_parser p = {.o = o, .text = text, .model = model, .err = err};
	int rc;

	*o = (struct fh_oai){.kind = kind, .n = 1, .special = true};
	fh_sampling_default(&o->sampling);
	err->status = 0;
	rc = load_json(&p, body, bytes);
	if (!rc)
		rc = fh_oai_read_fields(&p, o->root);
	if (!rc)
		rc = check_together(&p);
	if (!rc) {
		uint64_t start_ns = fh_now_ns();

		rc = fh_oai_read_prompts(&p);
		o->tokenize_ns = fh_now_ns() - start_ns;
	}
	if (!rc)
		rc = check_lengths(&p);
	return rc;
}

void fh_oai_free(struct fh_oai *o)
{
	for (uint32_t i = 0; i < o->nr_prompts; i++)
		free(o->prompts[i].ids);
	free(o->prompts);
	free(o->bias);
	fh_buf_free(&o->reply);
	json_decref(o->root);
	*o = (struct fh_oai){0};
}
