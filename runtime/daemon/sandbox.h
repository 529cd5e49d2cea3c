/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the daemon may still do once it serves: almost nothing.
 *
 * Two steps, because the kernel's means differ in what they reach:
 *
 *   fhd_sandbox_enter()  before the process has threads, since a user, its
 *                        capabilities and a Landlock domain belong to a thread
 *                        and are inherited by those that it makes: becomes an
 *                        unprivileged user, gives up all capabilities, takes on
 *                        PR_SET_NO_NEW_PRIVS and Landlock.
 *   fhd_sandbox_filter() once everything runs: a system call filter on all
 *                        threads at once (SECCOMP_FILTER_FLAG_TSYNC).
 *
 * Landlock is done as well as the kernel can (nothing before 5.13, TCP from 6.7
 * on); the filter must work.
 */
#ifndef FH_DAEMON_SANDBOX_H
#define FH_DAEMON_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/err.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FHD_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FHD_SANITIZED 1
#endif
#endif
#ifndef FHD_SANITIZED
#define FHD_SANITIZED 0 /* a sanitizer traces its own process at the end, which the sandbox forbids */
#endif

#define FHD_SANDBOX_MAX_PATHS 24

struct fhd_sandbox {
	const char *user; /* to become when root; NULL: "freehold", if there is such a user */
	/* Files and folders that stay readable; a folder with all below it. Those that do not exist are skipped. */
	const char *readable[FHD_SANDBOX_MAX_PATHS];
	uint32_t nr_readable;
	/* Files, or folders with what is in them, that may be written to until the filter is on. */
	const char *writable[FHD_SANDBOX_MAX_PATHS];
	uint32_t nr_writable;
	/* Folders in which names may be removed (that of a listening Unix socket). */
	const char *removable[FHD_SANDBOX_MAX_PATHS];
	uint32_t nr_removable;
	/* A folder in which everything is ours to make, write, rename and remove, also once the filter is on; NULL:
	   none. Made (0700), for who the process becomes, if it is not there. */
	const char *owned;
	/* The process of a GPU: its driver opens what it pleases, so no Landlock, and /proc/self stays its own. */
	bool driver;
	bool connects; /* connections to others may be opened */
};

/* What was achieved, for the log and for `doctor`. */
struct fhd_sandbox_state {
	char user[64];	  /* that the process runs as now */
	bool root;	  /* it is still root (without capabilities) */
	int landlock_abi; /* 0: the kernel has none */
	bool tcp;	  /* Landlock refuses bind() and connect() of TCP */
	bool filter;	  /* seccomp is on */
};

/* 0, or -errno with @err; then the process should not go on. */
int fhd_sandbox_enter(const struct fhd_sandbox *s, struct fhd_sandbox_state *state, struct fh_err *err);
/*
 * @owned_fd: of the folder in which files are still made and written; -1: none are.  @nvidia: NVIDIA's driver is
 * asked for the energy of GPUs, through descriptors that its library has open.
 */
int fhd_sandbox_filter(struct fhd_sandbox_state *state, int owned_fd, bool nvidia, struct fh_err *err);
/* The filter of a process that speaks to others over TCP and UDP, and does nothing else; before it has threads. */
int fhd_sandbox_filter_client(struct fhd_sandbox_state *state, struct fh_err *err);

/* "seccomp, Landlock, user NAME"; "none". */
void fhd_sandbox_describe(const struct fhd_sandbox_state *state, char *out, size_t cap);

/* The kernel's Landlock version; 0: none. */
int fhd_landlock_abi(void);

#endif /* FH_DAEMON_SANDBOX_H */
