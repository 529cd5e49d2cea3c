// SPDX-License-Identifier: Apache-2.0
/* Samples, and the JSON that is made of them. */
#include "runtime/net/watch.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "uapi/freehold.h"

#define MILLION 1000000

void fh_watch_begin(struct fh_watch *w, uint64_t now_ns)
{
	memset(w, 0, sizeof(*w));
	w->begin_ns = w->sample[0].at_ns = now_ns;
	w->nr = 1;
}

void fh_watch_add(struct fh_watch *w, const struct fh_vitals *v, uint64_t now_ns)
{
	struct fh_watch_sample *s = &w->sample[w->nr++ % FH_WATCH_SAMPLES];

	s->at_ns = now_ns;
	s->v = *v;
}

/* The @back-th before the newest. */
static const struct fh_watch_sample *sample(const struct fh_watch *w, uint64_t back)
{
	return &w->sample[(w->nr - 1 - back) % FH_WATCH_SAMPLES];
}

uint64_t fh_watch_at_ns(const struct fh_watch *w)
{
	return sample(w, 0)->at_ns;
}

/* Where the window of the newest sample begins. */
static const struct fh_watch_sample *window(const struct fh_watch *w)
{
	uint64_t back = 0, oldest = (w->nr < FH_WATCH_SAMPLES ? w->nr : FH_WATCH_SAMPLES) - 1;

	while (back < oldest && sample(w, back)->at_ns + FH_WATCH_WINDOW_NS > fh_watch_at_ns(w))
		back++;
	return sample(w, back);
}

static double seconds(uint64_t ns)
{
	return (double)ns / 1e9;
}

static double money(uint64_t v)
{
	return (double)v / (double)FH_MONEY_UNIT;
}

/* ---- pieces of JSON; those that are members begin with a comma ---- */

static void put_text(struct fh_buf *b, const char *name, const char *text)
{
	fh_buf_printf(b, ",\"%s\":\"", name);
	fh_buf_json(b, text, strlen(text));
	fh_buf_lit(b, "\"");
}

static void put_u64(struct fh_buf *b, const char *name, uint64_t v)
{
	fh_buf_printf(b, ",\"%s\":%" PRIu64, name, v);
}

static void put_real(struct fh_buf *b, const char *name, double v)
{
	fh_buf_printf(b, ",\"%s\":%.9g", name, v);
}

/* Counters that are read one after the other may have moved in between. */
static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* What the tokens of @v cost. */
static double cost(const struct fh_vitals *v)
{
	const struct fh_prices *p = &v->prices;
	double computed = (double)less(v->prompt_tokens, v->cached_tokens);
	double answers = (double)less(v->generated_tokens, v->reasoning_tokens);

	return (computed * (double)p->prompt + (double)v->cached_tokens * (double)p->cached +
		answers * (double)p->completion + (double)v->reasoning_tokens * (double)p->reasoning) /
	       (double)FH_MONEY_UNIT;
}

static uint64_t nr_finished(const struct fh_vitals *v)
{
	uint64_t nr = 0;

	for (int i = 1; i < 8; i++)
		nr += v->finished[i];
	return nr;
}

static uint64_t nr_refused(const struct fh_vitals *v)
{
	uint64_t nr = 0;

	for (int i = 0; i < FH_VITALS_REFUSALS; i++)
		nr += v->refused[i];
	return nr;
}

static void put_rates(struct fh_buf *b, const struct fh_watch *w)
{
	const struct fh_watch_sample *s = sample(w, 0), *was = sample(w, w->nr > 1);
	uint64_t ns = s->at_ns - was->at_ns;
	struct fh_prices then = was->v.prices;
	struct fh_vitals before = was->v;
	double per = ns ? 1 / seconds(ns) : 0;

	if (!ns || ns > FH_WATCH_RATE_NS) {
		fh_buf_lit(b, ",\"rates\":null");
		return;
	}
	/* The sample of the start knows no prices. */
	before.prices = then.completion || then.prompt || then.reasoning ? then : s->v.prices;
	fh_buf_printf(b, ",\"rates\":{\"over_s\":%.3f", seconds(ns));
	put_real(b, "generation_tokens", (double)(s->v.generated_tokens - before.generated_tokens) * per);
	put_real(b, "prompt_tokens", (double)(s->v.prompt_tokens - before.prompt_tokens) * per);
	put_real(b, "cached_tokens", (double)(s->v.cached_tokens - before.cached_tokens) * per);
	put_real(b, "finished", (double)(nr_finished(&s->v) - nr_finished(&before)) * per);
	put_real(b, "refused", (double)(nr_refused(&s->v) - nr_refused(&before)) * per);
	put_real(b, "cost_per_hour", (cost(&s->v) - cost(&before)) * per * 3600);
	fh_buf_lit(b, "}");
}

static void put_requests(struct fh_buf *b, const struct fh_vitals *v)
{
	static const char *const reason[8] = {
		[FH_FINISH_STOP] = "stop",	   [FH_FINISH_LENGTH] = "length", [FH_FINISH_CANCELLED] = "abort",
		[FH_FINISH_DEADLINE] = "deadline", [FH_FINISH_BUDGET] = "budget", [FH_FINISH_ERROR] = "error",
		[FH_FINISH_FILTER] = "filter"};

	fh_buf_printf(b, ",\"requests\":{\"running\":%u,\"max_running\":%u,\"waiting\":%u,\"max_waiting\":%u",
		      v->nr_running, v->max_running, v->nr_waiting, v->max_waiting);
	fh_buf_printf(b, ",\"finished\":{\"total\":%" PRIu64, nr_finished(v));
	for (int i = 1; i < 8; i++)
		put_u64(b, reason[i], v->finished[i]);
	fh_buf_printf(b, "},\"refused\":{\"total\":%" PRIu64, nr_refused(v));
	for (int i = 0; i < FH_VITALS_REFUSALS; i++)
		put_u64(b, fh_refusal_names[i], v->refused[i]);
	fh_buf_lit(b, "}}");
}

static void put_quantile(struct fh_buf *b, const struct fh_hist_view *v, const char *name, double q)
{
	if (fh_hist_view_count(v))
		put_real(b, name, (double)fh_hist_view_quantile_ns(v, q) / 1e6);
	else
		fh_buf_printf(b, ",\"%s\":null", name);
}

static void put_deadlines(struct fh_buf *b, const uint32_t us[FH_VITALS_CLASSES])
{
	static const char *const names[] = {
		[FH_CLASS_STANDARD] = "standard", [FH_CLASS_INTERACTIVE] = "interactive", [FH_CLASS_BATCH] = "batch"};

	fh_buf_lit(b, ",\"deadline_ms\":{");
	for (int i = 0; i < FH_VITALS_CLASSES; i++) {
		fh_buf_printf(b, "%s\"%s\":", i ? "," : "", names[i]);
		if (us[i])
			fh_buf_printf(b, "%.9g", us[i] / 1e3);
		else
			fh_buf_lit(b, "null");
	}
	fh_buf_lit(b, "}");
}

/* Of the window: what came, how long it took, and how many of those that had a deadline kept it. */
static void put_latency(struct fh_buf *b, const char *name, const struct fh_hist_view *now,
			const struct fh_hist_view *then, uint64_t kept, uint64_t missed,
			const uint32_t us[FH_VITALS_CLASSES])
{
	struct fh_hist_view d;

	for (unsigned int i = 0; i <= FH_HIST_BOUNDS; i++)
		d.nr[i] = now->nr[i] - then->nr[i];
	fh_buf_printf(b, ",\"%s\":{\"count\":%" PRIu64, name, fh_hist_view_count(&d));
	put_quantile(b, &d, "p50_ms", 0.5);
	put_quantile(b, &d, "p95_ms", 0.95);
	put_quantile(b, &d, "p99_ms", 0.99);
	put_u64(b, "kept", kept);
	put_u64(b, "missed", missed);
	put_deadlines(b, us);
	fh_buf_lit(b, "}");
}

static void put_latencies(struct fh_buf *b, const struct fh_watch *w)
{
	const struct fh_watch_sample *then = window(w);
	const struct fh_vitals *v = &sample(w, 0)->v;

	fh_buf_printf(b, ",\"window_s\":%.3f", seconds(fh_watch_at_ns(w) - then->at_ns));
	put_latency(b, "ttft", &v->ttft, &then->v.ttft, v->ttft_kept - then->v.ttft_kept,
		    v->ttft_missed - then->v.ttft_missed, v->ttft_us);
	put_latency(b, "itl", &v->itl, &then->v.itl, v->tpot_kept - then->v.tpot_kept,
		    v->tpot_missed - then->v.tpot_missed, v->tpot_us);
}

static void put_cost(struct fh_buf *b, const struct fh_vitals *v)
{
	const struct fh_prices *p = &v->prices;

	if (!p->prompt && !p->cached && !p->completion && !p->reasoning) {
		fh_buf_lit(b, ",\"cost\":null");
		return;
	}
	fh_buf_printf(b, ",\"cost\":{\"since_start\":%.9g,\"price_per_million\":{\"prompt\":%.9g", cost(v),
		      money(p->prompt * MILLION));
	put_real(b, "cached", money(p->cached * MILLION));
	put_real(b, "completion", money(p->completion * MILLION));
	put_real(b, "reasoning", money(p->reasoning * MILLION));
	fh_buf_lit(b, "}}");
}

/* Read or drawn by the engine, the cache apart. */
static uint64_t nr_computed(const struct fh_vitals *v)
{
	return less(v->prompt_tokens, v->cached_tokens) + v->generated_tokens;
}

static double joules(uint64_t uj)
{
	return (double)uj / 1e6;
}

static double all_joules(const struct fh_vitals *v)
{
	return joules(v->energy.busy_uj + v->energy.idle_uj);
}

/* What it takes on average in the window; NaN: nothing was measured in it. */
static double watts(const struct fh_watch *w)
{
	const struct fh_vitals *now = &sample(w, 0)->v, *then = &window(w)->v;
	uint64_t ns = now->energy.busy_ns + now->energy.idle_ns - then->energy.busy_ns - then->energy.idle_ns;

	return now->energy.on && ns ? (all_joules(now) - all_joules(then)) / seconds(ns) : NAN;
}

static void put_real_or_null(struct fh_buf *b, const char *name, double v)
{
	if (isfinite(v))
		put_real(b, name, v);
	else
		fh_buf_printf(b, ",\"%s\":null", name);
}

static void put_energy(struct fh_buf *b, const struct fh_watch *w)
{
	const struct fh_vitals *v = &sample(w, 0)->v;
	const struct fh_vitals_energy *e = &v->energy;

	if (!e->on) {
		fh_buf_lit(b, ",\"energy\":null");
		return;
	}
	fh_buf_printf(b, ",\"energy\":{\"joules\":%.9g", all_joules(v));
	put_real(b, "busy", joules(e->busy_uj));
	put_real(b, "idle", joules(e->idle_uj));
	put_real(b, "cpu", joules(e->cpu_uj));
	put_real(b, "gpu", joules(e->gpu_uj));
	put_real(b, "busy_s", seconds(e->busy_ns));
	put_real(b, "idle_s", seconds(e->idle_ns));
	put_real_or_null(b, "watts", watts(w));
	put_real_or_null(b, "joules_per_token", joules(e->busy_uj) / (double)nr_computed(v));
	fh_buf_lit(b, "}");
}

/* Money of @hours of the host, in which @j joules were measured. */
static double host_money(const struct fh_vitals *v, double hours, double j)
{
	const struct fh_vitals_host *h = &v->host;
	double kwh = v->energy.on ? j * h->overhead / 3.6e6 : h->watts / 1000 * hours;

	return h->hour * hours + kwh * h->kwh_price;
}

static double nr_millions(const struct fh_vitals *v)
{
	return (double)(v->prompt_tokens + v->generated_tokens) / MILLION;
}

static void put_host(struct fh_buf *b, const struct fh_watch *w)
{
	const struct fh_watch_sample *now = sample(w, 0), *then = window(w);
	double hours = seconds(now->at_ns - w->begin_ns) / 3600, hour = seconds(now->at_ns - then->at_ns) / 3600;
	double all = host_money(&now->v, hours, all_joules(&now->v)), power = watts(w);
	double lately = host_money(&now->v, hour, all_joules(&now->v) - all_joules(&then->v));

	if (!now->v.host.on) {
		fh_buf_lit(b, ",\"host\":null");
		return;
	}
	if (!isfinite(power))
		power = now->v.energy.on ? 0 : now->v.host.watts;
	fh_buf_printf(b, ",\"host\":{\"per_hour\":%.9g", host_money(&now->v, 1, power * 3600));
	put_real(b, "since_start", all);
	put_real_or_null(b, "per_million", all / nr_millions(&now->v));
	put_real_or_null(b, "per_million_lately", lately / (nr_millions(&now->v) - nr_millions(&then->v)));
	fh_buf_printf(b, ",\"power_measured\":%s}", now->v.energy.on ? "true" : "false");
}

static void put_audit(struct fh_buf *b, const struct fh_vitals_audit *a)
{
	if (!a->on) {
		fh_buf_lit(b, ",\"audit\":null");
		return;
	}
	fh_buf_printf(b, ",\"audit\":{\"mode\":\"%s\",\"error\":", a->strict ? "strict" : "relaxed");
	if (a->error) {
		const char *what = strerror(-a->error);

		fh_buf_lit(b, "\"");
		fh_buf_json(b, what, strlen(what));
		fh_buf_lit(b, "\"");
	} else {
		fh_buf_lit(b, "null");
	}
	put_u64(b, "entries", a->nr_entries);
	put_u64(b, "durable", a->nr_durable);
	put_u64(b, "published", a->nr_published);
	put_u64(b, "lost", a->nr_lost);
	fh_buf_lit(b, ",\"root\":");
	if (a->nr_published) {
		fh_buf_lit(b, "\"");
		fh_buf_base64(b, a->root, sizeof(a->root));
		fh_buf_lit(b, "\"}");
	} else {
		fh_buf_lit(b, "null}");
	}
}

void fh_watch_json(const struct fh_watch *w, const struct fh_watch_facts *f, struct fh_buf *b)
{
	const struct fh_vitals *v = &sample(w, 0)->v;

	fh_buf_lit(b, "{\"object\":\"freehold.status\"");
	put_u64(b, "time_ms", f->time_ms);
	fh_buf_printf(b, ",\"uptime_s\":%.3f", seconds(fh_watch_at_ns(w) - w->begin_ns));
	put_text(b, "version", f->version);
	put_text(b, "model", f->model);
	put_text(b, "health", f->health);
	put_rates(b, w);
	put_requests(b, v);
	put_latencies(b, w);
	fh_buf_printf(b, ",\"kv\":{\"blocks\":%u,\"held\":%u,\"cached\":%u,\"free\":%u}", v->nr_blocks,
		      (uint32_t)less(v->nr_blocks, (uint64_t)v->nr_blocks_free + v->nr_blocks_cached),
		      v->nr_blocks_cached, v->nr_blocks_free);
	fh_buf_printf(b, ",\"tokens\":{\"prompt\":%" PRIu64, v->prompt_tokens);
	put_u64(b, "cached", v->cached_tokens);
	put_u64(b, "generated", v->generated_tokens);
	put_u64(b, "reasoning", v->reasoning_tokens);
	fh_buf_printf(b, "},\"speculation\":{\"guesses\":%" PRIu64 ",\"right\":%" PRIu64 "}", v->guesses,
		      v->guesses_right);
	put_cost(b, v);
	put_energy(b, w);
	put_host(b, w);
	put_audit(b, &v->audit);
	put_u64(b, "viewers", f->nr_viewers);
}

/* ---- tenants ---- */

/* A number of money or of something that is counted. */
static void put_amount(struct fh_buf *b, bool is_money, uint64_t v)
{
	if (is_money)
		fh_buf_printf(b, "%.9g", money(v));
	else
		fh_buf_u64(b, v);
}

static void put_span(struct fh_buf *b, const struct fh_tenant_use *t, int span, const char *name, uint64_t now_s)
{
	const uint64_t *const used[] = {t->tokens, t->money, t->requests};
	const uint64_t *const limit[] = {t->limits.tokens, t->limits.money, t->limits.requests};
	static const char *const whats[] = {"tokens", "money", "requests"};
	bool over = t->ends_s[span] <= now_s;

	fh_buf_printf(b, ",\"%s\":{", name);
	for (int i = 0; i < 3; i++) {
		fh_buf_printf(b, "%s\"%s\":{\"used\":", i ? "," : "", whats[i]);
		put_amount(b, i == 1, over ? 0 : used[i][span]);
		fh_buf_lit(b, ",\"limit\":");
		if (limit[i][span])
			put_amount(b, i == 1, limit[i][span]);
		else
			fh_buf_lit(b, "null");
		fh_buf_lit(b, "}");
	}
	fh_buf_lit(b, "}");
}

static void put_tenant(struct fh_buf *b, const struct fh_tenant_use *t, uint64_t now_s)
{
	static const char *const spans[FH_NR_SPANS] = {"minute", "day", "month", "total"};

	fh_buf_lit(b, "{\"tenant\":\"");
	fh_buf_json(b, t->name, strlen(t->name));
	fh_buf_lit(b, "\"");
	for (int s = 0; s < FH_NR_SPANS; s++)
		put_span(b, t, s, spans[s], now_s);
	put_real(b, "joules", joules(t->uj));
	fh_buf_printf(b, ",\"soft_percent\":%u}", t->limits.soft_percent);
}

void fh_watch_tenants_json(const struct fh_tenant_use *t, uint32_t nr, uint64_t now_s, struct fh_buf *b)
{
	if (!t) {
		fh_buf_lit(b, "null");
		return;
	}
	fh_buf_lit(b, "[");
	for (uint32_t i = 0; i < nr; i++) {
		if (i)
			fh_buf_lit(b, ",");
		put_tenant(b, &t[i], now_s);
	}
	fh_buf_lit(b, "]");
}
