// SPDX-License-Identifier: Apache-2.0
/*
 * The tests' machine with a GPU: the driver API, loaded at run time, and every
 * fatbin of a folder.  Self-contained: libc and the driver are all it needs.
 *
 * The names with _v2 are the ones that cuda.h gives to programs; without it
 * dlsym would find their first version, with another signature.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gpu/gpu_cuda.h"

#define MAX_IMAGES 64
#define MAX_KERNELS 128

typedef int result;

#define CALLS(X)                                                                                                       \
	X(cuInit, (unsigned int))                                                                                      \
	X(cuDriverGetVersion, (int *))                                                                                 \
	X(cuDeviceGet, (int *, int))                                                                                   \
	X(cuDeviceGetName, (char *, int, int))                                                                         \
	X(cuDeviceGetAttribute, (int *, int, int))                                                                     \
	X(cuDevicePrimaryCtxRetain, (void **, int))                                                                    \
	X(cuCtxSetCurrent, (void *))                                                                                   \
	X(cuModuleLoadData, (void **, const void *))                                                                   \
	X(cuModuleGetFunction, (void **, void *, const char *))                                                        \
	X(cuFuncSetAttribute, (void *, int, int))                                                                      \
	X(cuMemAlloc_v2, (uint64_t *, size_t))                                                                         \
	X(cuMemFree_v2, (uint64_t))                                                                                    \
	X(cuMemGetInfo_v2, (size_t *, size_t *))                                                                       \
	X(cuMemsetD8_v2, (uint64_t, unsigned char, size_t))                                                            \
	X(cuMemcpyHtoD_v2, (uint64_t, const void *, size_t))                                                           \
	X(cuMemcpyDtoH_v2, (void *, uint64_t, size_t))                                                                 \
	X(cuStreamCreate, (void **, unsigned int))                                                                     \
	X(cuStreamSynchronize, (void *))                                                                               \
	X(cuStreamBeginCapture_v2, (void *, int))                                                                      \
	X(cuStreamEndCapture, (void *, void **))                                                                       \
	X(cuGraphInstantiateWithFlags, (void **, void *, unsigned long long))                                          \
	X(cuGraphLaunch, (void *, void *))                                                                             \
	X(cuGraphExecDestroy, (void *))                                                                                \
	X(cuGraphDestroy, (void *))                                                                                    \
	X(cuEventCreate, (void **, unsigned int))                                                                      \
	X(cuEventRecord, (void *, void *))                                                                             \
	X(cuEventSynchronize, (void *))                                                                                \
	X(cuEventElapsedTime, (float *, void *, void *))                                                               \
	X(cuLaunchKernel, (void *, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, \
			   unsigned int, void *, void **, void **))                                                    \
	X(cuGetErrorName, (result, const char **))

static struct {
#define MEMBER(name, args) result(*name) args;
	CALLS(MEMBER)
} cu;

static void *images[MAX_IMAGES], *stream, *events[2];
static uint32_t nr_images, nr_kernels;
static struct {
	char name[48];
	void *function;
	uint32_t shared;
} kernels[MAX_KERNELS];
static int device;

static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

static void die(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	fprintf(stderr, "gpu: ");
	vfprintf(stderr, format, ap);
	fprintf(stderr, "\n");
	va_end(ap);
	exit(2);
}

static void ok(result r, const char *what)
{
	const char *name = "?";

	if (!r)
		return;
	if (cu.cuGetErrorName)
		cu.cuGetErrorName(r, &name);
	die("%s: %s (%d)", what, name, r);
}

#define OK(call) ok(call, #call)

static void load_driver(void)
{
	void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);

	if (!lib)
		die("%s: is there an NVIDIA driver?", dlerror());
#define LOAD(name, args)                                                                                               \
	*(void **)&cu.name = dlsym(lib, #name);                                                                        \
	if (!cu.name)                                                                                                  \
		die("libcuda.so.1 has no " #name ": the driver is too old");
	CALLS(LOAD)
}

static void load_image(const char *path)
{
	FILE *f = fopen(path, "rb");
	char *data;
	long bytes;

	if (!f || fseek(f, 0, SEEK_END) || (bytes = ftell(f)) <= 0 || nr_images == MAX_IMAGES)
		die("cannot read %s", path);
	rewind(f);
	data = malloc((size_t)bytes);
	if (!data || fread(data, 1, (size_t)bytes, f) != (size_t)bytes)
		die("cannot read %s", path);
	fclose(f);
	ok(cu.cuModuleLoadData(&images[nr_images++], data), path);
	free(data);
}

static void load_folder(const char *folder)
{
	DIR *d = opendir(folder);
	struct dirent *e;
	char path[600];

	if (!d)
		die("no folder %s: `make cuda` makes it", folder);
	while ((e = readdir(d))) {
		size_t n = strlen(e->d_name);

		if (n < 7 || strcmp(e->d_name + n - 7, ".fatbin"))
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, e->d_name);
		load_image(path);
	}
	closedir(d);
}

/* @folders: one, or several with colons between */
static void load_images(const char *folders)
{
	char folder[256];

	for (const char *p = folders; *p;) {
		size_t n = strcspn(p, ":");

		if (n >= sizeof(folder))
			die("%s: too long", folders);
		snprintf(folder, sizeof(folder), "%.*s", (int)n, p);
		load_folder(folder);
		p += n + (p[n] == ':');
	}
	if (!nr_images)
		die("no fatbin in %s: `make cuda` makes them", folders);
}

static int attribute(int which)
{
	int v;

	OK(cu.cuDeviceGetAttribute(&v, which, device));
	return v;
}

void *cuda_stream(void)
{
	return stream;
}

uint32_t cuda_nr_sms(void)
{
	return (uint32_t)attribute(16);
}

int cuda_cc(void)
{
	return 10 * attribute(75) + attribute(76);
}

size_t cuda_free_bytes(void)
{
	size_t spare, all;

	OK(cu.cuMemGetInfo_v2(&spare, &all));
	return spare;
}

static void cuda_open(const char *fatbins, char *text, size_t bytes)
{
	char name[96];
	void *context;
	int version;

	setenv("CUDA_MODULE_LOADING", "EAGER", 1);
	load_driver();
	OK(cu.cuInit(0));
	OK(cu.cuDeviceGet(&device, 0));
	OK(cu.cuDeviceGetName(name, sizeof(name), device));
	OK(cu.cuDriverGetVersion(&version));
	OK(cu.cuDevicePrimaryCtxRetain(&context, device));
	OK(cu.cuCtxSetCurrent(context));
	OK(cu.cuStreamCreate(&stream, 1));
	OK(cu.cuEventCreate(&events[0], 0));
	OK(cu.cuEventCreate(&events[1], 0));
	load_images(fatbins);
	snprintf(text, bytes, "%s, sm_%d, %u SMs, driver for CUDA %d.%d", name, cuda_cc(), cuda_nr_sms(),
		 version / 1000, version % 1000 / 10);
}

uint64_t cuda_alloc_raw(size_t bytes)
{
	uint64_t p;

	return cu.cuMemAlloc_v2(&p, bytes) ? 0 : p;
}

static uint64_t cuda_alloc(size_t bytes)
{
	uint64_t p;

	bytes = bytes ? bytes : 1;
	OK(cu.cuMemAlloc_v2(&p, bytes));
	OK(cu.cuMemsetD8_v2(p, 0xff, bytes));
	OK(cu.cuStreamSynchronize(NULL)); /* our stream does not wait for the one that sets memory */
	return p;
}

static void cuda_free(uint64_t p)
{
	OK(cu.cuStreamSynchronize(stream));
	OK(cu.cuMemFree_v2(p));
}

static void cuda_to(uint64_t dst, const void *src, size_t bytes)
{
	if (!bytes)
		return;
	OK(cu.cuStreamSynchronize(stream));
	OK(cu.cuMemcpyHtoD_v2(dst, src, bytes));
	OK(cu.cuStreamSynchronize(NULL)); /* a small copy may return before it is there */
}

static void cuda_from(void *dst, uint64_t src, size_t bytes)
{
	OK(cu.cuStreamSynchronize(stream));
	OK(cu.cuMemcpyDtoH_v2(dst, src, bytes));
}

static void *find(const char *name, uint32_t shared)
{
	uint32_t k = 0;

	while (k < nr_kernels && strcmp(kernels[k].name, name))
		k++;
	if (k == nr_kernels) {
		if (nr_kernels == MAX_KERNELS || strlen(name) >= sizeof(kernels[0].name))
			die("too many kernels");
		for (uint32_t i = 0; i < nr_images && !kernels[k].function; i++)
			if (cu.cuModuleGetFunction(&kernels[k].function, images[i], name))
				kernels[k].function = NULL;
		if (!kernels[k].function)
			die("no fatbin has %s", name);
		snprintf(kernels[k].name, sizeof(kernels[k].name), "%s", name);
		nr_kernels++;
	}
	if (shared > 48 << 10 && shared > kernels[k].shared) {
		ok(cu.cuFuncSetAttribute(kernels[k].function, 8, (int)shared), name);
		kernels[k].shared = shared;
	}
	return kernels[k].function;
}

static void cuda_launch(const char *kernel, struct fhk_cu_grid g, const void *args, size_t bytes)
{
	void *function = find(kernel, g.shared), *params[] = {(void *)(uintptr_t)args};

	(void)bytes;
	ok(cu.cuLaunchKernel(function, g.x, g.y, g.z, g.threads, 1, 1, g.shared, stream, params, NULL), kernel);
}

void cuda_capture(void)
{
	OK(cu.cuStreamSynchronize(stream));
	OK(cu.cuStreamBeginCapture_v2(stream, 1));
}

void *cuda_captured(void)
{
	void *graph, *exec;

	OK(cu.cuStreamEndCapture(stream, &graph));
	OK(cu.cuGraphInstantiateWithFlags(&exec, graph, 0));
	OK(cu.cuGraphDestroy(graph));
	return exec;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double cuda_time(void *graph, uint32_t reps)
{
	double seconds[64];

	reps = reps < 64 ? reps : 64;
	for (uint32_t i = 0; i < reps + 2; i++) {
		float ms;

		OK(cu.cuEventRecord(events[0], stream));
		OK(cu.cuGraphLaunch(graph, stream));
		OK(cu.cuEventRecord(events[1], stream));
		OK(cu.cuEventSynchronize(events[1]));
		OK(cu.cuEventElapsedTime(&ms, events[0], events[1]));
		if (i >= 2)
			seconds[i - 2] = ms / 1e3;
	}
	OK(cu.cuGraphExecDestroy(graph));
	qsort(seconds, reps, sizeof(seconds[0]), by_value);
	return seconds[reps / 2];
}

const struct gpu_ops gpu_cuda = {
	.name = "cuda",
	.open = cuda_open,
	.alloc = cuda_alloc,
	.free = cuda_free,
	.to = cuda_to,
	.from = cuda_from,
	.launch = cuda_launch,
};

const struct gpu_ops *gpu = &gpu_cuda;
