/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Regions: memory with a known owner, and the kernel module that pins it and
 * shows it to others (uapi/freehold.h).
 *
 * A region is made in one of five ways:
 *
 *   fh_region_alloc()   anonymous memory of the process: weights, keys, values
 *   fh_region_memfd()   a sealed memfd, for memory that another process maps
 *   fh_region_pages()   pages of the module's own, which can be exported
 *   fh_region_import()  a dma-buf: GPU memory, from CUDA or a DRM driver
 *   fh_region_prime()   the same by a DRM driver's buffer handle
 *
 * The first two need no module, and fh_region_register() shows them to it.
 * What cannot be had (huge pages, locked memory) makes a region slower, never
 * absent: the fields say what was got and fh_region_describe() says it in words.
 *
 * A struct fh_region belongs to whoever made it; its memory goes with
 * fh_region_free().  A control descriptor must outlive the regions that it
 * knows.  Calls on one region come from one thread at a time, those on a control
 * descriptor from any.
 */
#ifndef FH_BASE_REGION_H
#define FH_BASE_REGION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "runtime/base/err.h"
#include "uapi/freehold.h"

/* ---- the module ---- */

struct fh_ctl;

/**
 * fh_ctl_open() - become the module's runtime
 * @path: of the device; NULL: where the module puts it
 * @out: to be closed with fh_ctl_close(), which ends what was made through it
 * @err: says what is missing and what to do
 *
 * Return: 0; -ENOENT or -ENXIO: the module is not loaded; -EBUSY: another
 * process is the runtime; -EACCES: the device is not ours to open; -ENOTTY:
 * something else lies at @path; -EPROTO: a module of another ABI version.
 */
int fh_ctl_open(const char *path, struct fh_ctl **out, struct fh_err *err);
void fh_ctl_close(struct fh_ctl *ctl);
/* What the module allows and what is in use; zero when it cannot be asked any more. */
void fh_ctl_info(struct fh_ctl *ctl, struct fh_info *out);
/* For poll(): POLLIN says that a channel waits, POLLPRI that fh_ctl_info() has a dead one to show. */
int fh_ctl_fd(const struct fh_ctl *ctl);
/* Who has the device open: its pid, and its name in @name; 0 when nobody is found (others' files need privilege). */
pid_t fh_ctl_holder(char *name, size_t cap);
/* Whether the device is there at all; it is not opened. */
bool fh_ctl_present(void);

/*
 * Channels.  @wake_fd: an eventfd that the kernel signals when the client kicks
 * or ends; it may serve many channels.  0, -EAGAIN: none waits, or -errno.
 */
int fh_ctl_accept(struct fh_ctl *ctl, int wake_fd, struct fh_chan_accept *out);
/* Map @bytes of the device at @off, which FH_IOCTL_CHAN_ACCEPT and the info area give. 0 or -errno. */
int fh_ctl_map(struct fh_ctl *ctl, uint64_t off, size_t bytes, bool writable, void **out);
int fh_ctl_kick(struct fh_ctl *ctl, uint32_t chan_id);
int fh_ctl_revoke(struct fh_ctl *ctl, uint32_t chan_id, uint32_t reason);
/* A channel or a region; 0 or -errno. */
int fh_ctl_destroy(struct fh_ctl *ctl, uint32_t id);

/* ---- regions ---- */

enum fh_region_type {
	FH_REGION_NONE, /* zeroed: nothing there */
	FH_REGION_ANON,
	FH_REGION_MEMFD,
	FH_REGION_PAGES,
	FH_REGION_DMABUF,
};

/* What lies under a region. */
enum fh_region_huge {
	FH_HUGE_NONE, /* small pages */
	FH_HUGE_THP,  /* huge pages as far as the kernel has some when they are touched */
	FH_HUGE_TLB,  /* reserved huge pages (vm.nr_hugepages), all of them there already */
};

/* What is wished for. */
#define FH_REGION_HUGE 0x01 /* huge pages: reserved ones, else transparent ones */
#define FH_REGION_LOCK 0x02 /* keep in memory what has been touched */

struct fh_region {
	enum fh_region_type type;
	enum fh_region_huge huge;
	bool locked;
	uint8_t *base; /* NULL: the CPU cannot see it */
	size_t bytes;
	int fd; /* FH_REGION_MEMFD: the memfd, ours; otherwise -1 */
	/* The module's. */
	struct fh_ctl *ctl; /* NULL: it does not know this region */
	uint32_t mem_id;
	/* What is to be unmapped. */
	void *map;
	size_t map_bytes;
};

/**
 * fh_region_alloc() - anonymous memory, zeroed, for this process alone
 * @r: filled in
 * @bytes: at least 1; rounded up to whole pages, with FH_REGION_HUGE on reserved
 *         huge pages to whole ones of those
 * @flags: FH_REGION_*
 * @err: may be NULL
 *
 * Memory is there when it is touched, except for reserved huge pages: these are
 * touched here, because a control group's limit on them would otherwise end the
 * process later.
 *
 * Return: 0, or -ENOMEM.
 */
int fh_region_alloc(struct fh_region *r, size_t bytes, uint32_t flags, struct fh_err *err);
/*
 * A memfd of @name, mapped, sealed against shrinking and growing; r->fd may be
 * handed to another process.  Huge pages of a memfd are reserved ones or none.
 */
int fh_region_memfd(struct fh_region *r, const char *name, size_t bytes, uint32_t flags, struct fh_err *err);
/* Pages of the module's own, mapped. -EDQUOT: beyond its limit mem_mib_max. */
int fh_region_pages(struct fh_region *r, struct fh_ctl *ctl, size_t bytes, struct fh_err *err);
/*
 * A dma-buf; @dmabuf stays the caller's.  @pin: it may not move, see
 * Documentation/userspace-api/freehold.rst for what that does to GPU memory.
 * Where its exporter lets no CPU see it r->base is NULL.
 */
int fh_region_import(struct fh_region *r, struct fh_ctl *ctl, int dmabuf, bool pin, struct fh_err *err);
/*
 * Buffer @handle of the DRM device that @drm_fd is open on.  libdrm is loaded for
 * it; -ENOTSUP where it is not installed.
 */
int fh_region_prime(struct fh_region *r, struct fh_ctl *ctl, int drm_fd, uint32_t handle, struct fh_err *err);
/*
 * Show an anonymous or memfd region to the module: all of it is brought into
 * memory and pinned, and counts towards RLIMIT_MEMLOCK.  -ENOMEM: that limit,
 * -EDQUOT: the module's; the region is as usable as before.
 */
int fh_region_register(struct fh_region *r, struct fh_ctl *ctl, struct fh_err *err);
/* A dma-buf of a FH_REGION_PAGES or FH_REGION_DMABUF, the caller's to close; or -errno. */
int fh_region_export(const struct fh_region *r);
/* Zeroed or made; it is zeroed after. */
void fh_region_free(struct fh_region *r);

/* Bytes of it that lie in huge pages now; asks the kernel, so not for a hot path. */
size_t fh_region_huge_bytes(const struct fh_region *r);
/* "37 MiB, 36 MiB of it in transparent huge pages, locked, pinned as the module's region 2" into @buf, which is
 * returned. */
char *fh_region_describe(const struct fh_region *r, char *buf, size_t cap);

#endif /* FH_BASE_REGION_H */
