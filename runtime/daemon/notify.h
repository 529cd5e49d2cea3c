/* SPDX-License-Identifier: Apache-2.0 */
/* Tells the service manager how far the start is: sd_notify(3)'s protocol, a datagram to $NOTIFY_SOCKET. */
#ifndef FH_DAEMON_NOTIFY_H
#define FH_DAEMON_NOTIFY_H

struct fhd_notify {
	int fd; /* connected; -1: nobody listens */
};

/* Connects, so that a sandbox may follow. Failing is no error: the manager may be gone. */
void fhd_notify_open(struct fhd_notify *n);
/* "READY=1", "STOPPING=1", ... */
void fhd_notify(const struct fhd_notify *n, const char *state);
void fhd_notify_close(struct fhd_notify *n);

#endif /* FH_DAEMON_NOTIFY_H */
