// SPDX-License-Identifier: Apache-2.0
/*
 * Every allocation and every copy to or from user space that a call makes
 * fails once, the first, the second, and so on until the call gets through
 * (/proc/thread-self/fail-nth, in a kernel with fault injection).  Each time
 * the call says so, leaves nothing behind, and works when it is tried again;
 * KASAN and kmemleak look on.
 */
#include <fcntl.h>
#include <sys/eventfd.h>

#include "tests/abi/abi.h"

#define NTH_MAX 400

static int nth_open(void)
{
	int fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		SKIP("a kernel without fault injection");
	return fd;
}

/* The file's own copies are counted too: a fault that is still to come may hit them. */
static void nth_set(int fd, int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", n);

	while (pwrite(fd, text, (size_t)len, 0) != len)
		CHECK(errno == EFAULT || errno == ENOMEM);
}

/* Did the fault that nth_set() announced come about before this call? */
static bool nth_hit(int fd)
{
	char text[16] = "";
	bool hit = pread(fd, text, sizeof(text) - 1, 0) > 0 && atoi(text) == 0;

	nth_set(fd, 0);
	return hit;
}

/*
 * Until @call gets through: 1 + the number of faults that it met, -1 if it never
 * did.  @prepare runs before each try, without faults.
 */
static int sweep(int nth, void (*prepare)(void *arg), int (*call)(void *arg), void *arg)
{
	for (int n = 1; n < NTH_MAX; n++) {
		int rc, saved;
		bool hit;

		if (prepare)
			prepare(arg);
		nth_set(nth, n);
		errno = 0;
		rc = call(arg);
		saved = errno;
		hit = nth_hit(nth);
		if (!hit) {
			CHECK(rc == 0);
			return n;
		}
		/* A fault that something else made good again is no failure. */
		if (rc == 0)
			continue;
		if (saved != ENOMEM && saved != EFAULT && saved != EAGAIN) {
			printf("  fault %d gave errno %d (%s)\n", n, saved, strerror(saved));
			CHECK(false);
		}
	}
	return -1;
}

struct arg {
	int fd, client, wake;
	struct fh_chan_create create;
	struct fh_chan_accept accept;
	struct fh_mem_import import;
	struct fh_mem_export export;
};

static int create(void *p)
{
	struct arg *a = p;
	struct fh_destroy d = {.size = sizeof(d)};

	a->create = (struct fh_chan_create){
		.size = sizeof(a->create), .sq_entries = 8, .cq_entries = 8, .arena_bytes = 4096, .wake_fd = a->wake};
	if (ioctl(a->fd, FH_IOCTL_CHAN_CREATE, &a->create))
		return -1;
	d.id = a->create.out_chan_id;
	return ioctl(a->fd, FH_IOCTL_DESTROY, &d) && errno != EFAULT ? -1 : 0;
}

TEST(faults_create)
{
	int nth = nth_open(), ctl = open_runtime();
	struct arg a = {.fd = open_client(), .wake = eventfd(0, EFD_CLOEXEC)};
	int n = sweep(nth, NULL, create, &a);

	(void)ctl;
	/* The handle, the channel, the quota, a table, some pages, two copies at least. */
	CHECK(n >= 8);
}

/* A fault that the kernel made good again may have let one through: there is always one to accept. */
static void one_waits(void *p)
{
	struct arg *a = p;
	struct chan c;

	if (!get_info(a->fd).out_nr_waiting)
		chan_open(&c, a->client);
}

static int accept_one(void *p)
{
	struct arg *a = p;

	a->accept = (struct fh_chan_accept){.size = sizeof(a->accept), .wake_fd = a->wake};
	return ioctl(a->fd, FH_IOCTL_CHAN_ACCEPT, &a->accept);
}

TEST(faults_accept)
{
	int nth = nth_open(), ctl = open_runtime();
	struct arg a = {.fd = ctl, .client = open_client(), .wake = eventfd(0, EFD_CLOEXEC)};

	CHECK(sweep(nth, one_waits, accept_one, &a) >= 4);
	CHECK_ERRNO(accept_one(&a), EAGAIN);
}

static int import_one(void *p)
{
	struct arg *a = p;
	struct fh_mem_import cmd = a->import;
	struct fh_destroy d = {.size = sizeof(d)};

	if (ioctl(a->fd, FH_IOCTL_MEM_IMPORT, &cmd))
		return -1;
	d.id = cmd.out_mem_id;
	return ioctl(a->fd, FH_IOCTL_DESTROY, &d) && errno != EFAULT ? -1 : 0;
}

static void sweep_import(struct fh_mem_import cmd, int least)
{
	int nth = nth_open(), ctl = open_runtime();
	struct arg a = {.fd = ctl, .import = cmd};

	a.import.size = sizeof(a.import);
	CHECK(sweep(nth, NULL, import_one, &a) >= least);
}

TEST(faults_import_pages)
{
	sweep_import((struct fh_mem_import){.type = FH_MEM_PAGES, .fd = -1, .length = 16384}, 7);
}

TEST(faults_import_user)
{
	char *p = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	CHECK(p != MAP_FAILED);
	sweep_import((struct fh_mem_import){.type = FH_MEM_USER, .fd = -1, .addr = (uintptr_t)p, .length = 16384}, 4);
}

TEST(faults_import_memfd)
{
	int fd = memfd_create("faults", MFD_ALLOW_SEALING | MFD_CLOEXEC);

	CHECK(fd >= 0 && ftruncate(fd, 16384) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
	sweep_import((struct fh_mem_import){.type = FH_MEM_MEMFD, .fd = fd, .length = 16384}, 4);
}

static int export_one(void *p)
{
	struct arg *a = p;

	a->export.size = sizeof(a->export);
	if (ioctl(a->fd, FH_IOCTL_MEM_EXPORT, &a->export))
		return -1;
	close(a->export.out_fd);
	return 0;
}

TEST(faults_export)
{
	int nth = nth_open(), ctl = open_runtime(), next;
	struct fh_mem_import cmd = {.size = sizeof(cmd), .type = FH_MEM_PAGES, .fd = -1, .length = 4096};
	struct arg a = {.fd = ctl};

	CHECK(ioctl(ctl, FH_IOCTL_MEM_IMPORT, &cmd) == 0);
	a.export.mem_id = cmd.out_mem_id;
	next = dup(0);
	close(next);
	CHECK(sweep(nth, NULL, export_one, &a) >= 4);
	CHECK(dup(0) == next);
}

struct open_arg {
	const char *path;
};

static int open_close(void *p)
{
	int fd = open(((struct open_arg *)p)->path, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -1 : close(fd);
}

TEST(faults_open)
{
	struct open_arg client = {CLIENT_DEV}, runtime = {RUNTIME_DEV};
	int nth = nth_open();

	CHECK(sweep(nth, NULL, open_close, &client) >= 2);
	CHECK(sweep(nth, NULL, open_close, &runtime) >= 2);
}
