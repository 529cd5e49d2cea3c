// SPDX-License-Identifier: Apache-2.0
/* freehold doctor: processor, memory, clock. */
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/kernels.h"
#include "runtime/accel/pool.h"
#include "runtime/daemon/energy.h"
#include "tools/doctor.h"

/* The value behind @key in a file of "key : value" lines. */
static bool read_key(const char *path, const char *key, char *value, size_t cap)
{
	FILE *f = fopen(path, "re");
	char line[4096];
	bool ok = false;

	while (f && !ok && fgets(line, sizeof(line), f)) {
		char *p = line + strlen(key);

		if (strncmp(line, key, strlen(key)))
			continue;
		p += strspn(p, " \t:");
		p[strcspn(p, "\n")] = 0;
		snprintf(value, cap, "%s", p);
		ok = true;
	}
	if (f)
		fclose(f);
	return ok;
}

static uint64_t meminfo_kib(const char *key)
{
	char value[64];

	return read_key("/proc/meminfo", key, value, sizeof(value)) ? strtoull(value, NULL, 10) : 0;
}

void check_cpu(struct finding *f)
{
	const struct fhk_ops *best = fhk_select(NULL);
	char name[96];

	if (!read_key("/proc/cpuinfo", "model name", name, sizeof(name)))
		snprintf(name, sizeof(name), "a processor without a name");
	found(f, FOUND_OK, "%s: kernels %s", name, best->name);
#ifdef __x86_64__
	if (!strcmp(best->name, "ref")) {
		f->level = FOUND_WARN;
		mend(f, "the processor, or the hypervisor, shows no AVX2: the reference kernels are many times slower");
	}
#endif
}

void check_threads(struct finding *f)
{
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	uint32_t threads = fh_pool_default_threads();
	cpu_set_t set;
	int mask = sched_getaffinity(0, sizeof(set), &set) ? (int)online : CPU_COUNT(&set);

	found(f, FOUND_OK, "%u compute threads: %ld CPUs online, %d in the affinity mask", threads, online, mask);
	if (threads < (uint32_t)mask) {
		found(f, FOUND_WARN, "%u compute threads: the control group's CPU quota is below its %d CPUs", threads,
		      mask);
		mend(f, "raise the quota (cpu.max), or give whole CPUs with a cpuset");
	}
}

/* Others that want the same CPUs cost more than their share where threads wait for one another. */
void check_load(struct finding *f)
{
	double load = 0, stolen = 0;
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t v[8] = {0}, sum = 0;
	char line[256];

	if (getloadavg(&load, 1) != 1)
		load = 0;
	if (read_line("/proc/stat", line, sizeof(line)) &&
	    sscanf(line,
		   "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64,
		   &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7]) == 8) {
		for (int i = 0; i < 8; i++)
			sum += v[i];
		stolen = sum ? 100.0 * (double)v[7] / (double)sum : 0;
	}
	found(f, FOUND_OK, "load %.2f on %ld CPUs, %.1f %% stolen by the hypervisor since boot", load, online, stolen);
	if (load > (double)online || stolen > 5) {
		f->level = FOUND_WARN;
		mend(f, "something else runs here: expect less speed, and do not measure now");
	}
}

/* Work "at idle priority" in another session has a full share all the same, in slices longer than a short deadline. */
void check_neighbours(struct finding *f)
{
	char line[16];

	if (!read_line("/proc/sys/kernel/sched_autogroup_enabled", line, sizeof(line)) || strcmp(line, "1")) {
		found(f, FOUND_OK, "nice and idle priority count between all processes");
		return;
	}
	found(f, FOUND_OK,
	      "each session is a group of its own (kernel.sched_autogroup_enabled): nice and idle "
	      "priority count within one only");
	mend(f, "for deadlines of milliseconds beside other work: CPUSchedulingPolicy=fifo in the unit, or chrt -f 10");
}

void check_memory(struct finding *f)
{
	uint64_t total = meminfo_kib("MemTotal"), avail = meminfo_kib("MemAvailable"), limit = 0;
	char line[64];

	if (read_line("/sys/fs/cgroup/memory.max", line, sizeof(line)))
		limit = strtoull(line, NULL, 10) >> 10; /* "max" gives 0 */
	found(f, FOUND_OK, "%.1f GiB, %.1f GiB available", (double)total / (1 << 20), (double)avail / (1 << 20));
	if (limit && limit < total)
		found(f, FOUND_OK, "%.1f GiB, %.1f GiB available; the control group may use %.1f GiB",
		      (double)total / (1 << 20), (double)avail / (1 << 20), (double)limit / (1 << 20));
	if (avail < 256 << 10) {
		f->level = FOUND_FAIL;
		mend(f, "less than 256 MiB is available: free some, or use a smaller --ctx and --max-seqs");
	}
}

void check_hugepages(struct finding *f)
{
	uint64_t nr = meminfo_kib("HugePages_Total"), free_ = meminfo_kib("HugePages_Free");
	uint64_t size = meminfo_kib("Hugepagesize");
	char thp[64], mode[16] = "unknown", *p;

	if (read_line("/sys/kernel/mm/transparent_hugepage/enabled", thp, sizeof(thp)) && (p = strchr(thp, '[')))
		sscanf(p, "[%15[^]]", mode);
	found(f, FOUND_OK, "transparent: %s; reserved: %" PRIu64 " of %" PRIu64 " KiB, %" PRIu64 " free", mode, nr,
	      size, free_);
	if (!nr)
		mend(f,
		     "none need be reserved; if weights shall never lack them: sysctl vm.nr_hugepages=N, N of %" PRIu64
		     " KiB for weights and KV blocks, at boot",
		     size);
	if (!strcmp(mode, "never") || !strcmp(mode, "unknown")) {
		f->level = FOUND_WARN;
		mend(f,
		     "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: weights then cost fewer TLB misses");
	}
}

void check_clock(struct finding *f)
{
	static const char *const quick[] = {"tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"};
	char source[64];

	if (!read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource", source, sizeof(source))) {
		found(f, FOUND_WARN, "the clock source is unknown");
		return;
	}
	for (size_t i = 0; i < sizeof(quick) / sizeof(quick[0]); i++) {
		if (!strcmp(source, quick[i])) {
			found(f, FOUND_OK, "%s", source);
			return;
		}
	}
	found(f, FOUND_WARN, "%s: reading the time takes a system call", source);
	mend(f, "use the tsc where the processor's is stable (clocksource=tsc), or the hypervisor's own clock");
}

void check_energy(struct finding *f)
{
	struct fhd_energy_report r;
	char what[64];

	/* What it finds is looked at and not used. */
	fhd_energy_close(fhd_energy_open(NULL, &r));
	fhd_energy_describe(&r, what);
	if (r.nr_denied) {
		found(f, FOUND_WARN, "%s%s%u counter%s cannot be read, such as %s", what, *what ? "; " : "",
		      r.nr_denied, r.nr_denied == 1 ? "" : "s", r.denied);
		mend(f, "for the group freehold, in /etc/tmpfiles.d: z /sys/class/powercap/intel-rapl:*/energy_uj 0440 "
			"root "
			"freehold; readers can guess at what others compute (CVE-2020-8694)");
	} else if (r.nvml[0]) {
		found(f, FOUND_WARN, "%s%sNVIDIA's library: %s", what, *what ? "; " : "", r.nvml);
		mend(f, "nvidia-smi says more; older GPUs and some virtual ones measure nothing");
	} else if (*what) {
		found(f, FOUND_OK, "%s", what);
	} else {
		found(f, FOUND_OK,
		      "nothing is measured here: no RAPL (virtual machines have none), no NVIDIA driver; "
		      "`freehold cost host` takes --watts");
	}
}
