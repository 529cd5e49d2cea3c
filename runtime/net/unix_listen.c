// SPDX-License-Identifier: Apache-2.0
/* See unix_listen.h.  The caller owns the struct; the path is copied. */
#include "runtime/net/unix_listen.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int unix_address(const char *path, struct sockaddr_un *sa, struct fh_err *err)
{
	*sa = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (!path[0] || strlen(path) >= sizeof(sa->sun_path))
		return fh_errf(err, -ENAMETOOLONG, "unix:%s: the path of a socket must have 1 to %zu bytes", path,
			       sizeof(sa->sun_path) - 1);
	strcpy(sa->sun_path, path);
	return 0;
}

/* Make way: remove a socket that a dead process left behind. */
static int clear_path(const struct sockaddr_un *sa, int type, struct fh_err *err)
{
	const char *path = sa->sun_path;
	struct stat st;
	int fd, rc;

	if (lstat(path, &st))
		return errno == ENOENT ? 0 : fh_errf(err, -errno, "unix:%s: %s", path, strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return fh_errf(err, -EEXIST,
			       "unix:%s: there is something that is no socket; move it or choose another path", path);
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fh_errf(err, -errno, "unix:%s: %s", path, strerror(errno));
	rc = connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) ? -errno : 0;
	close(fd);
	/* -EPROTOTYPE: a socket of another kind, whether or not anybody listens. */
	if (rc != -ECONNREFUSED)
		return fh_errf(err, -EADDRINUSE, "unix:%s: another process listens there", path);
	if (unlink(path))
		return fh_errf(err, -errno, "unix:%s: cannot remove the socket that a dead process left: %s", path,
			       strerror(errno));
	return 0;
}

int fh_unix_listen(struct fh_unix_listener *l, const char *path, int type, int backlog, struct fh_err *err)
{
	struct sockaddr_un sa;
	struct stat st;
	int fd, rc;

	*l = (struct fh_unix_listener){.fd = -1};
	rc = unix_address(path, &sa, err);
	if (!rc)
		rc = clear_path(&sa, type, err);
	if (rc)
		return rc;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fh_errf(err, -errno, "unix:%s: %s", path, strerror(errno));
	/* The mode of the open socket becomes the file's at bind(), less the umask; chmod() gives that back. */
	if (fchmod(fd, 0660) || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) || chmod(path, 0660) ||
	    listen(fd, backlog) || lstat(path, &st)) {
		rc = fh_errf(err, -errno, "unix:%s: cannot listen: %s", path, strerror(errno));
		close(fd);
		return rc;
	}
	l->fd = fd;
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	strcpy(l->path, path);
	return 0;
}

void fh_unix_unlisten(struct fh_unix_listener *l)
{
	struct stat st;

	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
	/* Only what is still ours: somebody may have put another socket there. */
	if (l->path[0] && !lstat(l->path, &st) && st.st_dev == l->dev && st.st_ino == l->ino)
		unlink(l->path);
	l->path[0] = '\0';
}
