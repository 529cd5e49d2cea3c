// SPDX-License-Identifier: Apache-2.0
/*
 * From the entries of a log to the tables of usage.
 *
 * One pass in the order of the entries.  Requests that have begun are remembered
 * until their outcome; a START forgets those before it, whose process is gone.
 * Of an account's minute, day and month only the last is kept, as the meter does;
 * hours go to the table when the next one begins.
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
};

/* A request that has begun. */
struct open_request {
	uint64_t entry, nr_prompt;
	char tenant[FH_IDENTITY_NAME_MAX + 1], user[FH_IDENTITY_NAME_MAX + 1];
	char key[2 * FH_IDENTITY_KEY_BYTES + 1];
};

struct counter {
	struct fh_keydb *db;
	sqlite3_stmt *put_use, *put_hour;
	struct model *models;
	const struct model *model; /* of the last START; NULL: none, or not one that is wanted */
	bool started;
	struct account **accounts; /* [cap_accounts], a power of two, by hash; NULL: free */
	uint32_t nr_accounts, cap_accounts;
	struct open_request *open; /* [nr_open] in order of entry */
	uint32_t nr_open, cap_open;
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
		sqlite3_bind_int64(c->put_hour, 5 + i, (int64_t)v[i]);
	rc = step_done(c, c->put_hour, err);
	a->hour = NO_HOUR;
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

static void add_use(struct fh_account_use *u, const struct fh_budget_piece *p)
{
	for (int s = 0; s < FH_NR_SPANS; s++) {
		uint64_t ends_s = fh_span_end((enum fh_budget_span)s, p->minute * 60);

		/* Of a span that is over already. */
		if (ends_s < u->ends_s[s])
			continue;
		if (ends_s > u->ends_s[s])
			u->tokens[s] = u->money[s] = u->requests[s] = 0;
		u->ends_s[s] = ends_s;
		u->tokens[s] += p->prompt + p->completion;
		u->money[s] += p->money;
		u->requests[s] += p->requests;
	}
}

static int pay(struct counter *c, int kind, const char *name, const struct fh_budget_charge *ch, struct fh_err *err)
{
	struct account *a = account(c, kind, name);
	int rc = 0;

	if (!a)
		return fh_errf(err, -ENOMEM, "no memory to count usage");
	for (uint32_t i = 0; i < ch->nr && !rc; i++) {
		const struct fh_budget_piece *p = &ch->piece[i];

		add_use(&a->use, p);
		if (a->hour != p->minute / 60)
			rc = flush_hour(c, a, err);
		a->hour = p->minute / 60;
		a->in_hour.requests += p->requests;
		a->in_hour.prompt += p->prompt;
		a->in_hour.cached += p->cached;
		a->in_hour.completion += p->completion;
		a->in_hour.money += p->money;
	}
	return rc;
}

static int pay_all(struct counter *c, const struct open_request *q, const struct fh_budget_charge *ch,
		   struct fh_err *err)
{
	char user[NAME_BYTES];
	int rc = 0;

	snprintf(user, sizeof(user), "%s/%s", q->tenant, q->user);
	if (ch->payers & 1u << FH_BUDGET_TENANT)
		rc = pay(c, FH_BUDGET_TENANT, q->tenant, ch, err);
	if (!rc && ch->payers & 1u << FH_BUDGET_USER)
		rc = pay(c, FH_BUDGET_USER, user, ch, err);
	if (!rc && ch->payers & 1u << FH_BUDGET_KEY)
		rc = pay(c, FH_BUDGET_KEY, q->key, ch, err);
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

static int note_start(struct counter *c, const struct fh_record *rec, const char *wanted)
{
	const struct fh_record_bytes *name = &rec->str[FH_RS_MODEL - 64];
	struct model *m;

	c->out->nr_open += c->nr_open;
	c->nr_open = 0;
	c->started = true;
	c->model = NULL;
	if (wanted && (name->n != strlen(wanted) || memcmp(name->p, wanted, name->n)))
		return 0;
	for (m = c->models; m; m = m->next)
		if (strlen(m->name) == name->n && !memcmp(m->name, name->p, name->n))
			break;
	if (!m) {
		m = calloc(1, sizeof(*m) + name->n + 1);
		if (!m)
			return -ENOMEM;
		copy_text(m->name, name->n + 1, name);
		m->next = c->models;
		c->models = m;
	}
	c->model = m;
	return 0;
}

static int note_begin(struct counter *c, uint64_t i, const struct fh_record *rec)
{
	const struct fh_record_bytes *key = &rec->str[FH_RS_KEY_ID - 64];
	struct open_request *q;

	if (c->nr_open == c->cap_open) {
		uint32_t cap = c->cap_open ? 2 * c->cap_open : 64;

		q = realloc(c->open, cap * sizeof(*q));
		if (!q)
			return -ENOMEM;
		c->open = q;
		c->cap_open = cap;
	}
	q = &c->open[c->nr_open++];
	*q = (struct open_request){.entry = i, .nr_prompt = rec->num[FH_RN_NR_PROMPT]};
	copy_text(q->tenant, sizeof(q->tenant), &rec->str[FH_RS_TENANT - 64]);
	copy_text(q->user, sizeof(q->user), &rec->str[FH_RS_USER - 64]);
	if (key->n == FH_IDENTITY_KEY_BYTES)
		sodium_bin2hex(q->key, sizeof(q->key), key->p, key->n);
	return 0;
}

static int note_end(struct counter *c, const struct fh_record *rec, struct fh_err *err)
{
	uint64_t ref = rec->num[FH_RN_REF] - 1;
	struct fh_budget_charge ch;
	struct open_request q;
	uint32_t k = c->nr_open;
	int rc = 0;

	/* Most ends are of one of the last. */
	while (k && c->open[k - 1].entry != ref)
		k--;
	if (!k) {
		c->out->nr_bad += c->started;
		return 0;
	}
	q = c->open[k - 1];
	memmove(&c->open[k - 1], &c->open[k], (c->nr_open-- - k) * sizeof(q));
	if (fh_charge_get(rec, q.nr_prompt, &ch)) {
		c->out->nr_bad++;
		return 0;
	}
	if (c->model && ch.payers)
		rc = pay_all(c, &q, &ch, err);
	c->out->nr_charged += c->model && ch.payers;
	c->out->nr_unpaid += !ch.payers;
	return rc;
}

static int note_entry(struct counter *c, uint64_t i, const struct fh_record *rec, const char *model, struct fh_err *err)
{
	int rc = 0;

	switch (rec->kind) {
	case FH_REC_START: rc = note_start(c, rec, model); break;
	case FH_REC_BEGIN: rc = note_begin(c, i, rec); break;
	case FH_REC_END: return note_end(c, rec, err);
	default: break;
	}
	return rc ? fh_errf(err, rc, "no memory to count usage") : 0;
}

static int read_all(struct counter *c, struct fh_reader *r, uint64_t from, const char *model, struct fh_err *err)
{
	struct fh_record_bytes leaf;
	struct fh_record rec;
	size_t bad;
	int rc = 0;

	for (uint64_t i = from; i < r->cp.size && !rc; i++) {
		rc = fh_reader_entry(r, i, &leaf);
		if (!rc && fh_record_decode(leaf.p, leaf.n, &rec, &bad))
			rc = -EBADMSG;
		if (rc)
			return fh_errf(err, rc, "entry %" PRIu64 " of the audit log cannot be read: %s", i,
				       strerror(-rc));
		rc = note_entry(c, i, &rec, model, err);
		c->out->nr_entries++;
	}
	c->out->nr_open += c->nr_open;
	return rc;
}

static const char put_use_sql[] =
	"INSERT INTO usage VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT(model, kind, name, span) DO UPDATE SET"
	" tokens = CASE WHEN ends = ?5 THEN tokens ELSE 0 END + ?6,"
	" money = CASE WHEN ends = ?5 THEN money ELSE 0 END + ?7,"
	" requests = CASE WHEN ends = ?5 THEN requests ELSE 0 END + ?8, ends = ?5"
	" WHERE ends <= ?5"; /* that of the total is -1 */
static const char put_hour_sql[] =
	"INSERT INTO hours VALUES(?4, ?1, ?2, ?3, ?5, ?6, ?7, ?8, ?9) ON CONFLICT(hour, model, kind, name) DO UPDATE"
	" SET prompt = prompt + ?5, cached = cached + ?6, completion = completion + ?7, money = money + ?8,"
	" requests = requests + ?9";

static void counter_free(struct counter *c)
{
	sqlite3_finalize(c->put_use);
	sqlite3_finalize(c->put_hour);
	for (uint32_t i = 0; i < c->cap_accounts; i++)
		free(c->accounts[i]);
	free(c->accounts);
	free(c->open);
	for (struct model *m; (m = c->models);) {
		c->models = m->next;
		free(m);
	}
}

int fh_recount_log(struct fh_keydb *db, struct fh_reader *r, uint64_t from, const char *model, struct fh_recount *out,
		   struct fh_err *err)
{
	sqlite3 *h = fh_keydb_handle(db);
	struct counter c = {.db = db, .out = out};
	int rc = 0;

	if (sqlite3_prepare_v2(h, put_use_sql, -1, &c.put_use, NULL) != SQLITE_OK ||
	    sqlite3_prepare_v2(h, put_hour_sql, -1, &c.put_hour, NULL) != SQLITE_OK)
		rc = fh_keydb_fail(db, err);
	if (!rc)
		rc = read_all(&c, r, from, model, err);
	if (!rc)
		rc = flush_all(&c, err);
	counter_free(&c);
	return rc;
}
