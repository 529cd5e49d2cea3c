// SPDX-License-Identifier: Apache-2.0
/*
 * The tests' machine with a GPU: the driver API, loaded at run time, and every
 * fatbin of a folder.  Self-contained: libc and the driver are all it needs.
 * Its functions are asked for as the product does it, by the same table.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/accel/cuda_abi.h"
#include "tests/gpu/gpu_cuda.h"

#define MAX_IMAGES 64
#define MAX_KERNELS 128

static struct {
#define MEMBER(name, version, args) cu_result(*name) args;
	CU_CALLS(MEMBER)
#undef MEMBER
	cu_result (*EventElapsedTime)(float *ms, cu_event from, cu_event to); /* the bench's alone */
} cu;

static cu_module images[MAX_IMAGES];
static cu_stream stream;
static cu_event events[2];
static uint32_t nr_images, nr_kernels;
static struct {
	char name[48];
	cu_function function;
	uint32_t shared;
} kernels[MAX_KERNELS];
static cu_device device;

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

static void ok(cu_result r, const char *what)
{
	const char *name = "?";

	if (!r)
		return;
	if (cu.GetErrorName)
		cu.GetErrorName(r, &name);
	die("%s: %s (%u)", what, name, r);
}

#define OK(call) ok(call, #call)

static void load_driver(void)
{
	void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
	cu_get_proc_fn get;
	unsigned int status;

	if (!lib)
		die("%s: is there an NVIDIA driver?", dlerror());
	*(void **)&get = dlsym(lib, CU_GET_PROC_NAME);
	if (!get)
		die("libcuda.so.1 has no " CU_GET_PROC_NAME ": the driver is too old");
#define LOAD(name, version, args)                                                                                      \
	if (get("cu" #name, (void **)&cu.name, version, 0, &status) != CU_OK || !cu.name)                              \
		die("libcuda.so.1 has no cu" #name " (status %u): the driver is too old", status);
	CU_CALLS(LOAD)
#undef LOAD
	if (get("cuEventElapsedTime", (void **)&cu.EventElapsedTime, 2000, 0, &status) != CU_OK)
		cu.EventElapsedTime = NULL;
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
	ok(cu.ModuleLoadDataEx(&images[nr_images++], data, 0, NULL, NULL), path);
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

	OK(cu.DeviceGetAttribute(&v, (unsigned int)which, device));
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

	OK(cu.MemGetInfo(&spare, &all));
	return spare;
}

static void cuda_open(const char *fatbins, char *text, size_t bytes)
{
	char name[96];
	cu_context context;
	int version;

	setenv("CUDA_MODULE_LOADING", "EAGER", 1);
	load_driver();
	OK(cu.Init(0));
	OK(cu.DeviceGet(&device, 0));
	OK(cu.DeviceGetName(name, sizeof(name), device));
	OK(cu.DriverGetVersion(&version));
	OK(cu.DevicePrimaryCtxRetain(&context, device));
	OK(cu.CtxSetCurrent(context));
	OK(cu.StreamCreate(&stream, 1));
	OK(cu.EventCreate(&events[0], 0));
	OK(cu.EventCreate(&events[1], 0));
	load_images(fatbins);
	snprintf(text, bytes, "%s, sm_%d, %u SMs, driver for CUDA %d.%d", name, cuda_cc(), cuda_nr_sms(),
		 version / 1000, version % 1000 / 10);
}

uint64_t cuda_alloc_raw(size_t bytes)
{
	cu_ptr p;

	return cu.MemAlloc(&p, bytes) ? 0 : p;
}

static uint64_t cuda_alloc(size_t bytes)
{
	cu_ptr p;

	bytes = bytes ? bytes : 1;
	OK(cu.MemAlloc(&p, bytes));
	OK(cu.MemsetD8Async(p, 0xff, bytes, stream));
	return p;
}

static void cuda_free(uint64_t p)
{
	OK(cu.StreamSynchronize(stream));
	OK(cu.MemFree(p));
}

static void cuda_to(uint64_t dst, const void *src, size_t bytes)
{
	if (!bytes)
		return;
	OK(cu.MemcpyHtoDAsync(dst, src, bytes, stream));
	OK(cu.StreamSynchronize(stream));
}

static void cuda_from(void *dst, uint64_t src, size_t bytes)
{
	OK(cu.MemcpyDtoHAsync(dst, src, bytes, stream));
	OK(cu.StreamSynchronize(stream));
}

static cu_function find(const char *name, uint32_t shared)
{
	uint32_t k = 0;

	while (k < nr_kernels && strcmp(kernels[k].name, name))
		k++;
	if (k == nr_kernels) {
		if (nr_kernels == MAX_KERNELS || strlen(name) >= sizeof(kernels[0].name))
			die("too many kernels");
		for (uint32_t i = 0; i < nr_images && !kernels[k].function; i++)
			if (cu.ModuleGetFunction(&kernels[k].function, images[i], name))
				kernels[k].function = NULL;
		if (!kernels[k].function)
			die("no fatbin has %s", name);
		snprintf(kernels[k].name, sizeof(kernels[k].name), "%s", name);
		nr_kernels++;
	}
	if (shared > 48 << 10 && shared > kernels[k].shared) {
		ok(cu.FuncSetAttribute(kernels[k].function, CU_FUNC_MAX_DYNAMIC_SHARED, (int)shared), name);
		kernels[k].shared = shared;
	}
	return kernels[k].function;
}

static void cuda_launch(const char *kernel, struct fhk_cu_grid g, const void *args, size_t bytes)
{
	void *params[] = {(void *)(uintptr_t)args};
	cu_function function = find(kernel, g.shared);

	(void)bytes;
	ok(cu.LaunchKernel(function, g.x, g.y, g.z, g.threads, 1, 1, g.shared, stream, params, NULL), kernel);
}

void cuda_capture(void)
{
	OK(cu.StreamSynchronize(stream));
	OK(cu.StreamBeginCapture(stream, CU_CAPTURE_THREAD_LOCAL));
}

void *cuda_captured(void)
{
	cu_graph_exec exec;
	cu_graph graph;

	OK(cu.StreamEndCapture(stream, &graph));
	OK(cu.GraphInstantiateWithFlags(&exec, graph, 0));
	OK(cu.GraphDestroy(graph));
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

	if (!cu.EventElapsedTime)
		die("libcuda.so.1 has no cuEventElapsedTime");
	reps = reps < 64 ? reps : 64;
	for (uint32_t i = 0; i < reps + 2; i++) {
		float ms;

		OK(cu.EventRecord(events[0], stream));
		OK(cu.GraphLaunch(graph, stream));
		OK(cu.EventRecord(events[1], stream));
		OK(cu.EventSynchronize(events[1]));
		OK(cu.EventElapsedTime(&ms, events[0], events[1]));
		if (i >= 2)
			seconds[i - 2] = ms / 1e3;
	}
	OK(cu.GraphExecDestroy(graph));
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
