// SPDX-License-Identifier: Apache-2.0
/*
 * Usage by agent run, and thoughts by the hour: what a start, an end and `freehold audit rebuild-usage` make of what
 * was saved and what the log says, and how many rows there are at most.
 */
#include "tests/unit/usage_util.h"

TestSuite(usage_runs, .init = setup, .fini = teardown);

/* ---- a start, an end ---- */

Test(usage_runs, rows_that_are_behind_are_brought_up)
{
	begin(NOW);
	both(NOW, 1, 8, 90, 5);
	both(NOW + 4, 2, 8, 30, 0);
	both(NOW + 5, 1, 0, 7, 0);
	save(NOW + 10);
	cr_expect_eq(of_run(1, 8, "completion"), 90);
	cr_expect_eq(of_run(2, 8, "completion"), 30, "runs are told apart by tenant");
	cr_expect_eq(of_run(1, 0, "requests"), 1, "what is of no run is not in the sum");
	/* What came after the last save, and then the kill. */
	put_pair(NOW + 20, 1, 8, 200, 11);
	put_pair(NOW + 21, 1, 9, 3, 0);
	close_it();
	begin(NOW + 30);
	cr_expect_eq(of_run(1, 8, "requests"), 2);
	cr_expect_eq(of_run(1, 8, "prompt"), 20);
	cr_expect_eq(of_run(1, 8, "completion"), 290);
	cr_expect_eq(of_run(1, 8, "reasoning"), 16);
	cr_expect_eq(of_run(1, 8, "money"), 290);
	cr_expect_eq(of_run(1, 8, "depth"), 1);
	cr_expect_eq(of_run(1, 8, "first"), (int64_t)NOW);
	cr_expect_eq(of_run(1, 8, "last"), (int64_t)NOW + 22);
	cr_expect_eq(of_run(1, 9, "completion"), 3);
	cr_expect_eq(of_run(1, 0, "completion"), 293);
	cr_expect_eq(of_run(1, 0, "requests"), 3);
	cr_expect_eq(of_run(2, 0, "completion"), 30);
	cr_expect_eq(thoughts_in(HOUR), 16);
	both(NOW + 40, 1, 8, 10, 0);
	save(NOW + 41);
	end_in_order(NOW + 42);
	cr_expect_eq(of_run(1, 8, "completion"), 300);
	cr_expect_eq(ask("SELECT count(*) FROM runs_since"), 0);
	cr_expect_eq(rebuild(true, NOW + 43), 0);
	begin(NOW + 44);
	cr_expect(!said.recounted);
	cr_expect_eq(of_run(1, 8, "completion"), 300);
	close_it();
}

/* Relaxed, and the log's disk is full: what was served then is in the tables alone. */
Test(usage_runs, what_the_log_lacks_stays)
{
	begin(NOW);
	both(NOW, 1, 8, 90, 4);
	use(NOW, 1, 8, 50, 3);
	use(NOW, 1, 9, 20, 0);
	save(NOW + 1);
	close_it();
	for (int i = 0; i < 2; i++) {
		begin(NOW + 2);
		cr_expect_eq(of_run(1, 8, "completion"), 140);
		cr_expect_eq(of_run(1, 9, "completion"), 20);
		cr_expect_eq(of_run(1, 0, "completion"), 160);
		cr_expect_eq(thoughts_in(HOUR), 7);
		end_in_order(NOW + 3);
	}
	cr_expect_eq(of_run(1, 8, "completion"), 140);
	cr_expect_gt(rebuild(true, NOW + 4), 0);
	rebuild(false, NOW + 4);
	cr_expect_eq(of_run(1, 8, "completion"), 90);
	cr_expect_eq(of_run(1, 9, "completion"), -1);
	cr_expect_eq(of_run(1, 0, "completion"), 90);
	cr_expect_eq(thoughts_in(HOUR), 4);
	cr_expect_eq(rebuild(true, NOW + 5), 0);
}

/* A thought at five to, saved at five past: the log says which hour it was of. */
Test(usage_runs, thoughts_are_of_the_hour_that_the_log_says)
{
	const uint64_t end = (HOUR + 1) * 3600;

	begin(end - 10);
	both(end - 5, 1, 8, 90, 40);
	save(end + 1);
	cr_expect_eq(thoughts_in(HOUR + 1), 40);
	both(end + 5, 1, 8, 90, 2);
	save(end + 9);
	end_in_order(end + 10);
	cr_expect_eq(thoughts_in(HOUR), 40);
	cr_expect_eq(thoughts_in(HOUR + 1), 2);
	cr_expect_eq(rebuild(true, end + 11), 0);
	ask("UPDATE measured SET reasoning = 9 WHERE reasoning = 40 RETURNING 1");
	cr_expect_eq(rebuild(true, end + 11), 1);
	rebuild(false, end + 11);
	cr_expect_eq(thoughts_in(HOUR), 40);
}

/* A log whose outcomes do not say how much of them was thoughts takes none away; what is not in the log stays. */
Test(usage_runs, an_old_log_takes_no_thoughts)
{
	begin(NOW);
	both(NOW, 1, 8, 90, 40);
	put_start(FH_RF_CHARGES);
	put_pair(NOW + 1, 1, 8, 90, 0);
	use(NOW + 1, 1, 8, 90, 20);
	put_pair(NOW + 3700, 1, 9, 90, 0);
	use(NOW + 3700, 1, 9, 90, 20);
	save(NOW + 3);
	ask("UPDATE runs SET uj = 77 RETURNING 1");
	end_in_order(NOW + 4);
	cr_expect_eq(thoughts_in(HOUR), 80);
	rebuild(true, NOW + 5);
	rebuild(false, NOW + 5);
	cr_expect_eq(thoughts_in(HOUR), 80);
	cr_expect_eq(of_run(1, 8, "reasoning"), 60);
	cr_expect_eq(of_run(1, 9, "reasoning"), 20);
	cr_expect_eq(of_run(1, 8, "uj"), 77);
	cr_expect_eq(of_run(1, 0, "uj"), 77);
	/* Of a run that had no outcome yet there is nothing but joules. */
	ask("INSERT INTO runs SELECT model, 'corp', run, first, last, 0, 0, 0, 0, 0, 0, 0, 5 FROM runs WHERE tenant ="
	    " 'acme' RETURNING 1");
	rebuild(false, NOW + 5);
	cr_expect(of_run(3, 8, "uj") == 5 && of_run(3, 0, "uj") == 5 && of_run(3, 8, "requests") == 0);
	cr_expect_eq(rebuild(true, NOW + 6), 0);
}

/* Requests that were under way at a step of the base keep their run. */
Test(usage_runs, a_step_in_mid_request)
{
	struct fh_record r = {.kind = FH_REC_END,
			      .num[FH_RN_TIME_US] = (NOW + 9) * 1000000,
			      .num[FH_RN_NR_GENERATED] = 33,
			      .num[FH_RN_PAYERS] = PAYERS,
			      .num[FH_RN_MONEY] = 33};
	struct fh_record refused = {.kind = FH_REC_REFUSED,
				    .num[FH_RN_TIME_US] = (NOW + 9) * 1000000,
				    .num[FH_RN_PAYERS] = PAYERS,
				    .num[FH_RN_RUN_DEPTH] = 6};
	struct fh_reader reader;
	uint64_t base = 0;
	uint8_t id[16];

	begin(NOW);
	r.num[FH_RN_REF] = put_begin(NOW, 1, 12, 5) + 1;
	cr_assert(!fh_log_publish(l));
	cr_assert(!fh_reader_open(&reader, log_dir, NULL, &err));
	cr_assert(!fh_usage_advance(db, &reader, MODEL, NOW, 100, &base, &said, &err), "%s", err.msg);
	fh_reader_close(&reader);
	cr_expect_eq(ask("SELECT count(*) FROM usage_open_run"), 1);
	put(&r);
	/* One that was counted in the queue and never began. */
	run_id(12, id);
	fh_record_set_str(&refused, FH_RS_TENANT, "acme", 4);
	fh_record_set_str(&refused, FH_RS_RUN, id, sizeof(id));
	put(&refused);
	close_it();
	count_from(NOW + 10);
	cr_expect_eq(said.from, base);
	cr_expect_eq(of_run(1, 12, "completion"), 33);
	cr_expect_eq(of_run(1, 12, "requests"), 2);
	cr_expect_eq(of_run(1, 12, "depth"), 6);
	cr_expect_eq(of_run(1, 12, "first"), (int64_t)NOW);
	cr_expect_eq(of_run(1, 12, "last"), (int64_t)NOW + 9);
}

/* ---- bounds ---- */

/* A client that names a new run with each request: rows are bounded, the sum is whole, and others keep theirs. */
Test(usage_runs, new_runs_without_end)
{
	const struct fh_run_keep keep = {.rows = 500, .days = 90};
	uint64_t sum = 0, now = NOW;

	cr_assert(!fh_runs_set_keep(db, &keep, &err));
	begin(NOW);
	fh_accounts_keep_runs(accounts, &keep);
	both(NOW, 2, 5, 40, 0);
	for (uint32_t run = 1; run <= 6000; run++) {
		both(++now, 1, run, run % 10, 0);
		sum += run % 10;
		if (run % 1500)
			continue;
		save(now);
		cr_expect_leq(ask("SELECT count(*) FROM runs"), 500 + 1024 + 3);
	}
	cr_expect_eq(of_run(1, 0, "completion"), (int64_t)sum, "the sum is whole");
	both(now, 2, 5, 2, 0);
	save(now += 120);
	cr_expect_eq(ask("SELECT count(*) FROM runs WHERE tenant = 'acme' AND run <> ''"), 500);
	cr_expect_eq(of_run(2, 5, "completion"), 42, "another tenant's row is not in the way");
	end_in_order(now);
	cr_expect_eq(ask("SELECT count(*) FROM runs WHERE tenant = 'acme' AND run <> ''"), 500);
	cr_expect_eq(of_run(1, 6000, "requests"), 1, "what was not told is in the log");
	cr_expect_eq(of_run(1, 1, "requests"), -1);
	cr_expect_eq(of_run(1, 0, "completion"), (int64_t)sum);
	cr_expect_eq(ask("SELECT count(*) FROM runs_since"), 0);
	cr_expect_eq(rebuild(true, now), 0);
	rebuild(false, now);
	cr_expect_eq(ask("SELECT count(*) FROM runs WHERE tenant = 'acme' AND run <> ''"), 500);
	cr_expect_eq(rebuild(true, now), 0);
	cr_expect_eq(of_run(2, 5, "completion"), 42);
	ask("UPDATE runs SET requests = requests + 1 WHERE tenant = 'acme' AND run = '' RETURNING 1");
	cr_expect_eq(rebuild(true, now), 1);
}

/* The log says nothing for long, and clients name ever new runs: what waits for it is bounded, and nothing is made up.
 */
Test(usage_runs, what_waits_for_the_log_is_bounded)
{
	const struct fh_run_keep keep = {.rows = 1000000, .days = 90};
	uint64_t now = NOW, sum = 0;
	uint32_t run = 0;

	cr_assert(!fh_runs_set_keep(db, &keep, &err));
	begin(NOW);
	fh_accounts_keep_runs(accounts, &keep);
	both(NOW, 1, 8, 90, 0);
	ask("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %u) INSERT INTO"
	    " runs_since SELECT '" MODEL
	    "', 'acme', printf('%%032x', i), 1, 1, 0, 1, 0, 0, 1, 0, 0, 0 FROM n RETURNING 1",
	    FH_RUNS_SINCE_MAX);
	while (ask("SELECT count(*) FROM runs_since WHERE run = '*'") == 0) {
		cr_assert_lt(run, FH_RUNS_SINCE_MAX / 4, "it is never found to be too much");
		for (int i = 0; i < 3000; i++, run++, sum += 2)
			use(now, run % 3 + 1, 100 + run, 2, 0);
		save(++now);
	}
	cr_expect_eq(ask("SELECT count(*) FROM runs_since"), 1);
	use(now, 1, 8, 5, 0);
	save(++now);
	cr_expect_eq(ask("SELECT count(*) FROM runs_since"), 1, "no row more until a start");
	end_in_order(now);
	cr_expect_eq(ask("SELECT count(*) FROM runs_since"), 0);
	cr_expect_eq(of_run(1, 8, "completion"), 95, "the log's 90 are not added once more");
	cr_expect_eq(of_run(1, 0, "completion") + of_run(2, 0, "completion") + of_run(3, 0, "completion"),
		     (int64_t)sum + 95);
	/* And then it is as before. */
	begin(now += 10);
	put_pair(now, 1, 8, 7, 0);
	close_it();
	begin(now + 10);
	cr_expect_eq(of_run(1, 8, "completion"), 102);
	close_it();
}

Test(usage_runs, old_rows_go_and_the_sum_stays)
{
	const struct fh_run_keep none = {.rows = 0, .days = 1};

	begin(NOW);
	both(NOW, 1, 8, 90, 0);
	save(NOW + 10);
	both(NOW + 91 * DAY, 1, 9, 10, 0);
	save(NOW + 91 * DAY + 10);
	cr_expect_eq(of_run(1, 8, "completion"), -1);
	cr_expect_eq(of_run(1, 9, "completion"), 10);
	cr_expect_eq(of_run(1, 0, "completion"), 100);
	end_in_order(NOW + 91 * DAY + 20);
	cr_expect_eq(rebuild(true, NOW + 91 * DAY + 30), 0);
	begin(NOW + 91 * DAY + 40);
	fh_accounts_keep_runs(accounts, &none);
	cr_assert(!fh_runs_set_keep(db, &none, &err));
	both(NOW + 91 * DAY + 50, 1, 10, 1, 0);
	save(NOW + 91 * DAY + 120);
	cr_expect_eq(ask("SELECT count(*) FROM runs"), 1);
	cr_expect_eq(of_run(1, 0, "completion"), 101);
	end_in_order(NOW + 91 * DAY + 130);
	cr_expect_eq(rebuild(true, NOW + 91 * DAY + 140), 0);
}

/* ---- a file of the version before ---- */

static const char old_sql[] =
	"CREATE TABLE usage_mark(model TEXT PRIMARY KEY, origin TEXT NOT NULL, base INTEGER NOT NULL,"
	"  entries INTEGER NOT NULL, live INTEGER NOT NULL, says INTEGER NOT NULL, high INTEGER NOT NULL,"
	"  closed INTEGER NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE usage_base(model TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,"
	"  span INTEGER NOT NULL, ends INTEGER NOT NULL, tokens INTEGER NOT NULL, money INTEGER NOT NULL,"
	"  requests INTEGER NOT NULL, PRIMARY KEY(model, kind, name, span)) WITHOUT ROWID;"
	"CREATE TABLE usage_open(model TEXT NOT NULL, entry INTEGER NOT NULL, prompt INTEGER NOT NULL,"
	"  high INTEGER NOT NULL, tenant TEXT NOT NULL, user TEXT NOT NULL, key TEXT NOT NULL,"
	"  PRIMARY KEY(model, entry)) WITHOUT ROWID;"
	"CREATE TABLE hours_run(hour INTEGER NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL,"
	"  name TEXT NOT NULL, prompt INTEGER NOT NULL, cached INTEGER NOT NULL, completion INTEGER NOT NULL,"
	"  money INTEGER NOT NULL, requests INTEGER NOT NULL, PRIMARY KEY(hour, model, kind, name)) WITHOUT ROWID;"
	"CREATE TABLE measured(hour INTEGER NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,"
	"  uj INTEGER NOT NULL, seconds REAL NOT NULL, reasoning INTEGER NOT NULL,"
	"  PRIMARY KEY(hour, model, kind, name)) WITHOUT ROWID;";

/* What that version's server left when it was killed: a base at entry 2, in mid-request, saved and not saved. */
Test(usage_runs, a_file_of_the_version_before)
{
	struct fh_record end = {.kind = FH_REC_END,
				.num[FH_RN_TIME_US] = (NOW + 1) * 1000000,
				.num[FH_RN_NR_GENERATED] = 90,
				.num[FH_RN_PAYERS] = PAYERS,
				.num[FH_RN_MONEY] = 90};
	struct fh_reader r;
	char sql[2000];
	uint64_t hour_s = HOUR * 3600, first;

	open_it();
	put_start(FH_RF_CHARGES);
	first = put_begin(NOW, 1, 8, 1);
	end.num[FH_RN_REF] = first + 1;
	put(&end);
	put_pair(NOW + 5, 1, 9, 10, 0);
	close_it();
	cr_assert(!fh_reader_open(&r, log_dir, NULL, &err));
	snprintf(sql, sizeof(sql),
		 "INSERT INTO usage_mark VALUES('m', '%s', %lu, %lu, 1, 1, 0, 0, 0);"
		 "INSERT INTO usage_open VALUES('m', %lu, 10, 0, 'acme', '', '');"
		 "INSERT INTO usage VALUES('m', 'tenant', 'acme', 3, -1, 100, 90, 1);"
		 "INSERT INTO hours VALUES(%lu, 'm', 'tenant', 'acme', 10, 0, 90, 90, 1);"
		 "INSERT INTO hours_run VALUES(%lu, 'm', 'tenant', 'acme', 10, 0, 90, 90, 1);"
		 "INSERT INTO measured VALUES(%lu, 'm', 'tenant', 'acme', 5000, 0, 33);",
		 r.cp.origin, (unsigned long)first + 1, (unsigned long)r.cp.size, (unsigned long)first,
		 (unsigned long)hour_s, (unsigned long)hour_s, (unsigned long)hour_s);
	fh_reader_close(&r);
	cr_assert(!sqlite3_exec(fh_keydb_handle(db), old_sql, NULL, NULL, NULL));
	cr_assert(!sqlite3_exec(fh_keydb_handle(db), sql, NULL, NULL, NULL), "%s", sqlite3_errmsg(fh_keydb_handle(db)));
	fh_keydb_close(db);
	cr_assert(!fh_keydb_open(db_path, false, &db, &err), "%s", err.msg);
	cr_expect_eq(rebuild(true, NOW + 8) > 0, true, "it has no runs, and lacks what was not saved");
	cr_expect_eq(ask("SELECT count(*) FROM sqlite_master WHERE name = 'runs'"), 0, "a check makes nothing");
	begin(NOW + 10);
	cr_expect(!said.strange && !said.changed && said.recounted);
	cr_expect_eq(ask("SELECT tokens FROM usage WHERE span = 3"), 120);
	cr_expect_eq(ask("SELECT completion FROM hours"), 100);
	cr_expect_eq(thoughts_in(HOUR), 33);
	cr_expect_eq(of_run(1, 9, "completion"), 10);
	cr_expect_eq(of_run(1, 8, "completion"), -1, "its begin was read when nobody kept runs");
	both(NOW + 20, 1, 9, 5, 2);
	save(NOW + 21);
	end_in_order(NOW + 30);
	cr_expect_eq(of_run(1, 9, "completion"), 15);
	cr_expect_eq(thoughts_in(HOUR), 35);
	cr_expect_gt(rebuild(true, NOW + 40), 0);
	rebuild(false, NOW + 40);
	cr_expect_eq(of_run(1, 8, "completion"), 90);
	cr_expect_eq(of_run(1, 0, "completion"), 105);
	cr_expect_eq(thoughts_in(HOUR), 35);
	cr_expect_eq(ask("SELECT uj FROM measured"), 5000);
	cr_expect_eq(rebuild(true, NOW + 50), 0);
	/* The version before still finds its way. */
	cr_expect_eq(ask("PRAGMA user_version"), 1);
	cr_expect_eq(ask("INSERT INTO hours VALUES(1, 'm', 'key', 'k', 1, 1, 1, 1, 1) RETURNING 1"), 1);
	cr_expect_eq(ask("INSERT INTO hours_run VALUES(1, 'm', 'key', 'k', 1, 1, 1, 1, 1) RETURNING 1"), 1);
	cr_expect_eq(ask("INSERT INTO usage_open VALUES('m', 1, 1, 1, 'a', 'b', 'c') RETURNING 1"), 1);
}

/* ---- joules ---- */

Test(usage_runs, energy_goes_by_run)
{
	struct fh_vitals_energy v = {.on = true, .busy_uj = 8000000};
	struct fh_account_run run[3] = {{.tenant = 1, .turn = 2, .tokens = 100},
					{.tenant = 1, .turn = 2, .tokens = 60},
					{.tenant = 2, .turn = 2, .tokens = 40}};

	run_id(8, run[0].id);
	run_id(9, run[1].id);
	run_id(8, run[2].id);
	begin(NOW);
	/* 40000 uJ a token: 200 tokens, of which 60 of acme's are of no run... */
	meter[1].prompt = 160;
	meter[2].completion = 40;
	fh_accounts_share_energy(accounts, &v, 200, read_meter, NULL);
	run[1].tokens = 0;
	fh_accounts_share_runs(accounts, run, 3, NOW);
	save(NOW);
	cr_expect_eq(of_run(1, 8, "uj"), 4000000);
	cr_expect_eq(of_run(1, 9, "uj"), -1);
	cr_expect_eq(of_run(1, 0, "uj"), 4000000);
	cr_expect_eq(of_run(2, 8, "uj"), 1600000);
	cr_expect_eq(fh_accounts_energy_uj(accounts, 1), 6400000);
	/* ... and the slot becomes another run's; a token was seen of it before it is seen of its tenant. */
	meter[1].prompt += 50;
	v.busy_uj += 2000000;
	run[0].turn = 4;
	run[0].tokens = 51;
	run_id(10, run[0].id);
	fh_accounts_share_energy(accounts, &v, 250, read_meter, NULL);
	fh_accounts_share_runs(accounts, run, 3, NOW);
	fh_accounts_share_runs(accounts, run, 3, NOW);
	/* No token, no share: what is seen now waits for the next price. */
	run[0].tokens = 60;
	fh_accounts_share_energy(accounts, &v, 250, read_meter, NULL);
	fh_accounts_share_runs(accounts, run, 3, NOW);
	save(NOW + 1);
	cr_expect_eq(of_run(1, 8, "uj"), 4000000);
	cr_expect_eq(of_run(1, 10, "uj"), 51 * 40000);
	cr_expect_eq(of_run(1, 0, "uj"), 151 * 40000);
	/* All runs of a tenant have no more than the tenant. */
	run[0].tokens = 100000;
	meter[1].prompt += 10;
	v.busy_uj += 400000;
	fh_accounts_share_energy(accounts, &v, 260, read_meter, NULL);
	fh_accounts_share_runs(accounts, run, 3, NOW);
	save(NOW + 2);
	cr_expect_eq(of_run(1, 0, "uj"), (int64_t)fh_accounts_energy_uj(accounts, 1));
	close_it();
}

/* ---- charges ---- */

Test(usage_runs, thoughts_of_a_charge_in_pieces)
{
	struct fh_budget_charge c = {.payers = PAYERS, .nr = 2}, got;
	struct fh_record r = {.kind = FH_REC_END, .num[FH_RN_TIME_US] = NOW * 1000000}, back;
	uint8_t buf[FH_CHARGE_BYTES], leaf[FH_RECORD_MAX];
	size_t at;

	c.piece[0] = (struct fh_budget_piece){.minute = 100, .requests = 1, .prompt = 10, .completion = 300};
	c.piece[1] = (struct fh_budget_piece){.minute = 200, .completion = 40, .reasoning = 9, .money = 7};
	c.piece[0].reasoning = 200;
	fh_charge_put(&c, 10, &r, buf);
	cr_assert(!fh_record_decode(leaf, fh_record_encode(&r, leaf), &back, &at));
	cr_expect_eq(back.num[FH_RN_NR_REASONING], 209);
	cr_assert(!fh_charge_get(&back, 10, &got));
	cr_expect(!memcmp(&c.piece, &got.piece, 2 * sizeof(c.piece[0])));
	/* Nonsense is none. */
	back.num[FH_RN_NR_REASONING] = 210;
	cr_expect_eq(fh_charge_get(&back, 10, &got), -EINVAL);
	back.num[FH_RN_NR_REASONING] = 209;
	back.str[FH_RS_THOUGHTS - 64].n--;
	cr_expect_eq(fh_charge_get(&back, 10, &got), -EINVAL);
	back.str[FH_RS_THOUGHTS - 64].n = 0;
	cr_expect_eq(fh_charge_get(&back, 10, &got), -EINVAL);
	back.num[FH_RN_NR_REASONING] = 0;
	cr_expect_eq(fh_charge_get(&back, 10, &got), 0, "an old one says nothing of them");
	/* One piece: the number says all. */
	r = (struct fh_record){.kind = FH_REC_END, .num[FH_RN_TIME_US] = NOW * 1000000, .num[FH_RN_NR_GENERATED] = 300};
	c.nr = 1;
	fh_charge_put(&c, 10, &r, buf);
	cr_expect_eq(r.num[FH_RN_NR_REASONING], 200);
	cr_expect_eq(r.str[FH_RS_THOUGHTS - 64].n, 0);
	cr_assert(!fh_charge_get(&r, 10, &got));
	cr_expect_eq(got.piece[0].reasoning, 200);
	r.num[FH_RN_NR_REASONING] = 301;
	cr_expect_eq(fh_charge_get(&r, 10, &got), -EINVAL, "more than there is");
}
