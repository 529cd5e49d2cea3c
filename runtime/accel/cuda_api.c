// SPDX-License-Identifier: Apache-2.0
/*
 * Loading the CUDA driver, and saying what its errors mean.
 *
 * cuGetProcAddress may say success and hand out nothing; then its fourth result
 * knows why, and so does the message.
 */
#include "runtime/accel/cuda_api.h"

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

/* ---- errors ---- */

struct meaning {
	cu_result r;
	int rc;
	bool sticky;
	const char *mend; /* what to do */
};

#define NEW_PROCESS                                                                                                    \
	"the device's state is lost, and CUDA wants a new process: restart; if it comes again, dmesg has the Xid"

static const struct meaning meanings[] = {
	{CU_INVALID_VALUE, -EINVAL, false, "a bug of ours: please report it"},
	{CU_OUT_OF_MEMORY, -ENOMEM, false,
	 "free memory on the GPU (nvidia-smi names who holds it), or take a smaller --ctx, --max-seqs or model"},
	{CU_NOT_INITIALIZED, -ENODEV, false, "reload the driver (rmmod nvidia_uvm; modprobe nvidia_uvm)"},
	{CU_DEINITIALIZED, -EIO, true, "the process is ending"},
	{CU_STUB_LIBRARY, -ENOTSUP, false,
	 "the libcuda.so.1 that was found is the toolkit's, which is for linking alone: take its folder out of "
	 "LD_LIBRARY_PATH"},
	{CU_NEWER_DRIVER, -ENOTSUP, false, "update the NVIDIA driver"},
	{CU_DEVICE_UNAVAILABLE, -EBUSY, false,
	 "another process has the GPU to itself (nvidia-smi -q -d COMPUTE shows the mode)"},
	{CU_NO_DEVICE, -ENODEV, false,
	 "is one there (lspci -d 10de:), is it passed into this container, does CUDA_VISIBLE_DEVICES hide it?"},
	{CU_INVALID_DEVICE, -ENODEV, false, "nvidia-smi -L lists them"},
	{CU_INVALID_IMAGE, -ENOTSUP, false,
	 "the kernels in this binary do not fit the driver: update it, or `make cuda` again"},
	{CU_NO_BINARY_FOR_GPU, -ENOTSUP, false,
	 "no kernels for this GPU in this binary: `make cuda` with a newer toolkit"},
	{CU_ECC_UNCORRECTABLE, -EIO, true, "the GPU's memory is broken: nvidia-smi -q -d ECC,PAGE_RETIREMENT"},
	{CU_INVALID_PTX, -ENOTSUP, false, "the driver cannot compile the kernels for this GPU: update it"},
	{CU_NVLINK_UNCORRECTABLE, -EIO, true, NEW_PROCESS},
	{CU_JIT_COMPILER_NOT_FOUND, -ENOTSUP, false,
	 "no machine code for this GPU in this binary, and libnvidia-ptxjitcompiler.so.1 is not installed"},
	{CU_UNSUPPORTED_PTX_VERSION, -ENOTSUP, false,
	 "the kernels were compiled by a toolkit that is newer than the driver: update it"},
	{CU_JIT_COMPILATION_DISABLED, -ENOTSUP, false,
	 "unset CUDA_DISABLE_PTX_JIT: this GPU needs the kernels compiled at the start"},
	{CU_CONTAINED, -EIO, true, NEW_PROCESS},
	{CU_OPERATING_SYSTEM, -EIO, false,
	 "may this process open /dev/nvidia*, write /proc/self/task/*/comm, and lock memory (ulimit -l)?"},
	{CU_INVALID_HANDLE, -EINVAL, false, "a bug of ours: please report it"},
	{CU_NOT_FOUND, -ENOENT, false, "the kernels in this binary are of another version: build it anew"},
	{CU_NOT_READY, -EAGAIN, false, "wait"},
	{CU_ILLEGAL_ADDRESS, -EIO, true, NEW_PROCESS},
	{CU_LAUNCH_OUT_OF_RESOURCES, -EIO, false,
	 "a kernel wants more registers or shared memory than the GPU has: please report it"},
	{CU_LAUNCH_TIMEOUT, -EIO, true,
	 "the driver ended a kernel that ran too long: take the display off this GPU, then restart"},
	{CU_CONTEXT_IS_DESTROYED, -EIO, true, NEW_PROCESS},
	{CU_ASSERT, -EIO, true, NEW_PROCESS},
	{CU_HARDWARE_STACK_ERROR, -EIO, true, NEW_PROCESS},
	{CU_ILLEGAL_INSTRUCTION, -EIO, true, NEW_PROCESS},
	{CU_MISALIGNED_ADDRESS, -EIO, true, NEW_PROCESS},
	{CU_INVALID_ADDRESS_SPACE, -EIO, true, NEW_PROCESS},
	{CU_INVALID_PC, -EIO, true, NEW_PROCESS},
	{CU_LAUNCH_FAILED, -EIO, true, NEW_PROCESS},
	{CU_NOT_PERMITTED, -EPERM, false, "may this user open /dev/nvidia*?"},
	{CU_NOT_SUPPORTED, -ENOTSUP, false, "this GPU or its driver cannot do it"},
	{CU_SYSTEM_NOT_READY, -EAGAIN, false,
	 "nvidia-fabricmanager has to run on this machine (systemctl start nvidia-fabricmanager)"},
	{CU_SYSTEM_DRIVER_MISMATCH, -ENOTSUP, false,
	 "kernel module and libcuda are of different versions: reboot, or reload the nvidia modules"},
	{CU_COMPAT_NOT_SUPPORTED, -ENOTSUP, false,
	 "the compatibility libcuda does not run on this GPU: use the driver's own"},
	{CU_EXTERNAL_DEVICE, -EIO, true, NEW_PROCESS},
	{CU_UNKNOWN, -EIO, true, "CUDA does not know either: dmesg may (look for Xid)"},
};

static const struct meaning *meaning_of(cu_result r)
{
	static const struct meaning other = {0, -EIO, false, "please report it, with the driver's version"};

	for (size_t i = 0; i < sizeof(meanings) / sizeof(meanings[0]); i++)
		if (meanings[i].r == r)
			return &meanings[i];
	return &other;
}

bool fh_cu_is_sticky(cu_result r)
{
	return r != CU_OK && meaning_of(r)->sticky;
}

int fh_cu_errf(const struct fh_cu *cu, cu_result r, struct fh_err *err, const char *fmt, ...)
{
	const struct meaning *m = meaning_of(r);
	const char *name = NULL, *says = NULL;
	char what[160];
	va_list ap;

	if (r == CU_OK)
		return 0;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (!cu || !cu->GetErrorName || cu->GetErrorName(r, &name) != CU_OK)
		name = NULL;
	if (!cu || !cu->GetErrorString || cu->GetErrorString(r, &says) != CU_OK)
		says = NULL;
	if (!name)
		return fh_errf(err, m->rc, "%s: CUDA error %u: %s", what, r, m->mend);
	return fh_errf(err, m->rc, "%s: %s (%s): %s", what, name, says ? says : "?", m->mend);
}

/* ---- the library ---- */

static int too_old(int driver, const char *lacks, struct fh_err *err)
{
	char has[48] = "";

	if (driver)
		snprintf(has, sizeof(has), ", which speaks CUDA %d.%d,", driver / 1000, driver % 1000 / 10);
	return fh_errf(err, -ENOTSUP,
		       "the NVIDIA driver%s lacks %s: CUDA %d.%d or newer is needed (driver 525 or newer)", has, lacks,
		       FH_CU_DRIVER_MIN / 1000, FH_CU_DRIVER_MIN % 1000 / 10);
}

static int find_all(struct fh_cu *cu, cu_get_proc_fn get, struct fh_err *err)
{
#define CU_ENTRY(name, version, args) {"cu" #name, version, offsetof(struct fh_cu, name)},
	static const struct {
		const char *name;
		int version;
		size_t at;
	} calls[] = {CU_CALLS(CU_ENTRY)};
#undef CU_ENTRY

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		unsigned int status = CU_PROC_NOT_FOUND;
		void *fn = NULL;
		cu_result r = get(calls[i].name, &fn, calls[i].version, 0, &status);

		if (r != CU_OK || !fn)
			return too_old(cu->driver, calls[i].name, err);
		memcpy((char *)cu + calls[i].at, &fn, sizeof(fn));
		/* The first in the table, so that all later complaints can say it. */
		if (!i && cu->DriverGetVersion(&cu->driver) != CU_OK)
			cu->driver = 0;
	}
	return 0;
}

int fh_cu_load(struct fh_cu *cu, struct fh_err *err)
{
	cu_get_proc_fn get;
	cu_result r;
	int rc;

	memset(cu, 0, sizeof(*cu));
	/* Never closed: CUDA has threads and exit handlers of its own by then. */
	cu->lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!cu->lib)
		return fh_errf(
			err, -ENOENT,
			"no CUDA: %.200s; libcuda.so.1 comes with the NVIDIA driver (Debian: libcuda1), and into "
			"containers with NVIDIA's container toolkit (--gpus all)",
			dlerror());
	*(void **)&get = dlsym(cu->lib, CU_GET_PROC_NAME);
	if (!get)
		return too_old(0, CU_GET_PROC_NAME, err);
	rc = find_all(cu, get, err);
	if (rc)
		return rc;
	if (cu->driver && cu->driver < FH_CU_DRIVER_MIN)
		return too_old(cu->driver, "what is needed", err);
	r = cu->Init(0);
	return fh_cu_errf(cu, r, err, "starting CUDA (cuInit, driver for CUDA %d.%d)", cu->driver / 1000,
			  cu->driver % 1000 / 10);
}

/* ---- devices ---- */

int fh_cu_nr_devices(const struct fh_cu *cu, struct fh_err *err)
{
	int nr = 0, rc = fh_cu_errf(cu, cu->DeviceGetCount(&nr), err, "counting GPUs");

	return rc ? rc : nr;
}

int fh_cu_device(const struct fh_cu *cu, int ordinal, struct fh_cu_device *out, struct fh_err *err)
{
	int major = 0, minor = 0, timeout = 0, mode = 0;
	const struct {
		unsigned int attr;
		int *to;
	} attrs[] = {{CU_ATTR_CC_MAJOR, &major},       {CU_ATTR_CC_MINOR, &minor},
		     {CU_ATTR_SM_COUNT, &out->nr_sms}, {CU_ATTR_SHARED_OPTIN, &out->shared_bytes},
		     {CU_ATTR_EXEC_TIMEOUT, &timeout}, {CU_ATTR_COMPUTE_MODE, &mode}};
	cu_result r;

	memset(out, 0, sizeof(*out));
	out->ordinal = ordinal;
	r = cu->DeviceGet(&out->dev, ordinal);
	if (r == CU_OK)
		r = cu->DeviceGetName(out->name, sizeof(out->name), out->dev);
	if (r == CU_OK)
		r = cu->DeviceGetPCIBusId(out->where, sizeof(out->where), out->dev);
	for (size_t i = 0; i < sizeof(attrs) / sizeof(attrs[0]) && r == CU_OK; i++)
		r = cu->DeviceGetAttribute(attrs[i].to, attrs[i].attr, out->dev);
	out->name[sizeof(out->name) - 1] = 0;
	out->where[sizeof(out->where) - 1] = 0;
	out->cc = major * 10 + minor;
	out->exec_timeout = timeout;
	out->prohibited = mode == CU_MODE_PROHIBITED;
	return fh_cu_errf(cu, r, err, "looking at GPU %d", ordinal);
}

int fh_cu_device_usable(const struct fh_cu_device *d, struct fh_err *err)
{
	if (d->cc < FH_CU_CC_MIN)
		return fh_errf(
			err, -ENOTSUP,
			"GPU %d (%s, %s) has compute capability %d.%d; the kernels need %d.%d or newer (Ampere, 2020)",
			d->ordinal, d->name, d->where, d->cc / 10, d->cc % 10, FH_CU_CC_MIN / 10, FH_CU_CC_MIN % 10);
	if (d->prohibited)
		return fh_errf(err, -ENOTSUP,
			       "GPU %d (%s, %s) lets no process compute: nvidia-smi -i %d -c DEFAULT changes that",
			       d->ordinal, d->name, d->where, d->ordinal);
	return 0;
}
