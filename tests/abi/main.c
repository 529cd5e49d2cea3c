// SPDX-License-Identifier: Apache-2.0
/*
 * Runs the tests of this folder: abi [--list] [--without=PREFIX...] [NAME...].
 * What a kernel is known to lack, and another runs, is left out by its name's
 * beginning; what turns out to be missing is skipped.  A line a test, then
 * `N passed, N failed, N skipped`.  `abi --load SECONDS` keeps the devices busy
 * while something else is tried; `abi --cost` counts instructions (cost.c);
 * `abi --poweroff` turns the machine off: a test kernel's first process has no
 * other way.
 */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/abi/abi.h"

#define TEST_LIMIT_S 120

static struct test *tests, **tests_end = &tests;
char *skip_reason;

void test_add(struct test *test)
{
	*tests_end = test;
	tests_end = &test->next;
}

/* Named, or none is named; and its name does not begin with what is left out here. */
static bool chosen(const struct test *test, int argc, char **argv)
{
	bool named = false, any_name = false;

	for (int i = 1; i < argc; i++) {
		if (strncmp(argv[i], "--without=", 10) == 0) {
			if (strncmp(test->name, argv[i] + 10, strlen(argv[i] + 10)) == 0)
				return false;
			continue;
		}
		any_name = true;
		named |= strcmp(argv[i], test->name) == 0;
	}
	return named || !any_name;
}

static void in_child(const struct test *test)
{
	setpgid(0, 0);
	alarm(TEST_LIMIT_S);
	test->run();
	fflush(stdout);
	_exit(0);
}

/* Whatever a test started goes with it: they are one process group. */
static int run(const struct test *test)
{
	struct timespec nap = {.tv_nsec = 1000000};
	pid_t pid = fork();
	int status;

	if (pid == 0)
		in_child(test);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	kill(-pid, SIGKILL);
	while (waitpid(-pid, NULL, WNOHANG) >= 0)
		nanosleep(&nap, NULL);
	return status;
}

int main(int argc, char **argv)
{
	unsigned int passed = 0, failed = 0, skipped = 0;

	if (argc == 2 && strcmp(argv[1], "--poweroff") == 0)
		return reboot(RB_POWER_OFF) ? 1 : 0;
	if (argc == 3 && strcmp(argv[1], "--load") == 0) {
		load((unsigned int)atoi(argv[2]));
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "--cost") == 0) {
		cost();
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "--list") == 0) {
		for (const struct test *t = tests; t; t = t->next)
			puts(t->name);
		return 0;
	}
	skip_reason = mmap(NULL, SKIP_ROOM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (skip_reason == MAP_FAILED)
		return 1;
	/* Grandchildren whose parent was killed come to us. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	setrlimit(RLIMIT_CORE, &(struct rlimit){0});
	for (const struct test *t = tests; t; t = t->next) {
		int status;

		if (!chosen(t, argc, argv))
			continue;
		fflush(stdout);
		status = run(t);
		if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
			printf("[PASS] abi::%s\n", t->name);
			passed++;
		} else if (WIFEXITED(status) && WEXITSTATUS(status) == TEST_SKIPPED) {
			printf("[SKIP] abi::%s: %s\n", t->name, skip_reason);
			skipped++;
		} else {
			printf("[FAIL] abi::%s (status %#x)\n", t->name, (unsigned int)status);
			failed++;
		}
	}
	printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
	if (!passed && !failed && !skipped)
		printf("no test of that name (--list)\n");
	return failed || !(passed + skipped);
}
