// SPDX-License-Identifier: Apache-2.0
/*
 * Regions.  This is the only file that opens /dev/freehold-ctl; what the module
 * is asked for is in here, what is done with it is not.
 *
 * Huge pages are tried in the order in which they are worth something: reserved
 * ones, which are all there or not at all; transparent ones, which the kernel
 * gives while it has some; small ones.
 */
#include "runtime/base/region.h"

#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; older ones say EINVAL */
#endif

#define CTL_PATH "/dev/freehold-ctl"
#define THP_BYTES (2ul << 20)		  /* alignment that lets transparent huge pages begin at once */
#define HUGE_2MIB (21u << MAP_HUGE_SHIFT) /* the same for memfd_create() */

struct fh_ctl {
	int fd;
};

static size_t align_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

static size_t page_bytes(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/* ---- the module ---- */

static int open_failed(const char *path, int error, struct fh_err *err)
{
	char name[32] = "another process";
	pid_t pid;

	switch (error) {
	case ENOENT:
		return fh_errf(err, -ENOENT, "there is no %s: the kernel module is not loaded (modprobe freehold)",
			       path);
	case ENXIO:
	case ENODEV:
		return fh_errf(err, -ENXIO, "%s has no driver: the kernel module was unloaded (modprobe freehold)",
			       path);
	case EBUSY:
		pid = fh_ctl_holder(name, sizeof(name));
		return fh_errf(err, -EBUSY, "%s is in use by %s (pid %d): one runtime at a time", path, name, (int)pid);
	case EACCES:
	case EPERM:
		return fh_errf(err, -EACCES,
			       "%s may not be opened by user %u: it belongs to the user freehold (udev rule "
			       "60-freehold.rules); in a service DevicePolicy= must allow it",
			       path, (unsigned int)geteuid());
	default: return fh_errf(err, -error, "%s: %s", path, strerror(error));
	}
}

int fh_ctl_open(const char *path, struct fh_ctl **out, struct fh_err *err)
{
	struct fh_info info = {.size = sizeof(info)};
	struct fh_ctl *ctl;
	int fd, rc;

	path = path ? path : CTL_PATH;
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return open_failed(path, errno, err);
	if (ioctl(fd, FH_IOCTL_INFO, &info)) {
		rc = errno == ENOTTY ? fh_errf(err, -ENOTTY, "%s is no device of the Freehold module", path)
				     : fh_errf(err, -errno, "%s: %s", path, strerror(errno));
		goto err_close;
	}
	if (info.out_abi_version != FH_ABI_VERSION) {
		rc = fh_errf(err, -EPROTO, "%s speaks version %u, this program %u: install module and program together",
			     path, info.out_abi_version, FH_ABI_VERSION);
		goto err_close;
	}
	ctl = malloc(sizeof(*ctl));
	if (!ctl) {
		rc = fh_errf(err, -ENOMEM, "out of memory");
		goto err_close;
	}
	ctl->fd = fd;
	*out = ctl;
	return 0;

err_close:
	close(fd);
	return rc;
}

void fh_ctl_close(struct fh_ctl *ctl)
{
	if (!ctl)
		return;
	close(ctl->fd);
	free(ctl);
}

static int ask(struct fh_ctl *ctl, unsigned long request, void *arg)
{
	return ioctl(ctl->fd, request, arg) ? -errno : 0;
}

void fh_ctl_info(struct fh_ctl *ctl, struct fh_info *out)
{
	*out = (struct fh_info){.size = sizeof(*out)};
	if (ask(ctl, FH_IOCTL_INFO, out))
		*out = (struct fh_info){.size = sizeof(*out)};
}

int fh_ctl_fd(const struct fh_ctl *ctl)
{
	return ctl->fd;
}

bool fh_ctl_present(void)
{
	struct stat st;

	return !stat(CTL_PATH, &st) && S_ISCHR(st.st_mode);
}

/* Whether process @pid has the device @rdev open. */
static bool has_open(const char *pid, dev_t rdev)
{
	char path[300];
	struct dirent *e;
	struct stat st;
	bool hit = false;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%.16s/fd", pid);
	d = opendir(path);
	while (d && !hit && (e = readdir(d)))
		hit = !fstatat(dirfd(d), e->d_name, &st, 0) && S_ISCHR(st.st_mode) && st.st_rdev == rdev;
	if (d)
		closedir(d);
	return hit;
}

pid_t fh_ctl_holder(char *name, size_t cap)
{
	struct dirent *e;
	struct stat st;
	pid_t pid = 0;
	char path[64];
	FILE *f;
	DIR *d;

	if (stat(CTL_PATH, &st) || !S_ISCHR(st.st_mode))
		return 0;
	d = opendir("/proc");
	while (d && !pid && (e = readdir(d)))
		if (isdigit((unsigned char)e->d_name[0]) && has_open(e->d_name, st.st_rdev))
			pid = (pid_t)atoi(e->d_name);
	if (d)
		closedir(d);
	if (!pid)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	f = fopen(path, "re");
	if (f && fgets(name, (int)cap, f))
		name[strcspn(name, "\n")] = 0;
	if (f)
		fclose(f);
	return pid;
}

int fh_ctl_accept(struct fh_ctl *ctl, int wake_fd, struct fh_chan_accept *out)
{
	*out = (struct fh_chan_accept){.size = sizeof(*out), .wake_fd = wake_fd};
	return ask(ctl, FH_IOCTL_CHAN_ACCEPT, out);
}

int fh_ctl_map(struct fh_ctl *ctl, uint64_t off, size_t bytes, bool writable, void **out)
{
	void *p = mmap(NULL, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, ctl->fd, (off_t)off);

	if (p == MAP_FAILED)
		return -errno;
	*out = p;
	return 0;
}

int fh_ctl_kick(struct fh_ctl *ctl, uint32_t chan_id)
{
	struct fh_chan_kick cmd = {.size = sizeof(cmd), .chan_id = chan_id};

	return ask(ctl, FH_IOCTL_CHAN_KICK, &cmd);
}

int fh_ctl_revoke(struct fh_ctl *ctl, uint32_t chan_id, uint32_t reason)
{
	struct fh_chan_revoke cmd = {.size = sizeof(cmd), .chan_id = chan_id, .reason = reason};

	return ask(ctl, FH_IOCTL_CHAN_REVOKE, &cmd);
}

int fh_ctl_destroy(struct fh_ctl *ctl, uint32_t id)
{
	struct fh_destroy cmd = {.size = sizeof(cmd), .id = id};

	return ask(ctl, FH_IOCTL_DESTROY, &cmd);
}

/* ---- memory of our own ---- */

/* Reserved huge pages, all of them in memory; false when there are not enough. */
static bool map_hugetlb(struct fh_region *r, size_t bytes)
{
	void *p;

	bytes = align_up(bytes, THP_BYTES);
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | HUGE_2MIB, -1, 0);
	if (p == MAP_FAILED)
		return false;
	if (madvise(p, bytes, MADV_POPULATE_WRITE)) {
		munmap(p, bytes);
		return false;
	}
	r->map = r->base = p;
	r->map_bytes = r->bytes = bytes;
	r->huge = FH_HUGE_TLB;
	r->locked = true; /* huge pages of this kind are never paged out */
	return true;
}

static int map_pages(struct fh_region *r, size_t bytes, bool huge)
{
	void *p;

	r->bytes = align_up(bytes, page_bytes());
	r->map_bytes = r->bytes + (huge ? THP_BYTES : 0);
	p = mmap(NULL, r->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	r->map = r->base = p;
	if (!huge)
		return 0;
	r->base = (uint8_t *)align_up((uintptr_t)p, THP_BYTES);
	if (!madvise(r->base, r->bytes, MADV_HUGEPAGE))
		r->huge = FH_HUGE_THP;
	return 0;
}

/* On fault: what a short run never touches of a large region stays unmapped. */
static void lock(struct fh_region *r)
{
	if (!r->locked)
		r->locked = !mlock2(r->base, r->bytes, MLOCK_ONFAULT);
}

int fh_region_alloc(struct fh_region *r, size_t bytes, uint32_t flags, struct fh_err *err)
{
	bool huge = flags & FH_REGION_HUGE;
	int rc = 0;

	*r = (struct fh_region){.type = FH_REGION_ANON, .fd = -1};
	if (!bytes || bytes > SIZE_MAX - 2 * THP_BYTES)
		rc = -ENOMEM;
	else if (!huge || !map_hugetlb(r, bytes))
		rc = map_pages(r, bytes, huge);
	if (rc) {
		*r = (struct fh_region){0};
		return fh_errf(err, rc, "cannot map %zu MiB of memory", bytes >> 20);
	}
	if (flags & FH_REGION_LOCK)
		lock(r);
	return 0;
}

/* A memfd, mapped and sealed; -errno when it cannot be had with these huge pages, or at all. */
static int map_memfd(struct fh_region *r, const char *name, size_t bytes, bool huge)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB | HUGE_2MIB : 0));
	void *p = MAP_FAILED;

	if (fd < 0)
		return -errno;
	bytes = align_up(bytes, huge ? THP_BYTES : page_bytes());
	if (!ftruncate(fd, (off_t)bytes))
		p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p != MAP_FAILED && (!huge || !madvise(p, bytes, MADV_POPULATE_WRITE)) &&
	    !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)) {
		r->fd = fd;
		r->map = r->base = p;
		r->map_bytes = r->bytes = bytes;
		r->huge = huge ? FH_HUGE_TLB : FH_HUGE_NONE;
		r->locked = huge;
		return 0;
	}
	if (p != MAP_FAILED)
		munmap(p, bytes);
	close(fd);
	return -ENOMEM;
}

int fh_region_memfd(struct fh_region *r, const char *name, size_t bytes, uint32_t flags, struct fh_err *err)
{
	int rc = -ENOMEM;

	*r = (struct fh_region){.type = FH_REGION_MEMFD, .fd = -1};
	if (bytes && bytes <= INT64_MAX - THP_BYTES) {
		if (flags & FH_REGION_HUGE)
			rc = map_memfd(r, name, bytes, true);
		if (rc)
			rc = map_memfd(r, name, bytes, false);
	}
	if (rc) {
		*r = (struct fh_region){0};
		return fh_errf(err, rc, "cannot make a memfd of %zu MiB: %s", bytes >> 20, strerror(-rc));
	}
	if (flags & FH_REGION_LOCK)
		lock(r);
	return 0;
}

/* ---- memory that the module knows ---- */

static int import_failed(int rc, size_t bytes, struct fh_err *err)
{
	switch (rc) {
	case -EDQUOT:
		return fh_errf(err, rc,
			       "%zu MiB are beyond what the module lets a runtime hold (its option mem_mib_max)",
			       bytes >> 20);
	case -ENOMEM:
		return fh_errf(
			err, rc,
			"%zu MiB cannot be pinned: no memory, or RLIMIT_MEMLOCK is smaller (LimitMEMLOCK=infinity in "
			"the unit, or ulimit -l)",
			bytes >> 20);
	case -EOPNOTSUPP: return fh_errf(err, rc, "the module cannot take memory of this kind");
	default: return fh_errf(err, rc, "the module does not take the memory: %s", strerror(-rc));
	}
}

/* What the module has taken, mapped at @p; NULL: it cannot be mapped. */
static struct fh_region imported(struct fh_ctl *ctl, const struct fh_mem_import *cmd, enum fh_region_type type,
				 bool locked, void *p)
{
	return (struct fh_region){
		.type = type,
		.locked = locked,
		.base = p,
		.bytes = cmd->length,
		.fd = -1,
		.ctl = ctl,
		.mem_id = cmd->out_mem_id,
		.map = p,
		.map_bytes = cmd->length,
	};
}

int fh_region_pages(struct fh_region *r, struct fh_ctl *ctl, size_t bytes, struct fh_err *err)
{
	struct fh_mem_import cmd = {.size = sizeof(cmd), .type = FH_MEM_PAGES, .fd = -1};
	void *p = NULL;
	int rc;

	*r = (struct fh_region){0};
	cmd.length = align_up(bytes, page_bytes());
	rc = ask(ctl, FH_IOCTL_MEM_IMPORT, &cmd);
	if (rc)
		return import_failed(rc, bytes, err);
	rc = fh_ctl_map(ctl, cmd.out_mmap_off, cmd.length, true, &p);
	if (rc) {
		fh_ctl_destroy(ctl, cmd.out_mem_id);
		return fh_errf(err, rc, "cannot map the module's pages: %s", strerror(-rc));
	}
	*r = imported(ctl, &cmd, FH_REGION_PAGES, true, p);
	return 0;
}

int fh_region_import(struct fh_region *r, struct fh_ctl *ctl, int dmabuf, bool pin, struct fh_err *err)
{
	struct fh_mem_import cmd = {
		.size = sizeof(cmd), .flags = pin ? FH_MEM_PIN : 0, .type = FH_MEM_DMABUF, .fd = dmabuf};
	void *p = NULL;
	int rc;

	*r = (struct fh_region){0};
	rc = ask(ctl, FH_IOCTL_MEM_IMPORT, &cmd);
	if (rc)
		return rc == -EINVAL || rc == -EBADF ? fh_errf(err, rc, "descriptor %d is no dma-buf", dmabuf)
						     : import_failed(rc, 0, err);
	/* Without an offset its exporter maps nothing; one that offers and then refuses is no worse. */
	if (cmd.out_mmap_off && fh_ctl_map(ctl, cmd.out_mmap_off, cmd.length, true, &p))
		p = NULL;
	*r = imported(ctl, &cmd, FH_REGION_DMABUF, pin, p);
	return 0;
}

int fh_region_prime(struct fh_region *r, struct fh_ctl *ctl, int drm_fd, uint32_t handle, struct fh_err *err)
{
	void *lib = dlopen("libdrm.so.2", RTLD_NOW | RTLD_LOCAL);
	int (*to_fd)(int fd, uint32_t handle, uint32_t flags, int *prime_fd);
	int dmabuf = -1, rc;

	*r = (struct fh_region){0};
	if (!lib)
		return fh_errf(err, -ENOTSUP, "buffers of DRM drivers need libdrm.so.2 (Debian: libdrm2)");
	to_fd = (int (*)(int, uint32_t, uint32_t, int *))dlsym(lib, "drmPrimeHandleToFD");
	if (!to_fd)
		rc = fh_errf(err, -ENOTSUP, "libdrm.so.2 has no drmPrimeHandleToFD()");
	else if (to_fd(drm_fd, handle, O_CLOEXEC | O_RDWR, &dmabuf))
		rc = fh_errf(err, -errno, "the DRM driver does not export buffer %u: %s", handle, strerror(errno));
	else
		rc = fh_region_import(r, ctl, dmabuf, false, err);
	if (dmabuf >= 0)
		close(dmabuf); /* the module holds the buffer now */
	dlclose(lib);
	return rc;
}

int fh_region_register(struct fh_region *r, struct fh_ctl *ctl, struct fh_err *err)
{
	struct fh_mem_import cmd = {.size = sizeof(cmd), .type = FH_MEM_USER, .fd = -1, .length = r->bytes};
	int rc;

	if (r->ctl)
		return fh_errf(err, -EEXIST, "the module knows this region already");
	if (r->type != FH_REGION_ANON && r->type != FH_REGION_MEMFD)
		return fh_errf(err, -EINVAL, "no region of ours");
	if (r->type == FH_REGION_MEMFD) {
		cmd.type = FH_MEM_MEMFD;
		cmd.fd = r->fd;
	} else {
		cmd.addr = (uint64_t)(uintptr_t)r->base;
	}
	rc = ask(ctl, FH_IOCTL_MEM_IMPORT, &cmd);
	if (rc)
		return import_failed(rc, r->bytes, err);
	r->ctl = ctl;
	r->mem_id = cmd.out_mem_id;
	return 0;
}

int fh_region_export(const struct fh_region *r)
{
	struct fh_mem_export cmd = {.size = sizeof(cmd), .mem_id = r->mem_id, .out_fd = -1};
	int rc;

	if (r->type != FH_REGION_PAGES && r->type != FH_REGION_DMABUF)
		return -EOPNOTSUPP;
	rc = ask(r->ctl, FH_IOCTL_MEM_EXPORT, &cmd);
	return rc ? rc : cmd.out_fd;
}

void fh_region_free(struct fh_region *r)
{
	if (r->ctl)
		fh_ctl_destroy(r->ctl, r->mem_id);
	if (r->map)
		munmap(r->map, r->map_bytes);
	if (r->type == FH_REGION_MEMFD)
		close(r->fd);
	*r = (struct fh_region){0};
}

/* ---- what was got ---- */

size_t fh_region_huge_bytes(const struct fh_region *r)
{
	uintptr_t lo = (uintptr_t)r->base, hi = lo + r->bytes;
	uint64_t begin, end, kib;
	bool inside = false;
	size_t sum = 0;
	char line[512];
	FILE *f;

	if (r->huge == FH_HUGE_TLB)
		return r->bytes;
	f = r->huge == FH_HUGE_THP ? fopen("/proc/self/smaps", "re") : NULL;
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &begin, &end) == 2)
			inside = begin < hi && end > lo;
		else if (inside && sscanf(line, "AnonHugePages: %" SCNu64 " kB", &kib) == 1)
			sum += kib << 10;
	}
	if (f)
		fclose(f);
	return sum < r->bytes ? sum : r->bytes;
}

char *fh_region_describe(const struct fh_region *r, char *buf, size_t cap)
{
	size_t huge = fh_region_huge_bytes(r), n;
	const char *kind = "";

	if (r->type == FH_REGION_PAGES)
		kind = " of the module's pages";
	else if (r->type == FH_REGION_DMABUF)
		kind = r->base ? " of a dma-buf" : " of a dma-buf that the CPU cannot see";
	n = (size_t)snprintf(buf, cap, "%zu MiB%s", r->bytes >> 20, kind);
	if (r->huge == FH_HUGE_TLB && n < cap)
		n += (size_t)snprintf(buf + n, cap - n, " in reserved huge pages");
	else if (r->huge == FH_HUGE_THP && n < cap)
		n += (size_t)snprintf(buf + n, cap - n, ", %zu MiB of it in transparent huge pages", huge >> 20);
	if (r->locked && r->huge != FH_HUGE_TLB && n < cap)
		n += (size_t)snprintf(buf + n, cap - n, ", locked");
	if (r->ctl && n < cap)
		snprintf(buf + n, cap - n, "%s region %u", *kind ? ", the module's" : ", pinned as the module's",
			 r->mem_id);
	return buf;
}
