// SPDX-License-Identifier: Apache-2.0
/*
 * The model's description: what the families' files become, and that a file
 * which does not agree with itself is refused by name, whatever it says.
 *
 * Files are built in memory from a sound one with one thing changed.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/model/gguf_write.h"
#include "runtime/model/model.h"

enum what { NONE, DROP_KEY, KEY_U32, KEY_F32, KEY_STR, KEY_BOOL, KEY_ARR, DROP_TENSOR, SHAPE, ADD_TENSOR };

/* One change to the sound file, and a word of the message that it must lead to. */
struct edit {
	enum what what;
	const char *name;
	double value;
	const char *text;
	uint64_t ne[3];
	const char *expect;
};

static const struct {
	const char *name;
	double value;
	bool is_float;
} keys[] = {
	{"embedding_length", 32, false},
	{"block_count", 2, false},
	{"context_length", 128, false},
	{"attention.head_count", 4, false},
	{"attention.head_count_kv", 2, false},
	{"feed_forward_length", 48, false},
	{"attention.layer_norm_rms_epsilon", 1e-5, true},
};

static const struct {
	const char *name;
	uint64_t ne[3];
} tensors[] = {
	{"token_embd.weight", {32, 16}},	{"output_norm.weight", {32}},
	{"blk.0.attn_norm.weight", {32}},	{"blk.0.attn_q.weight", {32, 32}},
	{"blk.0.attn_k.weight", {32, 16}},	{"blk.0.attn_v.weight", {32, 16}},
	{"blk.0.attn_output.weight", {32, 32}}, {"blk.0.ffn_norm.weight", {32}},
	{"blk.0.ffn_gate.weight", {32, 48}},	{"blk.0.ffn_up.weight", {32, 48}},
	{"blk.0.ffn_down.weight", {48, 32}},	{"blk.1.attn_norm.weight", {32}},
	{"blk.1.attn_q.weight", {32, 32}},	{"blk.1.attn_k.weight", {32, 16}},
	{"blk.1.attn_v.weight", {32, 16}},	{"blk.1.attn_output.weight", {32, 32}},
	{"blk.1.ffn_norm.weight", {32}},	{"blk.1.ffn_gate.weight", {32, 48}},
	{"blk.1.ffn_up.weight", {32, 48}},	{"blk.1.ffn_down.weight", {48, 32}},
};

#define NR(a) (sizeof(a) / sizeof((a)[0]))

static void put_key(struct fh_gguf_writer *w, const struct edit *e, const char *name)
{
	switch (e->what) {
	case KEY_U32: fh_gguf_put_u32(w, name, (uint32_t)e->value); break;
	case KEY_F32: fh_gguf_put_f32(w, name, (float)e->value); break;
	case KEY_STR: fh_gguf_put_str(w, name, e->text); break;
	case KEY_BOOL: fh_gguf_put_bool(w, name, e->value != 0); break;
	case KEY_ARR:
		fh_gguf_put_arr(w, name, FH_GGUF_U32, 2);
		for (uint32_t i = 0; i < 2; i++) {
			uint32_t v = (uint32_t)e->value + (e->text ? i : 0);

			fh_gguf_put_elem(w, &v, sizeof(v));
		}
		break;
	default: break;
	}
}

static void put_keys(struct fh_gguf_writer *w, const struct edit *e, const char *arch)
{
	bool is_key = e->what >= DROP_KEY && e->what <= KEY_ARR, found = false;
	char name[96];

	fh_gguf_put_str(w, "general.architecture", arch);
	for (size_t i = 0; i < NR(keys); i++) {
		snprintf(name, sizeof(name), "%s.%s", arch, keys[i].name);
		if (is_key && !strcmp(e->name, keys[i].name)) {
			put_key(w, e, name);
			found = true;
		} else if (keys[i].is_float) {
			fh_gguf_put_f32(w, name, (float)keys[i].value);
		} else {
			fh_gguf_put_u32(w, name, (uint32_t)keys[i].value);
		}
	}
	snprintf(name, sizeof(name), "%s.%s", arch, is_key ? e->name : "");
	if (is_key && !found)
		put_key(w, e, strchr(e->name, ':') ? strchr(e->name, ':') + 1 : name);
}

static void put_tensor(struct fh_gguf_writer *w, const char *name, const uint64_t *ne)
{
	fh_gguf_put_tensor(w, name, 0, ne[2] ? 3 : ne[1] ? 2 : 1, ne);
}

/* The file with @e changed; a malloc'ed image. */
static void *build(const struct edit *e, const char *arch, size_t *bytes)
{
	struct fh_gguf_writer *w = fh_gguf_writer_new();
	const void *head;
	size_t head_bytes;
	uint8_t *image;

	cr_assert_not_null(w);
	put_keys(w, e, arch);
	for (size_t i = 0; i < NR(tensors); i++) {
		bool ours = e->name && !strcmp(tensors[i].name, e->name);

		if (!ours || e->what != DROP_TENSOR)
			put_tensor(w, tensors[i].name, ours && e->what == SHAPE ? e->ne : tensors[i].ne);
	}
	if (e->what == ADD_TENSOR)
		put_tensor(w, e->name, e->ne);
	cr_assert_eq(fh_gguf_writer_header(w, &head, &head_bytes), 0);
	*bytes = head_bytes + fh_gguf_writer_data_bytes(w);
	image = calloc(1, *bytes);
	cr_assert_not_null(image);
	memcpy(image, head, head_bytes);
	fh_gguf_writer_free(w);
	return image;
}

/* Open the changed file: 0 or the error; @m NULL: close it again. */
static int try_edit(const struct edit *e, const char *arch, struct fh_err *err)
{
	struct fh_model *m;
	struct fh_gguf *g;
	size_t bytes;
	void *image = build(e, arch, &bytes);
	int rc;

	err->msg[0] = '\0';
	rc = fh_gguf_open_mem(image, bytes, &g, err);
	cr_assert_eq(rc, 0, "%s: %s", e->name, err->msg);
	rc = fh_model_from_gguf(g, &m, err);
	if (rc)
		fh_gguf_close(g);
	else
		fh_model_close(m);
	free(image);
	return rc;
}

Test(model, sound_file)
{
	static const struct edit fine[] = {
		{NONE, .name = NULL},
		{KEY_U32, "attention.key_length", 8, .expect = NULL},
		{KEY_ARR, "attention.head_count_kv", 2, .expect = NULL},
		{KEY_U32, "attention.sliding_window", 16, .expect = NULL},
		{KEY_STR, "rope.scaling.type", .text = "none"},
		{ADD_TENSOR, "output.weight", .ne = {32, 16}},
		{ADD_TENSOR, "blk.1.attn_q.bias", .ne = {32}},
		{ADD_TENSOR, "rope_freqs.weight", .ne = {4}, .expect = "rope_freqs.weight[0] is 0"},
		{ADD_TENSOR, "blk.0.attn_rot_embd.weight", .ne = {4}},
	};
	struct fh_err err;

	for (size_t i = 0; i < NR(fine); i++) {
		int rc = try_edit(&fine[i], "llama", &err);

		cr_expect_eq(rc, fine[i].expect ? -EINVAL : 0, "%s: %s", fine[i].name, err.msg);
		cr_expect(!fine[i].expect || strstr(err.msg, fine[i].expect), "%s", err.msg);
	}
}

static const struct edit hostile[] = {
	{DROP_KEY, "embedding_length", .expect = "llama.embedding_length is missing"},
	{KEY_U32, "embedding_length", 0, .expect = "embedding_length"},
	{KEY_U32, "embedding_length", 4294967295.0, .expect = "embedding_length is 4294967295"},
	{KEY_U32, "embedding_length", 64, .expect = "tensor token_embd.weight is 32 x 16"},
	{KEY_STR, "embedding_length", .text = "32", .expect = "embedding_length is not a number"},
	{KEY_F32, "embedding_length", 32.5, .expect = "embedding_length is not a number"},
	{DROP_KEY, "block_count", .expect = "block_count is missing"},
	{KEY_U32, "block_count", 3, .expect = "blk.2.attn_norm.weight is missing"},
	{KEY_U32, "block_count", 1, .expect = "tensor blk.1.attn_norm.weight has no place"},
	{KEY_U32, "block_count", 4000000000.0, .expect = "block_count is 4000000000"},
	{KEY_U32, "context_length", 0, .expect = "context_length"},
	{KEY_U32, "context_length", 4294967295.0, .expect = "context_length"},
	{KEY_U32, "attention.head_count", 0, .expect = "head_count"},
	{KEY_U32, "attention.head_count", 4000000000.0, .expect = "head_count is 4000000000"},
	{KEY_U32, "attention.head_count", 64, .expect = "key_length"},
	{KEY_U32, "attention.head_count_kv", 3, .expect = "no multiple of head_count_kv 3"},
	{KEY_U32, "attention.head_count_kv", 0, .expect = "head_count_kv"},
	{KEY_U32, "attention.head_count_kv", 8, .expect = "head_count_kv is 8"},
	{KEY_ARR, "attention.head_count_kv", 1, "differ", .expect = "head_count_kv differs between layers"},
	{KEY_U32, "attention.key_length", 12, .expect = "key_length is 12; only multiples of 8"},
	{KEY_U32, "attention.key_length", 264, .expect = "key_length is 264"},
	{KEY_U32, "attention.value_length", 16, .expect = "value_length is 16 and key_length 8"},
	{KEY_U32, "feed_forward_length", 0, .expect = "feed_forward_length"},
	{KEY_U32, "feed_forward_length", 64, .expect = "tensor blk.0.ffn_gate.weight is 32 x 48"},
	{KEY_U32, "feed_forward_length", 4294967295.0, .expect = "feed_forward_length"},
	{DROP_KEY, "attention.layer_norm_rms_epsilon", .expect = "layer_norm_rms_epsilon is missing"},
	{KEY_F32, "attention.layer_norm_rms_epsilon", NAN, .expect = "layer_norm_rms_epsilon is not a finite"},
	{KEY_F32, "attention.layer_norm_rms_epsilon", -1, .expect = "layer_norm_rms_epsilon"},
	{KEY_F32, "attention.scale", -1, .expect = "attention.scale"},
	{KEY_F32, "final_logit_softcapping", -1, .expect = "final_logit_softcapping"},
	{KEY_F32, "attention.clamp_kqv", 8, .expect = "clamp_kqv is 8"},
	{KEY_BOOL, "attention.causal", 0, .expect = "attention.causal is false"},
	{KEY_U32, "expert_count", 8, .expect = "expert_used_count is missing"},
	{KEY_U32, "expert_count", 4000000000.0, .expect = "expert_count is 4000000000"},
	{KEY_U32, "expert_gating_func", 2, .expect = "expert_gating_func is 2"},
	{KEY_F32, "expert_weights_scale", 2.5, .expect = "expert_weights_scale is 2.5"},
	{KEY_U32, "rope.dimension_count", 7, .expect = "rope.dimension_count is 7"},
	{KEY_U32, "rope.dimension_count", 10, .expect = "rope.dimension_count is 10"},
	{KEY_F32, "rope.freq_base", 0, .expect = "rope.freq_base"},
	{KEY_F32, "rope.freq_base", INFINITY, .expect = "rope.freq_base is not a finite"},
	{KEY_F32, "rope.scaling.factor", -2, .expect = "rope.scaling"},
	{KEY_STR, "rope.scaling.type", .text = "spiral", .expect = "rope.scaling.type is \"spiral\""},
	{KEY_U32, "attention.sliding_window_pattern", 0, .expect = NULL},
	{DROP_TENSOR, "token_embd.weight", .expect = "token_embd.weight is missing"},
	{DROP_TENSOR, "output_norm.weight", .expect = "output_norm.weight is missing"},
	{DROP_TENSOR, "blk.1.attn_k.weight", .expect = "blk.1.attn_k.weight is missing"},
	{DROP_TENSOR, "blk.0.ffn_down.weight", .expect = "blk.0.ffn_down.weight is missing"},
	{SHAPE, "blk.0.attn_norm.weight", .ne = {31}, .expect = "tensor blk.0.attn_norm.weight is 31"},
	{SHAPE, "blk.0.attn_q.weight", .ne = {32, 16, 2}, .expect = "tensor blk.0.attn_q.weight is 32 x 16 x 2"},
	{SHAPE, "blk.1.ffn_down.weight", .ne = {32, 48}, .expect = "tensor blk.1.ffn_down.weight is 32 x 48"},
	{SHAPE, "output_norm.weight", .ne = {32, 2}, .expect = "tensor output_norm.weight is 32 x 2"},
	{ADD_TENSOR, "output.weight", .ne = {32, 15}, .expect = "tensor output.weight is 32 x 15"},
	{ADD_TENSOR, "blk.0.attn_q.bias", .ne = {16}, .expect = "tensor blk.0.attn_q.bias is 16"},
	{ADD_TENSOR, "blk.0.attn_q_norm.weight", .ne = {8}, .expect = "attn_q_norm.weight has no place"},
	{ADD_TENSOR, "blk.2.attn_q.weight", .ne = {32, 32}, .expect = "blk.2.attn_q.weight has no place"},
	{ADD_TENSOR, "blk.00000000000000000001.attn_q.weight", .ne = {32}, .expect = "has no place"},
	{ADD_TENSOR, "blk..attn_q.weight", .ne = {32}, .expect = "has no place"},
	{ADD_TENSOR, "blk.0", .ne = {32}, .expect = "has no place"},
	{ADD_TENSOR, "vision.patch", .ne = {32}, .expect = "vision.patch has no place"},
	{ADD_TENSOR, "rope_freqs.weight", .ne = {5}, .expect = "rope_freqs.weight must be 4 numbers"},
	{ADD_TENSOR, "rope_factors_long.weight", .ne = {4}, .expect = "rope_factors_long.weight[0] is 0"},
};

Test(model, hostile_files)
{
	struct fh_err err;

	for (size_t i = 0; i < NR(hostile); i++) {
		int rc = try_edit(&hostile[i], "llama", &err);

		cr_expect_eq(rc != 0, hostile[i].expect != NULL, "%s %g: %d %s", hostile[i].name, hostile[i].value, rc,
			     err.msg);
		cr_expect(!hostile[i].expect || strstr(err.msg, hostile[i].expect), "%s: %s", hostile[i].name, err.msg);
	}
}

Test(model, families)
{
	static const struct edit none = {NONE, .name = NULL};
	struct fh_err err;

	cr_expect_eq(try_edit(&none, "mamba", &err), -ENOTSUP);
	cr_expect(strstr(err.msg, "\"mamba\"") && strstr(err.msg, "gpt-oss"), "%s", err.msg);
	cr_expect_eq(try_edit(&none, "qwen2", &err), -EINVAL);
	cr_expect(strstr(err.msg, "blk.0.attn_q.bias is missing"), "%s", err.msg);
	cr_expect_eq(try_edit(&none, "qwen3", &err), -EINVAL);
	cr_expect(strstr(err.msg, "blk.0.attn_q_norm.weight is missing"), "%s", err.msg);
	cr_expect_eq(try_edit(&none, "qwen3moe", &err), -EINVAL);
	cr_expect(strstr(err.msg, "qwen3moe.expert_count is missing"), "%s", err.msg);
	cr_expect_eq(try_edit(&none, "phi3", &err), -EINVAL);
	cr_expect(strstr(err.msg, "blk.0.ffn_up.weight is 32 x 48"), "%s", err.msg);
	for (const char *f = fh_model_families(); *f; f += strspn(f, " ")) {
		char arch[32];
		size_t n = strcspn(f, " ");

		snprintf(arch, sizeof(arch), "%.*s", (int)n, f);
		f += n;
		try_edit(&none, arch, &err);
		cr_expect_not(strstr(err.msg, "cannot be run; these can"), "%s is listed, but not in the table", arch);
	}
}

static struct fh_model *open_micro(const char *name)
{
	const char *shared = getenv("FREEHOLD_SHARED");
	struct fh_err err = {.msg = ""};
	struct fh_model *m;
	char path[4096];

	snprintf(path, sizeof(path), "%s/models/micro/%s.gguf", shared ? shared : "../shared", name);
	if (access(path, R_OK))
		cr_skip_test("no %s (FREEHOLD_SHARED says where the models are)", path);
	cr_assert_eq(fh_model_open(path, &m, &err), 0, "%s", err.msg);
	return m;
}

Test(model, gemma2)
{
	struct fh_model *m = open_micro("gemma2");

	for (uint32_t i = 0; i < 4; i++)
		cr_expect_eq(m->layers[i].window, i % 2 ? 0 : 8, "layer %u", i);
	cr_expect_float_eq(m->embd_scale, 16, 1e-6);
	cr_expect_float_eq(m->attn_scale, 1 / sqrtf(32), 1e-6);
	cr_expect_float_eq(m->attn_softcap, 4, 0);
	cr_expect_float_eq(m->final_softcap, 10, 0);
	cr_expect_eq(m->glu, FH_ACT_GELU);
	cr_expect(m->tied && m->output.w == m->token_embd);
	cr_expect(m->layers[0].attn_post_norm && m->layers[3].ffn_post_norm);
	cr_expect_not(m->rope.interleaved);
	fh_model_close(m);
}

Test(model, phi3_is_taken_apart)
{
	struct fh_model *m = open_micro("phi3-longrope");
	const struct fh_layer *l = &m->layers[0];

	cr_expect(l->q.w == l->k.w && l->k.w == l->v.w && l->gate.w == l->up.w);
	cr_expect(l->q.row0 == 0 && l->k.row0 == l->q.rows && l->v.row0 == l->q.rows + l->k.rows);
	cr_expect(l->gate.row0 == 0 && l->up.row0 == m->ffn_dim && l->up.rows == m->ffn_dim);
	cr_assert_not_null(m->rope.freq_long);
	cr_expect_eq(m->rope.ctx_long, 4096);
	cr_expect_eq(m->rope.nr_pairs, 12);
	cr_expect_float_eq(m->rope.mscale, 1.19, 1e-6);
	cr_expect_float_eq(m->rope.freq[0] / m->rope.freq_long[0], 1, 1e-9, "the first factors are both 1");
	cr_expect_gt(m->rope.freq[11], m->rope.freq_long[11] * 5);
	fh_model_close(m);
}

Test(model, gpt_oss)
{
	struct fh_model *m = open_micro("gpt-oss");
	const struct fh_layer *l = &m->layers[1];

	cr_expect_eq(m->layers[0].window, 8);
	cr_expect_eq(l->window, 0);
	cr_expect(l->sinks && l->router.bias && l->exp_down.bias && l->o.bias);

	cr_expect(!memcmp(l->ffn_norm->name.p, "blk.1.post_attention_norm", 25));
	cr_expect_float_eq(m->rope.mscale, 1 + 0.1 * log(32), 1e-5);
	cr_expect_float_eq(m->rope.freq[0], 1, 1e-9, "the fastest pair is not stretched");
	cr_expect_float_eq(m->rope.freq[15] * 32, pow(150000, -15.0 / 16), 1e-12, "the slowest is");
	cr_expect_eq(m->glu, FH_ACT_OAI);
	cr_expect_eq(m->nr_experts_used, 3);
	fh_model_close(m);
}

Test(model, qwen2moe)
{
	struct fh_model *m = open_micro("qwen2moe");

	cr_expect_eq(m->gating, FH_GATING_SOFTMAX);
	cr_expect_eq(m->shared_ffn_dim, 64);
	cr_expect_eq(m->layers[0].exp_gate.nr_experts, 6);
	cr_expect_eq(m->layers[0].shared_router.rows, 1);
	cr_expect_null(m->layers[0].gate.w);
	fh_model_close(m);
}
