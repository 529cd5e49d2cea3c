// SPDX-License-Identifier: Apache-2.0
/*
 * Regions: each type in and out, limits and accounts, revocation, and the door
 * in front of bus addresses.  Exporters: udmabuf, the system dma-heap, and
 * vgem where the kernel has it; a test whose exporter is missing is skipped.
 */
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "tests/abi/abi.h"

#define MIB (1u << 20)

/* What <linux/udmabuf.h>, <linux/dma-heap.h> and <drm/drm.h> say, which not every host has. */
struct udmabuf_create {
	uint32_t memfd, flags;
	uint64_t offset, size;
};
#define UDMABUF_CREATE _IOW('u', 0x42, struct udmabuf_create)
struct heap_alloc {
	uint64_t len;
	uint32_t fd, fd_flags;
	uint64_t heap_flags;
};
#define DMA_HEAP_IOCTL_ALLOC _IOWR('H', 0x0, struct heap_alloc)
struct drm_version {
	int major, minor, patch;
	size_t name_len;
	char *name;
	size_t date_len;
	char *date;
	size_t desc_len;
	char *desc;
};
#define DRM_VERSION _IOWR('d', 0x00, struct drm_version)
struct drm_dumb {
	uint32_t height, width, bpp, flags, handle, pitch;
	uint64_t size;
};
#define DRM_CREATE_DUMB _IOWR('d', 0xb2, struct drm_dumb)
struct drm_prime {
	uint32_t handle, flags;
	int32_t fd;
};
#define DRM_PRIME_TO_FD _IOWR('d', 0x2d, struct drm_prime)

static struct fh_mem_import import_cmd(uint32_t type, int fd, uint64_t addr, uint64_t length)
{
	return (struct fh_mem_import){
		.size = sizeof(struct fh_mem_import), .type = type, .fd = fd, .addr = addr, .length = length};
}

static int import(int ctl, struct fh_mem_import *cmd)
{
	return ioctl(ctl, FH_IOCTL_MEM_IMPORT, cmd);
}

static int destroy(int ctl, uint32_t id)
{
	struct fh_destroy cmd = {.size = sizeof(cmd), .id = id};

	return ioctl(ctl, FH_IOCTL_DESTROY, &cmd);
}

static int export_fd(int ctl, uint32_t id)
{
	struct fh_mem_export cmd = {.size = sizeof(cmd), .mem_id = id, .out_fd = -1};

	return ioctl(ctl, FH_IOCTL_MEM_EXPORT, &cmd) ? -1 : cmd.out_fd;
}

static char *map(int fd, uint64_t off, size_t bytes)
{
	return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)off);
}

static uint64_t vm_pin_kib(void)
{
	unsigned long long kib = UINT64_MAX;
	char line[256];
	FILE *f = fopen("/proc/self/status", "re");

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		sscanf(line, "VmPin: %llu kB", &kib);
	fclose(f);
	CHECK(kib != UINT64_MAX);
	return kib;
}

TEST(import_refuses)
{
	int ctl = open_runtime();
	const struct {
		struct fh_mem_import cmd;
		uint32_t flags;
		int want;
	} cases[] = {
		{import_cmd(0, -1, 0, 4096), 0, EOPNOTSUPP},
		{import_cmd(5, -1, 0, 4096), 0, EOPNOTSUPP},
		{import_cmd(FH_MEM_PAGES, -1, 0, 4096), FH_MEM_PIN, EOPNOTSUPP},
		{import_cmd(FH_MEM_DMABUF, 0, 0, 4096), FH_MEM_READONLY, EOPNOTSUPP},
		{import_cmd(FH_MEM_USER, -1, 0, 4096), 0x80, EOPNOTSUPP},
		{import_cmd(FH_MEM_PAGES, 3, 0, 4096), 0, EINVAL},
		{import_cmd(FH_MEM_PAGES, -1, 4096, 4096), 0, EINVAL},
		{import_cmd(FH_MEM_PAGES, -1, 0, 0), 0, EINVAL},
		{import_cmd(FH_MEM_PAGES, -1, 0, 4097), 0, EINVAL},
		{import_cmd(FH_MEM_PAGES, -1, 0, 1ull << 50), 0, EINVAL},
		{import_cmd(FH_MEM_PAGES, -1, 0, 1ull << 40), 0, EDQUOT + 0},
		{import_cmd(FH_MEM_USER, -1, 4096, 4096), 0, EFAULT},
		{import_cmd(FH_MEM_USER, -1, UINT64_MAX - 4095, 4096), 0, EINVAL},
		{import_cmd(FH_MEM_USER, -1, 1ull << 63, 4096), 0, EFAULT},
		{import_cmd(FH_MEM_DMABUF, ctl, 0, 0), 0, EINVAL},
		{import_cmd(FH_MEM_DMABUF, 1000, 0, 0), 0, EBADF},
		{import_cmd(FH_MEM_MEMFD, ctl, 0, 4096), 0, EOPNOTSUPP},
		{import_cmd(FH_MEM_MEMFD, 1000, 0, 4096), 0, EBADF},
	};

	param_set("mem_mib_max", 1024);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fh_mem_import cmd = cases[i].cmd;

		cmd.flags = cases[i].flags;
		errno = 0;
		if (import(ctl, &cmd) == 0 || errno != cases[i].want) {
			printf("  case %u: errno %d, not %d\n", i, errno, cases[i].want);
			CHECK(false);
		}
	}
	struct fh_mem_import cmd = import_cmd(FH_MEM_PAGES, -1, 0, 4096);
	cmd.__reserved = 1;
	CHECK_ERRNO(import(ctl, &cmd), EINVAL);
	CHECK(get_info(ctl).out_mem_bytes_used == 0);
	param_set("mem_mib_max", 1024 * 1024);
}

TEST(pages)
{
	int ctl = open_runtime();
	struct fh_mem_import a = import_cmd(FH_MEM_PAGES, -1, 0, MIB), b = a;
	char *p, *q;

	CHECK(import(ctl, &a) == 0 && import(ctl, &b) == 0);
	CHECK(a.out_mmap_off && a.out_mem_id != b.out_mem_id);
	CHECK(get_info(ctl).out_mem_bytes_used == 2 * MIB);
	p = map(ctl, a.out_mmap_off, MIB);
	q = map(ctl, b.out_mmap_off + MIB - 4096, 4096);
	CHECK(p != MAP_FAILED && q != MAP_FAILED);
	for (unsigned int i = 0; i < MIB; i += 512)
		CHECK(p[i] == 0);
	p[MIB - 1] = 'p';
	q[0] = 'q';
	CHECK_ERRNO((long)map(ctl, a.out_mmap_off, MIB + 4096), EINVAL);
	CHECK_ERRNO((long)map(ctl, a.out_mmap_off + MIB, 4096), EINVAL);
	CHECK_ERRNO((long)mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, ctl, (off_t)a.out_mmap_off), EINVAL);
	CHECK_ERRNO(mprotect(p, 4096, PROT_READ | PROT_EXEC), EACCES);
	/* Taken back: its own mappings go, and no others. */
	CHECK(destroy(ctl, a.out_mem_id) == 0);
	CHECK(touch_is_sigbus(p, false) && touch_is_sigbus(p + MIB - 1, true));
	CHECK(q[0] == 'q' && !touch_is_sigbus(q, true));
	CHECK_ERRNO((long)map(ctl, a.out_mmap_off, 4096), ENOENT);
	CHECK_ERRNO(destroy(ctl, a.out_mem_id), ENOENT);
	/* The pages of a go with its last mapping; the quota says when. */
	CHECK(get_info(ctl).out_mem_bytes_used == 2 * MIB);
	CHECK(munmap(p, MIB) == 0);
	CHECK(get_info(ctl).out_mem_bytes_used == MIB);
}

TEST(memory_quota)
{
	int ctl = open_runtime();
	struct fh_mem_import cmd = import_cmd(FH_MEM_PAGES, -1, 0, 3 * MIB);

	param_set("mem_mib_max", 4);
	CHECK(import(ctl, &cmd) == 0);
	struct fh_mem_import more = import_cmd(FH_MEM_PAGES, -1, 0, 2 * MIB);
	CHECK_ERRNO(import(ctl, &more), EDQUOT);
	CHECK(destroy(ctl, cmd.out_mem_id) == 0);
	CHECK(import(ctl, &more) == 0);
	param_set("mem_mib_max", 1024 * 1024);
}

/* An ordinary page: others can pin it, and it outlives its region for them. */
TEST(pages_can_be_pinned)
{
	int ctl = open_runtime();
	struct fh_mem_import cmd = import_cmd(FH_MEM_PAGES, -1, 0, 65536);
	struct {
		uint32_t in[30];
	} params = {{0}};
	struct iovec iov = {.iov_len = 65536};
	int ring;

	CHECK(import(ctl, &cmd) == 0);
	iov.iov_base = map(ctl, cmd.out_mmap_off, 65536);
	CHECK(iov.iov_base != MAP_FAILED);
	memset(iov.iov_base, 'i', 65536);
	ring = (int)syscall(425 /* io_uring_setup */, 4, &params);
	if (ring < 0)
		SKIP("io_uring is not there");
	if (syscall(427 /* io_uring_register */, ring, 0 /* IORING_REGISTER_BUFFERS */, &iov, 1))
		SKIP("this kernel's io_uring pins no memory that belongs to a file");
	CHECK(destroy(ctl, cmd.out_mem_id) == 0);
	CHECK(touch_is_sigbus(iov.iov_base, false));
	CHECK(munmap(iov.iov_base, 65536) == 0);
	close(ring);
}

TEST(user_pages)
{
	int ctl = open_runtime();
	uint64_t before = vm_pin_kib();
	char *p = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct fh_mem_import cmd = import_cmd(FH_MEM_USER, -1, (uintptr_t)p, MIB);

	CHECK(p != MAP_FAILED);
	CHECK(import(ctl, &cmd) == 0);
	CHECK(cmd.out_mmap_off == 0);
	CHECK(vm_pin_kib() >= before + 1024);
	CHECK_ERRNO(export_fd(ctl, cmd.out_mem_id), EOPNOTSUPP);
	CHECK(destroy(ctl, cmd.out_mem_id) == 0);
	CHECK(vm_pin_kib() == before);
	/* A hole, and memory that may only be read. */
	CHECK(munmap(p + 65536, 4096) == 0);
	CHECK_ERRNO(import(ctl, &cmd), EFAULT);
	CHECK(mprotect(p, 4096, PROT_READ) == 0);
	struct fh_mem_import ro = import_cmd(FH_MEM_USER, -1, (uintptr_t)p, 4096);
	CHECK_ERRNO(import(ctl, &ro), EFAULT);
	ro.flags = FH_MEM_READONLY;
	CHECK(import(ctl, &ro) == 0);
	CHECK(vm_pin_kib() == before + 4);
	/* Left to the end of the file; the memory itself goes before. */
	CHECK(munmap(p, 65536) == 0);
	close(ctl);
	CHECK(vm_pin_kib() == before);
}

TEST(user_pages_limit)
{
	int ctl = open_runtime();
	struct rlimit lim = {.rlim_cur = 16 * 4096, .rlim_max = 16 * 4096};
	char *p = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct fh_mem_import a = import_cmd(FH_MEM_USER, -1, (uintptr_t)p, 10 * 4096);
	struct fh_mem_import b = import_cmd(FH_MEM_USER, -1, (uintptr_t)p + 65536, 10 * 4096);
	struct fh_mem_import c = import_cmd(FH_MEM_USER, -1, (uintptr_t)p, MIB);

	CHECK(p != MAP_FAILED);
	CHECK(setrlimit(RLIMIT_MEMLOCK, &lim) == 0);
	CHECK(setresuid(4713, 4713, 4713) == 0);
	CHECK_ERRNO(import(ctl, &c), ENOMEM);
	CHECK(import(ctl, &a) == 0);
	CHECK_ERRNO(import(ctl, &b), ENOMEM);
	CHECK(destroy(ctl, a.out_mem_id) == 0);
	CHECK(import(ctl, &b) == 0);
}

static int memfd(size_t bytes, unsigned int seals)
{
	int fd = memfd_create("abi", MFD_ALLOW_SEALING | MFD_CLOEXEC);

	CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
	CHECK(fcntl(fd, F_ADD_SEALS, seals) == 0);
	return fd;
}

TEST(memfds)
{
	int ctl = open_runtime();
	int fd = memfd(65536, F_SEAL_SHRINK);
	struct fh_mem_import cmd = import_cmd(FH_MEM_MEMFD, fd, 0, 65536);
	uint64_t before = vm_pin_kib();

	CHECK(import(ctl, &cmd) == 0);
	CHECK(cmd.out_mmap_off == 0 && vm_pin_kib() >= before + 64);
	CHECK(destroy(ctl, cmd.out_mem_id) == 0);
	CHECK(vm_pin_kib() == before);
	cmd = import_cmd(FH_MEM_MEMFD, fd, 32768, 32768);
	CHECK(import(ctl, &cmd) == 0);
	cmd = import_cmd(FH_MEM_MEMFD, fd, 32768, 65536);
	CHECK_ERRNO(import(ctl, &cmd), EINVAL);
	cmd = import_cmd(FH_MEM_MEMFD, memfd(65536, 0), 0, 65536);
	CHECK_ERRNO(import(ctl, &cmd), EINVAL); /* it could shrink */
	cmd = import_cmd(FH_MEM_MEMFD, memfd(65536, F_SEAL_SHRINK | F_SEAL_WRITE), 0, 65536);
	CHECK_ERRNO(import(ctl, &cmd), EPERM);
	cmd.flags = FH_MEM_READONLY;
	CHECK(import(ctl, &cmd) == 0);
}

/* --- dma-bufs -------------------------------------------------------------------------- */

static int udmabuf(size_t bytes)
{
	int dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC), fd;
	struct udmabuf_create cmd = {.size = bytes, .flags = 1};

	if (dev < 0)
		SKIP("no /dev/udmabuf");
	cmd.memfd = (uint32_t)memfd(bytes, F_SEAL_SHRINK);
	fd = ioctl(dev, UDMABUF_CREATE, &cmd);
	CHECK(fd >= 0);
	close(dev);
	close((int)cmd.memfd);
	return fd;
}

static int heap_buf(size_t bytes)
{
	int dev = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);
	struct heap_alloc cmd = {.len = bytes, .fd_flags = O_RDWR | O_CLOEXEC};

	if (dev < 0)
		SKIP("no /dev/dma_heap/system");
	CHECK(ioctl(dev, DMA_HEAP_IOCTL_ALLOC, &cmd) == 0);
	close(dev);
	return (int)cmd.fd;
}

/* A buffer of vgem's, by its card node: the render node refuses to make one. */
static int vgem_buf(size_t bytes)
{
	struct drm_dumb dumb = {.width = (uint32_t)(bytes / 4096), .height = 1024, .bpp = 32};
	struct drm_prime prime = {.flags = O_CLOEXEC | O_RDWR};
	char path[32], name[16];
	int fd;

	for (int i = 0; i < 16; i++) {
		struct drm_version version = {.name = name, .name_len = sizeof(name) - 1};

		memset(name, 0, sizeof(name));
		snprintf(path, sizeof(path), "/dev/dri/card%d", i);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (ioctl(fd, DRM_VERSION, &version) || strcmp(name, "vgem") != 0) {
			close(fd);
			continue;
		}
		CHECK(ioctl(fd, DRM_CREATE_DUMB, &dumb) == 0 && dumb.size == bytes);
		prime.handle = dumb.handle;
		CHECK(ioctl(fd, DRM_PRIME_TO_FD, &prime) == 0);
		close(fd);
		return prime.fd;
	}
	SKIP("no card of vgem's");
	return -1;
}

static ino_t inode(int fd)
{
	struct stat st;

	CHECK(fstat(fd, &st) == 0);
	return st.st_ino;
}

static void go_through(int buf, uint32_t flags)
{
	int ctl = open_runtime(), out;
	struct fh_mem_import cmd = import_cmd(FH_MEM_DMABUF, buf, 0, 0), wrong;
	char *p, *q;

	cmd.flags = flags;
	CHECK(import(ctl, &cmd) == 0);
	CHECK(cmd.length == MIB && get_info(ctl).out_mem_bytes_used == MIB);
	wrong = import_cmd(FH_MEM_DMABUF, buf, 0, MIB / 2);
	CHECK_ERRNO(import(ctl, &wrong), EINVAL);
	CHECK(cmd.out_mmap_off);
	p = map(ctl, cmd.out_mmap_off, MIB);
	q = map(buf, 0, MIB);
	CHECK(p != MAP_FAILED && q != MAP_FAILED);
	p[12345] = 'd';
	CHECK(q[12345] == 'd');
	CHECK_ERRNO((long)map(ctl, cmd.out_mmap_off, MIB + 4096), EINVAL);
	/* Out again as the same buffer. */
	out = export_fd(ctl, cmd.out_mem_id);
	CHECK(out >= 0 && inode(out) == inode(buf));
	CHECK(fcntl(out, F_GETFD) & FD_CLOEXEC);
	CHECK(destroy(ctl, cmd.out_mem_id) == 0);
	CHECK(get_info(ctl).out_mem_bytes_used == 0);
	/* The mapping is the exporter's, and stays. */
	CHECK(p[12345] == 'd');
}

TEST(dmabuf_udmabuf)
{
	go_through(udmabuf(MIB), 0);
}

TEST(dmabuf_udmabuf_pinned)
{
	go_through(udmabuf(MIB), FH_MEM_PIN);
}

TEST(dmabuf_vgem)
{
	go_through(vgem_buf(MIB), 0);
}

TEST(dmabuf_vgem_pinned)
{
	go_through(vgem_buf(MIB), FH_MEM_PIN);
}

TEST(dmabuf_heap)
{
	go_through(heap_buf(MIB), 0);
}

TEST(dmabuf_heap_pinned)
{
	go_through(heap_buf(MIB), FH_MEM_PIN);
}

TEST(export_pages)
{
	int ctl = open_runtime(), fd, again;
	struct fh_mem_import cmd = import_cmd(FH_MEM_PAGES, -1, 0, MIB), back;
	char *p, *q;

	CHECK(import(ctl, &cmd) == 0);
	p = map(ctl, cmd.out_mmap_off, MIB);
	CHECK(p != MAP_FAILED);
	strcpy(p + 4096, "exported");
	fd = export_fd(ctl, cmd.out_mem_id);
	CHECK(fd >= 0);
	CHECK(lseek(fd, 0, SEEK_END) == MIB);
	q = map(fd, 0, MIB);
	CHECK(q != MAP_FAILED && strcmp(q + 4096, "exported") == 0);
	CHECK_ERRNO((long)map(fd, 0, MIB + 4096), EINVAL);
	/* In again, as a dma-buf that is held dynamically. */
	back = import_cmd(FH_MEM_DMABUF, fd, 0, MIB);
	CHECK(import(ctl, &back) == 0);
	again = export_fd(ctl, back.out_mem_id);
	CHECK(inode(again) == inode(fd));
	/* The region goes; what was exported stays with who holds it. */
	CHECK(destroy(ctl, cmd.out_mem_id) == 0);
	CHECK(touch_is_sigbus(p + 4096, false));
	CHECK(strcmp(q + 4096, "exported") == 0 && !touch_is_sigbus(q + 65536, true));
	CHECK(munmap(p, MIB) == 0);
	close(ctl);
	CHECK(q[65536] == 1 && q[MIB - 1] == 0);
}

TEST(export_refuses)
{
	int ctl = open_runtime();
	struct fh_mem_import cmd = import_cmd(FH_MEM_PAGES, -1, 0, 4096);
	struct fh_mem_export *exp = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int next;

	CHECK(import(ctl, &cmd) == 0 && exp != MAP_FAILED);
	CHECK_ERRNO(export_fd(ctl, cmd.out_mem_id + 1), ENOENT);
	/* An answer that cannot be delivered leaves no descriptor behind. */
	*exp = (struct fh_mem_export){.size = sizeof(*exp), .mem_id = cmd.out_mem_id};
	CHECK(mprotect(exp, 4096, PROT_READ) == 0);
	next = dup(0);
	close(next);
	CHECK_ERRNO(ioctl(ctl, FH_IOCTL_MEM_EXPORT, exp), EFAULT);
	CHECK(dup(0) == next);
	/* A channel is no region. */
	struct chan c, r;
	chan_open(&c, open_client());
	CHECK(chan_accept(&r, ctl, NULL) == 0);
	CHECK_ERRNO(export_fd(ctl, r.id), ENOENT);
}

/* --- bus addresses --------------------------------------------------------------------- */

TEST(dma_map_refuses)
{
	int ctl = open_runtime();
	struct fh_mem_import cmd = import_cmd(FH_MEM_PAGES, -1, 0, 65536);
	struct fh_dma_range ranges[16];
	struct fh_dma_map map_cmd = {
		.target_type = FH_TARGET_PCI, .target = 0xfffffff8, .num_ranges = 16, .ranges = (uintptr_t)ranges};

	if (!(get_info(ctl).out_caps & FH_CAP_DMA_MAP)) {
		CHECK_ERRNO(dma_map(ctl, &map_cmd), EPERM);
		SKIP("the module was loaded without unsafe_dma=1; EPERM was checked");
	}
	CHECK(import(ctl, &cmd) == 0);
	map_cmd.mem_id = cmd.out_mem_id;
	CHECK_ERRNO(dma_map(ctl, &map_cmd), ENODEV);
	map_cmd.target = 1ull << 32;
	CHECK_ERRNO(dma_map(ctl, &map_cmd), EINVAL);
	map_cmd.target_type = FH_TARGET_NETDEV;
	CHECK_ERRNO(dma_map(ctl, &map_cmd), EBUSY);
	map_cmd.target_type = 9;
	CHECK_ERRNO(dma_map(ctl, &map_cmd), EOPNOTSUPP);
	map_cmd.num_ranges = UINT32_MAX;
	CHECK_ERRNO(dma_map(ctl, &map_cmd), EINVAL);
	map_cmd.num_ranges = 16;
	CHECK(setresuid(4713, 4713, 4713) == 0);
	CHECK_ERRNO(dma_map(ctl, &map_cmd), EPERM);
}

/* --- who holds what ---------------------------------------------------------------------- */

TEST(fdinfo)
{
	int ctl = open_runtime();
	struct fh_mem_import cmd = import_cmd(FH_MEM_PAGES, -1, 0, 65536);
	char path[64], text[4096] = "", want[64];
	struct chan c, r;
	FILE *f;

	CHECK(import(ctl, &cmd) == 0);
	chan_open(&c, open_client());
	CHECK(chan_accept(&r, ctl, NULL) == 0);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", ctl);
	f = fopen(path, "re");
	CHECK(f && fread(text, 1, sizeof(text) - 1, f) > 0);
	fclose(f);
	CHECK(strstr(text, "freehold-side:\truntime\n"));
	snprintf(want, sizeof(want), "freehold-region-%u:\tpages 65536 bytes\n", cmd.out_mem_id);
	CHECK(strstr(text, want));
	snprintf(want, sizeof(want), "freehold-channel-%u:\tgen ", r.id);
	CHECK(strstr(text, want) && strstr(text, " open "));
	CHECK(state_count("regions") == 1 && state_count("channels") == 1 && state_count("runtime") == 1);
}
