// SPDX-License-Identifier: Apache-2.0
/*
 * Memfds: making our own, and judging those of others before we map them.
 *
 * What a hostile memfd could do: shrink under a reader (SIGBUS), lie in a file
 * system whose pages may never come (FUSE) or run dry (hugetlbfs), or be longer
 * or shorter than the channel.  All are refused by kind, seals and length.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "runtime/net/chan_priv.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u
#endif
#define TMPFS_KIND 0x01021994 /* f_type of tmpfs, which memfds without huge pages are files of */
#define WANTED_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE)

int fh_memfd_make(const char *name, uint64_t bytes, int *fd, void **map, struct fh_err *err)
{
	int rc;

	*map = MAP_FAILED;
	*fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
	if (*fd < 0 && errno == EINVAL)
		*fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING); /* before Linux 6.3 */
	if (*fd < 0)
		return fh_errf(err, -errno, "memfd: %s", strerror(errno));
	if (ftruncate(*fd, (off_t)bytes))
		goto err_close;
	*map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	if (*map == MAP_FAILED || fcntl(*fd, F_ADD_SEALS, WANTED_SEALS | F_SEAL_SEAL))
		goto err_close;
	return 0;

err_close:
	rc = fh_errf(err, -errno, "a memfd of %llu bytes: %s", (unsigned long long)bytes, strerror(errno));
	if (*map != MAP_FAILED)
		munmap(*map, bytes);
	close(*fd);
	*fd = -1;
	return rc;
}

int fh_memfd_map(int fd, uint64_t bytes, void **map, struct fh_err *err)
{
	struct statfs fs;
	struct stat st;
	int seals;

	if (fstatfs(fd, &fs) || fs.f_type != TMPFS_KIND || fstat(fd, &st) || !S_ISREG(st.st_mode))
		return fh_errf(err, -EINVAL, "the descriptor is no memfd of ordinary pages");
	if ((uint64_t)st.st_size != bytes)
		return fh_errf(err, -EINVAL, "the memfd has %lld bytes, the channel %llu", (long long)st.st_size,
			       (unsigned long long)bytes);
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & WANTED_SEALS) != WANTED_SEALS)
		return fh_errf(err, -EINVAL,
			       "the memfd has seals %#x; F_SEAL_SHRINK, _GROW and _FUTURE_WRITE are needed",
			       seals < 0 ? 0 : seals);
	*map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (*map == MAP_FAILED)
		return fh_errf(err, -errno, "the memfd cannot be mapped: %s", strerror(errno));
	return 0;
}
