// SPDX-License-Identifier: Apache-2.0
/*
 * freehold doctor: what this machine offers, what is amiss, and how to mend it.
 *
 * Each check fills in one finding.  A warning costs speed or a feature; a
 * failure prevents serving, and only that makes the exit status 1.
 */
#include "tools/doctor.h"

#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/log.h"
#include "runtime/daemon/config.h"
#include "runtime/model/model.h"
#include "tools/cmd.h"

static const char usage[] = "usage: freehold doctor [--json]\n"
			    "\n"
			    "Say what this machine offers, what is amiss, and how to mend it.  A line a\n"
			    "finding: ok, warn (slower, or less) or fail (nothing can be served).\n"
			    "\n"
			    "      --json  one JSON object instead\n"
			    "  -h, --help  print this\n"
			    "\n"
			    "The exit status is 1 when something fails, else 0.\n"
			    "\n"
			    "example:\n"
			    "  freehold doctor --json | jq '.findings[] | select(.level != \"ok\")'\n";

void found(struct finding *f, enum finding_level level, const char *fmt, ...)
{
	va_list ap;

	f->level = level;
	va_start(ap, fmt);
	vsnprintf(f->what, sizeof(f->what), fmt, ap);
	va_end(ap);
}

void mend(struct finding *f, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(f->mend, sizeof(f->mend), fmt, ap);
	va_end(ap);
}

bool read_line(const char *path, char *line, size_t cap)
{
	FILE *f = fopen(path, "re");
	bool ok = f && fgets(line, (int)cap, f);

	if (f)
		fclose(f);
	if (ok)
		line[strcspn(line, "\n")] = 0;
	return ok;
}

static void check_model(struct finding *f)
{
	char path[PATH_MAX];
	struct fh_model *m;
	struct fh_err err;

	if (fhd_builtin_model(path, sizeof(path), &err)) {
		found(f, FOUND_WARN, "the built-in model is not installed");
		mend(f, "`make install` puts it into %s; or name a model with -m", FREEHOLD_DATADIR);
		return;
	}
	if (fh_model_open(path, &m, &err)) {
		found(f, FOUND_WARN, "the built-in model is broken: %.160s", err.msg);
		mend(f, "install it again, or name a model with -m");
		return;
	}
	found(f, FOUND_OK, "%s, %.1f M parameters (%.120s)", m->name, (double)m->nr_params / 1e6, path);
	fh_model_close(m);
}

static const struct {
	const char *name;
	doctor_check check;
} checks[] = {
	{"cpu", check_cpu},	    {"threads", check_threads},
	{"load", check_load},	    {"neighbours", check_neighbours},
	{"memory", check_memory},   {"hugepages", check_hugepages},
	{"memlock", check_memlock}, {"nofile", check_nofile},
	{"clock", check_clock},	    {"kernel", check_kernel},
	{"io", check_io},	    {"energy", check_energy},
	{"seccomp", check_seccomp}, {"landlock", check_landlock},
	{"module", check_module},   {"gpu", check_gpu},
	{"ktls", check_ktls},	    {"cuda", check_cuda},
	{"udp", check_udp},	    {"dpdk", check_dpdk},
	{"vfio", check_vfio},	    {"nics", check_nics},
	{"model", check_model},
};

#define NR_CHECKS (sizeof(checks) / sizeof(checks[0]))

static const char *const level_names[] = {"ok", "warn", "fail"};

static void print_text(const struct finding *f, size_t nr)
{
	bool tty = isatty(STDOUT_FILENO);
	static const char *const colours[] = {"\033[32m", "\033[33m", "\033[31m"};

	for (size_t i = 0; i < nr; i++) {
		printf("%s%-4s%s  %-9s  %s\n", tty ? colours[f[i].level] : "", level_names[f[i].level],
		       tty ? "\033[0m" : "", f[i].name, f[i].what);
		if (*f[i].mend)
			printf("                 -> %s\n", f[i].mend);
	}
}

static int print_json(const struct finding *f, size_t nr, bool ok)
{
	json_t *list = json_array(), *root;
	int rc;

	for (size_t i = 0; i < nr; i++)
		json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s}", "name", f[i].name, "level",
						      level_names[f[i].level], "what", f[i].what, "mend", f[i].mend));
	root = json_pack("{s:s, s:b, s:o}", "version", FREEHOLD_VERSION, "ok", ok, "findings", list);
	rc = root ? json_dumpf(root, stdout, JSON_INDENT(2)) : -1;
	putchar('\n');
	json_decref(root);
	return rc;
}

int cmd_doctor(int argc, char **argv)
{
	struct finding findings[NR_CHECKS] = {0};
	bool json = false, ok = true;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--json")) {
			json = true;
		} else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			fputs(usage, stdout);
			return 0;
		} else {
			fprintf(stderr, "freehold doctor: there is no option '%s'\n%s", argv[i], usage);
			return 2;
		}
	}
	fh_log_setup(FH_LOG_ERROR, false); /* what the libraries would warn of is among the findings */
	for (size_t i = 0; i < NR_CHECKS; i++) {
		findings[i].name = checks[i].name;
		checks[i].check(&findings[i]);
		ok = ok && findings[i].level != FOUND_FAIL;
	}
	if (json && print_json(findings, NR_CHECKS, ok))
		return 1;
	if (!json)
		print_text(findings, NR_CHECKS);
	return ok ? 0 : 1;
}
