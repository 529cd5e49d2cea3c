// SPDX-License-Identifier: Apache-2.0
/* sd_notify(3)'s protocol by hand: one datagram a state, to a path or an abstract ("@") Unix socket. */
#include "runtime/daemon/notify.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void fhd_notify_open(struct fhd_notify *n)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	size_t len = path ? strlen(path) : 0;

	n->fd = -1;
	if (len < 2 || len >= sizeof(to.sun_path) || (*path != '/' && *path != '@'))
		return;
	memcpy(to.sun_path, path, len);
	if (*path == '@')
		to.sun_path[0] = 0;
	n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (n->fd >= 0 &&
	    connect(n->fd, (struct sockaddr *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)))
		fhd_notify_close(n);
}

void fhd_notify(const struct fhd_notify *n, const char *state)
{
	if (n->fd >= 0 && send(n->fd, state, strlen(state), MSG_NOSIGNAL) < 0)
		return; /* the manager went away: it will see that we live */
}

void fhd_notify_close(struct fhd_notify *n)
{
	if (n->fd >= 0)
		close(n->fd);
	n->fd = -1;
}
