// SPDX-License-Identifier: Apache-2.0
/*
 * DPDK's environment (EAL).  A process has one, for as long as it lives: DPDK
 * can be neither started twice nor started again after its end, so it is never
 * ended, and the options of the first who starts it hold for all.
 *
 * What is added unless it is given: I/O addresses that are virtual ones, no
 * files that other processes could attach to, no telemetry socket, and one
 * logical core for the calling thread that may run wherever the thread may,
 * since the threads that poll are the caller's, not DPDK's.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>

#include "runtime/dpdk/dpdk.h"

enum { MAX_ARGS = 64 };

static pthread_mutex_t eal_lock = PTHREAD_MUTEX_INITIALIZER;
static bool eal_runs;
/* The last line of a warning or worse. */
static char last_words[200];

const char *fhd_dpdk_last_words(void)
{
	return last_words;
}

int fhd_dpdk_hush(const char *log)
{
	int level = rte_log_get_level((uint32_t)rte_log_register(log)); /* there already: its number */

	rte_log_set_level_pattern(log, RTE_LOG_CRIT);
	return level;
}

void fhd_dpdk_speak(const char *log, int level)
{
	rte_log_set_level_pattern(log, level > 0 ? (uint32_t)level : RTE_LOG_WARNING);
}

/* DPDK's log goes to standard error, and its last line is kept for messages of our own. */
static ssize_t keep(void *cookie, const char *text, size_t bytes)
{
	size_t n = bytes;

	(void)cookie;
	while (n && (text[n - 1] == '\n' || text[n - 1] == '\r'))
		n--;
	if (n)
		snprintf(last_words, sizeof(last_words), "%.*s", (int)(n < 190 ? n : 190), text);
	fwrite(text, 1, bytes, stderr);
	return (ssize_t)bytes;
}

static bool is_given(const char *const *args, uint32_t nr, const char *const *names)
{
	for (; *names; names++)
		for (uint32_t i = 0; i < nr; i++) {
			size_t n = strlen(*names);

			if (strncmp(args[i], *names, n))
				continue;
			/* "-l" may have its value behind it in the same word, "--lcores" behind '='. */
			if (!args[i][n] || args[i][n] == '=' || n == 2)
				return true;
		}
	return false;
}

/* "--lcores=0@(0-3,8)": the calling thread's own CPUs. */
static void own_cores(char *out, size_t cap)
{
	cpu_set_t set;
	size_t at = (size_t)snprintf(out, cap, "--lcores=0@(");
	const char *comma = "";

	if (sched_getaffinity(0, sizeof(set), &set)) {
		CPU_ZERO(&set);
		CPU_SET(0, &set);
	}
	for (int i = 0; i < CPU_SETSIZE; i++) {
		int to = i;

		if (!CPU_ISSET(i, &set))
			continue;
		while (to + 1 < CPU_SETSIZE && CPU_ISSET(to + 1, &set))
			to++;
		if (at + 16 < cap)
			at += (size_t)snprintf(out + at, cap - at, i == to ? "%s%d" : "%s%d-%d", comma, i, to);
		comma = ",";
		i = to;
	}
	snprintf(out + at, cap - at, ")");
}

static int start(const char *const *args, uint32_t nr, struct fh_err *err)
{
	static const char *const cores[] = {"-l", "-c", "--lcores", "-S", NULL};
	static const char *const mode[] = {"--iova-mode", NULL};
	static const char *const files[] = {"--in-memory",  "--file-prefix", "--huge-unlink",
					    "--legacy-mem", "--no-shconf",   NULL};
	/* Small pages mean DPDK's old allocator, which knows no --in-memory. */
	static const char *const small[] = {"--no-huge", NULL};
	static const char *const level[] = {"--log-level", NULL};
	static const char *const telemetry[] = {"--no-telemetry", "--telemetry", NULL};
	static const cookie_io_functions_t io = {.write = keep};
	char lcores[600], *argv[MAX_ARGS + 8];
	int argc = 0, rc, code;
	sigset_t all, mask;
	cpu_set_t before;
	bool started;
	FILE *log;

	if (nr > MAX_ARGS)
		return fh_errf(err, -EINVAL, "DPDK: more than %d EAL options", MAX_ARGS);
	argv[argc++] = (char *)"freehold";
	own_cores(lcores, sizeof(lcores));
	if (!is_given(args, nr, cores))
		argv[argc++] = lcores;
	if (!is_given(args, nr, mode))
		argv[argc++] = (char *)"--iova-mode=va";
	if (!is_given(args, nr, files))
		argv[argc++] = (char *)(is_given(args, nr, small) ? "--no-shconf" : "--in-memory");
	if (!is_given(args, nr, level))
		argv[argc++] = (char *)"--log-level=warning";
	if (!is_given(args, nr, telemetry))
		argv[argc++] = (char *)"--no-telemetry";
	for (uint32_t i = 0; i < nr; i++)
		argv[argc++] = (char *)args[i];
	argv[argc] = NULL;

	log = fopencookie(NULL, "w", io);
	if (log) {
		setvbuf(log, NULL, _IOLBF, 512);
		rte_openlog_stream(log);
	}
	/* Its threads take no signals: those are the program's own business. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &mask);
	/* It binds the calling thread to its first core. */
	rc = pthread_getaffinity_np(pthread_self(), sizeof(before), &before);
	started = rte_eal_init(argc, argv) >= 0;
	code = rte_errno ? rte_errno : EINVAL;
	if (!rc)
		pthread_setaffinity_np(pthread_self(), sizeof(before), &before);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	if (!started)
		return fh_errf(
			err, -code,
			"DPDK does not start: %s%s%s; `freehold doctor` says what is missing, and without huge pages "
			"\"--no-huge -m 64\" will do",
			rte_strerror(code), *last_words ? ": " : "", last_words);
	eal_runs = true;
	return 0;
}

int fhd_dpdk_eal(const char *const *args, uint32_t nr_args, struct fh_err *err)
{
	int rc = 0;

	pthread_mutex_lock(&eal_lock);
	if (!eal_runs)
		rc = start(args, nr_args, err);
	if (!rc && rte_eal_iova_mode() != RTE_IOVA_VA)
		rc = fh_errf(err, -ENOTSUP,
			     "DPDK runs with physical addresses (--iova-mode=pa); packets here lie in memory that only "
			     "virtual ones reach: bind the card to vfio-pci with the IOMMU on");
	pthread_mutex_unlock(&eal_lock);
	return rc;
}
