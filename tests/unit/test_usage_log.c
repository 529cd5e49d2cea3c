// SPDX-License-Identifier: Apache-2.0
/*
 * Usage and the audit log: a log that is written here, entry by entry, and a meter that is saved here, at any time and
 * by any clock; what a start, an end and `freehold audit rebuild-usage` make of the two.
 */
#include <fcntl.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <sys/wait.h>

#include "runtime/sched/budget.h"
#include "runtime/trust/accounts.h"
#include "runtime/trust/charge.h"
#include "runtime/trust/recount.h"
#include "tests/unit/audit_util.h"

#define MODEL "m"
#define HOUR UINT64_C(500000)
#define NOW (HOUR * 3600 + 600) /* 2027-01-15, some minutes after eight */
#define DAY 86400u

static char dir[40], log_dir[64], db_path[64];
static struct fh_keydb *db;
static struct fh_log *l;
static struct fh_accounts *accounts;
static struct fh_account_use meter;
static struct fh_recount said;
static struct fh_err err;

static void setup(void)
{
	new_folder(dir);
	snprintf(log_dir, sizeof(log_dir), "%s/log", dir);
	snprintf(db_path, sizeof(db_path), "%s/keys.db", dir);
	cr_assert(!fh_keydb_open(db_path, true, &db, &err), "%s", err.msg);
	cr_assert(!fh_keydb_relax(db, &err));
}

static void teardown(void)
{
	fh_accounts_free(accounts);
	fh_keydb_close(db);
	remove_folder(dir);
}

TestSuite(usage_log, .init = setup, .fini = teardown);

/* ---- the log ---- */

static uint64_t put(struct fh_record *r)
{
	uint64_t i;

	cr_assert(!fh_log_append(l, r, NULL, NULL, 0, FH_BODY_NONE, &i));
	return i;
}

static void put_start(uint64_t flags)
{
	struct fh_record r = {.kind = FH_REC_START, .num[FH_RN_FLAGS] = flags};

	fh_record_set_str(&r, FH_RS_MODEL, MODEL, strlen(MODEL));
	put(&r);
}

static uint64_t put_begin(uint64_t at_s, uint64_t prompt)
{
	struct fh_record r = {
		.kind = FH_REC_BEGIN, .num[FH_RN_TIME_US] = at_s * 1000000, .num[FH_RN_NR_PROMPT] = prompt};

	fh_record_set_str(&r, FH_RS_TENANT, "acme", 4);
	return put(&r);
}

static void put_end(uint64_t at_s, uint64_t begin, uint64_t completion, uint64_t payers)
{
	struct fh_record r = {.kind = FH_REC_END,
			      .num[FH_RN_TIME_US] = at_s * 1000000,
			      .num[FH_RN_REF] = begin + 1,
			      .num[FH_RN_NR_GENERATED] = completion,
			      .num[FH_RN_PAYERS] = payers,
			      .num[FH_RN_MONEY] = payers ? completion : 0};

	put(&r);
}

/* A request of ten tokens of prompt. */
static void put_pair(uint64_t at_s, uint64_t completion)
{
	put_end(at_s, put_begin(at_s, 10), completion, 1u << FH_BUDGET_TENANT);
}

static void open_it(void)
{
	struct fh_log_report report;

	cr_assert(!fh_log_open(log_dir, NULL, NULL, &l, &report, &err), "%s", err.msg);
}

static void close_it(void)
{
	cr_assert(!fh_log_close(l));
}

/* ---- the meter, and what there is of it in the database ---- */

static bool read_meter(void *ctx, uint32_t account, struct fh_account_use *u)
{
	(void)ctx;
	(void)account;
	*u = meter;
	return true;
}

static void load(void *ctx, uint32_t account, enum fh_budget_span span, uint64_t ends_s, uint64_t tokens,
		 uint64_t money, uint64_t requests)
{
	(void)ctx;
	(void)account;
	meter.ends_s[span] = ends_s;
	meter.tokens[span] = tokens;
	meter.money[span] = money;
	meter.requests[span] = requests;
}

/* The meter begins with what is in the tables, as a server's does. */
static void load_meter(void)
{
	static const struct fh_prices prices;

	meter = (struct fh_account_use){0};
	fh_accounts_free(accounts);
	accounts = fh_accounts_create(MODEL, &prices);
	cr_assert(fh_accounts_number(accounts, FH_BUDGET_TENANT, "acme"));
	cr_assert(!fh_accounts_load(accounts, db, load, NULL, &err));
}

/* A request of put_pair() by a clock that says @at_s, as sched/budget.c has it. */
static void use(uint64_t at_s, uint64_t completion)
{
	for (int s = 0; s < FH_NR_SPANS; s++) {
		if (at_s >= meter.ends_s[s]) {
			meter.ends_s[s] = fh_span_end((enum fh_budget_span)s, at_s);
			meter.tokens[s] = meter.money[s] = meter.requests[s] = 0;
		}
		meter.tokens[s] += 10 + completion;
		meter.money[s] += completion;
		meter.requests[s]++;
	}
	meter.prompt += 10;
	meter.completion += completion;
}

static void save(uint64_t at_s)
{
	cr_assert(!fh_accounts_save(accounts, db, at_s, false, read_meter, NULL, &err), "%s", err.msg);
}

static int64_t ask(const char *fmt, ...)
{
	sqlite3_stmt *st;
	char sql[400];
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

static int64_t tokens(enum fh_budget_span span)
{
	return ask("SELECT ifnull(sum(tokens), 0) FROM usage WHERE kind = 'tenant' AND name = 'acme' AND span = %d",
		   span);
}

static int64_t in_hour(uint64_t hour)
{
	return ask("SELECT ifnull(sum(prompt + completion), 0) FROM hours WHERE hour = %lu",
		   (unsigned long)(hour * 3600));
}

static void count_from(uint64_t now_s)
{
	struct fh_reader r;
	int rc;

	cr_assert(!fh_reader_open_any(&r, log_dir, &err), "%s", err.msg);
	rc = fh_usage_open(db, &r, MODEL, now_s, NULL, NULL, &said, &err);
	fh_reader_close(&r);
	cr_assert(!rc, "%s", err.msg);
	load_meter();
}

/* A server begins. */
static void begin(uint64_t now_s)
{
	open_it();
	fh_log_abandon(l);
	count_from(now_s);
	open_it();
	put_start(FH_RF_CHARGES);
}

static void end_in_order(uint64_t now_s)
{
	struct fh_reader r;

	close_it();
	cr_assert(!fh_reader_open(&r, log_dir, NULL, &err));
	cr_assert(!fh_usage_close(db, &r, MODEL, now_s, &err), "%s", err.msg);
	fh_reader_close(&r);
}

/* ---- a start puts the two together ---- */

Test(usage_log, tables_that_are_behind_are_brought_up)
{
	begin(NOW);
	put_pair(NOW, 90);
	use(NOW, 90);
	save(NOW);
	put_pair(NOW + 1, 200);
	put_pair(NOW + 3600, 5);
	close_it();
	begin(NOW + 3601);
	cr_expect(said.recounted && !said.strange);
	cr_expect_eq(said.nr_ahead, 0);
	cr_expect_eq(tokens(FH_SPAN_TOTAL), 100 + 210 + 15);
	cr_expect_eq(tokens(FH_SPAN_DAY), 100 + 210 + 15);
	cr_expect_eq(tokens(FH_SPAN_MINUTE), 15);
	cr_expect_eq(in_hour(HOUR), 310);
	cr_expect_eq(in_hour(HOUR + 1), 15);
	/* Ended in order: the next one believes it; in another minute and hour than the log says they were saved in. */
	put_pair(NOW + 3602, 1);
	use(NOW + 3602, 1);
	save(NOW + 7200);
	end_in_order(NOW + 7201);
	cr_expect_eq(in_hour(HOUR + 1), 26);
	cr_expect_eq(in_hour(HOUR + 2), 0, "what the log says of the hour is right");
	begin(NOW + 7202);
	cr_expect(!said.recounted);
	cr_expect_eq(tokens(FH_SPAN_TOTAL), 336);
	close_it();
}

/* The log's disk is full and relaxed goes on: what was served then is in the tables alone. */
Test(usage_log, what_the_log_lacks_stays)
{
	struct fh_record lost = {.kind = FH_REC_LOST, .num[FH_RN_COUNT] = 8};

	begin(NOW);
	put_pair(NOW, 90);
	use(NOW, 90);
	for (int i = 0; i < 4; i++)
		use(NOW + 1, 990);
	save(NOW + 1);
	put(&lost);
	close_it();
	begin(NOW + 5);
	cr_expect_eq(said.nr_lost, 8);
	cr_expect_eq(said.nr_ahead, 1);
	cr_expect_str_eq(said.ahead, "tenant acme");
	cr_expect_eq(said.saved, 4100);
	cr_expect_eq(said.logged, 100);
	for (int s = 0; s < FH_NR_SPANS; s++)
		cr_expect_eq(tokens((enum fh_budget_span)s), 4100, "span %d", s);
	cr_expect_eq(in_hour(HOUR), 4100);
	/* And what comes later is added to that, also where it was not saved any more. */
	put_pair(NOW + 6, 90);
	close_it();
	begin(NOW + 10);
	cr_expect_eq(said.nr_ahead, 0);
	cr_expect_eq(tokens(FH_SPAN_TOTAL), 4200);
	cr_expect_eq(in_hour(HOUR), 4200);
	close_it();
}

Test(usage_log, an_older_log_is_no_reason_to_forget)
{
	begin(NOW);
	put_pair(NOW, 90);
	use(NOW, 90);
	save(NOW);
	close_it();
	/* Seen with more than it has now. */
	cr_assert(!fh_usage_saw(db, MODEL, 5, &err));
	begin(NOW + 5);
	cr_expect(said.strange);
	cr_expect_eq(tokens(FH_SPAN_TOTAL), 100);
	close_it();
}

Test(usage_log, a_change_behind_its_back_is_noticed)
{
	begin(NOW);
	put_pair(NOW, 90);
	use(NOW, 90);
	save(NOW);
	end_in_order(NOW);
	cr_assert_eq(ask("UPDATE usage SET money = money - 1 WHERE span = 1 RETURNING money"), 89);
	begin(NOW + 1);
	cr_expect(said.changed);
	cr_expect_eq(ask("SELECT money FROM usage WHERE span = 1"), 90);
	end_in_order(NOW + 1);
	cr_assert_eq(ask("UPDATE hours SET cached = 1 RETURNING cached"), 1);
	begin(NOW + 2);
	cr_expect(said.changed);
	close_it();
}

Test(usage_log, refused_requests_that_were_counted)
{
	struct fh_record r = {.kind = FH_REC_REFUSED, .num[FH_RN_TIME_US] = NOW * 1000000};
	struct fh_budget_charge c = {.payers = 1, .nr = 1, .piece[0] = {.minute = NOW / 60, .requests = 1}};
	uint8_t buf[FH_CHARGE_BYTES];

	begin(NOW);
	fh_record_set_str(&r, FH_RS_TENANT, "acme", 4);
	put(&r);
	fh_charge_put(&c, 0, &r, buf);
	put(&r);
	close_it();
	begin(NOW + 1);
	cr_expect_eq(said.nr_charged, 1);
	cr_expect_eq(ask("SELECT requests FROM usage WHERE span = 3"), 1);
	close_it();
}

/* ---- clocks ---- */

Test(usage_log, a_clock_that_was_ahead_once)
{
	const uint64_t ahead = NOW + 400 * UINT64_C(86400);

	begin(NOW);
	put_pair(ahead, 1);
	use(ahead, 1);
	save(ahead);
	close_it();
	begin(NOW + 1);
	cr_expect_eq(tokens(FH_SPAN_MONTH), 11, "it counts for the present");
	/* The clock is right again: after each kill the month is the sum of what was used in it. */
	for (int n = 0; n < 3; n++) {
		put_pair(NOW + 10, 90);
		close_it();
		begin(NOW + 20);
		cr_expect_eq(tokens(FH_SPAN_MONTH), 11 + 100 * (n + 1));
		cr_expect_eq(ask("SELECT ends FROM usage WHERE span = 2"), fh_span_end(FH_SPAN_MONTH, NOW));
	}
	cr_expect_eq(in_hour(HOUR), 300);
	close_it();
}

/* Set right again between two steps of the base: what was paid then is of its own day, not of when it is counted. */
Test(usage_log, a_clock_that_is_set_right)
{
	uint64_t base, open_one;
	struct fh_reader r;

	begin(NOW);
	put_pair(NOW + 9 * DAY, 90);
	open_one = put_begin(NOW + 9 * DAY, 10);
	cr_assert(!fh_log_publish(l));
	cr_assert(!fh_reader_open(&r, log_dir, NULL, &err));
	cr_assert(!fh_usage_advance(db, &r, MODEL, NOW + 9 * DAY, 100, &base, &said, &err), "%s", err.msg);
	fh_reader_close(&r);
	put_pair(NOW, 90);
	put_end(NOW, open_one, 40, 1);
	close_it();
	begin(NOW + DAY);
	cr_expect_eq(tokens(FH_SPAN_DAY), 150);
	cr_expect_eq(ask("SELECT ends FROM usage WHERE span = 1"), fh_span_end(FH_SPAN_DAY, NOW));
	cr_expect_eq(tokens(FH_SPAN_TOTAL), 250);
	close_it();
}

/* Within a run: the meter's row is of the future, and the log has a row of the present. */
Test(usage_log, a_row_of_the_future_gives_way)
{
	begin(NOW);
	put_pair(NOW, 90);
	use(NOW, 90);
	put_pair(NOW + 40 * DAY, 1);
	use(NOW + 40 * DAY, 1);
	put_pair(NOW + 2, 90);
	use(NOW + 2, 90);
	save(NOW + 2);
	cr_assert_eq(tokens(FH_SPAN_MONTH), 111, "the meter's, which began anew and does not go back");
	close_it();
	begin(NOW + 3);
	cr_expect_eq(tokens(FH_SPAN_MONTH), 211);
	cr_expect_eq(tokens(FH_SPAN_TOTAL), 211);
	close_it();
}

/* Set back over midnight: the meter stays in the span that it had begun, and so does the count. */
Test(usage_log, a_clock_that_was_set_back)
{
	const uint64_t midnight = NOW - NOW % DAY + DAY;

	begin(midnight);
	put_pair(midnight + 5, 90);
	use(midnight + 5, 90);
	save(midnight + 5);
	put_pair(midnight - 100, 90);
	close_it();
	begin(midnight + 10);
	cr_expect_eq(tokens(FH_SPAN_DAY), 200);
	put_pair(midnight - 50, 40);
	close_it();
	begin(midnight + 11);
	cr_expect_eq(tokens(FH_SPAN_DAY), 250, "a start changes nothing about that");
	put_end(midnight + 20, put_begin(midnight + 20, 10), 90, 1);
	close_it();
	begin(midnight + 30);
	cr_expect_eq(tokens(FH_SPAN_DAY), 350);
	close_it();
}

Test(usage_log, hours_before_the_start_count_once)
{
	begin(NOW + 3 * DAY);
	put_pair(NOW, 90);
	use(NOW, 90);
	save(NOW);
	close_it();
	begin(NOW + 60);
	cr_expect_eq(in_hour(HOUR), 100);
	cr_expect_eq(ask("SELECT requests FROM hours"), 1);
	close_it();
}

/* ---- the base moves on ---- */

Test(usage_log, a_run_leaves_little_to_count)
{
	uint64_t open_one, base = 0;
	struct fh_reader r;

	begin(NOW);
	put_pair(NOW, 90);
	open_one = put_begin(NOW, 10);
	use(NOW, 90);
	save(NOW);
	cr_assert(!fh_log_publish(l));
	cr_assert(!fh_reader_open(&r, log_dir, NULL, &err));
	for (uint64_t n = 1; n <= r.cp.size; n++) {
		cr_assert(!fh_usage_advance(db, &r, MODEL, NOW, 1, &base, &said, &err), "%s", err.msg);
		cr_assert_eq(base, n);
	}
	fh_reader_close(&r);
	cr_expect_eq(ask("SELECT count(*) FROM hours_run"), 0, "no difference, no row");
	put_end(NOW + 1, open_one, 40, 1);
	close_it();
	begin(NOW + 2);
	cr_expect_eq(said.from, base);
	cr_expect_eq(said.nr_entries, 1);
	cr_expect_eq(said.nr_bad, 0, "the request that was open is known");
	cr_expect_eq(tokens(FH_SPAN_TOTAL), 150);
	cr_expect_eq(in_hour(HOUR), 150);
	close_it();
}

static void die(void *ctx, uint64_t nr, uint64_t of)
{
	(void)ctx;
	if (nr < of)
		_exit(7);
}

/* A start that is killed while it counts is gone on with. */
Test(usage_log, a_long_count_is_gone_on_with)
{
	struct fh_reader r;
	uint64_t first;
	int status;
	pid_t pid;

	begin(NOW);
	first = put_begin(NOW, 10); /* open across the step */
	for (int i = 0; i < 16500; i++)
		put_pair(NOW, 90);
	put_end(NOW, first, 90, 1);
	close_it();
	fh_keydb_close(db);
	pid = fork();
	if (!pid) {
		if (fh_keydb_open(db_path, false, &db, &err) || fh_reader_open(&r, log_dir, NULL, &err))
			_exit(1);
		fh_usage_open(db, &r, MODEL, NOW, die, NULL, &said, &err);
		_exit(2);
	}
	cr_assert(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	cr_assert_eq(WEXITSTATUS(status), 7);
	cr_assert(!fh_keydb_open(db_path, false, &db, &err));
	cr_expect_eq(tokens(FH_SPAN_TOTAL), 0);
	count_from(NOW + 1);
	cr_expect_gt(said.from, 30000);
	cr_expect_eq(tokens(FH_SPAN_TOTAL), 16501 * 100);
	cr_expect_eq(in_hour(HOUR), 16501 * 100);
	cr_expect_eq(said.nr_bad, 0);
}

/* ---- by chance ---- */

#define NR_TENANTS 3u
#define NR_CLIENTS 16u

static uint32_t rnd(uint64_t *x)
{
	/* xorshift64 (Marsaglia, 2003) */
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return (uint32_t)(*x >> 32);
}

struct client {
	struct fh_budget_hold h;
	bool inside;
	uint32_t tenant;
	uint64_t begin;
};

static void put_outcome(struct client *k, uint64_t now)
{
	struct fh_record r = {.kind = FH_REC_END, .num[FH_RN_TIME_US] = now * 1000000, .num[FH_RN_REF] = k->begin + 1};
	uint8_t buf[FH_CHARGE_BYTES];

	for (uint32_t i = 0; i < k->h.charge.nr; i++) {
		r.num[FH_RN_NR_GENERATED] += k->h.charge.piece[i].completion;
		r.num[FH_RN_NR_CACHED] += k->h.charge.piece[i].cached;
	}
	fh_charge_put(&k->h.charge, 20, &r, buf);
	put(&r);
	k->inside = false;
}

static void step(struct fh_budget_book *book, struct client *k, uint64_t now, uint64_t *x)
{
	struct fh_budget_ask ask = {.account = {1 + rnd(x) % NR_TENANTS}};
	struct fh_record r = {.kind = FH_REC_BEGIN, .num[FH_RN_TIME_US] = now * 1000000, .num[FH_RN_NR_PROMPT] = 20};
	struct fh_budget_word w;
	char name[16];

	if (!k->inside) {
		k->tenant = ask.account[FH_BUDGET_TENANT];
		fh_record_set_str(&r, FH_RS_TENANT, name, (size_t)snprintf(name, sizeof(name), "t%u", k->tenant));
		k->begin = put(&r);
		k->inside = fh_budget_enter(book, &ask, (const uint8_t[16]){0}, 20, 1000000, now, &k->h, &w);
		cr_assert(k->inside);
	} else if (k->h.prompt_due && rnd(x) % 8) {
		fh_budget_prompt(book, &k->h, rnd(x) % 21, now);
	} else if (k->h.prompt_due || rnd(x) % 8 == 0) {
		fh_budget_leave(book, &k->h);
		put_outcome(k, now);
	} else {
		for (uint32_t n = rnd(x) % 40; n; n--)
			cr_assert(fh_budget_token(book, &k->h, false, now));
	}
}

static void agree(const struct fh_budget_account *a, uint32_t i)
{
	static const char *const whats[] = {"ends", "tokens", "money", "requests"};

	for (int s = 0; s < FH_NR_SPANS; s++) {
		const uint64_t want[] = {a->ends_s[s], a->tokens[s], a->money[s], a->requests[s]};

		for (int k = 0; k < 4; k++)
			cr_expect_eq(
				(uint64_t)ask("SELECT %s FROM usage WHERE name = 't%u' AND span = %d", whats[k], i, s),
				want[k], "t%u, span %d, %s", i, s, whats[k]);
	}
	cr_expect_eq((uint64_t)ask("SELECT sum(prompt) FROM hours WHERE name = 't%u'", i), a->prompt);
	cr_expect_eq((uint64_t)ask("SELECT sum(cached) FROM hours WHERE name = 't%u'", i), a->cached);
	cr_expect_eq((uint64_t)ask("SELECT sum(completion) FROM hours WHERE name = 't%u'", i), a->completion);
}

/* The scheduler's meter, its charges through the log, and the count of that, in steps of any length: the same. */
Test(usage_log, the_count_is_the_meter)
{
	static struct fh_budget_account account[1 + NR_TENANTS];
	static struct fh_budget_run run[8];
	static struct client c[NR_CLIENTS];
	static uint32_t bucket[8];
	static const struct fh_budget_table table = {.prices = {.prompt = 3, .cached = 1, .completion = 7}};
	struct fh_budget_book book;
	uint64_t x = 20261130, now = NOW, base = 0;
	struct fh_reader r;

	fh_budget_init(&book, account, 1 + NR_TENANTS, run, bucket, 8);
	book.table = &table;
	begin(now);
	for (int op = 0; op < 20000; op++) {
		step(&book, &c[rnd(&x) % NR_CLIENTS], now, &x);
		if (rnd(&x) % 64 == 0)
			now += rnd(&x) % 50 ? rnd(&x) % 90 : 86400;
		if (rnd(&x) % 512)
			continue;
		cr_assert(!fh_log_publish(l));
		cr_assert(!fh_reader_open(&r, log_dir, NULL, &err));
		cr_assert(!fh_usage_advance(db, &r, MODEL, now, 1 + rnd(&x) % 400, &base, &said, &err), "%s", err.msg);
		fh_reader_close(&r);
	}
	for (uint32_t i = 0; i < NR_CLIENTS; i++) {
		fh_budget_leave(&book, &c[i].h);
		if (c[i].inside)
			put_outcome(&c[i], now);
	}
	close_it();
	cr_expect_gt(base, 1000);
	count_from(now);
	cr_expect_eq(said.from, base);
	cr_expect_eq(said.nr_bad + said.nr_open, 0);
	for (uint32_t i = 1; i <= NR_TENANTS; i++)
		agree(&account[i], i);
}

/* ---- nothing is believed that nobody signed ---- */

Test(usage_log, entries_that_were_changed_are_refused)
{
	char path[100];
	struct fh_reader r;
	uint8_t b;
	int fd;

	begin(NOW);
	for (int i = 0; i < 300; i++)
		put_pair(NOW, 90);
	use(NOW, 90);
	save(NOW);
	close_it();
	snprintf(path, sizeof(path), "%s/tile/entries/000", log_dir);
	fd = open(path, O_RDWR);
	/* The last byte of the bundle: of the money of an outcome, so that the record stays one. */
	cr_assert(fd >= 0 && lseek(fd, -1, SEEK_END) > 0 && read(fd, &b, 1) == 1);
	b ^= 1;
	cr_assert(lseek(fd, -1, SEEK_END) > 0 && write(fd, &b, 1) == 1 && !close(fd));
	cr_assert(!fh_reader_open(&r, log_dir, NULL, &err));
	cr_expect_eq(fh_usage_open(db, &r, MODEL, NOW, NULL, NULL, &said, &err), -EBADMSG);
	cr_expect(strstr(err.msg, "freehold audit verify"), "%s", err.msg);
	fh_reader_close(&r);
	cr_expect_eq(tokens(FH_SPAN_TOTAL), 100, "as it was saved");
}

/* ---- all of it anew ---- */

struct diffs {
	uint32_t nr, nr_spans, nr_hours;
	bool writes; /* another writes to the database meanwhile */
};

static void note_diff(void *ctx, const struct fh_usage_diff *d)
{
	struct diffs *s = ctx;
	struct fh_keydb *other;
	struct fh_key_new key;
	struct fh_key_spec spec = {.tenant = "other"};

	s->nr++;
	s->nr_spans += d->when && *d->when;
	s->nr_hours += !d->when;
	if (s->writes) {
		cr_assert(!fh_keydb_open(db_path, false, &other, &err), "%s", err.msg);
		cr_expect(!fh_keydb_add(other, &spec, NOW, &key, &err), "%s", err.msg);
		fh_keydb_close(other);
		s->writes = false;
	}
}

static int rebuild(bool check, bool force, uint32_t nr, struct diffs *d)
{
	struct fh_usage_rebuild how = {.now_s = NOW, .check = check, .force = force, .diff = note_diff, .ctx = d};
	struct fh_reader r[2];
	int rc;

	for (uint32_t i = 0; i < nr; i++)
		cr_assert(!fh_reader_open(&r[i], log_dir, NULL, &err), "%s", err.msg);
	rc = fh_usage_rebuild(db, r, nr, &how, &said, &err);
	for (uint32_t i = 0; i < nr; i++)
		fh_reader_close(&r[i]);
	return rc;
}

Test(usage_log, a_check_sees_every_number)
{
	struct diffs d = {0};

	begin(NOW);
	put_pair(NOW, 90);
	use(NOW, 90);
	save(NOW);
	end_in_order(NOW);
	cr_assert_eq(rebuild(true, false, 1, &d), 0);
	cr_expect_eq(d.nr, 0);
	ask("UPDATE usage SET tokens = 7 WHERE span = 2 RETURNING 1");
	ask("UPDATE hours SET cached = 3 RETURNING 1");
	d.writes = true;
	cr_assert_eq(rebuild(true, false, 1, &d), 0);
	cr_expect(!d.writes);
	cr_expect_eq(d.nr, 2);
	cr_expect_eq(d.nr_spans, 1);
	cr_expect_eq(d.nr_hours, 1);
	cr_expect_eq(tokens(FH_SPAN_MONTH), 7, "it only looks");
	cr_assert_eq(rebuild(false, false, 1, &d), 0);
	cr_expect_eq(tokens(FH_SPAN_MONTH), 100);
	cr_expect_eq(ask("SELECT cached FROM hours"), 0);
	cr_expect_eq(rebuild(true, false, 2, &d), -EEXIST, "the same twice");
}

/* What versions used that did not log what was paid is in the tables alone. */
Test(usage_log, an_old_log_does_not_empty_the_tables)
{
	struct diffs d = {0};

	open_it();
	put_start(0);
	put_end(NOW, put_begin(NOW, 10), 90, 0);
	close_it();
	load_meter();
	use(NOW, 90);
	save(NOW);
	cr_expect_eq(rebuild(false, false, 1, &d), -EOPNOTSUPP);
	cr_expect(strstr(err.msg, "--force"), "%s", err.msg);
	cr_expect_eq(tokens(FH_SPAN_TOTAL), 100);
	begin(NOW + 1);
	cr_expect_eq(tokens(FH_SPAN_TOTAL), 100);
	close_it();
	cr_expect_eq(rebuild(false, true, 1, &d), 0);
	cr_expect_eq(tokens(FH_SPAN_TOTAL), 0);
}

/* ---- records ---- */

Test(usage_log, a_short_text_after_long_ones)
{
	struct fh_record r = {.kind = FH_REC_END}, back;
	uint8_t out[FH_RECORD_MAX];
	char big[FH_RECORD_TEXT_MAX];
	size_t bad;

	memset(big, 'a', sizeof(big));
	for (int i = 64; i < FH_NR_RS_END; i++)
		fh_record_set_str(&r, (enum fh_record_str)i, big, i < FH_RS_USER ? sizeof(big) : 3);
	cr_assert_eq(fh_record_decode(out, fh_record_encode(&r, out), &back, &bad), 0);
	cr_expect_eq(back.str[FH_RS_USER - 64].n, 3);
}
