// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any bytes as the JSON body of an API call.  The first byte
 * chooses the endpoint.  What is accepted must keep the bounds that the engine
 * relies on; what is refused must say why, in JSON.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/err.h"
#include "runtime/net/openai.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define VOCAB 256u

static int tokenize(void *ctx, const char *text, size_t bytes, unsigned int flags, uint32_t **ids, uint32_t *nr)
{
	(void)ctx;
	(void)flags;
	*ids = malloc((bytes + 1) * sizeof(**ids));
	if (!*ids)
		return -ENOMEM;
	for (size_t i = 0; i < bytes; i++)
		(*ids)[i] = (uint8_t)text[i];
	*nr = (uint32_t)bytes;
	return 0;
}

static size_t detokenize(void *ctx, struct fh_detok *d, uint32_t id, char *out, size_t cap)
{
	(void)ctx;
	(void)d;
	assert(id < VOCAB && cap >= FH_DETOK_MAX);
	out[0] = (char)id;
	return 1;
}

static size_t detokenize_end(void *ctx, struct fh_detok *d, char *out, size_t cap)
{
	(void)ctx;
	(void)d;
	(void)out;
	(void)cap;
	return 0;
}

static int apply_template(void *ctx, const char *messages_json, const char *extra_json, bool generation, char **text,
			  size_t *bytes, struct fh_err *err)
{
	(void)ctx;
	(void)generation;
	/* The messages come from our own writer: they must be JSON. */
	json_t *m = json_loads(messages_json, JSON_ALLOW_NUL, NULL);

	assert(json_is_array(m));
	json_decref(m);
	if (extra_json && strlen(extra_json) % 7 == 3)
		return fh_errf(err, -EINVAL, "refused");
	*text = strdup(messages_json);
	*bytes = strlen(messages_json);
	return *text ? 0 : -ENOMEM;
}

static void check_accepted(const struct fh_oai *o, const struct fh_model_info *model)
{
	bool generate = o->kind == FH_OAI_COMPLETION || o->kind == FH_OAI_CHAT;

	for (uint32_t i = 0; i < o->nr_prompts; i++) {
		for (uint32_t k = 0; k < o->prompts[i].nr; k++)
			assert(o->prompts[i].ids[k] < VOCAB);
		assert(!generate || (o->prompts[i].nr && o->prompts[i].nr + o->max_tokens <= model->nr_ctx));
	}
	if (!generate)
		return;
	assert(o->nr_prompts && o->max_tokens && o->min_tokens <= o->max_tokens);
	assert(o->n && o->best_of >= o->n && o->nr_prompts * o->best_of <= FH_OAI_MAX_SEQS);
	assert(o->nr_stop <= FH_MAX_STOP && o->nr_stop_ids <= FH_MAX_STOP && o->sampling.nr_top <= FH_MAX_TOP_LOGPROBS);
	for (uint32_t i = 0; i < o->nr_stop; i++)
		assert(o->stop[i].bytes && o->stop[i].bytes <= FH_MAX_STOP_BYTES);
	for (uint32_t i = 0; i < o->sampling.nr_bias; i++)
		assert(o->sampling.bias[i].token < VOCAB);
	assert(o->sampling.temperature >= 0 && o->sampling.top_p > 0 && o->sampling.top_p <= 1);
	assert(o->sampling.repetition_penalty > 0 && o->sampling.typical_p > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct fh_text_ops text = {.tokenize = tokenize,
					 .detokenize = detokenize,
					 .detokenize_end = detokenize_end,
					 .apply_template = apply_template};
	const struct fh_model_info model = {
		.id = "m", .nr_vocab = VOCAB, .nr_ctx = 4096, .dim = 8, .has_template = true, .can_embed = true};
	struct fh_oai_error err;
	struct fh_buf b = {0};
	struct fh_oai o;
	json_t *answer;

	if (!size)
		return 0;
	if (!fh_oai_parse(data[0] % (FH_OAI_DETOKENIZE + 1), (const char *)data + 1, size - 1, &text, &model, &o,
			  &err)) {
		check_accepted(&o, &model);
		if (o.reply.len) {
			answer = json_loadb(o.reply.data, o.reply.len, JSON_ALLOW_NUL, NULL);
			assert(answer);
			json_decref(answer);
		}
	} else {
		assert(err.status >= 400 && err.message[0]);
		fh_oai_put_error(&b, &err);
		answer = json_loadb(b.data, b.len, 0, NULL);
		assert(answer);
		json_decref(answer);
		fh_buf_free(&b);
	}
	fh_oai_free(&o);
	return 0;
}
