// SPDX-License-Identifier: Apache-2.0
/*
 * From the entries of a log to tables of usage.
 *
 * One pass in the order of the entries, bundle by bundle: the entries of each are
 * hashed, and the hashes followed up to the root that was signed, before any is
 * believed.  Requests that have begun are remembered until their outcome; a START
 * forgets those before it, whose process is gone.  Of an account's minute, day and
 * month only the last is kept, as the meter does; hours go to the table when the
 * next one begins.
 *
 * Clocks: the meter never goes back to a span that is over, so what a request paid
 * that began after somebody had paid in a later minute counts as if it had been
 * in that one.  What lies in the future, as nothing can that is right, counts for
 * the present span, and a row that does gives way to one of the present.
 */
#include "runtime/trust/recount.h"

#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/trust/accounts.h"
#include "runtime/trust/charge.h"
#include "runtime/trust/recount_runs.h"

#define NAME_BYTES (2 * FH_IDENTITY_NAME_MAX + 2)
#define NO_HOUR UINT64_MAX

struct model {
	struct model *next;
	char name[];
};

struct account {
	const struct model *model;
	uint8_t kind;
	char name[NAME_BYTES];
	struct fh_account_use use;
	uint64_t hour; /* since 1970, of ... */
	struct fh_budget_piece in_hour;
	uint64_t nr_vague; /* outcomes of that hour that did not say how much was thoughts */
};

/* A request that has begun. */
struct open_request {
	uint64_t entry, nr_prompt;
	uint64_t high; /* the last minute that anybody had paid in when it began */
	uint64_t began_s, depth;
	uint8_t run[16]; /* zeros: none */
	char tenant[FH_IDENTITY_NAME_MAX + 1], user[FH_IDENTITY_NAME_MAX + 1];
	char key[2 * FH_IDENTITY_KEY_BYTES + 1];
};

struct counter {
	struct fh_keydb *db;
	sqlite3_stmt *put_use, *put_hour, *put_thoughts;
	struct fh_recount_runs *runs;
	struct fh_recount_job *job;
	struct model *models;
	const struct model *model; /* of the last START; NULL: none, or not one that is wanted */
	uint64_t says;		   /* flags of that START: what its version's ENDs say was paid */
	struct account **accounts; /* [cap_accounts], a power of two, by hash; NULL: free */
	uint32_t nr_accounts, cap_accounts;
	struct open_request *open; /* [nr_open] in order of entry */
	uint32_t nr_open, cap_open;
	struct fh_hash leaf[FH_TILE_WIDTH]; /* of a bundle */
	struct fh_recount *out;
};

static const char *const kinds[] = {"tenant", "user", "key"};

/* ---- accounts ---- */

static uint32_t hash_of(const struct model *m, int kind, const char *name)
{
	uint32_t h = 2166136261u ^ (uint32_t)kind ^ (uint32_t)((uintptr_t)m >> 4); /* FNV-1a */

	for (; *name; name++)
		h = (h ^ (unsigned char)*name) * 16777619u;
	return h;
}

static struct account **place_of(struct account **table, uint32_t cap, const struct model *m, int kind,
				 const char *name)
{
	uint32_t at = hash_of(m, kind, name) & (cap - 1);

	while (table[at] && (table[at]->model != m || table[at]->kind != kind || strcmp(table[at]->name, name)))
		at = (at + 1) & (cap - 1);
	return &table[at];
}

static int grow_accounts(struct counter *c)
{
	uint32_t cap = c->cap_accounts ? 2 * c->cap_accounts : 256;
	struct account **more = calloc(cap, sizeof(struct account *));

	if (!more)
		return -ENOMEM;
	for (uint32_t i = 0; i < c->cap_accounts; i++) {
		struct account *a = c->accounts[i];

		if (a)
			*place_of(more, cap, a->model, a->kind, a->name) = a;
	}
	free(c->accounts);
	c->accounts = more;
	c->cap_accounts = cap;
	return 0;
}

static struct account *account(struct counter *c, int kind, const char *name)
{
	struct account **at;

	if (2 * c->nr_accounts >= c->cap_accounts && grow_accounts(c))
		return NULL;
	at = place_of(c->accounts, c->cap_accounts, c->model, kind, name);
	if (*at)
		return *at;
	*at = calloc(1, sizeof(**at));
	if (!*at)
		return NULL;
	c->nr_accounts++;
	(*at)->model = c->model;
	(*at)->kind = (uint8_t)kind;
	(*at)->hour = NO_HOUR;
	snprintf((*at)->name, sizeof((*at)->name), "%s", name);
	return *at;
}

/* ---- to the tables ---- */

static int step_done(struct counter *c, sqlite3_stmt *st, struct fh_err *err)
{
	int rc = sqlite3_step(st) == SQLITE_DONE ? 0 : fh_keydb_fail(c->db, err);

	sqlite3_reset(st);
	return rc;
}

static void bind_account(sqlite3_stmt *st, const struct account *a)
{
	sqlite3_bind_text(st, 1, a->model->name, -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 2, kinds[a->kind], -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 3, a->name, -1, SQLITE_STATIC);
}

static int flush_hour(struct counter *c, struct account *a, struct fh_err *err)
{
	const struct fh_budget_piece *p = &a->in_hour;
	const uint64_t v[] = {p->prompt, p->cached, p->completion, p->money, p->requests};
	int rc;

	if (a->hour == NO_HOUR)
		return 0;
	bind_account(c->put_hour, a);
	sqlite3_bind_int64(c->put_hour, 4, (int64_t)(a->hour * 3600));
	for (int i = 0; i < 5; i++)
		sqlite3_bind_int64(c->put_hour, 5 + i, c->job->subtract ? -(int64_t)v[i] : (int64_t)v[i]);
	rc = step_done(c, c->put_hour, err);
	if (!rc && (p->reasoning || a->nr_vague)) {
		bind_account(c->put_thoughts, a);
		sqlite3_bind_int64(c->put_thoughts, 4, (int64_t)(a->hour * 3600));
		sqlite3_bind_int64(c->put_thoughts, 5,
				   c->job->subtract ? -(int64_t)p->reasoning : (int64_t)p->reasoning);
		sqlite3_bind_int64(c->put_thoughts, 6, (int64_t)a->nr_vague);
		rc = step_done(c, c->put_thoughts, err);
	}
	a->hour = NO_HOUR;
	a->nr_vague = 0;
	a->in_hour = (struct fh_budget_piece){0};
	return rc;
}

static int flush_use(struct counter *c, const struct account *a, struct fh_err *err)
{
	int rc = 0;

	for (int s = 0; s < FH_NR_SPANS && !rc; s++) {
		bind_account(c->put_use, a);
		sqlite3_bind_int(c->put_use, 4, s);
		sqlite3_bind_int64(c->put_use, 5, (int64_t)a->use.ends_s[s]);
		sqlite3_bind_int64(c->put_use, 6, (int64_t)a->use.tokens[s]);
		sqlite3_bind_int64(c->put_use, 7, (int64_t)a->use.money[s]);
		sqlite3_bind_int64(c->put_use, 8, (int64_t)a->use.requests[s]);
		sqlite3_bind_int64(c->put_use, 9, (int64_t)fh_span_end((enum fh_budget_span)s, c->job->now_s));
		rc = step_done(c, c->put_use, err);
	}
	return rc;
}

static int flush_all(struct counter *c, struct fh_err *err)
{
	int rc = 0;

	for (uint32_t i = 0; i < c->cap_accounts && !rc; i++) {
		if (!c->accounts[i])
			continue;
		rc = flush_hour(c, c->accounts[i], err);
		if (!rc)
			rc = flush_use(c, c->accounts[i], err);
	}
	return rc;
}

/* ---- charges ---- */

/* Numbers of a log that nobody could have written in a life do not begin anew at zero. */
static void add(uint64_t *to, uint64_t v)
{
	*to = v < INT64_MAX - *to ? *to + v : INT64_MAX;
}

/* @high: see struct open_request. */
static void add_use(const struct counter *c, struct fh_account_use *u, const struct fh_budget_piece *p, uint64_t high)
{
	uint64_t at_s = 60 * (p->minute > high ? p->minute : high);

	/* Paid by a clock that is seen to have been ahead. */
	if (60 * high > c->job->now_s)
		at_s = 60 * p->minute;
	at_s = at_s < c->job->now_s ? at_s : c->job->now_s;
	for (int s = 0; s < FH_NR_SPANS; s++) {
		uint64_t ends_s = fh_span_end((enum fh_budget_span)s, at_s);

		/* Of a span that is over already. */
		if (ends_s < u->ends_s[s])
			continue;
		if (ends_s > u->ends_s[s])
			u->tokens[s] = u->money[s] = u->requests[s] = 0;
		u->ends_s[s] = ends_s;
		add(&u->tokens[s], p->prompt + p->completion);
		add(&u->money[s], p->money);
		add(&u->requests[s], p->requests);
	}
}

/* Nobody knows how much of it was thoughts. */
static bool is_vague(const struct counter *c, const struct fh_budget_piece *p)
{
	return p->completion && !(c->says & FH_RF_THOUGHTS);
}

static int pay(struct counter *c, int kind, const char *name, const struct fh_budget_charge *ch, uint64_t high,
	       struct fh_err *err)
{
	struct account *a = account(c, kind, name);
	int rc = 0;

	if (!a)
		return fh_errf(err, -ENOMEM, "no memory to count usage");
	for (uint32_t i = 0; i < ch->nr && !rc; i++) {
		const struct fh_budget_piece *p = &ch->piece[i];

		add_use(c, &a->use, p, high);
		if (a->hour != p->minute / 60)
			rc = flush_hour(c, a, err);
		a->hour = p->minute / 60;
		add(&a->in_hour.requests, p->requests);
		add(&a->in_hour.prompt, p->prompt);
		add(&a->in_hour.cached, p->cached);
		add(&a->in_hour.completion, p->completion);
		add(&a->in_hour.money, p->money);
		add(&a->in_hour.reasoning, p->reasoning);
		a->nr_vague += is_vague(c, p);
	}
	return rc;
}

/* @end_s: of its outcome, Unix time. */
static int pay_run(struct counter *c, const struct open_request *q, const struct fh_budget_charge *ch, uint64_t end_s,
		   struct fh_err *err)
{
	struct fh_run_use u = {.depth = (uint32_t)q->depth};
	bool vague = false;

	if (!(ch->payers & 1u << FH_BUDGET_RUN) || sodium_is_zero(q->run, sizeof(q->run)) || !*q->tenant)
		return 0;
	memcpy(u.id, q->run, sizeof(u.id));
	u.last_s = end_s < c->job->now_s ? end_s : c->job->now_s;
	u.first_s = q->began_s && q->began_s < u.last_s ? q->began_s : u.last_s;
	for (uint32_t i = 0; i < ch->nr; i++) {
		const struct fh_budget_piece *p = &ch->piece[i];

		u.requests += p->requests;
		u.prompt += p->prompt;
		u.cached += p->cached;
		u.completion += p->completion;
		u.reasoning += p->reasoning;
		u.money += p->money;
		vague |= is_vague(c, p);
	}
	return fh_recount_runs_add(c->runs, c->model->name, q->tenant, &u, vague, err);
}

static int pay_all(struct counter *c, const struct open_request *q, const struct fh_budget_charge *ch,
		   struct fh_err *err)
{
	char user[NAME_BYTES];
	int rc = 0;

	snprintf(user, sizeof(user), "%s/%s", q->tenant, q->user);
	if (ch->payers & 1u << FH_BUDGET_TENANT)
		rc = pay(c, FH_BUDGET_TENANT, q->tenant, ch, q->high, err);
	if (!rc && ch->payers & 1u << FH_BUDGET_USER)
		rc = pay(c, FH_BUDGET_USER, user, ch, q->high, err);
	if (!rc && ch->payers & 1u << FH_BUDGET_KEY)
		rc = pay(c, FH_BUDGET_KEY, q->key, ch, q->high, err);
	for (uint32_t i = 0; i < ch->nr; i++)
		if (ch->piece[i].minute > c->job->high && ch->piece[i].minute <= c->job->now_s / 60)
			c->job->high = ch->piece[i].minute;
	return rc;
}

/* ---- entries ---- */

static void copy_text(char *to, size_t cap, const struct fh_record_bytes *b)
{
	size_t n = b->n < cap ? b->n : cap - 1;

	if (n)
		memcpy(to, b->p, n);
	to[n] = 0;
}

static struct model *model_of(struct counter *c, const char *name, size_t n)
{
	struct model *m;

	for (m = c->models; m; m = m->next)
		if (strlen(m->name) == n && !memcmp(m->name, name, n))
			return m;
	m = calloc(1, sizeof(*m) + n + 1);
	if (!m)
		return NULL;
	memcpy(m->name, name, n);
	m->next = c->models;
	return c->models = m;
}

static int note_start(struct counter *c, const struct fh_record *rec)
{
	const struct fh_record_bytes *name = &rec->str[FH_RS_MODEL - 64];
	const char *wanted = c->job->model;
	char text[FH_RECORD_TEXT_MAX + 1];

	c->out->nr_open += c->nr_open;
	c->nr_open = 0;
	c->model = NULL;
	c->says = rec->num[FH_RN_FLAGS] & (FH_RF_CHARGES | FH_RF_THOUGHTS);
	copy_text(text, sizeof(text), name);
	if (wanted && strcmp(text, wanted))
		return 0;
	c->model = model_of(c, text, strlen(text));
	return c->model ? 0 : -ENOMEM;
}

static void name_payers(const struct fh_record *rec, struct open_request *q)
{
	const struct fh_record_bytes *key = &rec->str[FH_RS_KEY_ID - 64], *run = &rec->str[FH_RS_RUN - 64];

	copy_text(q->tenant, sizeof(q->tenant), &rec->str[FH_RS_TENANT - 64]);
	copy_text(q->user, sizeof(q->user), &rec->str[FH_RS_USER - 64]);
	if (key->n == FH_IDENTITY_KEY_BYTES)
		sodium_bin2hex(q->key, sizeof(q->key), key->p, key->n);
	if (run->n == sizeof(q->run))
		memcpy(q->run, run->p, run->n);
	q->depth = rec->num[FH_RN_RUN_DEPTH];
}

static struct open_request *open_one(struct counter *c)
{
	if (c->nr_open == c->cap_open) {
		uint32_t cap = c->cap_open ? 2 * c->cap_open : 64;
		struct open_request *more = realloc(c->open, cap * sizeof(*more));

		if (!more)
			return NULL;
		c->open = more;
		c->cap_open = cap;
	}
	memset(&c->open[c->nr_open], 0, sizeof(*c->open));
	return &c->open[c->nr_open++];
}

static int note_begin(struct counter *c, uint64_t i, const struct fh_record *rec)
{
	struct open_request *q = open_one(c);

	if (!q)
		return -ENOMEM;
	q->entry = i;
	q->nr_prompt = rec->num[FH_RN_NR_PROMPT];
	q->high = c->job->high;
	q->began_s = rec->num[FH_RN_TIME_US] / 1000000;
	name_payers(rec, q);
	return 0;
}

/* What @rec says that @q has paid. */
static int note_charge(struct counter *c, const struct open_request *q, const struct fh_record *rec, struct fh_err *err)
{
	struct fh_budget_charge ch;
	int rc;

	if (fh_charge_get(rec, q->nr_prompt, &ch)) {
		c->out->nr_bad++;
		return 0;
	}
	if (!ch.payers) {
		c->out->nr_unpaid++;
		c->out->nr_old += !(c->says & FH_RF_CHARGES);
		return 0;
	}
	if (!c->model)
		return 0;
	c->out->nr_charged++;
	rc = pay_run(c, q, &ch, rec->num[FH_RN_TIME_US] / 1000000, err);
	return rc ? rc : pay_all(c, q, &ch, err);
}

static int note_end(struct counter *c, const struct fh_record *rec, struct fh_err *err)
{
	uint64_t ref = rec->num[FH_RN_REF] - 1;
	struct open_request q;
	uint32_t k = c->nr_open;

	/* Most ends are of one of the last. */
	while (k && c->open[k - 1].entry != ref)
		k--;
	if (!k) {
		c->out->nr_bad++;
		return 0;
	}
	q = c->open[k - 1];
	memmove(&c->open[k - 1], &c->open[k], (c->nr_open-- - k) * sizeof(q));
	return note_charge(c, &q, rec, err);
}

/* What ended in the engine's queue never began in the log, and may have been counted as a request. */
static int note_refused(struct counter *c, const struct fh_record *rec, struct fh_err *err)
{
	struct open_request q = {0};

	if (!rec->num[FH_RN_PAYERS])
		return 0;
	name_payers(rec, &q);
	return note_charge(c, &q, rec, err);
}

static int note_entry(struct counter *c, uint64_t i, const struct fh_record *rec, struct fh_err *err)
{
	int rc = 0;

	switch (rec->kind) {
	case FH_REC_START: rc = note_start(c, rec); break;
	case FH_REC_BEGIN: rc = note_begin(c, i, rec); break;
	case FH_REC_END: return note_end(c, rec, err);
	case FH_REC_REFUSED: return note_refused(c, rec, err);
	case FH_REC_LOST: c->out->nr_lost += rec->num[FH_RN_COUNT]; break;
	default: break;
	}
	return rc ? fh_errf(err, rc, "no memory to count usage") : 0;
}

static int not_whole(uint64_t index, int rc, struct fh_err *err)
{
	return fh_errf(err, rc == -ENOENT || !rc ? -EBADMSG : rc,
		       "entries %" PRIu64 " to %" PRIu64
		       " of the audit log are not what was signed (%s); `freehold audit "
		       "verify` says more",
		       index * FH_TILE_WIDTH, index * FH_TILE_WIDTH + FH_TILE_WIDTH - 1,
		       rc ? strerror(-rc) : "their hashes are others");
}

/*
 * Is bundle @index what was signed?  All its entries against the tile of their hashes, and the first of them against
 * the root: its path takes in every other hash of the tile.
 */
static int check_bundle(struct counter *c, struct fh_reader *r, uint64_t index, struct fh_err *err)
{
	uint64_t first = index * FH_TILE_WIDTH, nr = r->cp.size - first;
	struct fh_hashes hashes = fh_reader_hashes(r);
	struct fh_hash proof[FH_MAX_PROOF];
	char path[FH_TILE_PATH_MAX];
	struct fh_record_bytes leaf;
	uint32_t nr_proof;
	const char *p;
	size_t n;
	int rc;

	nr = nr < FH_TILE_WIDTH ? nr : FH_TILE_WIDTH;
	for (uint64_t k = 0; k < nr; k++) {
		rc = fh_reader_entry(r, first + k, &leaf);
		if (rc)
			return not_whole(index, rc, err);
		fh_leaf_hash(leaf.p, leaf.n, &c->leaf[k]);
	}
	rc = fh_reader_tile(r, 0, index, &p, &n, path);
	if (rc || n != nr * sizeof(c->leaf[0]) || memcmp(p, c->leaf, n))
		return not_whole(index, rc, err);
	rc = fh_prove_inclusion(&hashes, first, r->cp.size, proof, &nr_proof);
	if (rc || !fh_check_inclusion(first, r->cp.size, &c->leaf[0], proof, nr_proof, &r->cp.root))
		return not_whole(index, rc, err);
	return 0;
}

static int read_all(struct counter *c, struct fh_reader *r, struct fh_err *err)
{
	struct fh_record_bytes leaf;
	struct fh_record rec;
	size_t bad;
	int rc = 0;

	for (uint64_t i = c->job->from; i < c->job->to && !rc; i++) {
		if (i == c->job->from || !(i % FH_TILE_WIDTH))
			rc = check_bundle(c, r, i / FH_TILE_WIDTH, err);
		if (rc)
			return rc;
		rc = fh_reader_entry(r, i, &leaf);
		if (!rc && fh_record_decode(leaf.p, leaf.n, &rec, &bad))
			rc = -EBADMSG;
		if (rc)
			return fh_errf(err, rc, "entry %" PRIu64 " of the audit log cannot be read: %s", i,
				       strerror(-rc));
		rc = note_entry(c, i, &rec, err);
		c->out->nr_entries++;
	}
	return rc;
}

/* ---- where a pass goes on that another began ---- */

static int load_open(struct counter *c, struct fh_err *err)
{
	sqlite3_stmt *st;
	int step;

	if (sqlite3_prepare_v2(fh_keydb_handle(c->db),
			       "SELECT entry, prompt, high, tenant, user, key, began, depth, run FROM usage_open"
			       " LEFT JOIN usage_open_run USING(model, entry) WHERE model = ?1 ORDER BY entry",
			       -1, &st, NULL) != SQLITE_OK)
		return fh_keydb_fail(c->db, err);
	sqlite3_bind_text(st, 1, c->job->model, -1, SQLITE_STATIC);
	while ((step = sqlite3_step(st)) == SQLITE_ROW) {
		struct open_request *q = open_one(c);
		const char *text[3];

		if (!q)
			break;
		q->entry = (uint64_t)sqlite3_column_int64(st, 0);
		q->nr_prompt = (uint64_t)sqlite3_column_int64(st, 1);
		q->high = (uint64_t)sqlite3_column_int64(st, 2);
		for (int i = 0; i < 3; i++)
			text[i] = (const char *)sqlite3_column_text(st, 3 + i) ?: "";
		snprintf(q->tenant, sizeof(q->tenant), "%s", text[0]);
		snprintf(q->user, sizeof(q->user), "%s", text[1]);
		snprintf(q->key, sizeof(q->key), "%s", text[2]);
		q->began_s = (uint64_t)sqlite3_column_int64(st, 6);
		q->depth = (uint64_t)sqlite3_column_int64(st, 7);
		if (sqlite3_column_bytes(st, 8) == sizeof(q->run))
			memcpy(q->run, sqlite3_column_blob(st, 8), sizeof(q->run));
	}
	sqlite3_finalize(st);
	if (step == SQLITE_ROW)
		return fh_errf(err, -ENOMEM, "no memory to count usage");
	return step == SQLITE_DONE ? 0 : fh_keydb_fail(c->db, err);
}

/* Beside the others, for a version that knows nothing of it. */
static int store_open_runs(struct counter *c, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = 0;

	if (sqlite3_prepare_v2(fh_keydb_handle(c->db), "INSERT INTO usage_open_run VALUES(?1, ?2, ?3, ?4, ?5)", -1, &st,
			       NULL) != SQLITE_OK)
		return fh_keydb_fail(c->db, err);
	for (uint32_t i = 0; i < c->nr_open && !rc; i++) {
		const struct open_request *q = &c->open[i];

		if (sodium_is_zero(q->run, sizeof(q->run)))
			continue;
		sqlite3_bind_text(st, 1, c->job->model, -1, SQLITE_STATIC);
		sqlite3_bind_int64(st, 2, (int64_t)q->entry);
		sqlite3_bind_int64(st, 3, (int64_t)q->began_s);
		sqlite3_bind_int64(st, 4, (int64_t)q->depth);
		sqlite3_bind_blob(st, 5, q->run, sizeof(q->run), SQLITE_STATIC);
		rc = step_done(c, st, err);
	}
	sqlite3_finalize(st);
	return rc;
}

static int store_open(struct counter *c, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = fh_usage_run(c->db, "DELETE FROM usage_open WHERE model = ?1", c->job->model, 0, err);

	if (!rc)
		rc = fh_usage_run(c->db, "DELETE FROM usage_open_run WHERE model = ?1", c->job->model, 0, err);
	if (!rc)
		rc = store_open_runs(c, err);
	if (rc)
		return rc;
	if (sqlite3_prepare_v2(fh_keydb_handle(c->db), "INSERT INTO usage_open VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)", -1,
			       &st, NULL) != SQLITE_OK)
		return fh_keydb_fail(c->db, err);
	for (uint32_t i = 0; i < c->nr_open && !rc; i++) {
		const struct open_request *q = &c->open[i];

		sqlite3_bind_text(st, 1, c->job->model, -1, SQLITE_STATIC);
		sqlite3_bind_int64(st, 2, (int64_t)q->entry);
		sqlite3_bind_int64(st, 3, (int64_t)q->nr_prompt);
		sqlite3_bind_int64(st, 4, (int64_t)q->high);
		sqlite3_bind_text(st, 5, q->tenant, -1, SQLITE_STATIC);
		sqlite3_bind_text(st, 6, q->user, -1, SQLITE_STATIC);
		sqlite3_bind_text(st, 7, q->key, -1, SQLITE_STATIC);
		rc = step_done(c, st, err);
	}
	sqlite3_finalize(st);
	return rc;
}

static const char put_use_sql[] =
	"INSERT INTO %s VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT(model, kind, name, span) DO UPDATE SET"
	" tokens = CASE WHEN ends = ?5 THEN tokens ELSE 0 END + ?6,"
	" money = CASE WHEN ends = ?5 THEN money ELSE 0 END + ?7,"
	" requests = CASE WHEN ends = ?5 THEN requests ELSE 0 END + ?8, ends = ?5"
	" WHERE ends <= ?5 OR ends > ?9"; /* that of the total is -1 */
static const char put_hour_sql[] =
	"INSERT INTO %s VALUES(?4, ?1, ?2, ?3, ?5, ?6, ?7, ?8, ?9) ON CONFLICT(hour, model, kind, name) DO UPDATE"
	" SET prompt = prompt + ?5, cached = cached + ?6, completion = completion + ?7, money = money + ?8,"
	" requests = requests + ?9";

static const char put_thoughts_sql[] =
	"INSERT INTO %s VALUES(?4, ?1, ?2, ?3, ?5, ?6) ON CONFLICT(hour, model, kind, name) DO UPDATE"
	" SET reasoning = reasoning + ?5, vague = vague + ?6";

static int prepare_for(struct counter *c, const char *sql, const char *table, sqlite3_stmt **st, struct fh_err *err)
{
	char text[sizeof(put_use_sql) + sizeof(put_hour_sql)];

	snprintf(text, sizeof(text), sql, table);
	return sqlite3_prepare_v2(fh_keydb_handle(c->db), text, -1, st, NULL) == SQLITE_OK ? 0
											   : fh_keydb_fail(c->db, err);
}

static void counter_free(struct counter *c)
{
	sqlite3_finalize(c->put_use);
	sqlite3_finalize(c->put_hour);
	sqlite3_finalize(c->put_thoughts);
	fh_recount_runs_free(c->runs);
	for (uint32_t i = 0; i < c->cap_accounts; i++)
		free(c->accounts[i]);
	free(c->accounts);
	free(c->open);
	for (struct model *m; (m = c->models);) {
		c->models = m->next;
		free(m);
	}
	free(c);
}

static int resume(struct counter *c, struct fh_err *err)
{
	if (c->job->on) {
		c->model = model_of(c, c->job->model, strlen(c->job->model));
		if (!c->model)
			return fh_errf(err, -ENOMEM, "no memory to count usage");
	}
	c->says = c->job->says;
	if (60 * c->job->high > c->job->now_s)
		c->job->high = 0;
	return load_open(c, err);
}

int fh_recount_log(struct fh_keydb *db, struct fh_reader *r, struct fh_recount_job *job, struct fh_recount *out,
		   struct fh_err *err)
{
	struct counter *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return fh_errf(err, -ENOMEM, "no memory to count usage");
	c->db = db;
	c->job = job;
	c->out = out;
	c->runs = fh_recount_runs_create(db, job->runs, job->subtract);
	if (!c->runs) {
		free(c);
		return fh_errf(err, -ENOMEM, "no memory to count usage");
	}
	rc = prepare_for(c, put_use_sql, job->usage, &c->put_use, err);
	if (!rc)
		rc = prepare_for(c, put_hour_sql, job->hours, &c->put_hour, err);
	if (!rc)
		rc = prepare_for(c, put_thoughts_sql, job->thoughts, &c->put_thoughts, err);
	if (!rc && job->model)
		rc = resume(c, err);
	if (!rc)
		rc = read_all(c, r, err);
	if (!rc)
		rc = flush_all(c, err);
	if (!rc)
		rc = fh_recount_runs_flush(c->runs, err);
	if (!rc && job->model)
		rc = store_open(c, err);
	else if (!rc)
		out->nr_open += c->nr_open;
	for (struct model *m = c->models; m && !rc && job->met; m = m->next)
		rc = job->met(job->ctx, m->name, err);
	job->on = c->model;
	job->says = c->says;
	counter_free(c);
	return rc;
}
