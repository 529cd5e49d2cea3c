/* SPDX-License-Identifier: Apache-2.0 */
/* Starting a thread. */
#ifndef FH_BASE_THREAD_H
#define FH_BASE_THREAD_H

#include <pthread.h>
#include <signal.h>

/*
 * Start a thread called @name (15 bytes at most), with every signal blocked:
 * signals are the main thread's business.  0 or -errno.
 */
static inline int fh_thread_start(pthread_t *thread, const char *name, void *(*main)(void *), void *ctx)
{
	sigset_t all, old;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = -pthread_create(thread, NULL, main, ctx);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!rc)
		pthread_setname_np(*thread, name);
	return rc;
}

#endif /* FH_BASE_THREAD_H */
