// SPDX-License-Identifier: Apache-2.0
/*
 * The fields of OpenAI's requests, as a table.
 *
 * A field is stored, checked against its range, or refused by name because it
 * would change the answer and cannot be honoured.  null always means "left
 * out".  Fields that are not in the table are harmless and ignored: clients
 * send many (user, store, metadata, service_tier, ...).
 */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/net/openai_priv.h"

#define COMP (1u << FH_OAI_COMPLETION)
#define CHAT (1u << FH_OAI_CHAT)
#define EMBED (1u << FH_OAI_EMBED)
#define TOK (1u << FH_OAI_TOKENIZE)
#define DETOK (1u << FH_OAI_DETOKENIZE)
#define GEN (COMP | CHAT)
#define ANY (GEN | EMBED | TOK | DETOK)

enum field_type { T_F32, T_U32, T_BOOL, T_JSON, T_CALL, T_REFUSE };

struct field {
	const char *name;
	unsigned int kinds; /* endpoints where it means something */
	enum field_type type;
	size_t offset;	 /* T_F32, T_U32, T_BOOL, T_JSON: in struct fh_oai */
	double min, max; /* T_F32, T_U32 */
	/* T_CALL: store it. T_REFUSE: 0 when the value asks for nothing special; NULL: only null, false or empty. */
	int (*fn)(struct fh_oai_parser *p, const char *name, json_t *v);
};

static int bad(struct fh_oai_parser *p, const char *name, const char *what)
{
	return fh_oai_errorf(p->err, 400, NULL, name, "'%s' %s.", name, what);
}

/* An integer, or a real that is one. */
static int get_integer(json_t *v, double *out)
{
	*out = json_number_value(v);
	return json_is_number(v) && *out == floor(*out) ? 0 : -EINVAL;
}

static int set_number(struct fh_oai_parser *p, const struct field *f, json_t *v)
{
	char *at = (char *)p->o + f->offset;
	double d;

	if (f->type == T_U32 ? get_integer(v, &d) : (d = json_number_value(v), !json_is_number(v)))
		return bad(p, f->name, f->type == T_U32 ? "must be an integer" : "must be a number");
	if (!(d >= f->min && d <= f->max))
		return fh_oai_errorf(p->err, 400, NULL, f->name, "'%s' is %g; it must be between %g and %g.", f->name,
				     d, f->min, f->max);
	if (f->type == T_U32)
		*(uint32_t *)at = (uint32_t)d;
	else
		*(float *)at = (float)d;
	return 0;
}

static int set_bool(struct fh_oai_parser *p, const struct field *f, json_t *v)
{
	if (!json_is_boolean(v))
		return bad(p, f->name, "must be true or false");
	*(bool *)((char *)p->o + f->offset) = json_is_true(v);
	return 0;
}

/* Fields that need more than a range. */

static int set_model(struct fh_oai_parser *p, const char *name, json_t *v)
{
	if (!json_is_string(v))
		return bad(p, name, "must be a string");
	if (strcmp(json_string_value(v), p->model->id))
		return fh_oai_errorf(p->err, 404, "model_not_found", name,
				     "The model '%.200s' does not exist; this server has '%.200s'.",
				     json_string_value(v), p->model->id);
	return 0;
}

static int set_seed(struct fh_oai_parser *p, const char *name, json_t *v)
{
	if (!json_is_integer(v))
		return bad(p, name, "must be an integer");
	p->o->sampling.seed = (uint64_t)json_integer_value(v);
	p->o->has_seed = true;
	return 0;
}

/* -1, vLLM's old way to say "all", beside 0. */
static int set_top_k(struct fh_oai_parser *p, const char *name, json_t *v)
{
	double d;

	if (get_integer(v, &d) || d < -1 || d > UINT32_MAX)
		return bad(p, name, "must be an integer: -1 or 0 for all tokens, or how many to keep");
	p->o->sampling.top_k = d < 0 ? 0 : (uint32_t)d;
	return 0;
}

/* 0 would keep nothing; OpenAI takes it for "the best token only". */
static int set_top_p(struct fh_oai_parser *p, const char *name, json_t *v)
{
	double d = json_number_value(v);

	if (!json_is_number(v) || !(d >= 0 && d <= 1))
		return bad(p, name, "must be a number between 0 and 1");
	p->o->sampling.top_p = d > 1e-6 ? (float)d : 1e-6f;
	return 0;
}

static int set_special(struct fh_oai_parser *p, const char *name, json_t *v)
{
	if (!json_is_boolean(v))
		return bad(p, name, "must be true or false");
	p->o->special = json_is_true(v);
	p->o->has_special = true;
	return 0;
}

static int set_generation_prompt(struct fh_oai_parser *p, const char *name, json_t *v)
{
	if (!json_is_boolean(v))
		return bad(p, name, "must be true or false");
	p->o->no_generation_prompt = json_is_false(v);
	return 0;
}

/* Completions: how many alternatives. Chat: a boolean beside top_logprobs. */
static int set_logprobs(struct fh_oai_parser *p, const char *name, json_t *v)
{
	double d;

	if (p->o->kind == FH_OAI_CHAT) {
		if (!json_is_boolean(v))
			return bad(p, name, "must be true or false");
		p->o->logprobs = json_is_true(v);
		return 0;
	}
	if (get_integer(v, &d) || d < 0 || d > 5)
		return bad(p, name, "must be an integer between 0 and 5");
	p->o->logprobs = true;
	p->o->sampling.nr_top = (uint32_t)d;
	return 0;
}

static int add_stop(struct fh_oai_parser *p, const char *name, json_t *v)
{
	size_t bytes = json_string_length(v);

	if (!json_is_string(v) || !bytes || bytes > FH_MAX_STOP_BYTES)
		return bad(p, name, "must hold strings of 1 to 256 bytes");
	if (p->o->nr_stop == FH_MAX_STOP)
		return bad(p, name, "may hold at most 16 strings");
	p->o->stop[p->o->nr_stop++] = (struct fh_stop){json_string_value(v), (uint32_t)bytes};
	return 0;
}

static int set_stop(struct fh_oai_parser *p, const char *name, json_t *v)
{
	json_t *item;
	size_t i;
	int rc = 0;

	if (json_is_string(v))
		return add_stop(p, name, v);
	if (!json_is_array(v))
		return bad(p, name, "must be a string or an array of strings");
	json_array_foreach (v, i, item) {
		rc = add_stop(p, name, item);
		if (rc)
			break;
	}
	return rc;
}

static int set_stop_ids(struct fh_oai_parser *p, const char *name, json_t *v)
{
	json_t *item;
	size_t i;
	double d;

	if (!json_is_array(v) || json_array_size(v) > FH_MAX_STOP)
		return bad(p, name, "must be an array of at most 16 token ids");
	json_array_foreach (v, i, item) {
		if (get_integer(item, &d) || d < 0 || d >= p->model->nr_vocab)
			return bad(p, name, "has an id that is not in the vocabulary");
		p->o->stop_ids[p->o->nr_stop_ids++] = (uint32_t)d;
	}
	return 0;
}

static int set_bias(struct fh_oai_parser *p, const char *name, json_t *v)
{
	struct fh_oai *o = p->o;
	const char *key;
	json_t *item;

	if (!json_is_object(v) || json_object_size(v) > FH_OAI_MAX_BIAS)
		return bad(p, name, "must be an object of at most 1024 entries, token id to bias");
	if (!json_object_size(v))
		return 0;
	o->bias = calloc(json_object_size(v), sizeof(*o->bias));
	if (!o->bias)
		return fh_oai_errorf(p->err, 500, NULL, NULL, "Out of memory.");
	json_object_foreach (v, key, item) {
		double d = json_number_value(item);
		char *end;
		unsigned long id = strtoul(key, &end, 10);

		if (key[0] < '0' || key[0] > '9' || *end || id >= p->model->nr_vocab)
			return bad(p, name, "has a key that is no id of the vocabulary");
		if (!json_is_number(item) || !(d >= -100 && d <= 100))
			return bad(p, name, "has a bias that is no number between -100 and 100");
		o->bias[o->sampling.nr_bias++] = (struct fh_logit_bias){(uint32_t)id, (float)d};
	}
	o->sampling.bias = o->bias;
	return 0;
}

static int set_stream_options(struct fh_oai_parser *p, const char *name, json_t *v)
{
	json_t *usage = json_object_get(v, "include_usage");

	if (!json_is_object(v) || (usage && !json_is_boolean(usage) && !json_is_null(usage)))
		return bad(p, name, "must be an object; its include_usage is true or false");
	p->o->include_usage = json_is_true(usage);
	return 0;
}

static int set_encoding(struct fh_oai_parser *p, const char *name, json_t *v)
{
	const char *s = json_string_value(v);

	if (!s || (strcmp(s, "float") && strcmp(s, "base64")))
		return bad(p, name, "must be \"float\" or \"base64\"");
	p->o->base64 = s[0] == 'b';
	return 0;
}

static int set_pooling(struct fh_oai_parser *p, const char *name, json_t *v)
{
	const char *s = json_string_value(v);

	if (!s || (strcmp(s, "mean") && strcmp(s, "last")))
		return bad(p, name, "must be \"mean\" or \"last\"");
	p->o->pooling = s[0] == 'm' ? FH_POOL_MEAN : FH_POOL_LAST;
	return 0;
}

/* Milliseconds, or "none". */
static int set_deadline(struct fh_oai_parser *p, const char *name, json_t *v)
{
	uint32_t *us = name[1] == 't' ? &p->o->ttft_us : &p->o->tpot_us;
	double ms = json_number_value(v);

	if (json_is_string(v) && !strcmp(json_string_value(v), "none")) {
		*us = UINT32_MAX;
		return 0;
	}
	if (!json_is_number(v) || !(ms >= 0 && ms < UINT32_MAX / 1000))
		return bad(p, name, "must be a number of milliseconds (0: the class's own), or \"none\"");
	*us = ms > 0 && ms < 0.001 ? 1 : (uint32_t)(ms * 1000);
	return 0;
}

/* A class by name, or vLLM's number: what is smaller goes first. */
static int set_priority(struct fh_oai_parser *p, const char *name, json_t *v)
{
	const char *s = json_string_value(v);

	if (s && !strcmp(s, "interactive"))
		p->o->class = FH_CLASS_INTERACTIVE;
	else if (s && !strcmp(s, "standard"))
		p->o->class = FH_CLASS_STANDARD;
	else if (s && !strcmp(s, "batch"))
		p->o->class = FH_CLASS_BATCH;
	else if (json_is_integer(v))
		p->o->class = json_integer_value(v) < 0	  ? FH_CLASS_INTERACTIVE
			      : json_integer_value(v) > 0 ? FH_CLASS_BATCH
							  : FH_CLASS_STANDARD;
	else
		return bad(p, name,
			   "must be \"interactive\", \"standard\" or \"batch\", or an integer: below 0, 0, above 0");
	p->o->has_class = true;
	return 0;
}

/* Fields that are refused unless they ask for what happens anyway. */

static int is_none(struct fh_oai_parser *p, const char *name, json_t *v)
{
	(void)p;
	(void)name;
	return json_is_string(v) && !strcmp(json_string_value(v), "none") ? 0 : -1;
}

static int is_text_format(struct fh_oai_parser *p, const char *name, json_t *v)
{
	const char *type = json_string_value(json_object_get(v, "type"));

	(void)p;
	(void)name;
	return type && !strcmp(type, "text") ? 0 : -1;
}

static int is_text_only(struct fh_oai_parser *p, const char *name, json_t *v)
{
	json_t *item;
	size_t i;

	(void)p;
	(void)name;
	json_array_foreach (v, i, item)
		if (!json_is_string(item) || strcmp(json_string_value(item), "text"))
			return -1;
	return json_is_array(v) ? 0 : -1;
}

static int is_true(struct fh_oai_parser *p, const char *name, json_t *v)
{
	(void)p;
	(void)name;
	return json_is_true(v) ? 0 : -1;
}

static int is_one(struct fh_oai_parser *p, const char *name, json_t *v)
{
	(void)p;
	(void)name;
	return json_is_number(v) && json_number_value(v) == 1 ? 0 : -1;
}

static int is_dim(struct fh_oai_parser *p, const char *name, json_t *v)
{
	(void)name;
	return json_is_integer(v) && json_integer_value(v) == (json_int_t)p->model->dim ? 0 : -1;
}

#define AT(member) offsetof(struct fh_oai, member)
#define F32(name, kinds, member, min, max)                                                                             \
	{                                                                                                              \
		name, kinds, T_F32, AT(member), min, max, NULL                                                         \
	}
#define U32(name, kinds, member, min, max)                                                                             \
	{                                                                                                              \
		name, kinds, T_U32, AT(member), min, max, NULL                                                         \
	}
#define BOOL(name, kinds, member)                                                                                      \
	{                                                                                                              \
		name, kinds, T_BOOL, AT(member), 0, 0, NULL                                                            \
	}
#define JSON(name, kinds, member)                                                                                      \
	{                                                                                                              \
		name, kinds, T_JSON, AT(member), 0, 0, NULL                                                            \
	}
#define CALL(name, kinds, fn)                                                                                          \
	{                                                                                                              \
		name, kinds, T_CALL, 0, 0, 0, fn                                                                       \
	}
#define REFUSE(name, kinds, unless)                                                                                    \
	{                                                                                                              \
		name, kinds, T_REFUSE, 0, 0, 0, unless                                                                 \
	}

/* Sorted by name; a name appears twice only if its endpoints differ. */
static const struct field fields[] = {
	CALL("add_generation_prompt", CHAT | TOK, set_generation_prompt),
	CALL("add_special_tokens", ANY, set_special),
	REFUSE("allowed_token_ids", GEN, NULL),
	REFUSE("audio", GEN, NULL),
	REFUSE("bad_words", GEN, NULL),
	U32("best_of", COMP, best_of, 1, FH_OAI_MAX_N),
	REFUSE("chat_template", CHAT | TOK, NULL),
	JSON("chat_template_kwargs", CHAT | TOK, template_vars),
	REFUSE("continue_final_message", CHAT | TOK, NULL),
	REFUSE("dimensions", EMBED, is_dim),
	REFUSE("documents", CHAT, NULL),
	BOOL("echo", COMP, echo),
	REFUSE("echo", CHAT, NULL),
	CALL("encoding_format", EMBED, set_encoding),
	F32("frequency_penalty", GEN, sampling.frequency_penalty, -2, 2),
	REFUSE("function_call", GEN, is_none),
	REFUSE("functions", GEN, NULL),
	REFUSE("grammar", GEN, NULL),
	BOOL("ignore_eos", GEN, ignore_eos),
	REFUSE("include_stop_str_in_output", GEN, NULL),
	JSON("input", EMBED, input),
	REFUSE("json_schema", GEN, NULL),
	REFUSE("length_penalty", GEN, is_one),
	CALL("logit_bias", GEN, set_bias),
	REFUSE("logits_processors", GEN, NULL),
	CALL("logprobs", GEN, set_logprobs),
	U32("max_completion_tokens", CHAT, max_tokens, 1, UINT32_MAX),
	U32("max_tokens", GEN, max_tokens, 1, UINT32_MAX),
	JSON("messages", CHAT | TOK, messages),
	F32("min_p", GEN, sampling.min_p, 0, 1),
	U32("min_tokens", GEN, min_tokens, 0, UINT32_MAX),
	REFUSE("modalities", GEN, is_text_only),
	CALL("model", ANY, set_model),
	U32("n", GEN, n, 1, FH_OAI_MAX_N),
	CALL("pooling", EMBED, set_pooling),
	F32("presence_penalty", GEN, sampling.presence_penalty, -2, 2),
	CALL("priority", GEN | EMBED, set_priority),
	JSON("prompt", COMP | TOK, prompt),
	REFUSE("prompt_logprobs", GEN, NULL),
	JSON("reasoning_effort", CHAT, reasoning_effort),
	F32("repetition_penalty", GEN, sampling.repetition_penalty, 0.01, 100),
	REFUSE("response_format", GEN, is_text_format),
	BOOL("return_token_ids", GEN, token_ids),
	BOOL("return_token_strs", TOK, token_strs),
	CALL("seed", GEN, set_seed),
	REFUSE("skip_special_tokens", GEN, is_true),
	CALL("stop", GEN, set_stop),
	CALL("stop_token_ids", GEN, set_stop_ids),
	BOOL("stream", GEN, stream),
	CALL("stream_options", GEN, set_stream_options),
	REFUSE("structured_outputs", GEN, NULL),
	REFUSE("suffix", COMP, NULL),
	F32("temperature", GEN, sampling.temperature, 0, 2),
	JSON("tokens", DETOK, tokens),
	REFUSE("tool_choice", GEN, is_none),
	REFUSE("tools", GEN | TOK, NULL),
	CALL("top_k", GEN, set_top_k),
	U32("top_logprobs", CHAT, sampling.nr_top, 0, FH_MAX_TOP_LOGPROBS),
	CALL("top_p", GEN, set_top_p),
	CALL("tpot_ms", GEN, set_deadline),
	REFUSE("truncate_prompt_tokens", GEN | EMBED, NULL),
	CALL("ttft_ms", GEN | EMBED, set_deadline),
	F32("typical_p", GEN, sampling.typical_p, 0.001, 1),
	REFUSE("use_beam_search", GEN, NULL),
	REFUSE("web_search_options", CHAT, NULL),
};

#define NR_FIELDS (sizeof(fields) / sizeof(fields[0]))

bool fh_oai_fields_sorted(void)
{
	for (size_t i = 1; i < NR_FIELDS; i++)
		if (strcmp(fields[i - 1].name, fields[i].name) > 0)
			return false;
	return true;
}

static const struct field *find_field(const char *name, unsigned int kind)
{
	size_t lo = 0, hi = NR_FIELDS;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (strcmp(fields[mid].name, name) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < NR_FIELDS && !strcmp(fields[lo].name, name); lo++)
		if (fields[lo].kinds & kind)
			return &fields[lo];
	return NULL;
}

static bool asks_nothing(json_t *v)
{
	return json_is_null(v) || json_is_false(v) || (json_is_string(v) && !json_string_length(v)) ||
	       (json_is_array(v) && !json_array_size(v)) || (json_is_object(v) && !json_object_size(v));
}

static int refuse(struct fh_oai_parser *p, const char *name)
{
	return fh_oai_errorf(p->err, 400, "unsupported_parameter", name,
			     "'%.48s' with this value is not supported here, and ignoring it would change the answer. "
			     "Leave it out.",
			     name);
}

static int read_field(struct fh_oai_parser *p, const struct field *f, json_t *v)
{
	switch (f->type) {
	case T_F32:
	case T_U32: return set_number(p, f, v);
	case T_BOOL: return set_bool(p, f, v);
	case T_JSON: *(json_t **)((char *)p->o + f->offset) = v; return 0;
	case T_CALL: return f->fn(p, f->name, v);
	case T_REFUSE:
		if (f->fn ? !f->fn(p, f->name, v) : asks_nothing(v))
			return 0;
		break;
	}
	return refuse(p, f->name);
}

int fh_oai_read_fields(struct fh_oai_parser *p, json_t *root)
{
	unsigned int kind = 1u << p->o->kind;
	const char *name;
	json_t *v;
	int rc;

	json_object_foreach (root, name, v) {
		const struct field *f = find_field(name, kind);

		if (json_is_null(v))
			continue;
		if (!f) {
			/* vLLM's family of constraints on the output. */
			if ((kind & GEN) && !strncmp(name, "guided_", 7) && !asks_nothing(v))
				return refuse(p, name);
			continue;
		}
		rc = read_field(p, f, v);
		if (rc)
			return rc;
	}
	return 0;
}
