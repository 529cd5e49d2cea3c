// SPDX-License-Identifier: Apache-2.0
/* The folder of an audit log: the few system calls, with their errors looked at. */
#include "runtime/trust/dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int watched(struct fh_dir *d, struct fh_dir_op op)
{
	return d->watch ? d->watch(d->watch_ctx, &op) : 0;
}

int fh_dir_open(struct fh_dir *d, const char *path, bool create, struct fh_err *err)
{
	*d = (struct fh_dir){.fd = -1};
	if (create && mkdir(path, 0700) && errno != EEXIST)
		return fh_errf(err, -errno, "%s: cannot make this folder: %s", path, strerror(errno));
	d->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d->fd < 0)
		return fh_errf(err, -errno, "%s: %s", path, strerror(errno));
	return 0;
}

void fh_dir_close(struct fh_dir *d)
{
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
}

/* The folder that @path lies in, into @out; "." for the log's own. */
static void parent_of(const char *path, char out[FH_DIR_PATH_MAX])
{
	const char *slash = strrchr(path, '/');

	snprintf(out, FH_DIR_PATH_MAX, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
}

static int note_dirty(struct fh_dir *d, const char *path)
{
	char parent[FH_DIR_PATH_MAX];

	parent_of(path, parent);
	for (uint32_t i = 0; i < d->nr_dirty; i++)
		if (!strcmp(d->dirty[i], parent))
			return 0;
	if (d->nr_dirty == FH_DIR_DIRTY) {
		int rc = fh_dir_sync_names(d);

		if (rc)
			return rc;
	}
	strcpy(d->dirty[d->nr_dirty++], parent);
	return 0;
}

int fh_dir_open_file(struct fh_dir *d, const char *path)
{
	struct stat st;
	int fd, rc = 0;

	if (fstatat(d->fd, path, &st, 0))
		rc = watched(d, (struct fh_dir_op){.kind = FH_DIR_WRITE, .path = path});
	if (rc)
		return rc;
	fd = openat(d->fd, path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	rc = note_dirty(d, path);
	if (rc)
		close(fd);
	return rc ? rc : fd;
}

int fh_dir_write(struct fh_dir *d, int fd, const char *path, uint64_t offset, const void *p, size_t n)
{
	int rc = watched(
		d, (struct fh_dir_op){.kind = FH_DIR_WRITE, .path = path, .offset = offset, .bytes = p, .nr_bytes = n});

	for (const char *at = p; n && !rc;) {
		ssize_t done = pwrite(fd, at, n, (off_t)offset);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0) {
			rc = done ? -errno : -EIO;
			break;
		}
		at += done;
		offset += (uint64_t)done;
		n -= (size_t)done;
	}
	return rc;
}

int fh_dir_sync(struct fh_dir *d, int fd, const char *path)
{
	int rc = watched(d, (struct fh_dir_op){.kind = FH_DIR_SYNC, .path = path});

	if (!rc && fdatasync(fd))
		rc = -errno;
	return rc;
}

int fh_dir_truncate(struct fh_dir *d, int fd, const char *path, uint64_t n)
{
	int rc = watched(d, (struct fh_dir_op){.kind = FH_DIR_TRUNCATE, .path = path, .offset = n});

	if (!rc && ftruncate(fd, (off_t)n))
		rc = -errno;
	return rc;
}

int fh_dir_mkdir(struct fh_dir *d, const char *path)
{
	struct stat st;
	int rc;

	if (!fstatat(d->fd, path, &st, 0))
		return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
	rc = watched(d, (struct fh_dir_op){.kind = FH_DIR_MKDIR, .path = path});
	if (!rc && mkdirat(d->fd, path, 0700) && errno != EEXIST)
		rc = -errno;
	return rc ? rc : note_dirty(d, path);
}

static int make_parents(struct fh_dir *d, const char *path)
{
	char part[FH_DIR_PATH_MAX];
	int rc = 0;

	for (const char *slash = strchr(path, '/'); slash && !rc; slash = strchr(slash + 1, '/')) {
		snprintf(part, sizeof(part), "%.*s", (int)(slash - path), path);
		rc = fh_dir_mkdir(d, part);
	}
	return rc;
}

static int rename_file(struct fh_dir *d, const char *from, const char *to)
{
	int rc = watched(d, (struct fh_dir_op){.kind = FH_DIR_RENAME, .path = from, .to = to});

	if (!rc && renameat(d->fd, from, d->fd, to))
		rc = -errno;
	return rc ? rc : note_dirty(d, to);
}

int fh_dir_put(struct fh_dir *d, const char *path, const void *p, size_t n)
{
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	char tmp[FH_DIR_PATH_MAX];
	int fd, rc = make_parents(d, path);

	if (rc)
		return rc;
	/* With a dot before it, which no name of ours begins with: it is nobody else's file. */
	snprintf(tmp, sizeof(tmp), "%.*s.%s.tmp", (int)(base - path), path, base);
	fd = fh_dir_open_file(d, tmp);
	if (fd < 0)
		return fd;
	rc = fh_dir_truncate(d, fd, tmp, 0);
	if (!rc)
		rc = fh_dir_write(d, fd, tmp, 0, p, n);
	if (!rc)
		rc = fh_dir_sync(d, fd, tmp);
	if (close(fd) && !rc)
		rc = -errno;
	return rc ? rc : rename_file(d, tmp, path);
}

int fh_dir_unlink(struct fh_dir *d, const char *path, bool folder)
{
	int rc = watched(d, (struct fh_dir_op){.kind = FH_DIR_UNLINK, .path = path});

	if (!rc && unlinkat(d->fd, path, folder ? AT_REMOVEDIR : 0))
		rc = -errno;
	return rc ? rc : note_dirty(d, path);
}

int fh_dir_sync_names(struct fh_dir *d)
{
	while (d->nr_dirty) {
		const char *path = d->dirty[d->nr_dirty - 1];
		int fd, rc = watched(d, (struct fh_dir_op){.kind = FH_DIR_SYNC_NAMES, .path = path});

		if (rc)
			return rc;
		fd = openat(d->fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		/* A folder that was emptied and removed has a parent that is on the list too. */
		if (fd < 0 && errno != ENOENT)
			return -errno;
		if (fd >= 0) {
			rc = fsync(fd) ? -errno : 0;
			close(fd);
			if (rc)
				return rc;
		}
		d->nr_dirty--;
	}
	return 0;
}

static int read_all(int fd, char *p, size_t want, size_t *n)
{
	for (*n = 0; *n < want;) {
		ssize_t got = read(fd, p + *n, want - *n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (!got)
			break;
		*n += (size_t)got;
	}
	return 0;
}

int fh_dir_read(const struct fh_dir *d, const char *path, size_t most, char **out, size_t *n)
{
	int fd = openat(d->fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), rc = 0;
	struct stat st;

	*out = NULL;
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st))
		rc = -errno;
	else if (!S_ISREG(st.st_mode))
		rc = -EISDIR;
	else if (st.st_size > (off_t)most)
		rc = -EFBIG;
	if (!rc) {
		*out = malloc((size_t)st.st_size + 1);
		rc = *out ? read_all(fd, *out, (size_t)st.st_size, n) : -ENOMEM;
	}
	close(fd);
	if (rc) {
		free(*out);
		*out = NULL;
		return rc;
	}
	(*out)[*n] = 0;
	return 0;
}

int fh_dir_list(const struct fh_dir *d, const char *path, int (*fn)(void *ctx, const char *name), void *ctx)
{
	int fd = openat(d->fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
	DIR *dir;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	dir = fdopendir(fd);
	if (!dir) {
		rc = -errno;
		close(fd);
		return rc;
	}
	while (!rc) {
		struct dirent *e = readdir(dir);

		if (!e)
			break;
		if (e->d_name[0] != '.')
			rc = fn(ctx, e->d_name);
	}
	closedir(dir);
	return rc;
}
