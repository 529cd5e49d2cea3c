// SPDX-License-Identifier: Apache-2.0
/*
 * Users, capabilities and Landlock.  The system call filter is in seccomp.c.
 *
 * What holds back an outgoing connection, each alone: the filter has neither
 * socket() nor connect(); Landlock refuses connect() and bind() of TCP (from
 * 6.7 on) to io_uring too, because its hooks lie below both; and the I/O ring is
 * restricted to the operations of a server (runtime/base/io_uring.c), while the
 * filter allows no further ring.  A signal or an abstract Unix socket outside
 * is out of reach from 6.12 on.
 *
 * The constants of <linux/landlock.h> are spelled out here: the header of the
 * build machine may be older than the kernel that we run on.
 */
#include "runtime/daemon/sandbox.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/base/log.h"

/* ---- user and capabilities ---- */

static int become(const struct passwd *pw, struct fh_err *err)
{
	if (initgroups(pw->pw_name, pw->pw_gid) || setresgid(pw->pw_gid, pw->pw_gid, pw->pw_gid) ||
	    setresuid(pw->pw_uid, pw->pw_uid, pw->pw_uid))
		return fh_errf(err, -errno, "cannot become user %s: %s", pw->pw_name, strerror(errno));
	if (pw->pw_uid && !setuid(0))
		return fh_errf(err, -EPERM, "user %s could become root again", pw->pw_name);
	return 0;
}

/* The user to be: NULL when the process stays what it is. */
static int find_user(const struct fhd_sandbox *s, struct passwd **out, struct fh_err *err)
{
	const char *name = s->user ? s->user : "freehold";

	*out = NULL;
	if (geteuid()) {
		if (s->user)
			fh_warn("--user %s: only root can become another user", s->user);
		return 0;
	}
	errno = 0;
	*out = getpwnam(name);
	if (!*out && s->user)
		return fh_errf(err, errno ? -errno : -ENOENT, "--user %s: there is no such user", name);
	if (!*out)
		fh_warn("started as root, and there is no user 'freehold': staying root, without its capabilities "
			"(--user NAME names another)");
	return 0;
}

static int drop_capabilities(struct fh_err *err)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {0};

	for (int cap = 0; cap < 64; cap++)
		if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1)
			prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* needs CAP_SETPCAP: not there, no matter */
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (syscall(SYS_capset, &header, none))
		return fh_errf(err, -errno, "cannot give up capabilities: %s", strerror(errno));
	return 0;
}

static void note_user(struct fhd_sandbox_state *state)
{
	const struct passwd *pw = getpwuid(geteuid());

	snprintf(state->user, sizeof(state->user), "%s", pw ? pw->pw_name : "?");
	state->root = !geteuid();
}

/* ---- Landlock ---- */

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif

#define LL_CREATE_VERSION 1u
#define LL_RULE_PATH_BENEATH 1

#define LL_FS_WRITE_FILE (1ull << 1)
#define LL_FS_READ_FILE (1ull << 2)
#define LL_FS_READ_DIR (1ull << 3)
#define LL_FS_REMOVE_DIR (1ull << 4)
#define LL_FS_REMOVE_FILE (1ull << 5)
#define LL_FS_MAKE_DIR (1ull << 7)
#define LL_FS_MAKE_REG (1ull << 8)
#define LL_FS_TRUNCATE (1ull << 14) /* from the third version on */
#define LL_FS_OWNED                                                                                                    \
	(LL_FS_WRITE_FILE | LL_FS_READ_FILE | LL_FS_READ_DIR | LL_FS_REMOVE_DIR | LL_FS_REMOVE_FILE | LL_FS_MAKE_DIR | \
	 LL_FS_MAKE_REG | LL_FS_TRUNCATE)
#define LL_NET_BIND_TCP (1ull << 0)
#define LL_NET_CONNECT_TCP (1ull << 1)
#define LL_SCOPE_ABSTRACT_UNIX (1ull << 0)
#define LL_SCOPE_SIGNAL (1ull << 1)

struct ll_ruleset {
	uint64_t fs, net, scoped;
};

struct ll_path_beneath {
	uint64_t access;
	int32_t fd;
} __attribute__((packed));

/* How many kinds of file access each version knows: refuse them all. */
static uint64_t fs_accesses(int abi)
{
	return (1ull << (abi >= 5 ? 16 : abi >= 3 ? 15 : abi >= 2 ? 14 : 13)) - 1;
}

int fhd_landlock_abi(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LL_CREATE_VERSION);

	return abi > 0 ? (int)abi : 0;
}

static int allow_path(int ruleset, const char *path, uint64_t access, struct fh_err *err)
{
	struct ll_path_beneath rule = {.access = access};
	struct stat st;
	int rc = 0;

	rule.fd = open(path, O_PATH | O_CLOEXEC);
	if (rule.fd < 0)
		return 0; /* not there: nothing to allow */
	if (!fstat(rule.fd, &st) && !S_ISDIR(st.st_mode))
		rule.access &= LL_FS_READ_FILE | LL_FS_WRITE_FILE; /* the others make no sense for a file */
	if (syscall(SYS_landlock_add_rule, ruleset, LL_RULE_PATH_BENEATH, &rule, 0))
		rc = fh_errf(err, -errno, "Landlock: a rule for %s: %s", path, strerror(errno));
	close(rule.fd);
	return rc;
}

static int enter_landlock(const struct fhd_sandbox *s, struct fhd_sandbox_state *state, struct fh_err *err)
{
	int abi = fhd_landlock_abi(), ruleset, rc = 0;
	struct ll_ruleset attr = {.fs = fs_accesses(abi)};

	state->landlock_abi = abi;
	if (!abi)
		return 0;
	if (abi >= 4)
		/* The listeners are open: no rule allows any. */
		attr.net = LL_NET_BIND_TCP | (s->connects ? 0 : LL_NET_CONNECT_TCP);
	if (abi >= 6)
		attr.scoped = LL_SCOPE_ABSTRACT_UNIX | LL_SCOPE_SIGNAL;
	ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, abi >= 6 ? 24 : abi >= 4 ? 16 : 8, 0);
	if (ruleset < 0)
		return fh_errf(err, -errno, "Landlock: %s", strerror(errno));
	for (uint32_t i = 0; i < s->nr_readable && !rc; i++)
		rc = allow_path(ruleset, s->readable[i], LL_FS_READ_FILE | LL_FS_READ_DIR, err);
	for (uint32_t i = 0; i < s->nr_writable && !rc; i++)
		rc = allow_path(ruleset, s->writable[i], LL_FS_WRITE_FILE | LL_FS_READ_FILE | LL_FS_READ_DIR, err);
	for (uint32_t i = 0; i < s->nr_removable && !rc; i++)
		rc = allow_path(ruleset, s->removable[i], LL_FS_REMOVE_FILE, err);
	if (!rc && s->owned)
		rc = allow_path(ruleset, s->owned, LL_FS_OWNED & attr.fs, err);
	if (!rc && syscall(SYS_landlock_restrict_self, ruleset, 0))
		rc = fh_errf(err, -errno, "Landlock: %s", strerror(errno));
	close(ruleset);
	state->tcp = !rc && abi >= 4;
	return rc;
}

/* A folder that is there is left as it is: whose it shall be is for who made it to say. */
static int make_owned(const char *path, const struct passwd *pw, struct fh_err *err)
{
	if (mkdir(path, 0700))
		return errno == EEXIST ? 0
				       : fh_errf(err, -errno, "%s: cannot make this folder: %s", path, strerror(errno));
	if (pw && chown(path, pw->pw_uid, pw->pw_gid))
		return fh_errf(err, -errno, "%s: cannot give this folder to %s: %s", path, pw->pw_name,
			       strerror(errno));
	return 0;
}

int fhd_sandbox_enter(const struct fhd_sandbox *s, struct fhd_sandbox_state *state, struct fh_err *err)
{
	/* Of a core that goes to a program only a limit of 1 keeps the kernel: see core(5). */
	const struct rlimit none = {1, 1};
	struct passwd *pw;
	int rc;

	*state = (struct fhd_sandbox_state){0};
	rc = find_user(s, &pw, err);
	if (!rc && s->owned)
		rc = make_owned(s->owned, pw, err);
	if (rc)
		return rc;
	if (pw)
		rc = become(pw, err);
	if (!rc)
		rc = drop_capabilities(err);
	note_user(state);
	if (!rc && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		rc = fh_errf(err, -errno, "PR_SET_NO_NEW_PRIVS: %s", strerror(errno));
	/* A core dump would hold the clients' prompts. */
	setrlimit(RLIMIT_CORE, &none);
	/* A change of user makes /proc/self root's; CUDA (driver 570) does not start where it cannot name its threads
	 * there. */
	if (!rc)
		prctl(PR_SET_DUMPABLE, s->driver, 0, 0, 0);
	if (rc || s->driver)
		return rc;
	return enter_landlock(s, state, err);
}

void fhd_sandbox_describe(const struct fhd_sandbox_state *state, char *out, size_t cap)
{
	if (!*state->user)
		snprintf(out, cap, "none");
	else
		snprintf(out, cap, "%sseccomp%s%s, user %s", state->filter ? "" : "no ",
			 state->landlock_abi ? ", Landlock" : "",
			 state->landlock_abi && !state->tcp ? " (files only)" : "", state->user);
}
