// SPDX-License-Identifier: Apache-2.0
/*
 * The system call filter: what the daemon does once it serves, as a list.
 *
 * Anything else fails with EPERM, so that a library that asks for something
 * unforeseen degrades instead of dying; what only an intruder would try ends the
 * process.  Arguments are looked at where the call alone says too little: files
 * are opened for reading only, memory is never executable, new threads are
 * threads, signals stay in the process, and the only devices that are spoken to
 * are the kernel module's and, to give a card back, vfio's.
 *
 * socket(), connect(), bind() and listen() are missing: sockets exist before the
 * filter does, and accepted ones come from accept().  The exporter of traces, a
 * client, has the first two instead of accept(), files to change and the ring.
 */
#include "runtime/daemon/sandbox.h"

#include <fcntl.h>
#include <linux/vfio.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "uapi/freehold.h"

static const char *const allowed[] = {
	/* descriptors that are open */
	"read",
	"write",
	"readv",
	"writev",
	"pread64",
	"close",
	"lseek",
	"fstat",
	"fcntl",
	"ppoll",
	"poll",
	"recvfrom",
	"recvmsg",
	"recvmmsg",
	"sendto",
	"sendmsg",
	"sendmmsg",
	"shutdown",
	"getsockopt",
	"setsockopt",
	"getsockname",
	"getpeername",
	"epoll_wait",
	"epoll_pwait",
	"epoll_pwait2",
	"epoll_ctl",
	"epoll_create", /* DPDK's interrupt thread, which ends the process without it */
	"epoll_create1",
	"eventfd2",
	/* files by name: open is below; what may be read is Landlock's to say */
	"stat",
	"lstat",
	"newfstatat",
	"statx",
	"access",
	"faccessat",
	"faccessat2",
	"readlink",
	"readlinkat",
	"getdents64",
	/* memory; mmap and mprotect are below */
	"munmap",
	"mremap",
	"madvise",
	"brk",
	"mlock",
	"mlock2",
	"munlock",
	"membarrier",
	/* threads and time */
	"futex",
	"futex_waitv",
	"sched_yield",
	"sched_getaffinity",
	"sched_setaffinity",
	"getcpu",
	"nanosleep",
	"clock_nanosleep",
	"clock_gettime",
	"clock_getres",
	"gettimeofday",
	"time",
	"set_robust_list",
	"rseq",
	"set_tid_address",
	"exit",
	"exit_group",
	"gettid",
	"getpid",
	"getppid",
	"getuid",
	"geteuid",
	"getgid",
	"getegid",
	"getrusage",
	"times",
	"getrlimit",
	"sysinfo",
	"uname",
	"getrandom",
	"restart_syscall",
	/* signals to oneself; tgkill is below */
	"rt_sigaction",
	"rt_sigprocmask",
	"rt_sigreturn",
	"rt_sigtimedwait",
	"rt_sigpending",
	"sigaltstack",
};

/* The server's alone. */
static const char *const serving[] = {
	"pwrite64",
	"ftruncate",
	"fsync",
	"fdatasync",
	"accept",
	"accept4",
	/* a channel's memory: our own to make, another's to judge */
	"memfd_create",
	"fstatfs",
	"io_uring_enter",
	"io_uring_register",
	/* files by name: what may be removed is Landlock's to say */
	"unlink",
	"unlinkat",
	"renameat",
	"renameat2",
	"mkdirat",
};

/* A client's: it asks for names and opens connections, and listens for none. */
static const char *const asking[] = {
	"connect", "socketpair", /* libcurl's, by which its thread that looks up a name says so */
	"pipe2",   "select",	 "pselect6", "fstatfs",
};

/* No library asks for these by accident. */
static const char *const deadly[] = {
	"execve",
	"execveat",
	"ptrace",
	"process_vm_readv",
	"process_vm_writev",
	"init_module",
	"finit_module",
	"delete_module",
	"kexec_load",
	"kexec_file_load",
	"bpf",
	"mount",
	"umount2",
	"pivot_root",
	"chroot",
	"setns",
	"unshare",
	"open_by_handle_at",
	"userfaultfd",
	"perf_event_open",
	"keyctl",
	"add_key",
	"request_key",
};

/* A call that this architecture lacks is no matter. */
static int add(scmp_filter_ctx f, uint32_t action, const char *name)
{
	int nr = seccomp_syscall_resolve_name(name);
	int rc = nr == __NR_SCMP_ERROR ? 0 : seccomp_rule_add_array(f, action, nr, 0, NULL);

	return rc == -EDOM ? 0 : rc;
}

static int add_if(scmp_filter_ctx f, const char *name, struct scmp_arg_cmp arg)
{
	int nr = seccomp_syscall_resolve_name(name);
	int rc = nr == __NR_SCMP_ERROR ? 0 : seccomp_rule_add_array(f, SCMP_ACT_ALLOW, nr, 1, &arg);

	return rc == -EDOM ? 0 : rc;
}

/*
 * What the runtime asks the kernel module for while it serves; and what DPDK asks
 * of vfio when it gives a card back: nothing that maps memory, and only
 * descriptors that were open before hear it.
 */
static int add_ioctls(scmp_filter_ctx f, bool nvidia)
{
	static const uint32_t requests[] = {
		FH_IOCTL_INFO,	      FH_IOCTL_DESTROY,	     FH_IOCTL_CHAN_ACCEPT,	FH_IOCTL_CHAN_KICK,
		FH_IOCTL_CHAN_REVOKE, VFIO_DEVICE_SET_IRQS,  VFIO_DEVICE_GET_IRQ_INFO,	VFIO_DEVICE_RESET,
		VFIO_IOMMU_UNMAP_DMA, VFIO_GROUP_GET_STATUS, VFIO_GROUP_UNSET_CONTAINER};
	int rc = 0;

	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]) && !rc; i++)
		rc = add_if(f, "ioctl", SCMP_A1(SCMP_CMP_EQ, requests[i], 0));
	/* All of type 'F', which is the driver's own (NV_IOCTL_MAGIC of its open kernel modules). */
	if (!rc && nvidia)
		rc = add_if(f, "ioctl", SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, 'F' << 8));
	return rc;
}

/* The audit log's files: below that folder's descriptor, and where else Landlock says. */
static int add_owned(scmp_filter_ctx f, int fd)
{
	const uint64_t flags = O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW;
	int nr = seccomp_syscall_resolve_name("openat");
	struct scmp_arg_cmp args[] = {SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)fd, 0),
				      SCMP_A2(SCMP_CMP_MASKED_EQ, flags, O_RDWR | O_CREAT | O_NOFOLLOW)};

	return fd < 0 ? 0 : seccomp_rule_add_array(f, SCMP_ACT_ALLOW, nr, 2, args);
}

static int add_list(scmp_filter_ctx f, uint32_t action, const char *const *name, size_t nr)
{
	int rc = 0;

	for (size_t i = 0; i < nr && !rc; i++)
		rc = add(f, action, name[i]);
	return rc;
}

#define ADD_LIST(f, action, list) add_list(f, action, list, sizeof(list) / sizeof((list)[0]))

static int add_checked(scmp_filter_ctx f)
{
	const uint64_t writing = O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND;
	const uint64_t thread = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;
	int clone3 = seccomp_syscall_resolve_name("clone3"), rc;

	rc = add_if(f, "openat", SCMP_A2(SCMP_CMP_MASKED_EQ, writing, O_RDONLY));
	rc = rc ? rc : add_if(f, "open", SCMP_A1(SCMP_CMP_MASKED_EQ, writing, O_RDONLY));
	rc = rc ? rc : add_if(f, "mmap", SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	rc = rc ? rc : add_if(f, "mprotect", SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	rc = rc ? rc : add_if(f, "clone", SCMP_A0(SCMP_CMP_MASKED_EQ, thread, thread));
	rc = rc ? rc : add_if(f, "tgkill", SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0));
	rc = rc ? rc : add_if(f, "prlimit64", SCMP_A2(SCMP_CMP_EQ, 0, 0)); /* asking, not setting */
	rc = rc ? rc : add_if(f, "prctl", SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME, 0));
	/* Its flags lie behind a pointer: let the C library fall back to clone. */
	if (!rc && clone3 != __NR_SCMP_ERROR)
		rc = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), clone3, 0);
	return rc;
}

/* The C library loads how names are looked up when the first one is: code of files, but none that can be written. */
static int add_client(scmp_filter_ctx f)
{
	static const int families[] = {AF_INET, AF_INET6, AF_UNIX, AF_NETLINK};
	const struct scmp_arg_cmp code[] = {SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC | PROT_WRITE, PROT_EXEC),
					    SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS, 0)};
	int rc = 0;

	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]) && !rc; i++)
		rc = add_if(f, "socket", SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i], 0));
	rc = rc ? rc : seccomp_rule_add_array(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2, code);
	rc = rc ? rc : add_if(f, "ioctl", SCMP_A1(SCMP_CMP_EQ, FIONREAD, 0));
	return rc ? rc : add_if(f, "ioctl", SCMP_A1(SCMP_CMP_EQ, FIONBIO, 0));
}

static scmp_filter_ctx begin(int *rc)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));

	*rc = f ? seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1) : -ENOMEM;
	if (!*rc)
		*rc = ADD_LIST(f, SCMP_ACT_ALLOW, allowed);
	if (!*rc)
		*rc = ADD_LIST(f, SCMP_ACT_KILL_PROCESS, deadly);
	if (!*rc)
		*rc = add_checked(f);
	return f;
}

static int end(scmp_filter_ctx f, int rc, struct fhd_sandbox_state *state, struct fh_err *err)
{
	/* A binary tree: the hot calls cost the same as the rare ones, about ten comparisons. */
	if (!rc && seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2))
		rc = 0;
	if (!rc)
		rc = seccomp_load(f);
	if (f)
		seccomp_release(f);
	state->filter = !rc;
	return rc ? fh_errf(err, rc, "the system call filter: %s (--no-sandbox goes without)", strerror(-rc)) : 0;
}

int fhd_sandbox_filter(struct fhd_sandbox_state *state, int owned_fd, bool nvidia, struct fh_err *err)
{
	int rc;
	scmp_filter_ctx f = begin(&rc);

	if (!rc)
		rc = ADD_LIST(f, SCMP_ACT_ALLOW, serving);
	if (!rc)
		rc = add_ioctls(f, nvidia);
	if (!rc)
		rc = add_owned(f, owned_fd);
	return end(f, rc, state, err);
}

int fhd_sandbox_filter_client(struct fhd_sandbox_state *state, struct fh_err *err)
{
	int rc;
	scmp_filter_ctx f = begin(&rc);

	if (!rc)
		rc = ADD_LIST(f, SCMP_ACT_ALLOW, asking);
	if (!rc)
		rc = add_client(f);
	return end(f, rc, state, err);
}
