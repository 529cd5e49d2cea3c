/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The folder of an audit log, and everything that is done to it.
 *
 * All paths are relative to its descriptor, so that the daemon's sandbox can
 * tell them from others.  Every change goes through here and past `watch`, which
 * may let it happen or fail it: tests note the changes, and build from them what
 * a power cut would have left, or have the disk fill up.
 *
 * A name is durable once its folder was synced: fh_dir_sync_names() does so for
 * all folders that were changed since.
 */
#ifndef FH_TRUST_DIR_H
#define FH_TRUST_DIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/err.h"

#define FH_DIR_PATH_MAX 192
#define FH_DIR_DIRTY 32

enum fh_dir_op_kind {
	FH_DIR_WRITE, /* @bytes at @offset; creates the file, if need be */
	FH_DIR_SYNC,
	FH_DIR_TRUNCATE, /* to @offset; creates the file, if need be */
	FH_DIR_RENAME,	 /* to @to */
	FH_DIR_UNLINK,	 /* a file or an empty folder */
	FH_DIR_MKDIR,
	FH_DIR_SYNC_NAMES, /* of the folder @path; "." is the log's own */
};

struct fh_dir_op {
	enum fh_dir_op_kind kind;
	const char *path, *to;
	uint64_t offset;
	const void *bytes;
	size_t nr_bytes;
};

struct fh_dir {
	int fd;
	/* 0: let it happen; -errno: it fails so. NULL: no watch. */
	int (*watch)(void *ctx, const struct fh_dir_op *op);
	void *watch_ctx;
	char dirty[FH_DIR_DIRTY][FH_DIR_PATH_MAX];
	uint32_t nr_dirty;
};

/* Open the folder; with @create make it (0700) if it is not there. */
int fh_dir_open(struct fh_dir *d, const char *path, bool create, struct fh_err *err);
void fh_dir_close(struct fh_dir *d);

/* A file for fh_dir_write(), made if need be (0600). Descriptor or -errno. */
int fh_dir_open_file(struct fh_dir *d, const char *path);
/* All of it, or -errno: then any part of it may have been written. */
int fh_dir_write(struct fh_dir *d, int fd, const char *path, uint64_t offset, const void *p, size_t n);
int fh_dir_sync(struct fh_dir *d, int fd, const char *path);
int fh_dir_truncate(struct fh_dir *d, int fd, const char *path, uint64_t n);

/* A whole file, durable but for its name, in the place of what was there. Makes the folders on the way. */
int fh_dir_put(struct fh_dir *d, const char *path, const void *p, size_t n);
int fh_dir_unlink(struct fh_dir *d, const char *path, bool folder);
int fh_dir_mkdir(struct fh_dir *d, const char *path);
int fh_dir_sync_names(struct fh_dir *d);

/* The whole file: *out is malloc'ed, with a zero after it. -EFBIG above @most. */
int fh_dir_read(const struct fh_dir *d, const char *path, size_t most, char **out, size_t *n);
/* Calls @fn with each name in the folder but those with a dot first, until it returns nonzero. No folder: 0. */
int fh_dir_list(const struct fh_dir *d, const char *path, int (*fn)(void *ctx, const char *name), void *ctx);

#endif /* FH_TRUST_DIR_H */
