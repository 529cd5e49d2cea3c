// SPDX-License-Identifier: Apache-2.0
/*
 * freehold doctor: the kernel module, and the GPUs whose memory it could take
 * in.  DRM devices are found through libdrm, which is loaded when it is there;
 * what of its interface is used is laid down here, since its headers need not
 * be installed.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "runtime/accel/cuda_api.h"
#include "runtime/base/region.h"
#include "tools/doctor.h"

/* ---- the module ---- */

/* Whether modprobe would find it; then *compressed or not does not matter. */
static bool module_file(void)
{
	struct utsname u;
	char pattern[200];
	glob_t g;

	uname(&u);
	for (int depth = 0; depth < 3; depth++) {
		static const char *const below[] = {"*", "*/*", "*/*/*/*"};

		snprintf(pattern, sizeof(pattern), "/lib/modules/%s/%s/freehold.ko*", u.release, below[depth]);
		if (!glob(pattern, 0, NULL, &g)) {
			globfree(&g);
			return true;
		}
	}
	return false;
}

static void not_loaded(struct finding *f)
{
	char line[8];

	found(f, FOUND_OK, "freehold.ko is not loaded: local clients use the Unix socket or HTTP");
	if (module_file())
		mend(f, "modprobe freehold");
	else
		mend(f, "dkms install freehold/%s builds it for this kernel, then modprobe freehold", FREEHOLD_VERSION);
	/* Secure Boot: the kernel says EKEYREJECTED, which modprobe words badly. */
	if (module_file() && read_line("/sys/module/module/parameters/sig_enforce", line, sizeof(line)) && *line == 'Y')
		mend(f, "modprobe freehold; this kernel wants it signed: see \"Secure Boot\" in "
			"Documentation/userspace-api/freehold.rst");
}

static unsigned long parameter(const char *name)
{
	char path[96], line[32];

	snprintf(path, sizeof(path), "/sys/module/freehold/parameters/%s", name);
	return read_line(path, line, sizeof(line)) ? strtoul(line, NULL, 10) : 0;
}

/* Who is the runtime, into @who; false when nobody can be, with what to do about it. */
static bool find_runtime(struct finding *f, char *who, size_t cap)
{
	char name[32] = "a process";
	pid_t pid = fh_ctl_holder(name, sizeof(name));
	struct fh_ctl *ctl;
	struct fh_err err;
	int rc;

	if (pid) {
		snprintf(who, cap, "%s (pid %d) is its runtime", name, (int)pid);
		return true;
	}
	rc = fh_ctl_open(NULL, &ctl, &err);
	snprintf(who, cap, "no runtime has it open");
	if (!rc) {
		fh_ctl_close(ctl);
		return true;
	}
	if (rc == -EBUSY) {
		snprintf(who, cap, "another user's process is its runtime");
		return true;
	}
	if (rc == -EACCES) {
		snprintf(who, cap, "only its owner may see who has it open");
		return true;
	}
	snprintf(who, cap, "%.160s", err.msg);
	mend(f, rc == -EPROTO ? "modprobe -r freehold && modprobe freehold, both of one version"
			      : "modprobe -r freehold && modprobe freehold");
	return false;
}

void check_module(struct finding *f)
{
	char version[32] = "?", who[200];
	bool ok;

	if (!fh_ctl_present()) {
		not_loaded(f);
		return;
	}
	read_line("/sys/module/freehold/version", version, sizeof(version));
	ok = find_runtime(f, who, sizeof(who));
	found(f, ok ? FOUND_OK : FOUND_WARN,
	      "freehold.ko is loaded, ABI %s: %lu channels and %lu MiB a user, arenas up to %lu MiB, regions up to %lu "
	      "MiB%s; %s",
	      version, parameter("chan_max"), parameter("chan_mib_max"), parameter("arena_mib_max"),
	      parameter("mem_mib_max"), parameter("unsafe_dma") ? ", bus addresses are shown (unsafe_dma)" : "", who);
}

/* ---- GPUs ---- */

enum { NODE_PRIMARY, NODE_CONTROL, NODE_RENDER };
enum { BUS_PCI = 0 };
#define CAP_PRIME 0x5
#define PRIME_IMPORT 1
#define PRIME_EXPORT 2
#define MAX_GPUS 32

struct drm_pci {
	uint16_t domain;
	uint8_t bus, dev, func;
};

struct drm_device {
	char **nodes;
	int available_nodes; /* a bit a NODE_* */
	int bus;
	union {
		struct drm_pci *pci;
	} bus_info;
	void *device_info;
};

struct drm_version {
	int major, minor, patch;
	int name_len;
	char *name;
	int date_len;
	char *date;
	int desc_len;
	char *desc;
};

struct drm {
	void *lib;
	int (*get_devices)(uint32_t flags, struct drm_device **devices, int max);
	void (*free_devices)(struct drm_device **devices, int n);
	struct drm_version *(*get_version)(int fd);
	void (*free_version)(struct drm_version *v);
	int (*get_cap)(int fd, uint64_t cap, uint64_t *value);
};

static bool drm_open(struct drm *d)
{
	d->lib = dlopen("libdrm.so.2", RTLD_NOW | RTLD_LOCAL);
	if (!d->lib)
		return false;
	*(void **)&d->get_devices = dlsym(d->lib, "drmGetDevices2");
	*(void **)&d->free_devices = dlsym(d->lib, "drmFreeDevices");
	*(void **)&d->get_version = dlsym(d->lib, "drmGetVersion");
	*(void **)&d->free_version = dlsym(d->lib, "drmFreeVersion");
	*(void **)&d->get_cap = dlsym(d->lib, "drmGetCap");
	if (d->get_devices && d->free_devices && d->get_version && d->free_version && d->get_cap)
		return true;
	dlclose(d->lib);
	return false;
}

static int open_node(const struct drm_device *dev)
{
	static const int order[] = {NODE_RENDER, NODE_PRIMARY}; /* a render node wants no master */
	int fd = -1;

	for (int i = 0; i < 2 && fd < 0; i++)
		if (dev->available_nodes & 1 << order[i])
			fd = open(dev->nodes[order[i]], O_RDWR | O_CLOEXEC);
	return fd;
}

/* "AMD GPU (amdgpu, 0000:03:00.0, dma-bufs in and out)" */
static void describe(const struct drm *d, const struct drm_device *dev, char *out, size_t cap)
{
	const char *buffers = "no dma-bufs";
	struct drm_version *v;
	char where[64];
	uint64_t prime = 0;
	int fd = open_node(dev);

	if (dev->bus == BUS_PCI && dev->bus_info.pci)
		snprintf(where, sizeof(where), "%04x:%02x:%02x.%u", dev->bus_info.pci->domain, dev->bus_info.pci->bus,
			 dev->bus_info.pci->dev, dev->bus_info.pci->func);
	else
		snprintf(where, sizeof(where), "not on PCI");
	if (fd < 0) {
		snprintf(out, cap, "one that may not be opened (%s)", where);
		return;
	}
	if (!d->get_cap(fd, CAP_PRIME, &prime) && prime)
		buffers = prime == (PRIME_IMPORT | PRIME_EXPORT) ? "dma-bufs in and out"
			  : prime & PRIME_EXPORT		 ? "dma-bufs out"
								 : "dma-bufs in";
	v = d->get_version(fd);
	snprintf(out, cap, "%.*s (%.*s, %s, %s)", v ? v->desc_len : 0, v ? v->desc : "", v ? v->name_len : 1,
		 v ? v->name : "?", where, buffers);
	if (v)
		d->free_version(v);
	close(fd);
}

/* A list of what DRM drivers drive, into @out; how many. */
static int list_gpus(const struct drm *d, char *out, size_t cap)
{
	struct drm_device *devices[MAX_GPUS];
	int n = d->get_devices(0, devices, MAX_GPUS);
	size_t len = 0;

	for (int i = 0; i < n && len + 1 < cap; i++) {
		char one[160];

		describe(d, devices[i], one, sizeof(one));
		len += (size_t)snprintf(out + len, cap - len, "%s%s", i ? ", " : "", one);
	}
	if (n > 0)
		d->free_devices(devices, n);
	return n > 0 ? n : 0;
}

/* GPU number @i of the CUDA driver, into @out. */
static void describe_cuda(const struct fh_cu *cu, int i, char *out, size_t cap)
{
	struct fh_cu_device d;
	struct fh_err err;

	if (fh_cu_device(cu, i, &d, &err) || fh_cu_device_usable(&d, &err))
		snprintf(out, cap, "%.200s", err.msg);
	else
		snprintf(out, cap, "%d: %s (%s, compute capability %d.%d, %d multiprocessors%s)", i, d.name, d.where,
			 d.cc / 10, d.cc % 10, d.nr_sms,
			 d.exec_timeout ? ", a display that limits how long kernels run" : "");
}

void check_cuda(struct finding *f)
{
	bool nvidia = !access("/dev/nvidia0", F_OK);
	uint32_t nr_images = fh_cuda_nr_images();
	const char *built = nr_images ? "kernels are built in" : "no kernels are built in (there was no nvcc)";
	char gpus[600] = "";
	struct fh_cu cu;
	struct fh_err err;
	size_t n = 0;
	int nr, rc = fh_cu_load(&cu, &err);

	if (rc) {
		found(f, nvidia ? FOUND_WARN : FOUND_OK, "%s; the CPU computes; %.400s", built, err.msg);
		if (nvidia)
			mend(f, "an NVIDIA GPU is there, but CUDA is not to be had: see the reason");
		return;
	}
	nr = fh_cu_nr_devices(&cu, &err);
	for (int i = 0; i < nr && n + 1 < sizeof(gpus); i++) {
		char one[256];

		describe_cuda(&cu, i, one, sizeof(one));
		n += (size_t)snprintf(gpus + n, sizeof(gpus) - n, "%s%s", i ? "; " : "", one);
	}
	found(f, FOUND_OK,
	      "driver for CUDA %d.%d; %s; %.500s; the CPU computes unless --device cuda is given, which has never been "
	      "run "
	      "on a real GPU so far",
	      cu.driver / 1000, cu.driver % 1000 / 10, built,
	      nr > 0 ? gpus
	      : nr   ? err.msg
		     : "no GPU");
	if (nr > 0 && !nr_images)
		mend(f, "`make cuda && make` on a machine with nvcc builds the kernels in");
}

void check_gpu(struct finding *f)
{
	bool dri = !access("/dev/dri", F_OK);
	char gpus[800] = "none that a DRM driver drives";
	struct drm d = {0};
	bool have = drm_open(&d);
	int n = have ? list_gpus(&d, gpus, sizeof(gpus)) : 0;

	if (!have && dri)
		snprintf(gpus, sizeof(gpus), "/dev/dri is there, but not libdrm to look at it");
	found(f, !have && dri ? FOUND_WARN : FOUND_OK, "%s", gpus);
	if (!have && dri)
		mend(f, "apt install libdrm2: buffers of DRM drivers can then be taken in");
	else if (n && strstr(gpus, "may not be opened"))
		mend(f, "join the group render (usermod -aG render USER), or look as root");
	if (have)
		dlclose(d.lib);
}
