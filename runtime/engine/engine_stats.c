// SPDX-License-Identifier: Apache-2.0
/*
 * What the engine tells about itself: counters, /metrics, health.  Any thread
 * may ask; everything read here is atomic, nothing is locked.  The names are
 * vLLM's (docs: design/metrics) with our prefix, so that dashboards need no
 * more than another prefix.
 */
#include "runtime/base/clock.h"
#include "runtime/engine/engine_priv.h"

static uint64_t get(const _Atomic uint64_t *v)
{
	return atomic_load_explicit(v, memory_order_relaxed);
}

static uint32_t get32(const _Atomic uint32_t *v)
{
	return atomic_load_explicit(v, memory_order_relaxed);
}

void fh_engine_stats(struct fh_engine *e, struct fh_engine_stats *out)
{
	const struct fh_counters *st = &e->st;

	*out = (struct fh_engine_stats){
		.nr_running = get32(&st->nr_running),
		.nr_waiting = get32(&st->nr_waiting),
		.nr_blocks = e->kv.nr_blocks,
		.nr_blocks_free = get32(&st->nr_free),
		.nr_blocks_cached = get32(&st->nr_cached),
		.nr_steps = get(&st->nr_steps),
		.nr_preempted = get(&st->nr_preempted),
		.nr_cancelled = get(&st->nr_cancelled),
		.nr_refused = get(&st->nr_refused) + get(&st->nr_over_budget) + get(&st->refused[FH_SCHED_NO_TTFT]) +
			      get(&st->refused[FH_SCHED_NO_TPOT]) + get(&st->refused[FH_SCHED_BREAKS]),
		.prompt_tokens = get(&st->prompt_tokens),
		.generated_tokens = get(&st->generated_tokens),
		.cached_prompt_tokens = get(&st->cached_prompt_tokens),
		.prefix_queries = get(&st->prefix_queries),
		.prefix_hits = get(&st->prefix_hits),
		.nr_drafts = get(&st->nr_drafts),
		.draft_tokens = get(&st->draft_tokens),
		.accepted_tokens = get(&st->accepted_tokens),
		.copied_bytes = get(&st->copied_bytes),
		.heartbeat_ns = get(&st->heartbeat_ns),
	};
	for (int i = 0; i < 8; i++)
		out->finished[i] = get(&st->finished[i]);
	out->busy = get(&st->step_since_ns) || out->nr_running || out->nr_waiting || get32(&e->nr_queued);
}

void fh_engine_vitals(const struct fh_engine *e, struct fh_vitals *out)
{
	const struct fh_counters *st = &e->st;

	*out = (struct fh_vitals){
		.nr_running = get32(&st->nr_running),
		.nr_waiting = get32(&st->nr_waiting),
		.max_running = e->cfg.max_seqs,
		.max_waiting = e->cfg.max_queue,
		.nr_blocks = e->kv.nr_blocks,
		.nr_blocks_free = get32(&st->nr_free),
		.nr_blocks_cached = get32(&st->nr_cached),
		.prompt_tokens = get(&st->prompt_tokens),
		.cached_tokens = get(&st->cached_prompt_tokens),
		.generated_tokens = get(&st->generated_tokens),
		.reasoning_tokens = get(&st->reasoning_tokens),
		.refused = {get(&st->nr_refused), get(&st->nr_over_budget), get(&st->refused[FH_SCHED_NO_TTFT]),
			    get(&st->refused[FH_SCHED_NO_TPOT]), get(&st->refused[FH_SCHED_BREAKS])},
		.ttft_kept = get(&st->ttft_kept),
		.ttft_missed = get(&st->ttft_missed),
		.tpot_kept = get(&st->tpot_kept),
		.tpot_missed = get(&st->tpot_missed),
		.guesses = get(&st->draft_tokens),
		.guesses_right = get(&st->accepted_tokens),
	};
	for (int i = 0; i < 8; i++)
		out->finished[i] = get(&st->finished[i]);
	for (int i = 0; i < FH_VITALS_CLASSES; i++) {
		out->ttft_us[i] = e->cfg.class[i].ttft_us;
		out->tpot_us[i] = e->cfg.class[i].tpot_us;
	}
	fh_hist_view(&st->ttft, &out->ttft);
	fh_hist_view(&st->itl, &out->itl);
}

void fh_engine_work(const struct fh_engine *e, uint64_t now_ns, struct fh_engine_work *out)
{
	const struct fh_counters *st = &e->st;
	uint64_t since_ns = get(&st->step_since_ns);

	out->busy_ns = get(&st->step.sum_ns) + get(&st->host.sum_ns);
	if (since_ns && now_ns > since_ns)
		out->busy_ns += now_ns - since_ns;
	out->tokens = get(&st->charged_prompt_tokens) + get(&st->generated_tokens);
}

static void gauge(FILE *out, const char *name, const char *help, double value)
{
	fprintf(out, "# HELP freehold_%s %s\n# TYPE freehold_%s gauge\nfreehold_%s %.9g\n", name, help, name, name,
		value);
}

static void counter(FILE *out, const char *name, const char *help, uint64_t value)
{
	fprintf(out, "# HELP freehold_%s %s\n# TYPE freehold_%s counter\nfreehold_%s %llu\n", name, help, name, name,
		(unsigned long long)value);
}

static void finished(FILE *out, const struct fh_engine_stats *s)
{
	static const char *const reason[8] = {
		[FH_FINISH_STOP] = "stop",	   [FH_FINISH_LENGTH] = "length", [FH_FINISH_CANCELLED] = "abort",
		[FH_FINISH_DEADLINE] = "deadline", [FH_FINISH_BUDGET] = "budget", [FH_FINISH_ERROR] = "error",
		[FH_FINISH_FILTER] = "filter"};

	fprintf(out, "# HELP freehold_request_success_total Requests that ended, by reason.\n"
		     "# TYPE freehold_request_success_total counter\n");
	for (int i = 1; i < 8; i++)
		fprintf(out, "freehold_request_success_total{finished_reason=\"%s\"} %llu\n", reason[i],
			(unsigned long long)s->finished[i]);
}

static void speculation(struct fh_engine *e, FILE *out, const struct fh_engine_stats *s)
{
	static const char name[] = "spec_decode_num_accepted_tokens_per_pos_total";

	counter(out, "spec_decode_num_drafts_total", "Times that tokens of a request were guessed.", s->nr_drafts);
	counter(out, "spec_decode_num_draft_tokens_total", "Tokens guessed.", s->draft_tokens);
	counter(out, "spec_decode_num_accepted_tokens_total", "Guesses that were right.", s->accepted_tokens);
	fprintf(out, "# HELP freehold_%s Guesses that were right, by place.\n# TYPE freehold_%s counter\n", name, name);
	for (uint32_t i = 0; i < e->cfg.spec_tokens; i++)
		fprintf(out, "freehold_%s{position=\"%u\"} %llu\n", name, i,
			(unsigned long long)get(&e->st.accepted_at[i]));
}

static void refusals(struct fh_engine *e, FILE *out)
{
	fprintf(out,
		"# HELP freehold_requests_refused_total Requests refused at once, by reason.\n"
		"# TYPE freehold_requests_refused_total counter\n"
		"freehold_requests_refused_total{reason=\"queue_full\"} %llu\n",
		(unsigned long long)get(&e->st.nr_refused));
	fprintf(out, "freehold_requests_refused_total{reason=\"budget\"} %llu\n",
		(unsigned long long)get(&e->st.nr_over_budget));
	for (int i = FH_SCHED_NO_TTFT; i <= FH_SCHED_BREAKS; i++)
		fprintf(out, "freehold_requests_refused_total{reason=\"%s\"} %llu\n", fh_sched_verdict_name(i),
			(unsigned long long)get(&e->st.refused[i]));
}

static void deadlines(struct fh_engine *e, FILE *out)
{
	struct fh_counters *st = &e->st;

	counter(out, "ttft_deadlines_kept_total", "First tokens that were in time.", get(&st->ttft_kept));
	counter(out, "ttft_deadlines_missed_total", "First tokens that were late.", get(&st->ttft_missed));
	counter(out, "tpot_deadlines_kept_total", "Answers whose mean time per further token was in time.",
		get(&st->tpot_kept));
	counter(out, "tpot_deadlines_missed_total", "Answers whose mean time per further token was too long.",
		get(&st->tpot_missed));
	counter(out, "requests_relegated_total", "Requests that went back because they could not be on time any more.",
		get(&st->nr_late));
	counter(out, "deadline_preemptions_total",
		"Times that a request lost its KV blocks so that a deadline was kept.", get(&st->nr_yielded));
	gauge(out, "ttft_margin_ratio", "Factor that predictions of first tokens are stretched by.", st->ttft_margin);
	gauge(out, "tpot_margin_ratio", "Factor that predictions of steps are stretched by.", st->tpot_margin);
	gauge(out, "ttft_prediction_error_ratio", "Mean of |predicted / real - 1| of times to first tokens, of late.",
	      st->ttft_error);
	gauge(out, "step_cost_error_ratio", "Mean of |real / predicted - 1| of the time of steps, of late.",
	      st->cost_error);
	gauge(out, "step_gap_seconds", "From a step's end to the next one's beginning, where it follows at once.",
	      st->gap_s);
	gauge(out, "step_quantum_seconds", "How long a step with prompts should take at most; 0: any.", st->quantum_s);
	fprintf(out, "# HELP freehold_step_cost_seconds What one of its parts adds to a step.\n"
		     "# TYPE freehold_step_cost_seconds gauge\n");
	for (int i = 0; i < FH_NR_COST_TERMS; i++)
		fprintf(out, "freehold_step_cost_seconds{part=\"%s\"} %.9g\n", fh_sched_cost_names[i],
			st->price_ns[i] * 1e-9);
}

size_t fh_engine_costs(const struct fh_engine *e, char *text, size_t cap)
{
	return fh_sched_cost_known(&e->sched.cost) ? fh_sched_cost_print(&e->sched.cost, text, cap) : 0;
}

void fh_engine_metrics(struct fh_engine *e, FILE *out)
{
	struct fh_engine_stats s;

	fh_engine_stats(e, &s);
	gauge(out, "num_requests_running", "Requests that hold KV blocks.", s.nr_running);
	gauge(out, "num_requests_waiting", "Requests that wait for a slot or for KV blocks.", s.nr_waiting);
	gauge(out, "kv_cache_usage_perc", "Share of the KV blocks that are held (1: all).",
	      1.0 - (double)(s.nr_blocks_free + s.nr_blocks_cached) / s.nr_blocks);
	gauge(out, "kv_blocks", "KV blocks in all.", s.nr_blocks);
	gauge(out, "kv_blocks_free", "KV blocks that hold nothing.", s.nr_blocks_free);
	gauge(out, "kv_blocks_cached", "KV blocks that nobody holds but that keep a reusable prefix.",
	      s.nr_blocks_cached);
	counter(out, "prompt_tokens_total", "Prompt tokens taken in, cached ones included.", s.prompt_tokens);
	counter(out, "generation_tokens_total", "Tokens generated, thoughts included.", s.generated_tokens);
	counter(out, "reasoning_tokens_total", "Of them, thoughts.", get(&e->st.reasoning_tokens));
	counter(out, "prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", s.prefix_queries);
	counter(out, "prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", s.prefix_hits);
	counter(out, "kv_blocks_evicted_total", "Cached KV blocks taken for something else.", get(&e->st.nr_evicted));
	counter(out, "num_preemptions_total", "Times that a request lost its KV blocks to others.", s.nr_preempted);
	refusals(e, out);
	deadlines(e, out);
	counter(out, "device_errors_total", "Steps that the accelerator failed.", get(&e->st.nr_device_errors));
	counter(out, "engine_steps_total", "Steps run.", s.nr_steps);
	counter(out, "engine_copied_bytes_total", "Payload bytes copied: prompt snapshots and private slots.",
		s.copied_bytes);
	speculation(e, out, &s);
	finished(out, &s);
	fh_hist_print(&e->st.ttft, "freehold_time_to_first_token_seconds", "From arrival to the first token.", out);
	fh_hist_print(&e->st.itl, "freehold_inter_token_latency_seconds", "Between publications of one request.", out);
	fh_hist_print(&e->st.e2e, "freehold_e2e_request_latency_seconds", "From arrival to the end.", out);
	fh_hist_print(&e->st.queue, "freehold_request_queue_time_seconds", "From arrival to the first KV block.", out);
	fh_hist_print(&e->st.step, "freehold_step_duration_seconds", "A step on the accelerator.", out);
	fh_hist_print(&e->st.host, "freehold_step_host_seconds", "A step's planning and publishing.", out);
}

int fh_engine_health(struct fh_engine *e, uint32_t stall_ms)
{
	uint64_t now_ns = fh_now_ns(), stall_ns = (uint64_t)stall_ms * 1000000u;
	uint64_t since_ns = get(&e->st.step_since_ns), beat_ns = get(&e->st.heartbeat_ns);

	if (atomic_load(&e->state) >= FH_ENGINE_DRAINING)
		return -ESHUTDOWN;
	if (since_ns && now_ns > since_ns + stall_ns)
		return -ETIMEDOUT;
	if (get32(&e->nr_queued) && now_ns > beat_ns + stall_ns)
		return -ETIMEDOUT;
	return get32(&e->device_bad) ? -EIO : 0;
}
