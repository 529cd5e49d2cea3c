// SPDX-License-Identifier: Apache-2.0
/* The meter.  See budget.h for what always holds. */
#include "runtime/sched/budget.h"

#include <string.h>

/* One writer, so that no read-modify-write of the hardware is needed; whoever reads one sees those before it. */
static void put(_Atomic uint64_t *to, uint64_t v)
{
	atomic_store_explicit(to, v, memory_order_release);
}

static uint64_t get(const _Atomic uint64_t *v)
{
	return atomic_load_explicit(v, memory_order_relaxed);
}

static void add(_Atomic uint64_t *to, uint64_t n)
{
	put(to, get(to) + n);
}

void fh_budget_init(struct fh_budget_book *b, struct fh_budget_account *account, uint32_t nr_accounts,
		    struct fh_budget_run *run, uint32_t *bucket, uint32_t nr_runs)
{
	*b = (struct fh_budget_book){
		.account = account, .nr_accounts = nr_accounts, .run = run, .bucket = bucket, .nr_runs = nr_runs};
}

/* ---- spans ---- */

/* Spans that are over begin anew. What is held stays held: it will be used in the new one. */
static void roll(struct fh_budget_account *a, uint64_t now_s)
{
	for (int s = 0; s < FH_NR_SPANS; s++) {
		if (now_s < get(&a->ends_s[s]))
			continue;
		put(&a->tokens[s], 0);
		put(&a->money[s], 0);
		put(&a->requests[s], 0);
		atomic_store_explicit(&a->ends_s[s], fh_span_end((enum fh_budget_span)s, now_s), memory_order_release);
	}
}

void fh_budget_restore(struct fh_budget_book *b, uint32_t account, enum fh_budget_span span, uint64_t ends_s,
		       uint64_t tokens, uint64_t money, uint64_t requests, uint64_t now_s)
{
	struct fh_budget_account *a = &b->account[account];

	if (!account || account >= b->nr_accounts)
		return;
	roll(a, now_s);
	if (get(&a->ends_s[span]) != ends_s)
		return;
	add(&a->tokens[span], tokens);
	add(&a->money[span], money);
	add(&a->requests[span], requests);
}

/* ---- limits ---- */

static const struct fh_budget_entry *entry(const struct fh_budget_book *b, uint32_t account)
{
	static const struct fh_budget_entry none;

	return b->table && account < b->table->nr ? &b->table->entry[account] : &none;
}

static const struct fh_budget_limits *limits_of(const struct fh_budget_book *b, const struct fh_budget_hold *h, int i)
{
	if (h->kind[i] == FH_BUDGET_RUN)
		return &entry(b, h->tenant)->run;
	return &entry(b, (uint32_t)(h->of[i] - b->account))->own;
}

/* What may still be used of a limit; much where there is none. */
static uint64_t room(uint64_t limit, uint64_t used, uint64_t held)
{
	if (!limit)
		return UINT64_MAX;
	return used + held < limit ? limit - used - held : 0;
}

/* What a token of an answer may cost. */
static uint64_t dearest(const struct fh_prices *p)
{
	return p->reasoning > p->completion ? p->reasoning : p->completion;
}

/* To be held. */
static uint64_t cost(const struct fh_prices *p, uint64_t nr_prompt, uint64_t nr_tokens)
{
	return nr_prompt * p->prompt + nr_tokens * dearest(p);
}

/* How many of @want tokens of an answer all accounts allow. */
static uint32_t allowed(const struct fh_budget_book *b, const struct fh_budget_hold *h, uint32_t want)
{
	uint64_t most = want, each = dearest(&h->prices);

	for (int i = 0; i < h->nr; i++) {
		const struct fh_budget_limits *l = limits_of(b, h, i);
		const struct fh_budget_account *a = h->of[i];

		for (int s = 0; s < FH_NR_SPANS; s++) {
			uint64_t n = room(l->tokens[s], get(&a->tokens[s]), a->held_tokens);

			most = n < most ? n : most;
			if (!each || !l->money[s])
				continue;
			n = room(l->money[s], get(&a->money[s]), a->held_money) / each;
			most = n < most ? n : most;
		}
	}
	return (uint32_t)most;
}

static void take(struct fh_budget_hold *h, uint64_t tokens, uint64_t money)
{
	for (int i = 0; i < h->nr; i++) {
		h->of[i]->held_tokens += tokens;
		h->of[i]->held_money += money;
	}
}

/* ---- runs ---- */

static void unlink_run(struct fh_budget_book *b, struct fh_budget_run *r)
{
	*(r->older ? &r->older->younger : &b->oldest) = r->younger;
	*(r->younger ? &r->younger->older : &b->youngest) = r->older;
}

static void append_run(struct fh_budget_book *b, struct fh_budget_run *r)
{
	r->younger = NULL;
	r->older = b->youngest;
	*(b->youngest ? &b->youngest->younger : &b->oldest) = r;
	b->youngest = r;
}

static uint32_t *bucket_of(struct fh_budget_book *b, const uint8_t *id, uint32_t tenant)
{
	uint64_t w;

	memcpy(&w, id, sizeof(w));
	w = (w ^ tenant) * 0x9e3779b97f4a7c15u; /* Fibonacci hashing (Knuth) */
	return &b->bucket[(w >> 32) & (b->nr_runs - 1)];
}

static void forget(struct fh_budget_book *b, struct fh_budget_run *r)
{
	uint32_t *at = bucket_of(b, r->id, r->tenant), me = (uint32_t)(r - b->run) + 1;

	while (*at != me)
		at = &b->run[*at - 1].next;
	*at = r->next;
	unlink_run(b, r);
}

/* The oldest that nothing is under way of makes room; NULL: there is none. */
static struct fh_budget_run *new_run(struct fh_budget_book *b)
{
	struct fh_budget_run *r = b->oldest;

	if (b->nr_runs_used < b->nr_runs)
		return &b->run[b->nr_runs_used++];
	while (r && r->account.nr_inside)
		r = r->younger;
	if (r)
		forget(b, r);
	return r;
}

/*
 * Slot @r is another run's from now on.  All stores are releases: whoever sees a value of the new run sees that the
 * turn is odd, or a later one.
 */
static void become(struct fh_budget_run *r, const uint8_t *id, uint32_t tenant)
{
	uint32_t turn = atomic_load_explicit(&r->turn, memory_order_relaxed);
	uint64_t word[2];

	memcpy(word, id, sizeof(word));
	atomic_store_explicit(&r->turn, turn + 1, memory_order_release);
	for (int s = 0; s < FH_NR_SPANS; s++) {
		put(&r->account.tokens[s], 0);
		put(&r->account.money[s], 0);
		put(&r->account.requests[s], 0);
		put(&r->account.ends_s[s], 0);
	}
	put(&r->account.prompt, 0);
	put(&r->account.cached, 0);
	put(&r->account.completion, 0);
	put(&r->account.reasoning, 0);
	r->account.held_tokens = r->account.held_money = 0;
	r->account.nr_inside = 0;
	memcpy(r->id, id, sizeof(r->id));
	r->tenant = tenant;
	put(&r->shown_id[0], word[0]);
	put(&r->shown_id[1], word[1]);
	atomic_store_explicit(&r->shown_tenant, tenant, memory_order_release);
	/* 0 stands for a slot that was never used. */
	atomic_store_explicit(&r->turn, turn + 2 ? turn + 2 : 2, memory_order_release);
}

bool fh_budget_run_live(const struct fh_budget_book *b, uint32_t i, struct fh_run_live *out)
{
	const struct fh_budget_run *r;
	uint64_t word[2], cached;

	*out = (struct fh_run_live){0};
	if (i >= b->nr_runs)
		return false;
	r = &b->run[i];
	out->turn = atomic_load_explicit(&r->turn, memory_order_acquire);
	if (!out->turn)
		return false;
	word[0] = atomic_load_explicit(&r->shown_id[0], memory_order_acquire);
	word[1] = atomic_load_explicit(&r->shown_id[1], memory_order_acquire);
	out->tenant = atomic_load_explicit(&r->shown_tenant, memory_order_acquire);
	/* The meter adds to the whole first and to the part of it then. */
	cached = atomic_load_explicit(&r->account.cached, memory_order_acquire);
	out->tokens = atomic_load_explicit(&r->account.prompt, memory_order_acquire);
	out->tokens = (out->tokens > cached ? out->tokens - cached : 0) +
		      atomic_load_explicit(&r->account.completion, memory_order_acquire);
	memcpy(out->id, word, sizeof(out->id));
	if (out->turn % 2 || out->turn != atomic_load_explicit(&r->turn, memory_order_acquire))
		out->turn = 0;
	return true;
}

static struct fh_budget_run *find_run(struct fh_budget_book *b, const uint8_t *id, uint32_t tenant)
{
	uint32_t *bucket = bucket_of(b, id, tenant);
	struct fh_budget_run *r;

	for (uint32_t n = *bucket; n; n = r->next) {
		r = &b->run[n - 1];
		if (r->tenant == tenant && !memcmp(r->id, id, sizeof(r->id))) {
			unlink_run(b, r);
			append_run(b, r);
			return r;
		}
	}
	r = new_run(b);
	if (!r)
		return NULL;
	become(r, id, tenant);
	bucket = bucket_of(b, id, tenant);
	r->next = *bucket;
	*bucket = (uint32_t)(r - b->run) + 1;
	append_run(b, r);
	return r;
}

/* ---- a request ---- */

/* One limit stands in the way: keep the word that says to come back last. */
static void object(struct fh_budget_word *word, int kind, int what, int span, uint64_t limit, uint64_t used,
		   uint64_t want, uint64_t ends_s, uint64_t now_s)
{
	struct fh_budget_word w = {.kind = (uint8_t)kind, .what = (uint8_t)what, .span = (uint8_t)span, .percent = 100};

	w.never = want > limit || (span == FH_SPAN_TOTAL && used + want > limit);
	/* What only others hold may come back any moment. */
	w.retry_s = w.never ? 0 : used + want <= limit ? 1 : (uint32_t)(ends_s - now_s);
	if (!word->percent || w.never > word->never || (w.never == word->never && w.retry_s > word->retry_s))
		*word = w;
}

static void check(const struct fh_budget_book *b, const struct fh_budget_hold *h, int i, uint64_t tokens,
		  uint64_t money, uint64_t requests, uint64_t now_s, struct fh_budget_word *word)
{
	const struct fh_budget_limits *l = limits_of(b, h, i);
	const struct fh_budget_account *a = h->of[i];

	for (int s = 0; s < FH_NR_SPANS; s++) {
		uint64_t ends_s = get(&a->ends_s[s]);

		if (tokens > room(l->tokens[s], get(&a->tokens[s]), a->held_tokens))
			object(word, h->kind[i], FH_BUDGET_TOKENS, s, l->tokens[s], get(&a->tokens[s]), tokens, ends_s,
			       now_s);
		if (money > room(l->money[s], get(&a->money[s]), a->held_money))
			object(word, h->kind[i], FH_BUDGET_MONEY, s, l->money[s], get(&a->money[s]), money, ends_s,
			       now_s);
		if (requests > room(l->requests[s], get(&a->requests[s]), 0))
			object(word, h->kind[i], FH_BUDGET_REQUESTS, s, l->requests[s], get(&a->requests[s]), requests,
			       ends_s, now_s);
	}
	if (l->concurrent && a->nr_inside >= l->concurrent)
		object(word, h->kind[i], FH_BUDGET_CONCURRENT, FH_SPAN_MINUTE, l->concurrent, 0, 1, now_s, now_s);
}

static void warn_of(struct fh_budget_word *word, int kind, int what, int span, uint64_t limit, uint64_t n,
		    uint32_t soft)
{
	uint32_t percent = limit ? (uint32_t)((double)n / (double)limit * 100) : 0;

	if (limit && percent >= soft && percent > word->percent)
		*word = (struct fh_budget_word){
			.kind = (uint8_t)kind, .what = (uint8_t)what, .span = (uint8_t)span, .percent = percent};
}

static void warn(const struct fh_budget_book *b, const struct fh_budget_hold *h, struct fh_budget_word *word)
{
	for (int i = 0; i < h->nr; i++) {
		const struct fh_budget_limits *l = limits_of(b, h, i);
		const struct fh_budget_account *a = h->of[i];

		for (int s = 0; l->soft_percent && s < FH_NR_SPANS; s++) {
			warn_of(word, h->kind[i], FH_BUDGET_TOKENS, s, l->tokens[s],
				get(&a->tokens[s]) + a->held_tokens, l->soft_percent);
			warn_of(word, h->kind[i], FH_BUDGET_MONEY, s, l->money[s], get(&a->money[s]) + a->held_money,
				l->soft_percent);
			warn_of(word, h->kind[i], FH_BUDGET_REQUESTS, s, l->requests[s], get(&a->requests[s]),
				l->soft_percent);
		}
	}
}

static void list(struct fh_budget_hold *h, struct fh_budget_account *a, int kind)
{
	h->of[h->nr] = a;
	h->kind[h->nr++] = (uint8_t)kind;
}

/* Its accounts. False: there is no room for its run. */
static bool gather(struct fh_budget_book *b, const struct fh_budget_ask *ask, const uint8_t *run_id,
		   struct fh_budget_hold *h)
{
	static const uint8_t none[16];
	struct fh_budget_run *run;

	for (int k = 0; k < FH_BUDGET_RUN; k++)
		if (ask->account[k] && ask->account[k] < b->nr_accounts)
			list(h, &b->account[ask->account[k]], k);
	h->tenant = ask->account[FH_BUDGET_TENANT];
	if (!h->tenant || !b->nr_runs || !memcmp(run_id, none, sizeof(none)))
		return true;
	run = find_run(b, run_id, h->tenant);
	if (run)
		list(h, &run->account, FH_BUDGET_RUN);
	return run;
}

/* Nothing is in the way any more: take it. */
static void begin(struct fh_budget_book *b, struct fh_budget_hold *h, uint32_t max_tokens, uint64_t requests)
{
	for (int i = 0; i < h->nr; i++) {
		h->of[i]->nr_inside++;
		for (int s = 0; s < FH_NR_SPANS; s++)
			add(&h->of[i]->requests[s], requests);
	}
	take(h, h->nr_prompt, cost(&h->prices, h->nr_prompt, 0));
	h->prompt_due = h->nr_prompt;
	h->ahead = allowed(b, h, max_tokens < FH_BUDGET_AHEAD ? max_tokens : FH_BUDGET_AHEAD);
	h->left = max_tokens - h->ahead;
	take(h, h->ahead, cost(&h->prices, 0, h->ahead));
}

bool fh_budget_enter(struct fh_budget_book *b, const struct fh_budget_ask *ask, const uint8_t *run_id,
		     uint32_t nr_prompt, uint32_t max_tokens, uint64_t now_s, struct fh_budget_hold *h,
		     struct fh_budget_word *word)
{
	uint32_t least = max_tokens != 0, depth, requests = !ask->prompt_paid;

	*h = (struct fh_budget_hold){0};
	*word = (struct fh_budget_word){0};
	if (!gather(b, ask, run_id, h)) {
		*h = (struct fh_budget_hold){0};
		*word = (struct fh_budget_word){
			.kind = FH_BUDGET_RUN, .what = FH_BUDGET_RUNS, .percent = 100, .retry_s = 1};
		return false;
	}
	if (!h->nr)
		return true;
	if (b->table)
		h->prices = b->table->prices;
	h->nr_prompt = ask->prompt_paid ? 0 : nr_prompt;
	h->began_s = now_s;
	for (int i = 0; i < h->nr; i++) {
		roll(h->of[i], now_s);
		check(b, h, i, (uint64_t)h->nr_prompt + least, cost(&h->prices, h->nr_prompt, least), requests, now_s,
		      word);
	}
	depth = entry(b, h->tenant)->run_depth;
	if (h->kind[h->nr - 1] == FH_BUDGET_RUN && depth && ask->run_depth > depth)
		*word = (struct fh_budget_word){
			.kind = FH_BUDGET_RUN, .what = FH_BUDGET_DEPTH, .percent = 100, .never = true};
	if (word->percent) {
		*h = (struct fh_budget_hold){0};
		return false;
	}
	begin(b, h, max_tokens, requests);
	for (int i = 0; i < h->nr; i++)
		h->charge.payers |= (uint8_t)(1u << h->kind[i]);
	fh_charge_now(&h->charge, now_s)->requests = requests;
	warn(b, h, word);
	return true;
}

/* @tokens of what is held were used, at @money less than or equal to what is held for them. */
static void use(struct fh_budget_hold *h, uint64_t tokens, uint64_t held_money, uint64_t money, uint64_t now_s)
{
	for (int i = 0; i < h->nr; i++) {
		struct fh_budget_account *a = h->of[i];

		roll(a, now_s);
		a->held_tokens -= tokens;
		a->held_money -= held_money;
		for (int s = 0; s < FH_NR_SPANS; s++) {
			add(&a->tokens[s], tokens);
			add(&a->money[s], money);
		}
	}
}

void fh_budget_prompt(struct fh_budget_book *b, struct fh_budget_hold *h, uint32_t nr_cached, uint64_t now_s)
{
	const struct fh_prices *p = &h->prices;
	uint64_t held = cost(p, h->nr_prompt, 0), money;
	struct fh_budget_piece *piece;

	(void)b;
	if (!h->prompt_due)
		return;
	h->prompt_due = false;
	nr_cached = nr_cached < h->nr_prompt ? nr_cached : h->nr_prompt;
	money = (h->nr_prompt - nr_cached) * p->prompt + nr_cached * p->cached;
	/* Cached tokens that cost more than others would be more than is held. */
	money = money < held ? money : held;
	use(h, h->nr_prompt, held, money, now_s);
	piece = fh_charge_now(&h->charge, now_s);
	piece->prompt += h->nr_prompt;
	piece->cached += nr_cached;
	piece->money += money;
	for (int i = 0; i < h->nr; i++) {
		add(&h->of[i]->prompt, h->nr_prompt);
		add(&h->of[i]->cached, nr_cached);
	}
}

bool fh_budget_token(struct fh_budget_book *b, struct fh_budget_hold *h, bool thought, uint64_t now_s)
{
	const struct fh_prices *p = &h->prices;
	struct fh_budget_piece *piece;
	uint64_t price = thought ? p->reasoning : p->completion;

	if (!h->nr)
		return true;
	/* Whoever is told false draws no further token. */
	if (!h->ahead)
		return false;
	h->ahead--;
	use(h, 1, dearest(p), price, now_s);
	piece = fh_charge_now(&h->charge, now_s);
	piece->completion++;
	piece->money += price;
	for (int i = 0; i < h->nr; i++) {
		add(&h->of[i]->completion, 1);
		if (thought)
			add(&h->of[i]->reasoning, 1);
	}
	piece->reasoning += thought;
	if (!h->ahead && h->left) {
		h->ahead = allowed(b, h, h->left < FH_BUDGET_AHEAD ? h->left : FH_BUDGET_AHEAD);
		h->left -= h->ahead;
		take(h, h->ahead, cost(&h->prices, 0, h->ahead));
	}
	return h->ahead || !h->left;
}

bool fh_budget_run_use(const struct fh_budget_hold *h, const uint8_t *run_id, uint32_t depth, uint64_t now_s,
		       struct fh_run_use *out)
{
	if (!h->nr || h->kind[h->nr - 1] != FH_BUDGET_RUN)
		return false;
	*out = (struct fh_run_use){.tenant = h->tenant, .depth = depth, .first_s = h->began_s};
	out->last_s = now_s > h->began_s ? now_s : h->began_s;
	memcpy(out->id, run_id, sizeof(out->id));
	for (uint32_t i = 0; i < h->charge.nr; i++) {
		const struct fh_budget_piece *p = &h->charge.piece[i];

		out->requests += p->requests;
		out->prompt += p->prompt;
		out->cached += p->cached;
		out->completion += p->completion;
		out->reasoning += p->reasoning;
		out->money += p->money;
	}
	return true;
}

/* Before others are told of it: so no run has more than all of them. */
static void count_in_runs(struct fh_budget_book *b, const struct fh_budget_hold *h)
{
	static const uint8_t any[16];
	struct fh_budget_in_runs *a;
	struct fh_run_use u;

	if (h->tenant >= b->nr_accounts || !fh_budget_run_use(h, any, 0, 0, &u))
		return;
	a = &b->account[h->tenant].in_runs;
	add(&a->requests, u.requests);
	add(&a->prompt, u.prompt);
	add(&a->cached, u.cached);
	add(&a->completion, u.completion);
	add(&a->reasoning, u.reasoning);
	add(&a->money, u.money);
}

void fh_budget_leave(struct fh_budget_book *b, struct fh_budget_hold *h)
{
	uint64_t prompt = h->prompt_due ? h->nr_prompt : 0;
	uint64_t money = cost(&h->prices, prompt, h->ahead);

	count_in_runs(b, h);
	for (int i = 0; i < h->nr; i++) {
		h->of[i]->held_tokens -= prompt + h->ahead;
		h->of[i]->held_money -= money;
		h->of[i]->nr_inside--;
	}
	h->nr = 0;
	h->prompt_due = false;
	h->ahead = h->left = 0;
}
