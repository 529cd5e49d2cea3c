// SPDX-License-Identifier: Apache-2.0
/*
 * Agent runs of a count from the audit log: added up in memory, and put to the table when they are many, so that a log
 * with any number of runs is counted in little memory.  A run of that many others ago simply has a second part added.
 */
#include "runtime/trust/recount_runs.h"

#include <errno.h>
#include <sodium.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/trust/recount.h"

#define MAX_RUNS 8192u
#define NR_SLOTS (2 * MAX_RUNS) /* a power of two */
#define TRIM_ROWS 262144u

struct run {
	const char *model; /* the counter's, and one pointer a model */
	char tenant[FH_IDENTITY_NAME_MAX + 1], id[FH_RUN_NAME_BYTES];
	struct fh_run_row sum;
};

struct fh_recount_runs {
	struct fh_keydb *db;
	const char *table;
	bool subtract;
	struct run *run; /* [MAX_RUNS] */
	uint32_t nr;
	uint32_t nr_put;	 /* rows, since the table was made shorter */
	uint16_t slot[NR_SLOTS]; /* a run + 1 */
};

struct fh_recount_runs *fh_recount_runs_create(struct fh_keydb *db, const char *table, bool subtract)
{
	struct fh_recount_runs *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->db = db;
	r->table = table;
	r->subtract = subtract;
	r->run = calloc(MAX_RUNS, sizeof(*r->run));
	if (r->run)
		return r;
	free(r);
	return NULL;
}

void fh_recount_runs_free(struct fh_recount_runs *r)
{
	if (!r)
		return;
	free(r->run);
	free(r);
}

static uint64_t negative(const struct fh_recount_runs *r, uint64_t v)
{
	return r->subtract ? 0 - v : v;
}

/* A table that is made from nothing is in memory: of each tenant it holds some more than will be kept, not all. */
static int make_shorter(struct fh_recount_runs *r, struct fh_err *err)
{
	struct fh_run_keep keep;
	int rc;

	r->nr_put += r->nr;
	if (r->subtract || r->nr_put < TRIM_ROWS)
		return 0;
	r->nr_put = 0;
	rc = fh_runs_get_keep(r->db, &keep, err);
	keep.rows = keep.rows < UINT32_MAX / 2 ? 2 * keep.rows : UINT32_MAX;
	return rc ? rc : fh_runs_trim(r->db, r->table, NULL, NULL, keep.rows, err);
}

int fh_recount_runs_flush(struct fh_recount_runs *r, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = r->nr ? fh_runs_prepare(r->db, r->table, &st, err) : 0;

	if (rc || !r->nr)
		return rc;
	for (uint32_t i = 0; i < r->nr && !rc; i++) {
		struct run *run = &r->run[i];
		struct fh_run_row row = run->sum;

		row.model = run->model;
		row.tenant = run->tenant;
		row.run = run->id;
		row.requests = negative(r, row.requests);
		row.prompt = negative(r, row.prompt);
		row.cached = negative(r, row.cached);
		row.completion = negative(r, row.completion);
		row.reasoning = negative(r, row.reasoning);
		row.money = negative(r, row.money);
		row.uj = r->subtract ? 0 : row.uj;
		rc = fh_runs_step(r->db, st, &row, err);
	}
	sqlite3_finalize(st);
	if (!rc)
		rc = make_shorter(r, err);
	r->nr = 0;
	memset(r->slot, 0, sizeof(r->slot));
	return rc;
}

static uint32_t hash_of(const char *tenant, const char *id)
{
	uint32_t h = 2166136261u; /* FNV-1a */

	for (; *tenant; tenant++)
		h = (h ^ (unsigned char)*tenant) * 16777619u;
	for (; *id; id++)
		h = (h ^ (unsigned char)*id) * 16777619u;
	return h;
}

static struct run *find(struct fh_recount_runs *r, const char *model, const char *tenant, const char *id)
{
	uint32_t at = hash_of(tenant, id);
	struct run *run;

	for (; r->slot[at % NR_SLOTS]; at++) {
		run = &r->run[r->slot[at % NR_SLOTS] - 1];
		if (run->model == model && !strcmp(run->id, id) && !strcmp(run->tenant, tenant))
			return run;
	}
	run = &r->run[r->nr++];
	r->slot[at % NR_SLOTS] = (uint16_t)r->nr;
	*run = (struct run){.model = model, .sum.first_s = INT64_MAX};
	strncpy(run->tenant, tenant, sizeof(run->tenant) - 1);
	strncpy(run->id, id, sizeof(run->id) - 1);
	return run;
}

/* Numbers of a log that nobody could have written in a life do not begin anew at zero. */
static void add(uint64_t *to, uint64_t v)
{
	*to = v < INT64_MAX - *to ? *to + v : INT64_MAX;
}

static void add_to(struct run *run, const struct fh_run_use *u, bool vague)
{
	struct fh_run_row *s = &run->sum;

	s->first_s = u->first_s < s->first_s ? u->first_s : s->first_s;
	s->last_s = u->last_s > s->last_s ? u->last_s : s->last_s;
	if (*run->id)
		s->depth = u->depth > s->depth ? u->depth : s->depth;
	add(&s->requests, u->requests);
	add(&s->prompt, u->prompt);
	add(&s->cached, u->cached);
	add(&s->completion, u->completion);
	add(&s->reasoning, u->reasoning);
	add(&s->money, u->money);
	s->uj += vague;
}

int fh_recount_runs_add(struct fh_recount_runs *r, const char *model, const char *tenant, const struct fh_run_use *u,
			bool vague, struct fh_err *err)
{
	char id[FH_RUN_NAME_BYTES];
	int rc = r->nr + 2 > MAX_RUNS ? fh_recount_runs_flush(r, err) : 0;

	if (rc)
		return rc;
	sodium_bin2hex(id, sizeof(id), u->id, sizeof(u->id));
	add_to(find(r, model, tenant, id), u, vague);
	add_to(find(r, model, tenant, ""), u, vague);
	return 0;
}

/* ---- what the tables of a server that follows its log lack ---- */

#define LACKS(c) "max(0, -" #c ")"
#define LIST6(f) f(requests) ", " f(prompt) ", " f(cached) ", " f(completion) ", " f(reasoning) ", " f(money)
#define MORE(c) #c " = " #c " + excluded." #c
#define MET(c) #c " = max(0, " #c ")"

static const char *const raise_sql[] = {
	"INSERT INTO runs SELECT model, tenant, run, first, last, depth, " LIST6(
		LACKS) ", 0 FROM runs_since WHERE model = ?1 AND min(requests, prompt, cached, completion, reasoning,"
		       " money) < 0 AND NOT EXISTS(SELECT 1 FROM runs_since WHERE model = ?1 AND run = '*')"
		       " ON CONFLICT(model, tenant, run) DO UPDATE SET first = min(first, excluded.first),"
		       " last = max(last, excluded.last), depth = max(depth, excluded.depth), " LIST6(MORE),
	"UPDATE runs_since SET " LIST6(
		MET) " WHERE model = ?1 AND min(requests, prompt, cached, completion, reasoning, money) < 0",
	"DELETE FROM runs_since WHERE model = ?1 AND max(requests, prompt, cached, completion, reasoning, money) = 0",
};

int fh_recount_runs_raise(struct fh_keydb *db, const char *model, uint64_t now_s, struct fh_err *err)
{
	struct fh_run_keep keep;
	int rc = 0, raised = 0;

	for (int i = 0; i < 3 && !rc; i++) {
		rc = fh_usage_run(db, raise_sql[i], model, 0, err);
		if (!i)
			raised = sqlite3_changes(fh_keydb_handle(db));
	}
	if (rc || !raised)
		return rc;
	rc = fh_runs_get_keep(db, &keep, err);
	if (!rc)
		rc = fh_runs_trim(db, "runs", model, NULL, keep.rows, err);
	return rc ? rc : fh_runs_expire(db, model, keep.days, now_s, err);
}
