// SPDX-License-Identifier: Apache-2.0
/* freehold doctor: the kernel, the limits, devices and libraries that are looked for at run time. */
#include <inttypes.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "runtime/base/io.h"
#include "runtime/daemon/sandbox.h"
#include "runtime/net/dgram_sock.h"
#include "runtime/net/tls_kernel.h"
#include "runtime/wire/crypt.h"
#include "tools/doctor.h"

void check_kernel(struct finding *f)
{
	struct utsname u;
	int major = 0, minor = 0;

	uname(&u);
	sscanf(u.release, "%d.%d", &major, &minor);
	found(f, FOUND_OK, "Linux %s on %s", u.release, u.machine);
	if (major < 6 || (major == 6 && minor < 1)) {
		f->level = FOUND_WARN;
		mend(f, "6.1 or newer gives io_uring its cheap completions, 6.7 lets Landlock refuse connections");
	}
}

void check_memlock(struct finding *f)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_MEMLOCK, &l)) {
		found(f, FOUND_WARN, "RLIMIT_MEMLOCK cannot be read");
		return;
	}
	if (l.rlim_cur == RLIM_INFINITY || !geteuid()) {
		found(f, FOUND_OK,
		      l.rlim_cur == RLIM_INFINITY ? "no limit on locked memory" : "root: locked memory is not limited");
		return;
	}
	found(f, FOUND_WARN,
	      "RLIMIT_MEMLOCK is %" PRIu64
	      " KiB: weights may be paged out, and the kernel module pins no more than that",
	      (uint64_t)l.rlim_cur >> 10);
	mend(f, "LimitMEMLOCK=infinity in the unit, or `ulimit -l unlimited`");
}

void check_nofile(struct finding *f)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l)) {
		found(f, FOUND_WARN, "RLIMIT_NOFILE cannot be read");
		return;
	}
	found(f, FOUND_OK, "%" PRIu64 " descriptors, %" PRIu64 " at most", (uint64_t)l.rlim_cur, (uint64_t)l.rlim_max);
	if (l.rlim_max < 8192) {
		f->level = FOUND_WARN;
		mend(f,
		     "without io_uring a connection takes a descriptor: LimitNOFILE=65536 in the unit, or `ulimit -n`");
	}
}

void check_io(struct finding *f)
{
	const struct fh_io_config cfg = {.max_socks = 64, .nr_recv = 16};
	struct fh_io *io;
	struct fh_err err;
	char line[16];

	if (fh_io_create(&cfg, &io, &err)) {
		found(f, FOUND_FAIL, "no event loop: %.160s", err.msg);
		return;
	}
	found(f, FOUND_OK, "%.200s", fh_io_backend(io));
	if (strncmp(fh_io_backend(io), "io_uring", 8)) {
		f->level = FOUND_WARN;
		mend(f, "HTTP runs on epoll, which costs more system calls; containers: allow io_uring in the seccomp "
			"profile");
		if (read_line("/proc/sys/kernel/io_uring_disabled", line, sizeof(line)) && *line != '0')
			mend(f, "HTTP runs on epoll: sysctl kernel.io_uring_disabled=0 (it is %s)", line);
	}
	fh_io_destroy(io);
}

void check_seccomp(struct finding *f)
{
	uint32_t action = SECCOMP_RET_KILL_PROCESS;

	if (!syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action)) {
		found(f, FOUND_OK, "system call filters work");
		return;
	}
	found(f, FOUND_FAIL, "the kernel has no system call filters: the daemon will not start confined");
	mend(f, "a kernel with CONFIG_SECCOMP_FILTER; `serve --no-sandbox` goes without");
}

void check_landlock(struct finding *f)
{
	int abi = fhd_landlock_abi();

	if (abi >= 4) {
		found(f, FOUND_OK, "version %d: files, and TCP connections, are refused", abi);
		return;
	}
	found(f, FOUND_WARN, abi ? "version %d: files only" : "none", abi);
	mend(f, "Linux 6.7 or newer with landlock among its lsm= lets the kernel refuse connections twice");
}

/* Who encrypts what HTTPS sends. */
void check_ktls(struct finding *f)
{
	struct fh_err err;
	int rc = fh_tls_kernel_probe(&err);

	if (!rc) {
		found(f, FOUND_OK, "the kernel encrypts what HTTPS sends");
		return;
	}
	found(f, FOUND_WARN, "none: what HTTPS sends is encrypted in the process, which copies it twice more");
	if (rc == -ENOENT)
		mend(f, "`modprobe tls` as root, and 'tls' in a file of /etc/modules-load.d; kernels have it with "
			"CONFIG_TLS");
	else
		mend(f, "%.200s", err.msg);
}

/* What requests over UDP would get. */
void check_udp(struct finding *f)
{
	struct fh_dgram_open o = {.size = sizeof(o), .server = true, .nr_recv = 16, .nr_send = 16, .mtu = 1232};
	struct fh_dgram_port *port = NULL;
	struct fh_err err = {0};
	const char *cipher;
	char line[32] = "?";

	o.local.ip[15] = 1; /* ::1, or 127.0.0.1 where there is no IPv6 */
	if (fhw_crypt_init()) {
		found(f, FOUND_FAIL, "libsodium does not start");
		return;
	}
	cipher = fhw_has_aes() ? "AES-256-GCM" : "ChaCha20-Poly1305: this CPU has no AES instructions";
	read_line("/proc/sys/net/core/rmem_max", line, sizeof(line));
	if (fh_dgram_uring_open(&o, &port, &err)) {
		found(f, FOUND_WARN, "no io_uring (%.160s), so each batch of packets costs a system call; %s", err.msg,
		      cipher);
		return;
	}
	port->ops->close(port);
	found(f, FOUND_OK, "packets over io_uring, sealed with %s; a socket may buffer %s bytes", cipher, line);
	if (atol(line) < 1 << 20 && geteuid()) {
		f->level = FOUND_WARN;
		mend(f, "sysctl net.core.rmem_max=8388608, so that a burst of packets is not lost while the server is "
			"busy");
	}
}
