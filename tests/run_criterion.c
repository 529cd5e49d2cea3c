// SPDX-License-Identifier: Apache-2.0
/*
 * Runs the tests of one Criterion program without Criterion's own runner.
 *
 * Criterion 2.4 starts each test through an arena at a fixed address, which
 * ThreadSanitizer's address layout refuses, and Debian has no cross library
 * for arm64.  So where a unit test is built for either, it is linked with this
 * file in place of libcriterion: it walks the same "cr_tst" section, forks a
 * child for each test, and reports in the same words ("[SKIP]", "[FAIL]",
 * "[====] Synthesis: ...").  Supported: Test, ParameterizedTest, TestSuite with
 * .init, .fini and .disabled, .signal, .exit_code, .timeout and the classic cr_*
 * assertions; a test that needs more does not link, so nothing is lost without
 * being seen.
 *
 * Memory: messages are freed by the assertion macros; the rest is static.
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXIT_FAILED 101 /* an assertion failed; sanitizers use 66 and 1 */
#define EXIT_SKIPPED 102
#define DEFAULT_TIMEOUT_S 300

extern struct criterion_test *__start_cr_tst[];
extern struct criterion_test *__stop_cr_tst[];
/* No such section: no suite is declared in the program. */
extern struct criterion_suite *__start_cr_sts[] __attribute__((weak));
extern struct criterion_suite *__stop_cr_sts[] __attribute__((weak));

struct criterion_options criterion_options;

static int nr_failed_asserts;
static const struct criterion_test *current; /* in the child: the test that it runs */

void criterion_send_assert(struct criterion_assert_stats *s)
{
	if (s->passed)
		return;
	__atomic_add_fetch(&nr_failed_asserts, 1, __ATOMIC_RELAXED);
	fprintf(stderr, "[----] %s:%u: Assertion failed: %s\n", s->file, s->line, s->message);
}

void cri_asserts_passed_incr(void)
{
}

void criterion_abort_test(void)
{
	exit(EXIT_FAILED);
}

void criterion_continue_test(void)
{
}

void criterion_skip_test(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	fprintf(stderr, "[SKIP] %s::%s: ", current->category, current->name);
	vfprintf(stderr, format, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(EXIT_SKIPPED);
}

void criterion_test_die(const char *msg, ...)
{
	va_list ap;

	va_start(ap, msg);
	vfprintf(stderr, msg, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(EXIT_FAILED);
}

void cr_log(enum criterion_severity severity, const char *msg, ...)
{
	va_list ap;

	(void)severity;
	va_start(ap, msg);
	fprintf(stderr, "[----] ");
	vfprintf(stderr, msg, ap);
	fputc('\n', stderr);
	va_end(ap);
}

int cr_vasprintf(char **strp, const char *fmt, va_list ap)
{
	return vasprintf(strp, fmt, ap);
}

int cr_asprintf(char **strp, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(strp, fmt, ap);
	va_end(ap);
	return n;
}

void cr_asprintf_free(char *buf)
{
	free(buf);
}

/* The default text of a failed assertion: its expression, where it has one. */
char *cr_translate_assert_msg(int msg_index, ...)
{
	const char *expr;
	char *out = NULL;
	va_list ap;

	va_start(ap, msg_index);
	expr = va_arg(ap, const char *);
	va_end(ap);
	if (asprintf(&out, "%s", expr && *expr ? expr : "the test says so") < 0)
		abort();
	return out;
}

void criterion_internal_test_setup(void)
{
}

void criterion_internal_test_main(void (*fn)(void))
{
	fn();
}

void criterion_internal_test_teardown(void)
{
}

/* What TestSuite() says of a test's suite; all zero where none is declared. */
static const struct criterion_test_extra_data *suite_of(const struct criterion_test *t)
{
	static const struct criterion_test_extra_data none;

	for (struct criterion_suite **s = __start_cr_sts; s && s < __stop_cr_sts; s++)
		if (*s && !strcmp((*s)->name, t->category))
			return (*s)->data;
	return &none;
}

/* In the child.  @param: of a parameterized test, else NULL. */
static _Noreturn void run_one(const struct criterion_test *t, void *param)
{
	const struct criterion_test_extra_data *suite = suite_of(t);
	double timeout = t->data->timeout > 0 ? t->data->timeout : DEFAULT_TIMEOUT_S;

	current = t;
	alarm((unsigned int)timeout + 1);
	if (suite->init)
		suite->init();
	if (t->data->init)
		t->data->init();
	if (param)
		((void (*)(void *))t->test)(param);
	else
		t->test();
	if (t->data->fini)
		t->data->fini();
	if (suite->fini)
		suite->fini();
	exit(nr_failed_asserts ? EXIT_FAILED : 0);
}

struct tally {
	int nr_tested, nr_passed, nr_failed, nr_crashed;
};

static void judge(struct tally *n, const struct criterion_test *t, int status)
{
	const char *word = "PASS";

	if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIPPED)
		return; /* the child said why */
	n->nr_tested++;
	if (t->data->signal ? WIFSIGNALED(status) && WTERMSIG(status) == t->data->signal
			    : WIFEXITED(status) && WEXITSTATUS(status) == t->data->exit_code) {
		n->nr_passed++;
	} else if (WIFSIGNALED(status)) {
		fprintf(stderr, "[----] ended by signal %d (%s)\n", WTERMSIG(status), strsignal(WTERMSIG(status)));
		word = "FAIL";
		n->nr_crashed++;
	} else {
		fprintf(stderr, "[----] exit status %d\n", WEXITSTATUS(status));
		word = "FAIL";
		n->nr_failed++;
	}
	fprintf(stderr, "[%s] %s::%s\n", word, t->category, t->name);
}

static void run_test(struct tally *n, const struct criterion_test *t)
{
	struct criterion_test_params p = {.size = 1, .length = 1};

	if (t->data->disabled || suite_of(t)->disabled) {
		fprintf(stderr, "[SKIP] %s::%s: disabled\n", t->category, t->name);
		return;
	}
	if (t->data->kind_ == CR_TEST_PARAMETERIZED)
		p = t->data->param_();
	for (size_t i = 0; i < p.length; i++) {
		void *param = t->data->kind_ == CR_TEST_PARAMETERIZED ? (char *)p.params + i * p.size : NULL;
		int status;
		pid_t pid;

		fflush(NULL);
		fprintf(stderr, "[RUN ] %s::%s\n", t->category, t->name);
		pid = fork();
		if (pid < 0) {
			perror("fork");
			exit(1);
		}
		if (!pid)
			run_one(t, param);
		if (waitpid(pid, &status, 0) == pid)
			judge(n, t, status);
	}
	if (t->data->kind_ == CR_TEST_PARAMETERIZED && p.cleanup)
		p.cleanup(&p);
}

/* Arguments: names of suites to run; none: all.  Options of Criterion's runner are ignored. */
int main(int argc, char **argv)
{
	struct tally n = {0};

	for (struct criterion_test **t = __start_cr_tst; t < __stop_cr_tst; t++) {
		bool wanted = true;

		if (!*t)
			continue;
		for (int i = 1; i < argc; i++) {
			if (argv[i][0] == '-')
				continue;
			wanted = !strcmp(argv[i], (*t)->category);
			if (wanted)
				break;
		}
		if (wanted)
			run_test(&n, *t);
	}
	fprintf(stderr, "[====] Synthesis: Tested: %d | Passing: %d | Failing: %d | Crashing: %d\n", n.nr_tested,
		n.nr_passed, n.nr_failed, n.nr_crashed);
	return n.nr_failed || n.nr_crashed;
}
