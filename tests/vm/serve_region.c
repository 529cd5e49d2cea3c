// SPDX-License-Identifier: Apache-2.0
/*
 * runtime/base/region.c against the module: each kind of region, what a second
 * runtime is told, what the limits do, and buffers of a DRM driver that come in
 * through libdrm.  vgem is that driver; without it the test is skipped.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/resource.h>

#include "runtime/base/region.h"
#include "tests/vm/serve.h"

#define MIB ((size_t)1 << 20)

static struct fh_ctl *open_ctl(void)
{
	struct fh_ctl *ctl = NULL;
	struct fh_err err = {0};
	int rc = fh_ctl_open(NULL, &ctl, &err);

	if (rc)
		printf("  %s\n", err.msg);
	CHECK(rc == 0);
	return ctl;
}

static void second_runtime(void *arg)
{
	struct fh_ctl *ctl;
	struct fh_err err = {0};
	char want[32];

	(void)arg;
	CHECK(fh_ctl_open(NULL, &ctl, &err) == -EBUSY);
	snprintf(want, sizeof(want), "(pid %d)", (int)getppid());
	printf("  %s\n", err.msg);
	CHECK(strstr(err.msg, want));
	CHECK(setresuid(CLIENT_UID, CLIENT_UID, CLIENT_UID) == 0);
	CHECK(fh_ctl_open(NULL, &ctl, &err) == -EACCES);
}

TEST(region_open)
{
	struct fh_ctl *ctl = open_ctl();
	struct fh_info info;
	char name[32];

	CHECK(fh_ctl_present() && fh_ctl_holder(name, sizeof(name)) == getpid());
	reap(spawn(second_runtime, NULL));
	fh_ctl_info(ctl, &info);
	CHECK(info.out_abi_version == FH_ABI_VERSION && info.out_mem_bytes_max > 0);
	fh_ctl_close(ctl);
	CHECK(fh_ctl_holder(name, sizeof(name)) == 0);
}

TEST(region_pages_and_back)
{
	struct fh_ctl *ctl = open_ctl();
	struct fh_region pages, again;
	struct fh_err err = {0};
	char text[160];
	int fd;

	CHECK(fh_region_pages(&pages, ctl, 3 * MIB, &err) == 0);
	CHECK(pages.bytes == 3 * MIB && pages.base[0] == 0);
	strcpy((char *)pages.base + MIB, "seen twice");
	fd = fh_region_export(&pages);
	CHECK(fd >= 0);
	CHECK(fh_region_import(&again, ctl, fd, false, &err) == 0);
	CHECK(again.bytes == 3 * MIB && again.base && strcmp((char *)again.base + MIB, "seen twice") == 0);
	printf("  %s\n", fh_region_describe(&again, text, sizeof(text)));
	CHECK(fh_region_import(&(struct fh_region){0}, ctl, 0, false, &err) < 0);
	printf("  %s\n", err.msg);
	CHECK(state_count("regions") == 2);
	fh_region_free(&again);
	fh_region_free(&pages);
	CHECK(state_count("regions") == 1); /* whoever has the dma-buf has its pages */
	close(fd);
	CHECK(state_count("regions") == 0);
	param_set("mem_mib_max", 4);
	CHECK(fh_region_pages(&pages, ctl, 8 * MIB, &err) == -EDQUOT && strstr(err.msg, "mem_mib_max"));
	param_set("mem_mib_max", 1024 * 1024);
	fh_ctl_close(ctl);
}

TEST(region_register)
{
	struct fh_ctl *ctl = open_ctl();
	struct fh_region anon, memfd;
	struct fh_err err = {0};
	char text[160];

	CHECK(fh_region_alloc(&anon, 5 * MIB, FH_REGION_HUGE | FH_REGION_LOCK, &err) == 0);
	CHECK(fh_region_memfd(&memfd, "vm", MIB, 0, &err) == 0);
	anon.base[4 * MIB] = 1;
	CHECK(fh_region_register(&anon, ctl, &err) == 0);
	CHECK(fh_region_register(&anon, ctl, &err) == -EEXIST);
	CHECK(fh_region_register(&memfd, ctl, &err) == 0);
	CHECK(state_count("regions") == 2);
	CHECK(strstr(fh_region_describe(&anon, text, sizeof(text)), "pinned as the module's region"));
	printf("  %s\n", text);
	CHECK(anon.base[4 * MIB] == 1 && fh_region_export(&anon) == -EOPNOTSUPP);
	fh_region_free(&anon);
	fh_region_free(&memfd);
	CHECK(state_count("regions") == 0);
	fh_ctl_close(ctl);
}

/* Slower, not broken. */
TEST(region_register_beyond_the_limit)
{
	struct fh_ctl *ctl = open_ctl();
	struct rlimit l = {MIB, MIB};
	struct fh_region r;
	struct fh_err err = {0};

	CHECK(setrlimit(RLIMIT_MEMLOCK, &l) == 0 && setresuid(CLIENT_UID, CLIENT_UID, CLIENT_UID) == 0);
	CHECK(fh_region_alloc(&r, 4 * MIB, 0, &err) == 0);
	CHECK(fh_region_register(&r, ctl, &err) == -ENOMEM && strstr(err.msg, "RLIMIT_MEMLOCK"));
	CHECK(!r.ctl);
	memset(r.base, 1, r.bytes);
	fh_region_free(&r);
	fh_ctl_close(ctl);
}

/* ---- a DRM driver's buffers ---- */

struct dumb {
	uint32_t height, width, bpp, flags, handle, pitch;
	uint64_t size;
};
#define DRM_CREATE_DUMB _IOWR('d', 0xb2, struct dumb)

struct drm_name {
	int major, minor, patch, name_len;
	char *name;
};

/* vgem's card, by what libdrm says of each. */
static int open_vgem(void)
{
	void *lib = dlopen("libdrm.so.2", RTLD_NOW);
	struct drm_name *(*get_version)(int fd);
	void (*free_version)(struct drm_name * v);

	if (!lib)
		SKIP("libdrm.so.2 is not installed");
	*(void **)&get_version = dlsym(lib, "drmGetVersion");
	*(void **)&free_version = dlsym(lib, "drmFreeVersion");
	for (int i = 0; i < 16; i++) {
		char path[32];
		struct drm_name *v;
		bool hit;
		int fd;

		snprintf(path, sizeof(path), "/dev/dri/card%d", i);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			continue;
		v = get_version(fd);
		hit = v && strcmp(v->name, "vgem") == 0;
		if (v)
			free_version(v);
		if (hit)
			return fd;
		close(fd);
	}
	SKIP("no card of vgem's");
	return -1;
}

TEST(region_prime_vgem)
{
	struct fh_ctl *ctl = open_ctl();
	int card = open_vgem();
	struct dumb dumb = {.width = 256, .height = 1024, .bpp = 32};
	struct fh_region r;
	struct fh_err err = {0};
	char text[160];

	CHECK(ioctl(card, DRM_CREATE_DUMB, &dumb) == 0 && dumb.size == MIB);
	CHECK(fh_region_prime(&r, ctl, card, dumb.handle, &err) == 0);
	CHECK(r.bytes == MIB && r.base && r.base[12345] == 0);
	r.base[12345] = 1;
	printf("  %s\n", fh_region_describe(&r, text, sizeof(text)));
	CHECK(state_count("regions") == 1);
	/* The buffer outlives its handle's file: the region holds it. */
	close(card);
	CHECK(r.base[12345] == 1);
	fh_region_free(&r);
	CHECK(state_count("regions") == 0);
	card = open_vgem();
	CHECK(fh_region_prime(&r, ctl, card, 4711, &err) == -ENOENT && strstr(err.msg, "buffer 4711"));
	fh_ctl_close(ctl);
}
