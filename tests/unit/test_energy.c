// SPDX-License-Identifier: Apache-2.0
/*
 * Energy: a made-up powercap tree, whose counters begin anew, go away and may not
 * be read, and a library in the place of NVIDIA's; how it is split into busy and
 * idle, shared out among accounts, and kept in the database.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/base/log.h"
#include "runtime/daemon/config.h"
#include "runtime/daemon/energy.h"
#include "runtime/trust/accounts.h"
#include "runtime/trust/measured.h"

#define SECOND 1000000000ull

static char dir[64];

static void put(const char *zone, const char *file, const char *fmt, unsigned long long v)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, zone);
	mkdir(path, 0755);
	snprintf(path, sizeof(path), "%s/%s/%s", dir, zone, file);
	f = fopen(path, "we");
	cr_assert(f, "%s", path);
	fprintf(f, fmt, v);
	fclose(f);
}

static void zone(const char *entry, const char *name, unsigned long long uj, unsigned long long range)
{
	char text[64];

	snprintf(text, sizeof(text), "%s\n", name);
	put(entry, "name", text, 0);
	put(entry, "energy_uj", "%llu\n", uj);
	put(entry, "max_energy_range_uj", "%llu\n", range);
}

static void up(void)
{
	strcpy(dir, "/tmp/freehold-energy-XXXXXX");
	cr_assert(mkdtemp(dir));
	setenv("FREEHOLD_POWERCAP", dir, 1);
	unsetenv("FREEHOLD_NVML");
	fh_log_setup(FH_LOG_ERROR, false);
}

static void down(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	cr_expect_eq(system(command), 0);
}

TestSuite(energy, .init = up, .fini = down);

static double joules(const struct fhd_energy *e)
{
	struct fh_vitals_energy v;

	fhd_energy_vitals(e, &v);
	cr_expect_eq(v.busy_uj + v.idle_uj, v.cpu_uj + v.gpu_uj);
	return (double)(v.cpu_uj + v.gpu_uj) / 1e6;
}

#define expect_joules(e, want)                                                                                         \
	cr_expect(fabs(joules(e) - (want)) < 1e-5, "%.6f J and not %.6f", joules(e), (double)(want))

/* Packages and memory count; what is a part of them, or has them all once more, does not. */
Test(energy, zones_that_count)
{
	struct fhd_energy_report r;
	struct fhd_energy *e;
	char text[64];

	zone("intel-rapl:0", "package-0", 1000000, 262143328850);
	zone("intel-rapl:0:0", "core", 500000, 262143328850);
	zone("intel-rapl:0:1", "dram", 20000, 65532610987);
	zone("intel-rapl:1", "package-1", 3000000, 262143328850);
	zone("intel-rapl:2", "psys", 7000000, 262143328850);
	zone("intel-rapl-mmio:0", "package-0", 1000000, 262143328850);
	e = fhd_energy_open("cpu", &r);
	cr_assert(e);
	cr_expect_eq(r.nr_cpu, 3);
	cr_expect_eq(r.nr_denied, 0);
	fhd_energy_describe(&r, text);
	cr_expect_str_eq(text, "3 counters of processors");
	fhd_energy_sample(e, 10 * SECOND, 0);
	expect_joules(e, 0);
	put("intel-rapl:0", "energy_uj", "%llu\n", 51000000);
	put("intel-rapl:0:0", "energy_uj", "%llu\n", 40500000);
	put("intel-rapl:0:1", "energy_uj", "%llu\n", 2020000);
	put("intel-rapl:1", "energy_uj", "%llu\n", 13000000);
	put("intel-rapl:2", "energy_uj", "%llu\n", 90000000);
	fhd_energy_sample(e, 11 * SECOND, 0);
	expect_joules(e, 50 + 2 + 10);
	fhd_energy_close(e);
	cr_expect_null(fhd_energy_open("off", &r));
	cr_expect_null(fhd_energy_open("gpu", &r), "there is no such library");
}

/* At its end a counter begins anew; one that was set back is not taken for that. */
Test(energy, a_counter_that_begins_anew)
{
	const unsigned long long range = 262143328850;
	struct fhd_energy_report r;
	struct fhd_energy *e;

	zone("intel-rapl:0", "package-0", range - 30000000, range);
	e = fhd_energy_open(NULL, &r);
	cr_assert(e);
	fhd_energy_sample(e, 1 * SECOND, 0);
	put("intel-rapl:0", "energy_uj", "%llu\n", 45000000);
	fhd_energy_sample(e, 2 * SECOND, 0);
	expect_joules(e, 75);
	/* Back to zero from far below its end: 262 kJ in a second is no power of a processor. */
	put("intel-rapl:0", "energy_uj", "%llu\n", 1000);
	fhd_energy_sample(e, 3 * SECOND, 0);
	expect_joules(e, 75);
	put("intel-rapl:0", "energy_uj", "%llu\n", 2001000);
	fhd_energy_sample(e, 4 * SECOND, 0);
	expect_joules(e, 77);
	fhd_energy_close(e);
}

/* A counter that goes away, as a processor does that is taken offline: the others go on. The file is one of the
 * kernel's that really stops to be readable, because what it tells of has ended. */
Test(energy, a_domain_that_vanishes)
{
	struct fhd_energy_report r;
	char path[128], of[64];
	struct fhd_energy *e;
	pid_t child = fork();

	if (!child) {
		pause();
		_exit(0);
	}
	zone("intel-rapl:0", "package-0", 1000000, 262143328850);
	zone("intel-rapl:1", "package-1", 0, 262143328850);
	snprintf(path, sizeof(path), "%s/intel-rapl:1/energy_uj", dir);
	snprintf(of, sizeof(of), "/proc/%d/oom_score", (int)child);
	cr_assert_eq(unlink(path), 0);
	cr_assert_eq(symlink(of, path), 0);
	e = fhd_energy_open("cpu", &r);
	cr_assert(e);
	cr_expect_eq(r.nr_cpu, 2);
	fhd_energy_sample(e, 1 * SECOND, 0);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	put("intel-rapl:0", "energy_uj", "%llu\n", 5000000);
	fhd_energy_sample(e, 2 * SECOND, 0);
	expect_joules(e, 4);
	/* What is no number is as good as gone, too. */
	put("intel-rapl:0", "energy_uj", "rubbish\n", 0);
	fhd_energy_sample(e, 3 * SECOND, 0);
	put("intel-rapl:0", "energy_uj", "%llu\n", 9000000);
	fhd_energy_sample(e, 4 * SECOND, 0);
	expect_joules(e, 4);
	fhd_energy_close(e);
}

/* Files that only root may read, as the kernel has them since 2020: who is not root is told. */
static int look_as_nobody(void)
{
	struct fhd_energy_report r;

	if (setgid(65534) || setuid(65534))
		return 9;
	if (fhd_energy_open("cpu", &r) || r.nr_denied != 1 || r.nr_cpu)
		return 1;
	return strstr(r.denied, "intel-rapl:0/energy_uj: Permission denied") ? 0 : 2;
}

Test(energy, a_file_that_may_not_be_read)
{
	char path[128];
	int status;
	pid_t pid;

	if (geteuid())
		cr_skip_test("only root can become somebody else");
	zone("intel-rapl:0", "package-0", 1000000, 262143328850);
	snprintf(path, sizeof(path), "%s/intel-rapl:0/energy_uj", dir);
	cr_assert_eq(chmod(path, 0400), 0);
	cr_assert_eq(chmod(dir, 0755), 0);
	pid = fork();
	if (!pid)
		_exit(look_as_nobody());
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_expect_eq(status, 0, "%d", WEXITSTATUS(status));
}

/* ---- GPUs ---- */

static void gpus(const char *text)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/gpus", dir);
	setenv("FAKE_NVML", path, 1);
	f = fopen(path, "we");
	fputs(text, f);
	fclose(f);
}

static void load_fake(void)
{
	char exe[256], lib[320];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	cr_assert(n > 0);
	exe[n] = 0;
	*strrchr(exe, '/') = 0;
	snprintf(lib, sizeof(lib), "%s/nvml/fake_nvml.so", exe);
	setenv("FREEHOLD_NVML", lib, 1);
}

/* One GPU counts energy, one only tells its power, one tells nothing and is left out. */
Test(energy, gpus_through_a_library)
{
	struct fhd_energy_report r;
	struct fh_vitals_energy v;
	struct fhd_energy *e;
	char text[64];

	load_fake();
	gpus("3\n1000 0\n-1 50000\n-1 -1\n");
	zone("intel-rapl:0", "package-0", 0, 262143328850);
	e = fhd_energy_open("auto", &r);
	cr_assert(e);
	cr_expect_eq(r.nr_gpu, 2);
	cr_expect(strstr(r.nvml, "GPU 2: Not Supported"), "%s", r.nvml);
	cr_expect(fhd_energy_has_gpu(e));
	fhd_energy_describe(&r, text);
	cr_expect_str_eq(text, "1 counter of processors, 2 GPUs");
	fhd_energy_sample(e, 1 * SECOND, 0);
	gpus("3\n301000 0\n-1 150000\n-1 -1\n");
	fhd_energy_sample(e, 3 * SECOND, 0);
	/* 300 J counted, and (50 W + 150 W) / 2 for two seconds. */
	expect_joules(e, 300 + 200);
	fhd_energy_vitals(e, &v);
	cr_expect_eq(v.gpu_uj, 500000000);
	/* The first GPU falls off the bus with all the others. */
	gpus("");
	fhd_energy_sample(e, 4 * SECOND, 0);
	gpus("3\n901000 0\n-1 150000\n-1 -1\n");
	fhd_energy_sample(e, 5 * SECOND, 0);
	expect_joules(e, 500);
	fhd_energy_close(e);
	setenv("FREEHOLD_NVML", "/lib/x86_64-linux-gnu/libm.so.6", 1);
	cr_expect_null(fhd_energy_open("gpu", &r));
	cr_expect(strlen(r.nvml), "it is a library, and another");
	setenv("FREEHOLD_NVML", "/no/such/library", 1);
	cr_expect_null(fhd_energy_open("gpu", &r));
	cr_expect(strstr(r.nvml, "/no/such/library"), "%s", r.nvml);
}

/* ---- busy and idle ---- */

Test(energy, is_split_by_the_time_that_was_computed)
{
	struct fhd_energy_report r;
	struct fh_vitals_energy v;
	struct fhd_energy *e;
	char *text = NULL;
	size_t n;
	FILE *f;

	zone("intel-rapl:0", "package-0", 0, 262143328850);
	e = fhd_energy_open("cpu", &r);
	fhd_energy_sample(e, 5 * SECOND, 77 * SECOND);
	put("intel-rapl:0", "energy_uj", "%llu\n", 100000000);
	fhd_energy_sample(e, 6 * SECOND, 77 * SECOND + SECOND / 4);
	fhd_energy_vitals(e, &v);
	cr_expect_eq(v.busy_uj, 25000000);
	cr_expect_eq(v.idle_uj, 75000000);
	/* A long step has ended, which began in the last second: no more than all is busy. */
	put("intel-rapl:0", "energy_uj", "%llu\n", 300000000);
	fhd_energy_sample(e, 7 * SECOND, 79 * SECOND);
	fhd_energy_vitals(e, &v);
	cr_expect_eq(v.busy_uj, 225000000);
	cr_expect_eq(v.busy_ns, SECOND + SECOND / 4);
	cr_expect_eq(v.idle_ns, SECOND - SECOND / 4);
	f = open_memstream(&text, &n);
	fhd_energy_metrics(e, f);
	fclose(f);
	cr_expect(strstr(text, "freehold_energy_joules_total{device=\"package-0\",kind=\"cpu\"} 300.000000\n"), "%s",
		  text);
	cr_expect(strstr(text, "\nfreehold_energy_busy_joules_total 225.000000\n"), "%s", text);
	cr_expect(strstr(text, "\nfreehold_energy_idle_joules_total 75.000000\n"), "%s", text);
	free(text);
	fhd_energy_close(e);
}

/* ---- whose it was ---- */

static struct fh_account_use use_of[8];

static bool read_use(void *ctx, uint32_t account, struct fh_account_use *u)
{
	(void)ctx;
	*u = use_of[account];
	return u->ends_s[FH_SPAN_TOTAL];
}

struct found {
	uint64_t uj[3], reasoning;
	double seconds;
	uint32_t nr;
};

static int find(void *ctx, const struct fh_measured *m)
{
	struct found *f = ctx;

	f->uj[f->nr < 3 ? f->nr : 2] += m->uj;
	f->seconds += m->seconds;
	f->reasoning += m->reasoning;
	f->nr++;
	return 0;
}

static struct found look(struct fh_keydb *db, const char *kind)
{
	struct found f = {0};
	struct fh_err err;

	cr_assert_eq(fh_measured_each(db, kind, 0, UINT64_MAX, find, &f, &err), 0, "%s", err.msg);
	return f;
}

static void use(uint32_t account, uint64_t prompt, uint64_t cached, uint64_t completion)
{
	use_of[account].ends_s[FH_SPAN_TOTAL] = UINT64_MAX;
	use_of[account].prompt += prompt;
	use_of[account].cached += cached;
	use_of[account].completion += completion;
}

/* By tokens that were computed: cached ones took nothing. What nobody's tokens took waits for the next ones. */
Test(energy, goes_to_those_whose_tokens_it_made)
{
	const struct fh_prices prices = {0};
	struct fh_accounts *a = fh_accounts_create("m", &prices);
	struct fh_vitals_energy v = {.on = true};
	uint32_t acme = fh_accounts_number(a, FH_BUDGET_TENANT, "acme");
	uint32_t zoo = fh_accounts_number(a, FH_BUDGET_TENANT, "zoo");
	uint32_t key = fh_accounts_number(a, FH_BUDGET_KEY, "0123456789abcdef");
	struct fh_keydb *db;
	struct fh_err err;
	struct found f;
	char path[128];

	snprintf(path, sizeof(path), "%s/keys.db", dir);
	cr_assert_eq(fh_keydb_open(path, true, &db, &err), 0, "%s", err.msg);
	memset(use_of, 0, sizeof(use_of));
	cr_expect_eq(look(db, "tenant").nr, 0, "no table yet");
	/* A long prompt is being read: energy, and no token. */
	v.busy_uj = 4000000;
	fh_accounts_share_energy(a, &v, 0, read_use, NULL);
	cr_expect_eq(fh_accounts_energy_uj(a, acme), 0);
	/* 100 tokens of acme's, 50 of them cached, and 150 of zoo's; 200 in all. */
	use(acme, 90, 50, 10);
	use(key, 90, 50, 10);
	use(zoo, 100, 0, 50);
	v.busy_uj = 10000000;
	v.idle_uj = 3000000;
	v.busy_ns = v.idle_ns = 2 * SECOND;
	fh_accounts_share_energy(a, &v, 200, read_use, NULL);
	cr_expect_eq(fh_accounts_energy_uj(a, acme), 2500000);
	cr_expect_eq(fh_accounts_energy_uj(a, key), 2500000);
	cr_expect_eq(fh_accounts_energy_uj(a, zoo), 7500000);
	use_of[zoo].reasoning = 7;
	cr_assert_eq(fh_accounts_save(a, db, 7200, false, read_use, NULL, &err), 0, "%s", err.msg);
	f = look(db, "tenant");
	cr_expect(f.nr == 2 && f.uj[0] == 2500000 && f.uj[1] == 7500000 && f.reasoning == 7);
	f = look(db, "host");
	cr_expect(f.nr == 2 && f.uj[0] == 10000000 && f.uj[1] == 3000000 && f.seconds == 4);
	/* Tokens whose request has no account take their part with them. */
	use(acme, 0, 0, 100);
	v.busy_uj += 8000000;
	fh_accounts_share_energy(a, &v, 600, read_use, NULL);
	cr_expect_eq(fh_accounts_energy_uj(a, acme), 4500000);
	cr_assert_eq(fh_accounts_save(a, db, 7201, false, read_use, NULL, &err), 0, "%s", err.msg);
	f = look(db, "tenant");
	cr_expect(f.nr == 2 && f.uj[0] == 4500000 && f.uj[1] == 7500000);
	/* A host that idles is no reason to write once a second, but it is not forgotten. */
	v.idle_uj += 1000000;
	fh_accounts_share_energy(a, &v, 600, read_use, NULL);
	cr_assert_eq(fh_accounts_save(a, db, 7202, false, read_use, NULL, &err), 0, "%s", err.msg);
	cr_expect_eq(look(db, "host").uj[1], 3000000);
	cr_assert_eq(fh_accounts_save(a, db, 7203, true, read_use, NULL, &err), 0, "%s", err.msg);
	f = look(db, "host");
	cr_expect(f.uj[0] == 18000000 && f.uj[1] == 4000000);
	fh_keydb_close(db);
	fh_accounts_free(a);
}

/* The engine goes on while it is read: nobody gets energy twice, and what seems to run backwards waits. */
Test(energy, is_shared_once_while_counters_move)
{
	const struct fh_prices prices = {0};
	struct fh_accounts *a = fh_accounts_create("m", &prices);
	struct fh_vitals_energy v = {.on = true};
	uint32_t acme = fh_accounts_number(a, FH_BUDGET_TENANT, "acme");
	uint32_t zoo = fh_accounts_number(a, FH_BUDGET_TENANT, "zoo");

	memset(use_of, 0, sizeof(use_of));
	/* 300 tokens by the time that the accounts are read, of which 100 are known: 3 J, and no more. */
	use(acme, 100, 0, 100);
	use(zoo, 50, 0, 50);
	v.busy_uj = 3000000;
	fh_accounts_share_energy(a, &v, 100, read_use, NULL);
	cr_expect_eq(fh_accounts_energy_uj(a, acme), 2000000);
	cr_expect_eq(fh_accounts_energy_uj(a, zoo), 1000000);
	/* A prompt of 1000, all cached, of which only the second half is seen yet. */
	use(acme, 0, 1000, 0);
	v.busy_uj += 1000000;
	fh_accounts_share_energy(a, &v, 310, read_use, NULL);
	cr_expect_eq(fh_accounts_energy_uj(a, acme), 2000000);
	use(acme, 1000, 0, 10);
	use(zoo, 0, 0, 30);
	v.busy_uj += 1000000;
	fh_accounts_share_energy(a, &v, 350, read_use, NULL);
	cr_expect_eq(fh_accounts_energy_uj(a, acme), 2250000);
	cr_expect_eq(fh_accounts_energy_uj(a, zoo), 1750000);
	fh_accounts_free(a);
}
