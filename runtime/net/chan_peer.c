// SPDX-License-Identifier: Apache-2.0
/*
 * Who is at the other end of a Unix socket, as the kernel vouches for it:
 * SO_PEERCRED, and from /proc when that process began and in which cgroup it is.
 *
 * A pid may be used again while we read /proc.  Where the kernel has
 * SO_PEERPIDFD (Linux 6.5), the process is seen to live afterwards, so that
 * what was read was its own; otherwise it is taken as it comes.  What cannot be
 * read (a sandbox, hidepid) is flagged, never guessed.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/net/chan_priv.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

/* Up to @cap - 1 bytes of a file of /proc, as a string; returns its length, 0 when it cannot be had. */
static size_t read_proc(uint32_t pid, const char *name, char *out, size_t cap)
{
	char path[64];
	ssize_t n = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/%u/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, out, cap - 1);
		close(fd);
	}
	out[n > 0 ? n : 0] = 0;
	return n > 0 ? (size_t)n : 0;
}

/* Field 22 of /proc/PID/stat; the name, field 2, may hold anything but ends with the last ')'. */
static uint64_t start_ns(uint32_t pid)
{
	char text[1024], *p;
	long hz = sysconf(_SC_CLK_TCK);

	if (!read_proc(pid, "stat", text, sizeof(text)) || !(p = strrchr(text, ')')) || hz <= 0)
		return 0;
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	return p ? strtoull(p + 1, NULL, 10) * (1000000000u / (uint64_t)hz) : 0;
}

/* Inode of the folder of its cgroup in the unified hierarchy, which is the cgroup's id; 0: unknown. */
static uint64_t cgroup_id(uint32_t pid)
{
	char text[PATH_MAX], path[PATH_MAX + 32], *p;
	struct stat st;

	if (!read_proc(pid, "cgroup", text, sizeof(text)))
		return 0;
	p = !strncmp(text, "0::", 3) ? text : strstr(text, "\n0::");
	if (!p)
		return 0;
	p = strchr(p, '/');
	if (!p)
		return 0;
	p[strcspn(p, "\n")] = 0;
	snprintf(path, sizeof(path), "/sys/fs/cgroup%s", p);
	return stat(path, &st) ? 0 : (uint64_t)st.st_ino;
}

/* Whether the process that connected has not ended; true where the kernel cannot say. */
static bool still_lives(int sock)
{
	socklen_t len = sizeof(int);
	struct pollfd p = {.events = POLLIN};
	int fd, rc;

	if (getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &fd, &len))
		return errno != ESRCH && errno != ENODATA;
	p.fd = fd;
	rc = poll(&p, 1, 0);
	close(fd);
	return rc == 0;
}

int fh_chan_peer(int sock, struct fh_peer *p)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	*p = (struct fh_peer){0};
	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		return -errno;
	p->uid = cred.uid;
	p->gid = cred.gid;
	p->pid = cred.pid > 0 ? (uint32_t)cred.pid : 0;
	p->flags = FH_PEER_VALID | (p->pid ? 0 : FH_PEER_PID_HIDDEN);
	if (p->pid) {
		p->start_boottime_ns = start_ns(p->pid);
		p->cgroup_id = cgroup_id(p->pid);
	}
	if (!still_lives(sock))
		p->start_boottime_ns = p->cgroup_id = 0;
	if (!p->cgroup_id)
		p->flags |= FH_PEER_NO_CGROUP;
	return 0;
}
