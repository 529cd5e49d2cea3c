/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Joules, where the host measures them: processors and their memory through the
 * kernel's powercap (RAPL, also AMD's), NVIDIA GPUs through the driver's library,
 * which is loaded at run time.
 *
 * Counters are opened before the process gives up its rights and read about once
 * a second: on the thread of the keys, where joules are shared out among accounts,
 * else on the main thread, which has nothing else to do.  A counter that
 * cannot be read any more is left out from then on, and said so once; what it
 * counted stays.
 *
 * What was used while the engine computed is busy energy, the rest idle: of each
 * interval, the share of it that the engine computed.  Who used the busy part is
 * for runtime/trust/accounts.h to say.
 */
#ifndef FH_DAEMON_ENERGY_H
#define FH_DAEMON_ENERGY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "runtime/base/vitals.h"

#define FHD_ENERGY_PERIOD_MS 1000
#define FHD_ENERGY_MAX 64 /* counters of a host */

struct fhd_energy;

/* What was found, for the log and for `doctor`. */
struct fhd_energy_report {
	uint32_t nr_cpu, nr_gpu; /* counters that can be read */
	uint32_t nr_denied;	 /* that are there and may not be read, such as ... */
	char denied[256];
	char nvml[160]; /* what became of the GPUs' library; "": it is not installed */
};

/*
 * Find and open counters.  @which: "auto" (all), "cpu", "gpu" or "off"; NULL is
 * "auto".  FREEHOLD_POWERCAP and FREEHOLD_NVML in the environment name another
 * folder and another library than /sys/class/powercap and libnvidia-ml.so.1.
 * NULL: nothing is measured, and @r says why; also when there is no memory.
 */
struct fhd_energy *fhd_energy_open(const char *which, struct fhd_energy_report *r);
void fhd_energy_close(struct fhd_energy *e);

/*
 * Read all counters.  @now_ns: CLOCK_MONOTONIC; @busy_ns: for how long the engine
 * has computed, ever.  The first call only sets the marks.  One thread.
 */
void fhd_energy_sample(struct fhd_energy *e, uint64_t now_ns, uint64_t busy_ns);

/* What has been counted since the first sample; any thread; zeros without @e. */
void fhd_energy_vitals(const struct fhd_energy *e, struct fh_vitals_energy *out);
struct fhd_host_cost;
/* What the settings say that the host costs. */
void fhd_energy_host(const struct fhd_host_cost *c, struct fh_vitals_host *out);
/* Its part of /metrics; any thread; nothing without @e. */
void fhd_energy_metrics(const struct fhd_energy *e, FILE *out);
/* Are there GPUs among them?  Then the system call filter lets the driver's ioctls through. */
bool fhd_energy_has_gpu(const struct fhd_energy *e);
/* "2 processors, 1 GPU", for the log. */
void fhd_energy_describe(const struct fhd_energy_report *r, char out[64]);

#endif /* FH_DAEMON_ENERGY_H */
