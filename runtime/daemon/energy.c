// SPDX-License-Identifier: Apache-2.0
/*
 * Energy counters.
 *
 * powercap (Documentation/power/powercap/powercap.rst of the kernel): a folder a
 * zone, NAME:N a package and NAME:N:M a part of it.  Counted are packages and,
 * beside them, memory ("dram"), which no package includes; "core" and "uncore"
 * are parts of a package, "psys" has them all once more, and intel-rapl-mmio
 * counts the same packages again.  A counter begins anew at max_energy_range_uj.
 *
 * NVML (NVIDIA's "NVML API reference"): nvmlDeviceGetTotalEnergyConsumption() in
 * mJ from Volta on; of older GPUs the power in mW is summed up over time.
 */
#include "runtime/daemon/energy.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/log.h"
#include "runtime/daemon/config.h"

#define POWERCAP_DIR "/sys/class/powercap"
#define NVML_LIBRARY "libnvidia-ml.so.1"
/* More than any one of them takes: a counter that was set back is not taken for one that began anew. */
#define MAX_WATTS 20000.0

/* The part of NVML's ABI that is used; all but the handle are numbers. */
typedef struct nvml_device *nvml_device;
struct nvml {
	void *lib;
	int (*init)(void);
	int (*shutdown)(void);
	int (*count)(unsigned int *nr);
	int (*by_index)(unsigned int i, nvml_device *d);
	int (*energy_mj)(nvml_device d, unsigned long long *mj);
	int (*power_mw)(nvml_device d, unsigned int *mw);
	const char *(*error)(int rc);
};

struct counter {
	char name[40];
	bool gpu, gone;
	int fd;		   /* of a powercap zone */
	uint64_t range_uj; /* where it begins anew; 0: nobody knows */
	nvml_device device;
	bool by_power; /* the GPU has no counter of energy */
	double watts;  /* then: at the last sample */
	bool marked;   /* mark_uj is set */
	uint64_t mark_uj;
	_Atomic uint64_t uj; /* since the first sample */
};

struct fhd_energy {
	struct counter counter[FHD_ENERGY_MAX];
	uint32_t nr;
	struct nvml nvml;
	bool begun;
	uint64_t mark_ns, mark_busy_ns;
	_Atomic uint64_t busy_uj, idle_uj, busy_ns, idle_ns;
};

static uint64_t get(const _Atomic uint64_t *v)
{
	return atomic_load_explicit(v, memory_order_relaxed);
}

/* One thread writes. */
static void add(_Atomic uint64_t *to, uint64_t n)
{
	atomic_store_explicit(to, get(to) + n, memory_order_relaxed);
}

/* ---- powercap ---- */

/* A number, read anew from the file's beginning. */
static int read_number(int fd, uint64_t *out)
{
	char text[32], *end;
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n < 0)
		return -errno;
	text[n] = 0;
	errno = 0;
	*out = strtoull(text, &end, 10);
	return end == text || errno || (*end && *end != '\n') ? -EBADMSG : 0;
}

static bool read_text(const char *zone, const char *file, char *out, size_t cap)
{
	char path[PATH_MAX];
	ssize_t n = -1;
	int fd = snprintf(path, sizeof(path), "%s/%s", zone, file) < (int)sizeof(path)
			 ? open(path, O_RDONLY | O_CLOEXEC)
			 : -1;

	if (fd >= 0) {
		n = read(fd, out, cap - 1);
		close(fd);
	}
	out[n > 0 ? n : 0] = 0;
	out[strcspn(out, "\n")] = 0;
	return n > 0;
}

/* "intel-rapl:0" is 1 deep, "intel-rapl:0:2" 2, "intel-rapl-mmio:0" and all else 0. */
static int depth_of(const char *entry)
{
	int depth = 0;

	if (strncmp(entry, "intel-rapl:", 11))
		return 0;
	for (; *entry; entry++)
		depth += *entry == ':';
	return depth;
}

static bool is_counted(const char *entry, const char *name)
{
	int depth = depth_of(entry);

	return (depth == 1 && !strncmp(name, "package", 7)) || (depth == 2 && !strcmp(name, "dram"));
}

/* Which package a part belongs to: "dram" alone would be several. */
static void name_zone(const char *entry, const char *name, char out[40])
{
	const char *package = strchr(entry, ':') + 1;

	if (depth_of(entry) == 1)
		snprintf(out, 40, "%.39s", name);
	else
		snprintf(out, 40, "%.20s-%.*s", name, (int)strcspn(package, ":"), package);
}

static void open_zone(struct fhd_energy *e, const char *dir, const char *entry, struct fhd_energy_report *r)
{
	struct counter *c = &e->counter[e->nr];
	char zone[PATH_MAX], path[PATH_MAX + 16], name[40], range[32];

	if (snprintf(zone, sizeof(zone), "%s/%s", dir, entry) >= (int)sizeof(zone) ||
	    !read_text(zone, "name", name, sizeof(name)) || !is_counted(entry, name))
		return;
	snprintf(path, sizeof(path), "%s/energy_uj", zone);
	c->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (c->fd < 0) {
		r->nr_denied++;
		snprintf(r->denied, sizeof(r->denied), "%.200s: %s", path, strerror(errno));
		return;
	}
	name_zone(entry, name, c->name);
	if (read_text(zone, "max_energy_range_uj", range, sizeof(range)))
		c->range_uj = strtoull(range, NULL, 10);
	e->nr++;
	r->nr_cpu++;
}

static void open_powercap(struct fhd_energy *e, struct fhd_energy_report *r)
{
	const char *dir = secure_getenv("FREEHOLD_POWERCAP");
	struct dirent **entry;
	int nr;

	if (!dir)
		dir = POWERCAP_DIR;
	nr = scandir(dir, &entry, NULL, alphasort);
	for (int i = 0; i < nr; i++) {
		if (depth_of(entry[i]->d_name) && e->nr < FHD_ENERGY_MAX)
			open_zone(e, dir, entry[i]->d_name, r);
		free(entry[i]);
	}
	if (nr >= 0)
		free(entry);
}

/* ---- NVML ---- */

static bool find_symbols(struct nvml *n)
{
	const struct {
		void **at;
		const char *name;
		bool needed;
	} wanted[] = {
		{(void **)&n->init, "nvmlInit_v2", true},
		{(void **)&n->shutdown, "nvmlShutdown", true},
		{(void **)&n->count, "nvmlDeviceGetCount_v2", true},
		{(void **)&n->by_index, "nvmlDeviceGetHandleByIndex_v2", true},
		{(void **)&n->error, "nvmlErrorString", true},
		{(void **)&n->energy_mj, "nvmlDeviceGetTotalEnergyConsumption", false},
		{(void **)&n->power_mw, "nvmlDeviceGetPowerUsage", false},
	};

	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		*wanted[i].at = dlsym(n->lib, wanted[i].name);
		if (!*wanted[i].at && wanted[i].needed)
			return false;
	}
	return true;
}

static void open_gpu(struct fhd_energy *e, unsigned int i, struct fhd_energy_report *r)
{
	struct counter *c = &e->counter[e->nr];
	unsigned long long mj;
	unsigned int mw;
	int rc = e->nvml.by_index(i, &c->device);

	if (!rc) {
		rc = e->nvml.energy_mj ? e->nvml.energy_mj(c->device, &mj) : -1;
		c->by_power = rc != 0;
		if (rc && e->nvml.power_mw)
			rc = e->nvml.power_mw(c->device, &mw);
	}
	if (rc) {
		snprintf(r->nvml, sizeof(r->nvml), "GPU %u: %.120s", i,
			 rc > 0 ? e->nvml.error(rc) : "the library tells neither energy nor power");
		return;
	}
	snprintf(c->name, sizeof(c->name), "gpu-%u", i);
	c->gpu = true;
	c->fd = -1;
	e->nr++;
	r->nr_gpu++;
}

static void open_nvml(struct fhd_energy *e, struct fhd_energy_report *r)
{
	const char *name = secure_getenv("FREEHOLD_NVML");
	struct nvml *n = &e->nvml;
	unsigned int nr = 0;
	int rc;

	n->lib = dlopen(name ? name : NVML_LIBRARY, RTLD_NOW | RTLD_LOCAL);
	if (!n->lib) {
		if (name)
			snprintf(r->nvml, sizeof(r->nvml), "%.150s", dlerror());
		return;
	}
	if (!find_symbols(n)) {
		snprintf(r->nvml, sizeof(r->nvml), "%s: not a library of this interface", name ? name : NVML_LIBRARY);
		dlclose(n->lib);
		n->lib = NULL;
		return;
	}
	rc = n->init();
	if (rc) {
		snprintf(r->nvml, sizeof(r->nvml), "%.120s", n->error(rc));
		dlclose(n->lib);
		n->lib = NULL;
		return;
	}
	rc = n->count(&nr);
	if (rc)
		snprintf(r->nvml, sizeof(r->nvml), "%.120s", n->error(rc));
	for (unsigned int i = 0; i < nr && e->nr < FHD_ENERGY_MAX; i++)
		open_gpu(e, i, r);
}

/* ---- all of them ---- */

struct fhd_energy *fhd_energy_open(const char *which, struct fhd_energy_report *r)
{
	struct fhd_energy *e;

	*r = (struct fhd_energy_report){0};
	if (which && !strcmp(which, "off"))
		return NULL;
	e = calloc(1, sizeof(*e));
	if (!e)
		return NULL;
	if (!which || strcmp(which, "gpu"))
		open_powercap(e, r);
	if (!which || strcmp(which, "cpu"))
		open_nvml(e, r);
	if (e->nr)
		return e;
	fhd_energy_close(e);
	return NULL;
}

void fhd_energy_close(struct fhd_energy *e)
{
	if (!e)
		return;
	for (uint32_t i = 0; i < e->nr; i++)
		if (e->counter[i].fd >= 0)
			close(e->counter[i].fd);
	if (e->nvml.lib) {
		e->nvml.shutdown();
		dlclose(e->nvml.lib);
	}
	free(e);
}

/* ---- samples ---- */

/* What a counter of energy has counted since the last sample. */
static int read_zone(struct counter *c, double seconds, uint64_t *uj)
{
	uint64_t now = 0, was = c->mark_uj;
	int rc = read_number(c->fd, &now);

	*uj = 0;
	if (rc)
		return rc;
	if (c->marked && now >= was)
		*uj = now - was;
	else if (c->marked && c->range_uj > was)
		*uj = c->range_uj - was + now;
	if ((double)*uj > MAX_WATTS * 1e6 * seconds)
		*uj = 0;
	c->mark_uj = now;
	c->marked = true;
	return 0;
}

static int read_gpu(struct fhd_energy *e, struct counter *c, double seconds, uint64_t *uj)
{
	unsigned long long mj;
	unsigned int mw;
	double was = c->watts;
	int rc;

	*uj = 0;
	if (c->by_power) {
		rc = e->nvml.power_mw(c->device, &mw);
		if (rc)
			return -EIO;
		c->watts = mw / 1e3;
		if (c->marked)
			*uj = (uint64_t)((was + c->watts) / 2 * seconds * 1e6);
		c->marked = true;
		return 0;
	}
	rc = e->nvml.energy_mj(c->device, &mj);
	if (rc)
		return -EIO;
	/* The driver was loaded anew where it is less. */
	if (c->marked && mj * 1000 > c->mark_uj)
		*uj = mj * 1000 - c->mark_uj;
	c->mark_uj = mj * 1000;
	c->marked = true;
	return 0;
}

/* All of them, since the last sample. */
static uint64_t read_all(struct fhd_energy *e, double seconds)
{
	uint64_t sum = 0, uj;

	for (uint32_t i = 0; i < e->nr; i++) {
		struct counter *c = &e->counter[i];
		int rc;

		if (c->gone)
			continue;
		rc = c->gpu ? read_gpu(e, c, seconds, &uj) : read_zone(c, seconds, &uj);
		if (rc) {
			c->gone = true;
			fh_warn("energy: %s cannot be read any more (%s); what it takes is missing from now on",
				c->name, strerror(-rc));
			continue;
		}
		add(&c->uj, uj);
		sum += uj;
	}
	return sum;
}

void fhd_energy_sample(struct fhd_energy *e, uint64_t now_ns, uint64_t busy_ns)
{
	uint64_t ns = now_ns - e->mark_ns, busy = busy_ns > e->mark_busy_ns ? busy_ns - e->mark_busy_ns : 0, uj, part;

	if (e->begun && now_ns <= e->mark_ns)
		return;
	uj = read_all(e, (double)ns / 1e9);
	if (e->begun) {
		busy = busy < ns ? busy : ns;
		part = (uint64_t)((double)uj * ((double)busy / (double)ns));
		add(&e->busy_uj, part);
		add(&e->idle_uj, uj - part);
		add(&e->busy_ns, busy);
		add(&e->idle_ns, ns - busy);
	}
	e->begun = true;
	e->mark_ns = now_ns;
	e->mark_busy_ns = busy_ns;
}

/* ---- what others are told ---- */

void fhd_energy_vitals(const struct fhd_energy *e, struct fh_vitals_energy *out)
{
	*out = (struct fh_vitals_energy){0};
	if (!e)
		return;
	out->on = true;
	out->busy_uj = get(&e->busy_uj);
	out->idle_uj = get(&e->idle_uj);
	out->busy_ns = get(&e->busy_ns);
	out->idle_ns = get(&e->idle_ns);
	for (uint32_t i = 0; i < e->nr; i++)
		*(e->counter[i].gpu ? &out->gpu_uj : &out->cpu_uj) += get(&e->counter[i].uj);
}

void fhd_energy_host(const struct fhd_host_cost *c, struct fh_vitals_host *out)
{
	*out = (struct fh_vitals_host){
		.on = c->hardware > 0 || c->other > 0 || c->kwh_price > 0,
		.hour = c->hardware / ((double)c->years * c->hours) + c->other * 12 / (double)c->hours,
		.watts = c->watts,
		.kwh_price = c->kwh_price,
		.overhead = c->overhead,
	};
}

static void print_joules(FILE *out, const char *name, const char *help, uint64_t uj)
{
	fprintf(out, "# HELP freehold_%s %s\n# TYPE freehold_%s counter\nfreehold_%s %.6f\n", name, help, name, name,
		(double)uj / 1e6);
}

void fhd_energy_metrics(const struct fhd_energy *e, FILE *out)
{
	if (!e)
		return;
	fprintf(out, "# HELP freehold_energy_joules_total What the host has measured, by counter.\n"
		     "# TYPE freehold_energy_joules_total counter\n");
	for (uint32_t i = 0; i < e->nr; i++)
		fprintf(out, "freehold_energy_joules_total{device=\"%s\",kind=\"%s\"} %.6f\n", e->counter[i].name,
			e->counter[i].gpu ? "gpu" : "cpu", (double)get(&e->counter[i].uj) / 1e6);
	print_joules(out, "energy_busy_joules_total", "Of it, while the engine computed.", get(&e->busy_uj));
	print_joules(out, "energy_idle_joules_total", "Of it, while the engine did not.", get(&e->idle_uj));
	fprintf(out,
		"# HELP freehold_energy_busy_seconds_total For how long the engine computed.\n"
		"# TYPE freehold_energy_busy_seconds_total counter\nfreehold_energy_busy_seconds_total %.6f\n",
		(double)get(&e->busy_ns) / 1e9);
	fprintf(out,
		"# HELP freehold_energy_idle_seconds_total For how long it did not.\n"
		"# TYPE freehold_energy_idle_seconds_total counter\nfreehold_energy_idle_seconds_total %.6f\n",
		(double)get(&e->idle_ns) / 1e9);
}

bool fhd_energy_has_gpu(const struct fhd_energy *e)
{
	return e && e->nvml.lib;
}

void fhd_energy_describe(const struct fhd_energy_report *r, char out[64])
{
	char cpu[40] = "", gpu[20] = "";

	if (r->nr_cpu)
		snprintf(cpu, sizeof(cpu), "%u counter%s of processors", r->nr_cpu, r->nr_cpu == 1 ? "" : "s");
	if (r->nr_gpu)
		snprintf(gpu, sizeof(gpu), "%u GPU%s", r->nr_gpu, r->nr_gpu == 1 ? "" : "s");
	snprintf(out, 64, "%s%s%s", cpu, r->nr_cpu && r->nr_gpu ? ", " : "", gpu);
}
