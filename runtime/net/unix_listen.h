/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A listening Unix socket with a name in the file system.
 *
 * A path that is taken is given up only when it is a socket on which nobody
 * listens; anything else there is an error.  The socket file is 0660 from its
 * first moment.
 */
#ifndef FH_NET_UNIX_LISTEN_H
#define FH_NET_UNIX_LISTEN_H

#include <stdint.h>

#include "runtime/base/err.h"

struct fh_unix_listener {
	int fd;		   /* non-blocking; -1: none */
	char path[108];	   /* to be removed; "": none */
	uint64_t dev, ino; /* of the file: what is removed is ours */
};

/* @type: SOCK_STREAM or SOCK_SEQPACKET. 0 or -errno with @err. */
int fh_unix_listen(struct fh_unix_listener *l, const char *path, int type, int backlog, struct fh_err *err);
/* Close it and remove the file, if it is still ours. A second call does nothing. */
void fh_unix_unlisten(struct fh_unix_listener *l);

#endif /* FH_NET_UNIX_LISTEN_H */
