// SPDX-License-Identifier: Apache-2.0
/*
 * A model ready to answer.  The core owns everything in it but the settings.
 *
 * How many KV blocks: as many as --max-seqs full contexts take, unless that is
 * more than half of the memory that is free now, or, on a device with memory of
 * its own, than nearly all that is left there; --kv-bytes sets it outright.
 * One full context always fits, or the start fails.
 */
#include "runtime/daemon/core.h"

#include <inttypes.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/accel/worker.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/region.h"
#include "runtime/daemon/costs.h"
#include "runtime/trust/accounts.h"

#define NR_RUNS 8192 /* agent runs that are remembered */

/* ---- the service ---- */

static int svc_submit(void *ctx, struct fh_request *r, uint32_t *retry_after_ms, struct fh_err *err)
{
	return fh_engine_submit(((struct fhd_core *)ctx)->engine, r, retry_after_ms, err);
}

static void svc_kick(void *ctx)
{
	fh_engine_kick(((struct fhd_core *)ctx)->engine);
}

static void svc_ring(void *ctx)
{
	fh_engine_ring(((struct fhd_core *)ctx)->engine);
}

static void svc_metrics(void *ctx, FILE *out)
{
	fh_engine_metrics(((struct fhd_core *)ctx)->engine, out);
}

/* A step of the largest batch takes seconds on a small machine; a minute means that it hangs. */
#define STALL_MS 60000

static int svc_health(void *ctx)
{
	return fh_engine_health(((struct fhd_core *)ctx)->engine, STALL_MS);
}

static uint64_t file_time(const struct fh_model *m)
{
	struct stat st;

	return stat(fh_gguf_path(m->gguf), &st) ? 0 : (uint64_t)st.st_mtime;
}

static void fill_service(struct fhd_core *c)
{
	c->svc = (struct fh_service){
		.ctx = c,
		.submit = svc_submit,
		.kick = svc_kick,
		.ring = svc_ring,
		.metrics = svc_metrics,
		.health = svc_health,
		.text = fhd_text_ops(c->text),
		.model =
			{
				.id = c->cfg->model_name ? c->cfg->model_name : c->model->name,
				.created = file_time(c->model),
				.nr_vocab = c->model->nr_vocab,
				.nr_ctx = c->nr_ctx,
				.dim = c->model->dim,
				.has_template = true, /* a plain one at least */
				.can_embed = !c->model->null,
			},
	};
}

/* ---- first half ---- */

static void choose_ctx(struct fhd_core *c)
{
	uint32_t most = c->model->nr_ctx ? c->model->nr_ctx : FHD_CTX_DEFAULT;

	c->nr_ctx = c->cfg->ctx;
	if (!c->nr_ctx)
		c->nr_ctx = most < FHD_CTX_DEFAULT ? most : FHD_CTX_DEFAULT;
	if (c->nr_ctx > most) {
		fh_warn("--ctx %u: the model was made for %u tokens; using those", c->nr_ctx, most);
		c->nr_ctx = most;
	}
}

/* How models mark their thoughts: Qwen, DeepSeek and most others; Mistral; Cohere; ByteDance. */
static const char *const thinking[][2] = {
	{"<think>", "</think>"},
	{"[THINK]", "[/THINK]"},
	{"<|START_THINKING|>", "<|END_THINKING|>"},
	{"<seed:think>", "</seed:think>"},
};

/* The one token that is all of @text. */
static uint32_t find_token(const struct fh_tokenizer *tok, const char *text)
{
	uint32_t *ids = NULL, nr = 0, id = FH_NO_TOKEN;
	struct fh_str piece;

	if (fh_tokenize(tok, text, strlen(text), FH_TOK_SPECIAL, &ids, &nr))
		return FH_NO_TOKEN;
	piece = nr == 1 ? fh_tokenizer_piece(tok, ids[0]) : (struct fh_str){0};
	if (piece.n == strlen(text) && !memcmp(piece.p, text, piece.n))
		id = ids[0];
	free(ids);
	return id;
}

static void find_thinking(struct fhd_core *c)
{
	c->think_open = c->think_close = FH_NO_TOKEN;
	for (size_t i = 0; i < sizeof(thinking) / sizeof(thinking[0]); i++) {
		uint32_t open = find_token(c->tok, thinking[i][0]), close = find_token(c->tok, thinking[i][1]);

		if (open == FH_NO_TOKEN || close == FH_NO_TOKEN)
			continue;
		c->think_open = open;
		c->think_close = close;
		return;
	}
}

/* A draft model must mean the same by every id. */
static int check_vocab(const struct fhd_core *c, struct fh_err *err)
{
	const char *path = c->cfg->draft_model;
	struct fh_tokenizer *tok;
	uint32_t id = 0, nr = c->model->nr_vocab;
	int rc;

	if (c->draft_model->nr_vocab != nr)
		return fh_errf(err, -EINVAL, "%s: a draft model of %u tokens for a model of %u: it must have the same",
			       path, c->draft_model->nr_vocab, nr);
	if (c->draft_model->null != c->model->null)
		return fh_errf(err, -EINVAL, "%s: the null model and one with weights cannot help each other", path);
	rc = fh_tokenizer_open(c->draft_model->gguf, &tok, err);
	if (rc)
		return rc;
	for (; id < nr; id++) {
		struct fh_str a = fh_tokenizer_piece(c->tok, id), b = fh_tokenizer_piece(tok, id);

		if (a.n != b.n || (a.n && memcmp(a.p, b.p, a.n)))
			break;
	}
	fh_tokenizer_close(tok);
	if (id < nr)
		return fh_errf(err, -EINVAL,
			       "%s: token %u of the draft model is not the model's: it must have the same "
			       "vocabulary",
			       path, id);
	return 0;
}

static int open_draft_model(struct fhd_core *c, struct fh_err *err)
{
	int rc;

	if (!c->cfg->draft_model)
		return 0;
	if (!fhd_config_spec_tokens(c->cfg)) {
		fh_warn("--draft-model %s: not used with --speculate off", c->cfg->draft_model);
		return 0;
	}
	rc = fh_model_open(c->cfg->draft_model, &c->draft_model, err);
	return rc ? rc : check_vocab(c, err);
}

int fhd_core_open(struct fhd_core *c, const struct fhd_config *cfg, struct fh_err *err)
{
	int rc;

	*c = (struct fhd_core){.cfg = cfg, .costs_fd = -1};
	rc = fh_model_open(cfg->model, &c->model, err);
	if (rc)
		return rc;
	rc = fh_tokenizer_open(c->model->gguf, &c->tok, err);
	if (!rc)
		rc = fhd_text_open(c->model, c->tok, cfg->chat_template_file, &c->text, err);
	if (!rc)
		rc = open_draft_model(c, err);
	if (rc) {
		fhd_core_close(c);
		return rc;
	}
	find_thinking(c);
	choose_ctx(c);
	fill_service(c);
	return 0;
}

/* ---- second half ---- */

/* One line that rewrites itself on a terminal, for loads that one would wonder about. */
static void progress(void *ctx, uint64_t done, uint64_t total)
{
	struct fhd_core *c = ctx;
	uint64_t percent = total ? done * 100 / total : 100;

	if (!c->show_progress || percent == c->percent || fh_now_us() - c->load_begin_us < 300000)
		return;
	c->percent = percent;
	fprintf(stderr, "\rfreehold: loading %s: %" PRIu64 " %%", c->model->name, percent);
	if (done >= total)
		fputs("\r\033[K", stderr);
	fflush(stderr);
}

/* A number after @key in a file of "key value" lines, or the first number with @key NULL. */
static uint64_t read_number(const char *path, const char *key)
{
	FILE *f = fopen(path, "re");
	uint64_t v = UINT64_MAX;
	char line[256];

	while (f && fgets(line, sizeof(line), f)) {
		size_t n = key ? strlen(key) : 0;

		if (!strncmp(line, key ? key : "", n) && sscanf(line + n, " %" SCNu64, &v) == 1)
			break;
	}
	if (f)
		fclose(f);
	return v;
}

/* What the machine and the control group have left. */
static uint64_t free_bytes(void)
{
	uint64_t host = read_number("/proc/meminfo", "MemAvailable:");
	uint64_t limit = read_number("/sys/fs/cgroup/memory.max", NULL);
	uint64_t used = read_number("/sys/fs/cgroup/memory.current", NULL);
	uint64_t left = limit == UINT64_MAX || used > limit ? UINT64_MAX : limit - used;

	host = host == UINT64_MAX ? 1ull << 30 : host * 1024;
	return host < left ? host : left;
}

/* A little is left for the driver, which takes memory when it pleases. */
#define DEVICE_SPARE_BYTES (256ull << 20)

static uint64_t bytes_for_kv(const struct fhd_core *c)
{
	struct fh_accel_info info = {0};

	if (c->cfg->kv_bytes)
		return c->cfg->kv_bytes;
	c->accel->ops->info(c->accel, &info);
	if (!info.free_bytes)
		return free_bytes() / 2;
	return info.free_bytes > 4 * DEVICE_SPARE_BYTES ? info.free_bytes - DEVICE_SPARE_BYTES
							: info.free_bytes / 4 * 3;
}

static int choose_blocks(struct fhd_core *c, struct fh_err *err)
{
	uint64_t each = c->accel->ops->kv_block_bytes(c->accel);
	uint64_t per_seq = (c->nr_ctx + FH_KV_BLOCK - 1) / FH_KV_BLOCK;
	uint64_t want = per_seq * c->cfg->max_seqs, fit;

	if (c->draft)
		each += c->draft->ops->kv_block_bytes(c->draft);
	each = each ? each : 1;
	fit = bytes_for_kv(c) / each;
	if (c->cfg->kv_bytes || want > fit)
		want = fit;
	if (want < per_seq)
		return fh_errf(err, -ENOMEM,
			       "one context of %u tokens takes %" PRIu64 " MiB of KV memory, and there are %" PRIu64
			       " MiB for it: set --ctx %" PRIu64 " or less, or --kv-bytes, or --kv-type q8_0",
			       c->nr_ctx, per_seq * each >> 20, fit * each >> 20, fit * FH_KV_BLOCK);
	c->nr_blocks = want < UINT32_MAX / 2 ? (uint32_t)want : UINT32_MAX / 2;
	return 0;
}

/*
 * Is it worth trying to lock the weights?  Where the limit is small, which is
 * the default for users, failing is no news: `doctor` tells.
 */
static bool may_lock(const struct fhd_core *c)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct caps[2] = {0};
	struct rlimit l;

	if (!c->cfg->pin_memory)
		return false;
	if (!syscall(SYS_capget, &header, caps) && caps[0].effective & 1u << CAP_IPC_LOCK)
		return true;
	return !getrlimit(RLIMIT_MEMLOCK, &l) && l.rlim_cur / 2 >= fh_gguf_file_bytes(c->model->gguf);
}

/*
 * Rows of logits in a step: one for each sequence, and where these are few also
 * their guesses.  Where they are many, guessing does not pay.
 */
#define GUESSING_ROWS 32u

static uint32_t logit_rows(const struct fhd_config *cfg)
{
	uint64_t most = (uint64_t)cfg->max_seqs * (fhd_config_spec_tokens(cfg) + 1);

	if (most > GUESSING_ROWS)
		most = GUESSING_ROWS;
	return cfg->max_seqs > most ? cfg->max_seqs : (uint32_t)most;
}

static void accel_config(struct fhd_core *c, struct fh_accel_config *ac)
{
	const struct fhd_config *cfg = c->cfg;

	*ac = (struct fh_accel_config){
		.nr_threads = cfg->threads,
		.max_seqs = cfg->max_seqs,
		.max_tokens = cfg->step_tokens,
		.max_logits = logit_rows(cfg),
		.max_blocks_per_seq = (c->nr_ctx + FH_KV_BLOCK - 1) / FH_KV_BLOCK,
		.kv_type = fhd_config_kv_type(cfg),
		.isa = cfg->isa,
		.pin_memory = may_lock(c),
		.ctl = c->ctl,
		.progress = progress,
		.progress_ctx = c,
	};
}

/* A GPU runs in a process of its own, so that its faults cost no more than that. */
static bool wants_worker(const struct fh_accel_ops *ops)
{
	const char *worker = getenv("FREEHOLD_CUDA_WORKER");

	return ops == &fh_accel_cuda && !(worker && !strcmp(worker, "0"));
}

static int open_one(struct fhd_core *c, const struct fh_accel_ops *ops, const struct fh_accel_config *ac,
		    const struct fh_model *m, struct fh_accel **out, struct fh_err *err)
{
	const struct fh_worker_config w = {.inner = ops,
					   .model = m,
					   .step_timeout_ms = c->cfg->device_timeout_s * 1000,
					   .confine = c->confine,
					   .confine_ctx = c->confine_ctx};

	return wants_worker(ops) ? fh_worker_open(&w, ac, out, err) : ops->open(ac, out, err);
}

static int open_accel(struct fhd_core *c, struct fh_err *err)
{
	const struct fh_accel_ops *ops;
	struct fh_accel_config ac;
	int rc;

	accel_config(c, &ac);
	rc = fh_accel_choose(c->cfg->device, &ops, &ac.gpu, err);
	if (c->model->null)
		ops = &fh_accel_null;
	if (!rc)
		rc = open_one(c, ops, &ac, c->model, &c->accel, err);
	ac.max_logits = c->cfg->max_seqs;
	ac.progress = NULL;
	if (!rc && c->draft_model)
		rc = open_one(c, ops, &ac, c->draft_model, &c->draft, err);
	return rc;
}

int fhd_core_spawn(struct fhd_core *c, struct fh_err *err)
{
	const struct fh_accel_ops *ops;
	uint32_t gpu;
	int rc = fh_accel_choose(c->cfg->device, &ops, &gpu, err);

	return rc || c->model->null || !wants_worker(ops) ? rc : open_accel(c, err);
}

static int load_accel(struct fhd_core *c, struct fh_err *err)
{
	int rc = c->accel ? 0 : open_accel(c, err);

	if (!rc)
		rc = c->accel->ops->load(c->accel, c->model, err);
	if (!rc && c->draft)
		rc = c->draft->ops->load(c->draft, c->draft_model, err);
	if (!rc)
		rc = choose_blocks(c, err);
	if (!rc)
		rc = c->accel->ops->kv_alloc(c->accel, c->nr_blocks, err);
	if (!rc && c->draft)
		rc = c->draft->ops->kv_alloc(c->draft, c->nr_blocks, err);
	if (!rc)
		c->accel->ops->info(c->accel, &c->info);
	return rc;
}

void fhd_core_say_memory(const struct fhd_core *c)
{
	char weights[160] = "the file's pages", kv[160] = "none";

	if (c->info.free_bytes) {
		fh_info("memory: on the device: weights: %" PRIu64 " MiB; KV blocks: %" PRIu64 " MiB; %" PRIu64
			" MiB free",
			c->info.weight_bytes >> 20, c->info.kv_block_bytes * c->info.nr_blocks >> 20,
			c->info.free_bytes >> 20);
		return;
	}

	if (c->info.weights)
		fh_region_describe(c->info.weights, weights, sizeof(weights));
	if (c->info.kv)
		fh_region_describe(c->info.kv, kv, sizeof(kv));
	fh_info("memory: weights: %s; KV blocks: %s", weights, kv);
}

int fhd_core_load(struct fhd_core *c, struct fh_err *err)
{
	c->load_begin_us = fh_now_us();
	c->show_progress = isatty(STDERR_FILENO) && !c->cfg->log_json;
	return load_accel(c, err);
}

void fhd_core_engine_config(const struct fhd_core *c, struct fh_engine_config *ec)
{
	const struct fhd_config *cfg = c->cfg;

	*ec = (struct fh_engine_config){
		.accel = c->accel,
		.nr_blocks = c->nr_blocks,
		.tok = c->tok,
		.max_seqs = cfg->max_seqs,
		.max_step_tokens = cfg->step_tokens,
		.prefill_chunk = cfg->prefill_chunk,
		.max_queue = cfg->max_queue,
		.nr_ctx = c->nr_ctx,
		.max_step_logits = logit_rows(cfg),
		.spec_tokens = fhd_config_spec_tokens(cfg),
		.draft = c->draft,
		.think_open = c->think_open,
		.think_close = c->think_close,
		.nr_accounts = cfg->keys ? FH_ACCOUNTS_MAX + 1 : 0,
		.nr_runs = NR_RUNS,
		.prefix_cache = cfg->prefix_cache,
		.nr_experts = c->model->nr_experts,
		.nr_experts_used = c->model->nr_experts_used,
		.costs = c->costs[0] ? c->costs : NULL,
		.calibrate = c->calibrate,
	};
	/* They were checked when they were read. */
	fhd_config_deadlines(cfg, ec->class, NULL);
}

int fhd_core_start(struct fhd_core *c, struct fh_err *err)
{
	struct fh_engine_config ec;
	int rc = fhd_core_load(c, err);

	if (rc)
		return rc;
	fhd_core_engine_config(c, &ec);
	rc = fh_engine_create(&ec, &c->engine, err);
	if (rc)
		return rc;
	fh_debug("loaded %s in %" PRIu64 " ms: %" PRIu64 " MiB of weights, %u KV blocks of %" PRIu64 " KiB",
		 c->model->name, (fh_now_us() - c->load_begin_us) / 1000, c->info.weight_bytes >> 20, c->nr_blocks,
		 c->info.kv_block_bytes >> 10);
	return 0;
}

void fhd_core_close(struct fhd_core *c)
{
	if (c->engine)
		fhd_costs_save(c);
	fhd_costs_close(c);
	if (c->engine)
		fh_engine_destroy(c->engine);
	if (c->accel)
		c->accel->ops->close(c->accel);
	if (c->draft)
		c->draft->ops->close(c->draft);
	fhd_text_close(c->text);
	if (c->tok)
		fh_tokenizer_close(c->tok);
	if (c->draft_model)
		fh_model_close(c->draft_model);
	if (c->model)
		fh_model_close(c->model);
	*c = (struct fhd_core){.costs_fd = -1};
}
