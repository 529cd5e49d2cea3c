// SPDX-License-Identifier: Apache-2.0
/*
 * Regions on a host without the kernel module: what is said about it, and every
 * way in which memory may be had less well than was wished for.  With the
 * module they are tested in a virtual machine (tests/vm/qemu.sh serve).
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "runtime/base/region.h"

#define MIB ((size_t)1 << 20)
#define NOBODY 65534

static int open_ctl(const char *path, struct fh_err *err)
{
	struct fh_ctl *ctl = NULL;
	int rc = fh_ctl_open(path, &ctl, err);

	fh_ctl_close(ctl);
	return rc;
}

Test(region, no_module)
{
	struct fh_err err = {0};

	cr_expect_eq(open_ctl("/nonexistent/ctl", &err), -ENOENT);
	cr_expect(strstr(err.msg, "/nonexistent/ctl") && strstr(err.msg, "modprobe freehold"), "%s", err.msg);
	cr_expect_eq(err.code, -ENOENT);
	cr_expect_eq(open_ctl("/dev/null", &err), -ENOTTY, "%s", err.msg);
	cr_expect(strstr(err.msg, "no device of the Freehold module"), "%s", err.msg);
	fh_ctl_close(NULL);
}

/* A name whose driver is gone: a socket's file gives the same errno. */
Test(region, no_driver)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct fh_err err = {0};

	snprintf(a.sun_path, sizeof(a.sun_path), "/tmp/freehold-test-%d", (int)getpid());
	cr_assert(fd >= 0 && !bind(fd, (struct sockaddr *)&a, sizeof(a)));
	cr_expect_eq(open_ctl(a.sun_path, &err), -ENXIO, "%s", err.msg);
	unlink(a.sun_path);
	close(fd);
}

Test(region, not_allowed)
{
	char path[] = "/tmp/freehold-test-XXXXXX";
	int fd = mkstemp(path);
	struct fh_err err = {0};

	cr_assert(fd >= 0 && !fchmod(fd, 0));
	close(fd);
	if (!geteuid())
		cr_assert_eq(seteuid(NOBODY), 0);
	cr_expect_eq(open_ctl(path, &err), -EACCES, "%s", err.msg);
	cr_expect(strstr(err.msg, "60-freehold.rules"), "%s", err.msg);
	if (!getuid())
		cr_assert_eq(seteuid(0), 0);
	unlink(path);
}

static bool all_zero(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i])
			return false;
	return true;
}

Test(region, plain)
{
	struct fh_region r;
	char text[160];
	struct fh_err err = {0};

	cr_assert_eq(fh_region_alloc(&r, 3 * MIB + 1, 0, &err), 0, "%s", err.msg);
	cr_expect(r.type == FH_REGION_ANON && r.huge == FH_HUGE_NONE && !r.locked && !r.ctl && r.fd == -1);
	cr_expect_eq(r.bytes, 3 * MIB + (size_t)sysconf(_SC_PAGESIZE));
	cr_expect(all_zero(r.base, r.bytes));
	memset(r.base, 0xa5, r.bytes);
	cr_expect_str_eq(fh_region_describe(&r, text, sizeof(text)), "3 MiB");
	cr_expect_eq(fh_region_huge_bytes(&r), 0);
	cr_expect_eq(fh_region_export(&r), -EOPNOTSUPP);
	fh_region_free(&r);
	cr_expect(r.type == FH_REGION_NONE && !r.base);
	fh_region_free(&r); /* nothing is left to free */
}

Test(region, too_much)
{
	struct rlimit l = {512 * MIB, 512 * MIB};
	struct fh_region r;
	struct fh_err err = {0};

	cr_expect_eq(fh_region_alloc(&r, 0, 0, &err), -ENOMEM);
	cr_expect_eq(fh_region_alloc(&r, SIZE_MAX - 5, FH_REGION_HUGE, &err), -ENOMEM);
	cr_expect_eq(fh_region_memfd(&r, "test", 0, 0, &err), -ENOMEM);
	cr_expect_eq(r.type, FH_REGION_NONE);
#ifndef __SANITIZE_ADDRESS__
	cr_assert_eq(setrlimit(RLIMIT_AS, &l), 0);
	cr_expect_eq(fh_region_alloc(&r, 1024 * MIB, FH_REGION_HUGE, &err), -ENOMEM);
	cr_expect(strstr(err.msg, "1024 MiB"), "%s", err.msg);
#else
	(void)l;
#endif
}

static long free_hugepages(void)
{
	FILE *f = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "re");
	long n = 0;

	if (f && fscanf(f, "%ld", &n) != 1)
		n = 0;
	if (f)
		fclose(f);
	return n;
}

static bool thp_is_off(void)
{
	FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
	char line[64] = "";
	bool off = !f || !fgets(line, sizeof(line), f) || strstr(line, "[never]");

	if (f)
		fclose(f);
	return off;
}

/* Reserved ones where there are enough, else transparent ones; either way what was asked for. */
Test(region, huge)
{
	long nr = free_hugepages();
	struct fh_region r;
	char text[160];
	struct fh_err err = {0};

	cr_assert_eq(fh_region_alloc(&r, 64 * MIB - 5, FH_REGION_HUGE, &err), 0, "%s", err.msg);
	cr_expect_eq((uintptr_t)r.base % (2 * MIB), 0);
	cr_expect(r.bytes >= 64 * MIB - 5);
	if (nr < 32)
		cr_expect_neq(r.huge, FH_HUGE_TLB);
	memset(r.base, 1, r.bytes);
	fh_region_describe(&r, text, sizeof(text));
	if (r.huge == FH_HUGE_TLB) {
		cr_expect(strstr(text, "reserved huge pages"), "%s", text);
	} else if (!thp_is_off()) {
		cr_expect_eq(r.huge, FH_HUGE_THP);
		cr_expect(strstr(text, "transparent huge pages"), "%s", text);
	}
	cr_expect(fh_region_huge_bytes(&r) <= r.bytes);
	fh_region_free(&r);
}

/* More than are reserved: none of them is taken, and the process goes on. */
Test(region, hugepages_run_out)
{
	long nr = free_hugepages();
	struct fh_region r;

	cr_assert_eq(fh_region_alloc(&r, ((size_t)nr + 1) * 2 * MIB, FH_REGION_HUGE, NULL), 0);
	cr_expect_neq(r.huge, FH_HUGE_TLB);
	r.base[0] = r.base[r.bytes - 1] = 1;
	cr_expect_eq(free_hugepages(), nr);
	fh_region_free(&r);
}

Test(region, memlock_limit)
{
	struct rlimit l = {MIB, MIB};
	struct fh_region small, large;
	char text[160];

	cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &l), 0);
	if (!geteuid())
		cr_assert_eq(setresuid(NOBODY, NOBODY, NOBODY), 0);
	cr_assert_eq(fh_region_alloc(&small, MIB / 2, FH_REGION_LOCK, NULL), 0);
	cr_expect(small.locked);
	cr_expect(strstr(fh_region_describe(&small, text, sizeof(text)), ", locked"), "%s", text);
	cr_assert_eq(fh_region_alloc(&large, 4 * MIB, FH_REGION_LOCK, NULL), 0, "slower, not broken");
	cr_expect(!large.locked);
	cr_expect(!strstr(fh_region_describe(&large, text, sizeof(text)), "locked"), "%s", text);
	memset(large.base, 1, large.bytes);
	fh_region_free(&large);
	fh_region_free(&small);
}

Test(region, memfd)
{
	struct fh_region r;
	uint8_t *other;

	cr_assert_eq(fh_region_memfd(&r, "test", 5 * MIB, FH_REGION_HUGE | FH_REGION_LOCK, NULL), 0);
	cr_expect_eq(r.type, FH_REGION_MEMFD);
	cr_expect_eq(fcntl(r.fd, F_GET_SEALS) & (F_SEAL_SHRINK | F_SEAL_GROW), F_SEAL_SHRINK | F_SEAL_GROW);
	cr_expect(ftruncate(r.fd, 4096) < 0 && errno == EPERM);
	cr_expect(ftruncate(r.fd, (off_t)(64 * MIB)) < 0 && errno == EPERM);
	other = mmap(NULL, r.bytes, PROT_READ, MAP_SHARED, r.fd, 0);
	cr_assert_neq(other, MAP_FAILED);
	r.base[4 * MIB] = 77;
	cr_expect_eq(other[4 * MIB], 77);
	munmap(other, r.bytes);
	fh_region_free(&r);
}

/* libdrm is asked, or missed by name; there is no such device either way. */
Test(region, prime_without_a_device)
{
	struct fh_region r;
	struct fh_err err = {0};
	int rc = fh_region_prime(&r, NULL, -1, 1, &err);

	cr_expect(rc == -EBADF || rc == -ENOTSUP, "%d: %s", rc, err.msg);
	cr_expect(strstr(err.msg, rc == -EBADF ? "buffer 1" : "libdrm"), "%s", err.msg);
	cr_expect_eq(r.type, FH_REGION_NONE);
}
