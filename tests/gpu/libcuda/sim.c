// SPDX-License-Identifier: Apache-2.0
/* The stand-in's settings, its report, and its errors on demand: see sim.h. */
#include "tests/gpu/libcuda/sim.h"
#include "tests/gpu/simt/simt.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct sim sim = {.report_fd = -1};

static const char *const names[] = {
#define NAME(name, version, args) #name,
	CU_CALLS(NAME)
#undef NAME
};

/* ---- settings, report ---- */

uint64_t sim_number(const char *name, uint64_t otherwise)
{
	const char *v = getenv(name);

	return v && *v ? strtoull(v, NULL, 0) : otherwise;
}

void sim_complain(const char *fmt, ...)
{
	va_list ap;

	if (sim.complaint[0])
		return;
	va_start(ap, fmt);
	vsnprintf(sim.complaint, sizeof(sim.complaint), fmt, ap);
	va_end(ap);
	fprintf(stderr, "libcuda stand-in: %s\n", sim.complaint);
}

void sim_report(void)
{
	int nr_device, nr_pinned;
	char text[8192];
	size_t n = 0;

	if (sim.report_fd < 0 || sim.reported)
		return;
	sim.reported = true;
	sim_mem_check();
	sim_mem_counts(&nr_device, &nr_pinned);
	n = (size_t)snprintf(text, sizeof(text),
			     "{\"complaint\":\"%s\",\"device\":%d,\"pinned\":%d,\"modules\":%d,\"streams\":%d,"
			     "\"events\":%d,\"graphs\":%d,\"execs\":%d,\"contexts\":%d,\"unpinned\":%llu,"
			     "\"graph_ops\":%llu,\"launches_run\":%llu,\"peak_bytes\":%zu,\"sticky\":%u,\"calls\":{",
			     sim.complaint, nr_device, nr_pinned, sim.nr_modules, sim.nr_streams, sim.nr_events,
			     sim.nr_graphs, sim.nr_execs, sim.nr_retained, (unsigned long long)sim.nr_unpinned,
			     (unsigned long long)sim.nr_graph_ops, (unsigned long long)sim.nr_launches_run,
			     sim.peak_bytes, sim.sticky);
	for (int i = 0; i < SIM_NR_CALLS; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s\"%s\":%llu", i ? "," : "", names[i],
				      (unsigned long long)sim.nr_calls[i]);
	n += (size_t)snprintf(text + n, sizeof(text) - n, "}}\n");
	if (write(sim.report_fd, text, n) != (ssize_t)n)
		fprintf(stderr, "libcuda stand-in: cannot write the report\n");
}

void sim_setup(void)
{
	const char *path = getenv("FHSIM_REPORT"), *trace = getenv("FHSIM_TRACE"), *order = getenv("FHSIM_ORDER");

	sim.driver = (int)sim_number("FHSIM_DRIVER", 13000);
	sim.nr_devices = (int)sim_number("FHSIM_DEVICES", 1);
	sim.cc = (int)sim_number("FHSIM_CC", 90);
	sim.mem_bytes = sim_number("FHSIM_MEM", 1ull << 30);
	sim.early = order && !strcmp(order, "early");
	fhk_simt_order((unsigned int)sim_number("SIMT_ORDER", 0));
	/* Opened now: later the process may be confined.  Appended to, since a worker process may be one of several. */
	if (path)
		sim.report_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (trace)
		sim.trace = fopen(trace, "ae");
	atexit(sim_report);
}

/* ---- errors on demand ---- */

/* Is call number @n of cu@name the one that @list, "NAME:N...,...", names? Where its text goes on, or NULL. */
static const char *named(const char *list, const char *name, uint64_t n)
{
	size_t len = strlen(name);

	for (; list && *list; list = strchr(list, ',') ? strchr(list, ',') + 1 : NULL) {
		char *end;

		if (strncmp(list, name, len) || list[len] != ':')
			continue;
		if (strtoull(list + len + 1, &end, 10) == n)
			return end;
	}
	return NULL;
}

/* With FHSIM_ONCE only the first process that comes here is hit. */
static bool may_hit(void)
{
	static bool made;
	const char *once = getenv("FHSIM_ONCE");
	int fd;

	if (!once || made)
		return true;
	fd = open(once, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return false;
	close(fd);
	made = true;
	return true;
}

struct sim_hit sim_enter(enum sim_call id)
{
	const char *name = names[id], *rest;
	uint64_t n = ++sim.nr_calls[id];
	struct sim_hit hit = {CU_OK, CU_OK, false};

	if (sim.trace) {
		fprintf(sim.trace, "%s\n", name);
		fflush(sim.trace);
	}
	rest = named(getenv("FHSIM_FAIL"), name, n);
	if (rest && *rest == ':' && may_hit()) {
		char *end;
		cu_result r = (cu_result)strtoul(rest + 1, &end, 10);

		if (!strncmp(end, ":late", 5)) {
			hit.late = r;
		} else {
			hit.now = r;
			/* Of these cuda.h says that every later call returns them. */
			if (r == CU_ILLEGAL_ADDRESS || r == CU_LAUNCH_TIMEOUT || (r >= 714 && r <= 719))
				sim.sticky = r;
		}
	}
	hit.hang = named(getenv("FHSIM_HANG"), name, n) && may_hit();
	if (hit.now == CU_OK && sim.sticky != CU_OK)
		hit.now = sim.sticky;
	if (hit.now == CU_OK && !sim.initialised && id != SIM_Init && id != SIM_DriverGetVersion)
		hit.now = CU_NOT_INITIALIZED;
	return hit;
}
