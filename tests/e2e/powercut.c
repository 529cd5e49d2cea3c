// SPDX-License-Identifier: Apache-2.0
/*
 * Notes every change that a process makes below a folder, so that powercut.py can build
 * that folder as a disk may have it when the power goes: LD_PRELOAD.
 *
 * POWERCUT_DIR is the folder, an absolute path; POWERCUT_RECORD a file as long as the
 * record may become, which is mapped: a header, then changes one after another, each a
 * struct op with its path and its bytes.  One lock orders them as the kernel has them.  A
 * sync is two of them: what is written while it is under way need not be in it.  Files
 * are known by their inode.  SQLite and the audit log change files by the functions below
 * and no others; what is mapped (SQLite's -shm) is not noted, and is gone after a cut.
 * The system is called without the C library's help, for the process has a filter.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CREATE = 1, WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, NAMES_BEGIN, NAMES_END, RENAME, UNLINK, MKDIR };
enum { MAX_FDS = 65536 };

struct header {
	_Atomic uint64_t nr_ops, used, full;
};

struct op {
	uint64_t kind, ino, offset, nr_path, nr_bytes;
};

/* What is open: a path below the folder, "" itself; NULL: not ours. */
struct file {
	char *path;
	uint64_t ino;
	bool folder;
};

static struct header *rec;
static uint64_t rec_bytes;
static const char *top;
static struct file files[MAX_FDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void)
{
	const char *record = getenv("POWERCUT_RECORD");
	struct stat st;
	void *p;
	int fd;

	top = getenv("POWERCUT_DIR");
	fd = record && top ? (int)syscall(SYS_openat, AT_FDCWD, record, O_RDWR | O_CLOEXEC) : -1;
	if (fd < 0 || fstat(fd, &st))
		return;
	p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	syscall(SYS_close, fd);
	if (p == MAP_FAILED)
		return;
	rec = p;
	rec_bytes = (uint64_t)st.st_size - sizeof(*rec);
}

/* Under the lock. */
static void note(int kind, uint64_t ino, uint64_t offset, const char *path, const void *bytes, size_t n)
{
	struct op o = {(uint64_t)kind, ino, offset, strlen(path), n};
	uint64_t used = atomic_load(&rec->used), need = (sizeof(o) + o.nr_path + n + 7) & ~7ull;
	char *at = (char *)(rec + 1) + used;

	if (used + need > rec_bytes) {
		atomic_store(&rec->full, 1);
		return;
	}
	memcpy(at, &o, sizeof(o));
	memcpy(at + sizeof(o), path, o.nr_path);
	if (n)
		memcpy(at + sizeof(o) + o.nr_path, bytes, n);
	atomic_store(&rec->used, used + need);
	atomic_fetch_add(&rec->nr_ops, 1);
}

static struct file *file_of(int fd)
{
	return rec && fd >= 0 && fd < MAX_FDS && files[fd].path ? &files[fd] : NULL;
}

/* Where @path at @at is below the folder; NULL: not there. No links are below it, and nobody changes his folder. */
static const char *below(int at, const char *path, char out[PATH_MAX])
{
	const struct file *f = file_of(at);
	size_t n = rec ? strlen(top) : 0;

	if (!rec || (*path != '/' && !f))
		return NULL;
	if (*path == '/' && (strncmp(path, top, n) || (path[n] && path[n] != '/')))
		return NULL;
	if (*path == '/')
		snprintf(out, PATH_MAX, "%s", path[n] ? path + n + 1 : "");
	else if (!strcmp(path, "."))
		snprintf(out, PATH_MAX, "%s", f->path);
	else
		snprintf(out, PATH_MAX, "%s%s%s", f->path, *f->path ? "/" : "", path);
	return out;
}

static int open_noted(int at, const char *path, int flags, mode_t mode)
{
	char full[PATH_MAX];
	const char *name = below(at, path, full);
	struct stat st;
	bool fresh;
	int fd;

	if (!name)
		return (int)syscall(SYS_openat, at, path, flags, mode);
	pthread_mutex_lock(&lock);
	fresh = fstatat(at, path, &st, AT_SYMLINK_NOFOLLOW) != 0;
	fd = (int)syscall(SYS_openat, at, path, flags, mode);
	if (fd >= 0 && fd < MAX_FDS && !fstat(fd, &st)) {
		files[fd] = (struct file){strdup(name), st.st_ino, S_ISDIR(st.st_mode)};
		if (fresh)
			note(CREATE, st.st_ino, 0, name, NULL, 0);
		else if (flags & O_TRUNC)
			note(TRUNCATE, st.st_ino, 0, name, NULL, 0);
	}
	pthread_mutex_unlock(&lock);
	return fd;
}

int openat(int at, const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	return open_noted(at, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	return open_noted(AT_FDCWD, path, flags, mode);
}

int close(int fd)
{
	struct file *f = file_of(fd);
	char *path = f ? f->path : NULL;

	if (f)
		f->path = NULL;
	free(path);
	return (int)syscall(SYS_close, fd);
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t offset)
{
	const struct file *f = file_of(fd);
	ssize_t done;

	if (!f)
		return syscall(SYS_pwrite64, fd, p, n, offset);
	pthread_mutex_lock(&lock);
	done = syscall(SYS_pwrite64, fd, p, n, offset);
	if (done > 0)
		note(WRITE, f->ino, (uint64_t)offset, f->path, p, (size_t)done);
	pthread_mutex_unlock(&lock);
	return done;
}

ssize_t write(int fd, const void *p, size_t n)
{
	const struct file *f = file_of(fd);
	off_t at = f ? (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR) : -1;
	ssize_t done;

	if (at < 0)
		return syscall(SYS_write, fd, p, n);
	done = pwrite(fd, p, n, at);
	if (done > 0)
		syscall(SYS_lseek, fd, at + done, SEEK_SET);
	return done;
}

int ftruncate(int fd, off_t n)
{
	const struct file *f = file_of(fd);
	int rc;

	pthread_mutex_lock(&lock);
	rc = (int)syscall(SYS_ftruncate, fd, n);
	if (!rc && f)
		note(TRUNCATE, f->ino, (uint64_t)n, f->path, NULL, 0);
	pthread_mutex_unlock(&lock);
	return rc;
}

static int sync_noted(long how, int fd)
{
	const struct file *f = file_of(fd);
	int rc;

	if (!f)
		return (int)syscall(how, fd);
	pthread_mutex_lock(&lock);
	note(f->folder ? NAMES_BEGIN : SYNC_BEGIN, f->ino, 0, f->path, NULL, 0);
	pthread_mutex_unlock(&lock);
	rc = (int)syscall(how, fd);
	pthread_mutex_lock(&lock);
	if (!rc)
		note(f->folder ? NAMES_END : SYNC_END, f->ino, 0, f->path, NULL, 0);
	pthread_mutex_unlock(&lock);
	return rc;
}

int fsync(int fd)
{
	return sync_noted(SYS_fsync, fd);
}

int fdatasync(int fd)
{
	return sync_noted(SYS_fdatasync, fd);
}

/* A change of names; @to is NULL but for a RENAME. */
static int name_noted(int kind, int at, const char *path, int to_at, const char *to, long arg)
{
	char full[PATH_MAX], to_full[PATH_MAX];
	const char *name = below(at, path, full), *to_name = to ? below(to_at, to, to_full) : NULL;
	int rc;

	pthread_mutex_lock(&lock);
	if (kind == RENAME)
		rc = (int)syscall(SYS_renameat, at, path, to_at, to);
	else
		rc = (int)syscall(kind == MKDIR ? SYS_mkdirat : SYS_unlinkat, at, path, arg);
	if (!rc && name)
		note(kind, 0, 0, name, to_name, to_name ? strlen(to_name) : 0);
	pthread_mutex_unlock(&lock);
	return rc;
}

int renameat(int at, const char *path, int to_at, const char *to)
{
	return name_noted(RENAME, at, path, to_at, to, 0);
}

int rename(const char *path, const char *to)
{
	return name_noted(RENAME, AT_FDCWD, path, AT_FDCWD, to, 0);
}

int unlinkat(int at, const char *path, int flags)
{
	return name_noted(UNLINK, at, path, 0, NULL, flags);
}

int unlink(const char *path)
{
	return name_noted(UNLINK, AT_FDCWD, path, 0, NULL, 0);
}

int mkdirat(int at, const char *path, mode_t mode)
{
	return name_noted(MKDIR, at, path, 0, NULL, (long)mode);
}

int mkdir(const char *path, mode_t mode)
{
	return name_noted(MKDIR, AT_FDCWD, path, 0, NULL, (long)mode);
}

#define SAME_AS(name) __attribute__((alias(name)))
int open64(const char *path, int flags, ...) SAME_AS("open");
int openat64(int at, const char *path, int flags, ...) SAME_AS("openat");
ssize_t pwrite64(int fd, const void *p, size_t n, off64_t offset) SAME_AS("pwrite");
int ftruncate64(int fd, off64_t n) SAME_AS("ftruncate");
