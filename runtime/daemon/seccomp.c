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
 * filter does, and accepted ones come from accept().
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
	"pwrite64",
	"ftruncate",
	"fsync",
	"fdatasync",
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
	"accept",
	"accept4",
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
	/* a channel's memory: our own to make, another's to judge */
	"memfd_create",
	"ftruncate",
	"fstatfs",
	"io_uring_enter",
	"io_uring_register",
	/* files by name: open is below; what may be read or removed is Landlock's to say */
	"stat",
	"lstat",
	"newfstatat",
	"statx",
	"access",
	"faccessat",
	"faccessat2",
	"readlink",
	"readlinkat",
	"unlink",
	"unlinkat",
	"renameat",
	"renameat2",
	"mkdirat",
	"fsync",
	"fdatasync",
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

int fhd_sandbox_filter(struct fhd_sandbox_state *state, int owned_fd, bool nvidia, struct fh_err *err)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int rc = f ? seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1) : -ENOMEM;

	for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]) && !rc; i++)
		rc = add(f, SCMP_ACT_ALLOW, allowed[i]);
	for (size_t i = 0; i < sizeof(deadly) / sizeof(deadly[0]) && !rc; i++)
		rc = add(f, SCMP_ACT_KILL_PROCESS, deadly[i]);
	if (!rc)
		rc = add_checked(f);
	if (!rc)
		rc = add_ioctls(f, nvidia);
	if (!rc)
		rc = add_owned(f, owned_fd);
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
