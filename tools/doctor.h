/* SPDX-License-Identifier: Apache-2.0 */
/* freehold doctor: the findings, and who makes them. */
#ifndef FH_TOOLS_DOCTOR_H
#define FH_TOOLS_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum finding_level { FOUND_OK, FOUND_WARN, FOUND_FAIL };

/* One thing that was looked at. */
struct finding {
	const char *name;
	enum finding_level level;
	char what[1024]; /* how it is */
	char mend[224];	 /* what to do about it; "" when nothing is to be done */
};

typedef void (*doctor_check)(struct finding *f);

void found(struct finding *f, enum finding_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void mend(struct finding *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* First line of a small file, without its end; false when it cannot be read. */
bool read_line(const char *path, char *line, size_t cap);

/* doctor_host.c: the machine */
void check_cpu(struct finding *f);
void check_threads(struct finding *f);
void check_load(struct finding *f);
void check_neighbours(struct finding *f);
void check_memory(struct finding *f);
void check_hugepages(struct finding *f);
void check_clock(struct finding *f);
void check_energy(struct finding *f);
/* doctor_kernel.c: what the kernel and the limits allow */
void check_kernel(struct finding *f);
void check_memlock(struct finding *f);
void check_nofile(struct finding *f);
void check_io(struct finding *f);
void check_seccomp(struct finding *f);
void check_landlock(struct finding *f);
void check_ktls(struct finding *f);
void check_udp(struct finding *f);
/* doctor_gpu.c: the kernel module, and memory that it could take in */
void check_module(struct finding *f);
void check_gpu(struct finding *f);
void check_cuda(struct finding *f);
/* doctor_dpdk.c: requests over DPDK */
void check_dpdk(struct finding *f);
void check_vfio(struct finding *f);
void check_nics(struct finding *f);

#endif /* FH_TOOLS_DOCTOR_H */
