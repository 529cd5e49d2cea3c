/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of usage by agent run share: a folder with a database and a log, requests as the log has them and as
 * the engine tells them, and what the tables say.
 */
#ifndef TEST_USAGE_UTIL_H
#define TEST_USAGE_UTIL_H

#include <sodium.h>
#include <sqlite3.h>
#include <stdarg.h>

#include "runtime/sched/budget.h"
#include "runtime/trust/accounts.h"
#include "runtime/trust/charge.h"
#include "runtime/trust/measured.h"
#include "runtime/trust/recount.h"
#include "tests/unit/audit_util.h"

#define MODEL "m"
#define HOUR UINT64_C(500000)
#define NOW (HOUR * 3600 + 600)
#define DAY 86400u
#define FLAGS (FH_RF_CHARGES | FH_RF_THOUGHTS)
#define PAYERS (1u << FH_BUDGET_TENANT | 1u << FH_BUDGET_RUN)

static char dir[40], log_dir[64], db_path[64];
static struct fh_keydb *db;
static struct fh_log *l;
static struct fh_accounts *accounts;
static struct fh_account_use meter[4]; /* by account: acme, bolt, corp */
static struct fh_recount said;
static struct fh_err err;

static inline void setup(void)
{
	new_folder(dir);
	snprintf(log_dir, sizeof(log_dir), "%s/log", dir);
	snprintf(db_path, sizeof(db_path), "%s/keys.db", dir);
	cr_assert(!fh_keydb_open(db_path, true, &db, &err), "%s", err.msg);
	cr_assert(!fh_keydb_relax(db, &err));
}

static inline void teardown(void)
{
	fh_accounts_free(accounts);
	fh_keydb_close(db);
	remove_folder(dir);
}

static const char *const tenants[] = {NULL, "acme", "bolt", "corp"};

static inline uint64_t put(struct fh_record *r)
{
	uint64_t i;

	cr_assert(!fh_log_append(l, r, NULL, NULL, 0, FH_BODY_NONE, &i));
	return i;
}

static inline void put_start(uint64_t flags)
{
	struct fh_record r = {.kind = FH_REC_START, .num[FH_RN_FLAGS] = flags};

	fh_record_set_str(&r, FH_RS_MODEL, MODEL, strlen(MODEL));
	put(&r);
}

static inline void open_it(void)
{
	struct fh_log_report report;

	cr_assert(!fh_log_open(log_dir, NULL, NULL, &l, &report, &err), "%s", err.msg);
}

static inline void close_it(void)
{
	cr_assert(!fh_log_close(l));
}

static inline bool read_meter(void *ctx, uint32_t account, struct fh_account_use *u)
{
	(void)ctx;
	for (int s = 0; s < FH_NR_SPANS; s++)
		meter[account].ends_s[s] = fh_span_end((enum fh_budget_span)s, NOW);
	*u = meter[account];
	return true;
}

static inline void load(void *ctx, uint32_t n, enum fh_budget_span span, uint64_t ends_s, uint64_t tokens,
			uint64_t money, uint64_t requests)
{
	(void)ctx;
	(void)ends_s;
	meter[n].tokens[span] = tokens;
	meter[n].money[span] = money;
	meter[n].requests[span] = requests;
}

static inline void load_meter(void)
{
	static const struct fh_prices prices;

	memset(meter, 0, sizeof(meter));
	fh_accounts_free(accounts);
	accounts = fh_accounts_create(MODEL, &prices);
	for (uint32_t i = 1; i < 4; i++)
		cr_assert_eq(fh_accounts_number(accounts, FH_BUDGET_TENANT, tenants[i]), i);
	cr_assert(!fh_accounts_load(accounts, db, load, NULL, &err));
}

static inline void save(uint64_t at_s)
{
	cr_assert(!fh_accounts_save(accounts, db, at_s, false, read_meter, NULL, &err), "%s", err.msg);
}

static inline int64_t ask(const char *fmt, ...)
{
	sqlite3_stmt *st;
	char sql[600];
	int64_t v = -1;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(sql, sizeof(sql), fmt, ap);
	va_end(ap);
	cr_assert(sqlite3_prepare_v2(fh_keydb_handle(db), sql, -1, &st, NULL) == SQLITE_OK, "%s: %s", sql,
		  sqlite3_errmsg(fh_keydb_handle(db)));
	if (sqlite3_step(st) == SQLITE_ROW)
		v = sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	return v;
}

static inline void count_from(uint64_t now_s)
{
	struct fh_reader r;
	int rc;

	cr_assert(!fh_reader_open_any(&r, log_dir, &err), "%s", err.msg);
	rc = fh_usage_open(db, &r, MODEL, now_s, NULL, NULL, &said, &err);
	fh_reader_close(&r);
	cr_assert(!rc, "%s", err.msg);
	load_meter();
}

static inline void begin(uint64_t now_s)
{
	open_it();
	fh_log_abandon(l);
	count_from(now_s);
	open_it();
	put_start(FLAGS);
}

static inline void end_in_order(uint64_t now_s)
{
	struct fh_reader r;

	close_it();
	cr_assert(!fh_reader_open(&r, log_dir, NULL, &err));
	cr_assert(!fh_usage_close(db, &r, MODEL, now_s, &err), "%s", err.msg);
	fh_reader_close(&r);
}

/* ---- a request of ten tokens of prompt, as the log has it, and as the engine tells it ---- */

static inline void run_id(uint32_t run, uint8_t id[16])
{
	memset(id, 0x5a, 16);
	memcpy(id, &run, sizeof(run));
}

static inline uint64_t put_begin(uint64_t at_s, uint32_t tenant, uint32_t run, uint32_t depth)
{
	struct fh_record r = {.kind = FH_REC_BEGIN,
			      .num[FH_RN_TIME_US] = at_s * 1000000,
			      .num[FH_RN_NR_PROMPT] = 10,
			      .num[FH_RN_RUN_DEPTH] = depth};
	uint8_t id[16];

	run_id(run, id);
	fh_record_set_str(&r, FH_RS_TENANT, tenants[tenant], 4);
	if (run)
		fh_record_set_str(&r, FH_RS_RUN, id, sizeof(id));
	return put(&r);
}

static inline void put_pair(uint64_t at_s, uint32_t tenant, uint32_t run, uint64_t completion, uint64_t thoughts)
{
	struct fh_record r = {.kind = FH_REC_END,
			      .num[FH_RN_TIME_US] = (at_s + 2) * 1000000,
			      .num[FH_RN_REF] = put_begin(at_s, tenant, run, run % 7) + 1,
			      .num[FH_RN_NR_GENERATED] = completion,
			      .num[FH_RN_NR_REASONING] = thoughts,
			      .num[FH_RN_PAYERS] = run ? PAYERS : 1,
			      .num[FH_RN_MONEY] = completion};

	put(&r);
}

static inline void use(uint64_t at_s, uint32_t tenant, uint32_t run, uint64_t completion, uint64_t thoughts)
{
	struct fh_account_use *m = &meter[tenant];
	struct fh_run_use u = {.tenant = tenant,
			       .depth = run % 7,
			       .first_s = at_s,
			       .last_s = at_s + 2,
			       .requests = 1,
			       .prompt = 10,
			       .completion = completion,
			       .reasoning = thoughts,
			       .money = completion};

	run_id(run, u.id);
	for (int s = 0; s < FH_NR_SPANS; s++) {
		m->tokens[s] += 10 + completion;
		m->money[s] += completion;
		m->requests[s]++;
	}
	m->prompt += 10;
	m->completion += completion;
	m->reasoning += thoughts;
	if (!run)
		return;
	m->in_runs.requests++;
	m->in_runs.prompt += 10;
	m->in_runs.completion += completion;
	m->in_runs.reasoning += thoughts;
	m->in_runs.money += completion;
	fh_accounts_run_used(accounts, &u);
}

static inline void both(uint64_t at_s, uint32_t tenant, uint32_t run, uint64_t completion, uint64_t thoughts)
{
	put_pair(at_s, tenant, run, completion, thoughts);
	use(at_s, tenant, run, completion, thoughts);
}

/* Run 0: the sum of all of the tenant's. */
static inline int64_t of_run(uint32_t tenant, uint32_t run, const char *what)
{
	char hex[33] = "";
	uint8_t id[16];

	run_id(run, id);
	if (run)
		sodium_bin2hex(hex, sizeof(hex), id, sizeof(id));
	return ask("SELECT ifnull((SELECT %s FROM runs WHERE tenant = '%s' AND run = '%s'), -1)", what, tenants[tenant],
		   hex);
}

static inline int64_t thoughts_in(uint64_t hour)
{
	return ask("SELECT ifnull(sum(reasoning), 0) FROM measured WHERE kind = 'tenant' AND hour = %lu",
		   (unsigned long)(hour * 3600));
}

/* ---- what a check sees ---- */

static uint32_t nr_diffs;

static inline void note_diff(void *ctx, const struct fh_usage_diff *d)
{
	(void)ctx;
	nr_diffs++;
	fprintf(stderr, "%s %s %s: %lu, the log %lu\n", d->kind, d->name, d->what, (unsigned long)d->was,
		(unsigned long)d->is);
}

static inline uint32_t rebuild(bool check, uint64_t now_s)
{
	struct fh_usage_rebuild how = {.now_s = now_s, .check = check, .force = true, .diff = note_diff};
	struct fh_reader r;

	nr_diffs = 0;
	cr_assert(!fh_reader_open(&r, log_dir, NULL, &err), "%s", err.msg);
	cr_assert(!fh_usage_rebuild(db, &r, 1, &how, &said, &err), "%s", err.msg);
	fh_reader_close(&r);
	return nr_diffs;
}

#endif /* TEST_USAGE_UTIL_H */
