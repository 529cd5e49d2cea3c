// SPDX-License-Identifier: Apache-2.0
/* The driver's functions, as the stand-in has them: see sim.h.  Handles own what hangs on them. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/cuda_kernels.h"
#include "tests/gpu/libcuda/sim.h"

#define FATBIN_MAGIC 0xba55ed50u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local cu_context current;
static struct CUctx_st the_context;

/* ---- every call ---- */

#define ENTER(id)                                                                                                      \
	struct sim_hit hit;                                                                                            \
	pthread_mutex_lock(&lock);                                                                                     \
	hit = sim_enter(SIM_##id);                                                                                     \
	if (hit.now != CU_OK)                                                                                          \
	return leave(hit.now)

static cu_result leave(cu_result r)
{
	pthread_mutex_unlock(&lock);
	return r;
}

/* The same for calls that need this thread's context. */
#define ENTER_CTX(id)                                                                                                  \
	ENTER(id);                                                                                                     \
	if (!current)                                                                                                  \
	return leave(CU_INVALID_CONTEXT)

#define CHECK(handle, what)                                                                                            \
	do {                                                                                                           \
		if (!(handle) || (handle)->magic != SIM_MAGIC_##what)                                                  \
			return leave(CU_INVALID_HANDLE);                                                               \
	} while (0)

/* Calls that a capture does not survive. */
static bool spoil_capture(cu_stream s)
{
	if (!s->capture)
		return false;
	s->capture_broken = true;
	return true;
}

/* ---- the driver's functions ---- */

#define DECLARE(name, version, args) static cu_result sim_##name args;
CU_CALLS(DECLARE)
#undef DECLARE

static cu_result sim_DriverGetVersion(int *version)
{
	ENTER(DriverGetVersion);
	*version = sim.driver;
	return leave(CU_OK);
}

static cu_result sim_Init(unsigned int flags)
{
	ENTER(Init);
	if (flags)
		return leave(CU_INVALID_VALUE);
	if (!sim.nr_devices)
		return leave(CU_NO_DEVICE);
	sim.initialised = true;
	return leave(CU_OK);
}

static const struct {
	cu_result r;
	const char *name, *text;
} errors[] = {
	{0, "CUDA_SUCCESS", "no error"},
	{1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
	{2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
	{3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
	{100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
	{101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
	{200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
	{201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
	{209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
	{400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
	{500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
	{600, "CUDA_ERROR_NOT_READY", "device not ready"},
	{700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
	{702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
	{719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
	{802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
	{900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
	{901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
	{999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static cu_result error_text(cu_result r, const char **out, bool name)
{
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		if (errors[i].r == r) {
			*out = name ? errors[i].name : errors[i].text;
			return CU_OK;
		}
	}
	*out = NULL;
	return CU_INVALID_VALUE;
}

/* These two answer whatever has happened. */
static cu_result sim_GetErrorName(cu_result r, const char **out)
{
	return error_text(r, out, true);
}

static cu_result sim_GetErrorString(cu_result r, const char **out)
{
	return error_text(r, out, false);
}

static cu_result sim_DeviceGetCount(int *nr)
{
	ENTER(DeviceGetCount);
	*nr = sim.nr_devices;
	return leave(CU_OK);
}

static cu_result sim_DeviceGet(cu_device *out, int ordinal)
{
	ENTER(DeviceGet);
	if (ordinal < 0 || ordinal >= sim.nr_devices)
		return leave(CU_INVALID_DEVICE);
	*out = ordinal;
	return leave(CU_OK);
}

static cu_result sim_DeviceGetName(char *out, int cap, cu_device dev)
{
	ENTER(DeviceGetName);
	snprintf(out, (size_t)cap, "stand-in %d", dev);
	return leave(CU_OK);
}

static cu_result sim_DeviceGetPCIBusId(char *out, int cap, cu_device dev)
{
	ENTER(DeviceGetPCIBusId);
	snprintf(out, (size_t)cap, "0000:%02x:00.0", dev + 1);
	return leave(CU_OK);
}

static cu_result sim_DeviceGetAttribute(int *out, unsigned int attr, cu_device dev)
{
	ENTER(DeviceGetAttribute);
	if (dev < 0 || dev >= sim.nr_devices)
		return leave(CU_INVALID_DEVICE);
	switch (attr) {
	case CU_ATTR_CC_MAJOR: *out = sim.cc / 10; break;
	case CU_ATTR_CC_MINOR: *out = sim.cc % 10; break;
	case CU_ATTR_SM_COUNT: *out = 4; break;
	case CU_ATTR_SHARED_OPTIN: *out = sim.cc == 80 ? 166912 : sim.cc == 90 ? 232448 : 101376; break;
	case CU_ATTR_EXEC_TIMEOUT: *out = 0; break;
	case CU_ATTR_COMPUTE_MODE: *out = (int)sim_number("FHSIM_MODE", 0); break;
	default: return leave(CU_INVALID_VALUE);
	}
	return leave(CU_OK);
}

static cu_result sim_DevicePrimaryCtxSetFlags(cu_device dev, unsigned int flags)
{
	(void)dev;
	(void)flags;
	ENTER(DevicePrimaryCtxSetFlags);
	return leave(CU_OK);
}

static cu_result sim_DevicePrimaryCtxRetain(cu_context *out, cu_device dev)
{
	ENTER(DevicePrimaryCtxRetain);
	if (dev < 0 || dev >= sim.nr_devices)
		return leave(CU_INVALID_DEVICE);
	the_context.magic = SIM_MAGIC_CTX;
	the_context.nr_retained++;
	sim.nr_retained++;
	*out = &the_context;
	return leave(CU_OK);
}

static cu_result sim_DevicePrimaryCtxRelease(cu_device dev)
{
	(void)dev;
	ENTER(DevicePrimaryCtxRelease);
	if (!the_context.nr_retained)
		return leave(CU_INVALID_CONTEXT);
	the_context.nr_retained--;
	sim.nr_retained--;
	if (!sim.nr_retained)
		sim_report();
	return leave(CU_OK);
}

static cu_result sim_CtxSetCurrent(cu_context ctx)
{
	ENTER(CtxSetCurrent);
	if (ctx && (ctx->magic != SIM_MAGIC_CTX || !ctx->nr_retained))
		return leave(CU_INVALID_CONTEXT);
	current = ctx;
	return leave(CU_OK);
}

/* ---- modules ---- */

/* Of the one structure that each kernel takes; 0: there is no such kernel. */
static size_t param_bytes(const char *name)
{
	static const struct {
		const char *name;
		size_t bytes;
	} kernels[] = {
#define KERNEL(name, args) {#name, sizeof(args)},
		FHK_CU_KERNELS(KERNEL)
#undef KERNEL
	};

	for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++)
		if (!strcmp(kernels[i].name, name))
			return kernels[i].bytes;
	return 0;
}

static cu_result sim_ModuleLoadDataEx(cu_module *out, const void *image, unsigned int nr, unsigned int *options,
				      void **values)
{
	cu_module m;

	ENTER_CTX(ModuleLoadDataEx);
	if (*(const uint32_t *)image != FATBIN_MAGIC) {
		for (unsigned int i = 0; i < nr; i++)
			if (options[i] == CU_JIT_ERROR_LOG_BUFFER)
				strcpy(values[i], "the image is no fatbin");
		return leave(CU_INVALID_IMAGE);
	}
	m = calloc(1, sizeof(*m));
	m->magic = SIM_MAGIC_MODULE;
	sim.nr_modules++;
	*out = m;
	return leave(CU_OK);
}

static cu_result sim_ModuleUnload(cu_module m)
{
	ENTER_CTX(ModuleUnload);
	CHECK(m, MODULE);
	while (m->functions) {
		struct CUfunc_st *f = m->functions;

		m->functions = f->next;
		f->magic = SIM_GONE;
		free(f);
	}
	m->magic = SIM_GONE;
	free(m);
	sim.nr_modules--;
	return leave(CU_OK);
}

static cu_result sim_ModuleGetFunction(cu_function *out, cu_module m, const char *name)
{
	cu_function f;

	ENTER_CTX(ModuleGetFunction);
	CHECK(m, MODULE);
	if (!param_bytes(name))
		return leave(CU_NOT_FOUND);
	f = calloc(1, sizeof(*f));
	f->magic = SIM_MAGIC_FUNCTION;
	f->max_shared = 48 << 10;
	snprintf(f->name, sizeof(f->name), "%s", name);
	f->next = m->functions;
	m->functions = f;
	*out = f;
	return leave(CU_OK);
}

static cu_result sim_FuncGetAttribute(int *out, unsigned int attr, cu_function f)
{
	ENTER_CTX(FuncGetAttribute);
	CHECK(f, FUNCTION);
	*out = attr == CU_FUNC_MAX_DYNAMIC_SHARED ? f->max_shared : 0;
	return leave(CU_OK);
}

static cu_result sim_FuncSetAttribute(cu_function f, unsigned int attr, int value)
{
	ENTER_CTX(FuncSetAttribute);
	CHECK(f, FUNCTION);
	if (attr != CU_FUNC_MAX_DYNAMIC_SHARED || value < 0 || value > 232448)
		return leave(CU_INVALID_VALUE);
	f->max_shared = value;
	return leave(CU_OK);
}

/* ---- memory ---- */

static cu_result sim_MemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
	ENTER_CTX(MemGetInfo);
	*free_bytes = sim.mem_bytes - sim.used_bytes;
	*total_bytes = sim.mem_bytes;
	return leave(CU_OK);
}

static cu_result sim_MemAlloc(cu_ptr *out, size_t bytes)
{
	void *p = NULL;
	cu_result r;

	ENTER_CTX(MemAlloc);
	r = sim_mem_alloc(SIM_DEVICE, bytes, &p);
	*out = (cu_ptr)(uintptr_t)p;
	return leave(r);
}

static cu_result sim_MemFree(cu_ptr p)
{
	ENTER_CTX(MemFree);
	return leave(sim_mem_free(SIM_DEVICE, (void *)(uintptr_t)p));
}

static cu_result sim_MemHostAlloc(void **out, size_t bytes, unsigned int flags)
{
	ENTER_CTX(MemHostAlloc);
	if (flags & ~7u)
		return leave(CU_INVALID_VALUE);
	return leave(sim_mem_alloc(SIM_PINNED, bytes, out));
}

static cu_result sim_MemFreeHost(void *p)
{
	ENTER_CTX(MemFreeHost);
	return leave(sim_mem_free(SIM_PINNED, p));
}

static cu_result sim_MemHostGetDevicePointer(cu_ptr *out, void *p, unsigned int flags)
{
	ENTER_CTX(MemHostGetDevicePointer);
	if (flags || !sim_mem_find(SIM_PINNED, p, 1))
		return leave(CU_INVALID_VALUE);
	*out = (cu_ptr)(uintptr_t)p;
	return leave(CU_OK);
}

/* ---- streams: what is asked for ---- */

static cu_result push(cu_stream s, struct sim_hit hit, struct sim_op what)
{
	struct sim_op *op = malloc(sizeof(*op));

	*op = what;
	op->fail = hit.late;
	op->hang = hit.hang;
	if (what.kind == SIM_OP_LAUNCH) {
		op->launch.param = malloc(what.launch.param_bytes);
		memcpy(op->launch.param, what.launch.param, what.launch.param_bytes);
	}
	sim_push(s, op);
	return leave(CU_OK);
}

static cu_result copy(cu_stream s, struct sim_hit hit, void *dst, bool dst_device, const void *src, bool src_device,
		      size_t bytes)
{
	if ((dst_device && !sim_mem_find(SIM_DEVICE, dst, bytes)) ||
	    (src_device && !sim_mem_find(SIM_DEVICE, src, bytes)))
		return leave(CU_INVALID_VALUE);
	if ((!dst_device && !sim_mem_find(SIM_PINNED, dst, bytes)) ||
	    (!src_device && !sim_mem_find(SIM_PINNED, src, bytes)))
		sim.nr_unpinned++;
	return push(s, hit, (struct sim_op){.kind = SIM_OP_COPY, .copy = {dst, src, bytes}});
}

static cu_result sim_MemcpyHtoDAsync(cu_ptr dst, const void *src, size_t bytes, cu_stream s)
{
	ENTER_CTX(MemcpyHtoDAsync);
	CHECK(s, STREAM);
	return copy(s, hit, (void *)(uintptr_t)dst, true, src, false, bytes);
}

static cu_result sim_MemcpyDtoHAsync(void *dst, cu_ptr src, size_t bytes, cu_stream s)
{
	ENTER_CTX(MemcpyDtoHAsync);
	CHECK(s, STREAM);
	return copy(s, hit, dst, false, (void *)(uintptr_t)src, true, bytes);
}

static cu_result sim_MemcpyDtoDAsync(cu_ptr dst, cu_ptr src, size_t bytes, cu_stream s)
{
	ENTER_CTX(MemcpyDtoDAsync);
	CHECK(s, STREAM);
	return copy(s, hit, (void *)(uintptr_t)dst, true, (void *)(uintptr_t)src, true, bytes);
}

static cu_result sim_MemsetD8Async(cu_ptr dst, unsigned char v, size_t bytes, cu_stream s)
{
	void *p = (void *)(uintptr_t)dst;

	ENTER_CTX(MemsetD8Async);
	CHECK(s, STREAM);
	if (!sim_mem_find(SIM_DEVICE, p, bytes))
		return leave(CU_INVALID_VALUE);
	return push(s, hit, (struct sim_op){.kind = SIM_OP_SET, .set = {p, v, bytes}});
}

static cu_result sim_LaunchKernel(cu_function f, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx,
				  unsigned int by, unsigned int bz, unsigned int shared_bytes, cu_stream s,
				  void **params, void **extra)
{
	struct sim_op op = {
		.kind = SIM_OP_LAUNCH,
		.launch = {.f = f, .grid = {gx, gy, gz}, .block = {bx, by, bz}, .shared_bytes = shared_bytes}};

	ENTER_CTX(LaunchKernel);
	CHECK(f, FUNCTION);
	CHECK(s, STREAM);
	if (!gx || !gy || !gz || !bx || !by || !bz || gy > 65535 || gz > 65535 || bx * by * bz > 1024 || bz > 64 ||
	    extra || !params || (int)shared_bytes > f->max_shared)
		return leave(CU_INVALID_VALUE);
	op.launch.param = params[0];
	op.launch.param_bytes = param_bytes(f->name);
	return push(s, hit, op);
}

/* ---- streams and events ---- */

static cu_result sim_StreamCreate(cu_stream *out, unsigned int flags)
{
	cu_stream s;

	(void)flags;
	ENTER_CTX(StreamCreate);
	s = calloc(1, sizeof(*s));
	s->magic = SIM_MAGIC_STREAM;
	s->ops.tail = &s->ops.head;
	sim.nr_streams++;
	*out = s;
	return leave(CU_OK);
}

static cu_result sim_StreamDestroy(cu_stream s)
{
	ENTER_CTX(StreamDestroy);
	CHECK(s, STREAM);
	sim_run_all(s);
	sim_ops_free(&s->ops);
	s->magic = SIM_GONE;
	free(s);
	sim.nr_streams--;
	return leave(CU_OK);
}

/* Wait for work that hangs: for good, without the lock. */
static void hang(void)
{
	pthread_mutex_unlock(&lock);
	for (;;)
		pause();
}

static cu_result sim_StreamSynchronize(cu_stream s)
{
	cu_result r;

	ENTER_CTX(StreamSynchronize);
	CHECK(s, STREAM);
	if (spoil_capture(s))
		return leave(CU_STREAM_CAPTURE_UNSUPPORTED);
	r = sim_run_all(s);
	if (r == CU_NOT_READY)
		hang();
	return leave(r);
}

static cu_result sim_EventCreate(cu_event *out, unsigned int flags)
{
	cu_event e;

	(void)flags;
	ENTER_CTX(EventCreate);
	e = calloc(1, sizeof(*e));
	e->magic = SIM_MAGIC_EVENT;
	sim.nr_events++;
	*out = e;
	return leave(CU_OK);
}

static cu_result sim_EventDestroy(cu_event e)
{
	ENTER_CTX(EventDestroy);
	CHECK(e, EVENT);
	if (e->stream && e->done != e->recorded)
		sim_run_all(e->stream);
	e->magic = SIM_GONE;
	free(e);
	sim.nr_events--;
	return leave(CU_OK);
}

static cu_result sim_EventRecord(cu_event e, cu_stream s)
{
	ENTER_CTX(EventRecord);
	CHECK(e, EVENT);
	CHECK(s, STREAM);
	e->stream = s;
	return push(s, hit, (struct sim_op){.kind = SIM_OP_EVENT, .event = {e, ++e->recorded}});
}

/* Each question brings the stream one operation further. */
static cu_result sim_EventQuery(cu_event e)
{
	ENTER_CTX(EventQuery);
	CHECK(e, EVENT);
	if (e->done != e->recorded)
		sim_run_one(e->stream);
	if (sim.sticky != CU_OK)
		return leave(sim.sticky);
	return leave(e->done == e->recorded ? CU_OK : CU_NOT_READY);
}

static cu_result sim_EventSynchronize(cu_event e)
{
	ENTER_CTX(EventSynchronize);
	CHECK(e, EVENT);
	while (e->done != e->recorded && sim.sticky == CU_OK)
		if (!sim_run_one(e->stream))
			hang();
	return leave(sim.sticky);
}

/* ---- graphs ---- */

static cu_result sim_StreamBeginCapture(cu_stream s, unsigned int mode)
{
	ENTER_CTX(StreamBeginCapture);
	CHECK(s, STREAM);
	if (s->capture || mode > 2)
		return leave(CU_INVALID_VALUE);
	s->capture = calloc(1, sizeof(*s->capture));
	s->capture->magic = SIM_MAGIC_GRAPH;
	s->capture->ops.tail = &s->capture->ops.head;
	s->capture_broken = false;
	sim.nr_graphs++;
	return leave(CU_OK);
}

static void free_graph(cu_graph g)
{
	sim_ops_free(&g->ops);
	g->magic = SIM_GONE;
	free(g);
	sim.nr_graphs--;
}

static cu_result sim_StreamEndCapture(cu_stream s, cu_graph *out)
{
	struct sim_hit hit;

	pthread_mutex_lock(&lock);
	hit = sim_enter(SIM_StreamEndCapture);
	CHECK(s, STREAM);
	if (!s->capture)
		return leave(hit.now != CU_OK ? hit.now : CU_INVALID_VALUE);
	*out = s->capture;
	s->capture = NULL;
	if (!s->capture_broken && hit.now == CU_OK)
		return leave(CU_OK);
	/* Whatever was wrong, the stream is no longer captured. */
	free_graph(*out);
	*out = NULL;
	return leave(hit.now != CU_OK ? hit.now : CU_STREAM_CAPTURE_INVALIDATED);
}

static cu_result sim_GraphInstantiateWithFlags(cu_graph_exec *out, cu_graph g, unsigned long long flags)
{
	cu_graph_exec x;

	ENTER_CTX(GraphInstantiateWithFlags);
	CHECK(g, GRAPH);
	if (flags)
		return leave(CU_INVALID_VALUE);
	x = calloc(1, sizeof(*x));
	x->magic = SIM_MAGIC_EXEC;
	sim_ops_copy(&x->ops, &g->ops);
	sim.nr_execs++;
	*out = x;
	return leave(CU_OK);
}

static cu_result sim_GraphDestroy(cu_graph g)
{
	ENTER_CTX(GraphDestroy);
	CHECK(g, GRAPH);
	free_graph(g);
	return leave(CU_OK);
}

static cu_result sim_GraphLaunch(cu_graph_exec g, cu_stream s)
{
	ENTER_CTX(GraphLaunch);
	CHECK(g, EXEC);
	CHECK(s, STREAM);
	g->nr_pending++;
	return push(s, hit, (struct sim_op){.kind = SIM_OP_GRAPH, .graph = g});
}

static cu_result sim_GraphExecDestroy(cu_graph_exec g)
{
	ENTER_CTX(GraphExecDestroy);
	CHECK(g, EXEC);
	if (g->nr_pending)
		sim_complain("a graph was destroyed before it had run");
	sim_ops_free(&g->ops);
	g->magic = SIM_GONE;
	free(g);
	sim.nr_execs--;
	return leave(CU_OK);
}

/* ---- the table ---- */

#define ENTRY(name, version, args) {"cu" #name, version, (void (*)(void))sim_##name},
static const struct {
	const char *name;
	int version;
	void (*fn)(void);
} calls[] = {CU_CALLS(ENTRY)};
#undef ENTRY

/* The only name that the library shows. */
cu_result cuGetProcAddress_v2(const char *symbol, void **fn, int version, uint64_t flags, unsigned int *status)
	__attribute__((visibility("default")));

cu_result cuGetProcAddress_v2(const char *symbol, void **fn, int version, uint64_t flags, unsigned int *status)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	const char *lacks = getenv("FHSIM_LACKS");

	(void)flags;
	pthread_once(&once, sim_setup);
	*fn = NULL;
	*status = CU_PROC_NOT_FOUND;
	for (size_t i = 0; i < SIM_NR_CALLS; i++) {
		if (strcmp(calls[i].name, symbol) || (lacks && !strcmp(lacks, symbol + 2)))
			continue;
		*status = version > sim.driver ? CU_PROC_VERSION : CU_PROC_FOUND;
		if (*status == CU_PROC_FOUND)
			memcpy(fn, &calls[i].fn, sizeof(*fn));
	}
	return CU_OK; /* and nothing in *fn: the driver does that, too */
}
