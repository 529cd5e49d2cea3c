/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of the CUDA driver's binary interface that we call, spelled out, so
 * that every build has it: the driver is looked for at run time, and cuda.h
 * comes with the toolkit, which a machine that only serves has not.  Nothing
 * here is ours to choose.  tests/gpu/libcuda/abi.c compares each type, constant
 * and signature with cuda.h's when the toolkit is there.
 *
 * A number behind a name is the version of the interface that introduced this
 * signature (cudaTypedefs.h has it in the typedef's name).  It is what
 * cuGetProcAddress must be asked with: with a larger one it may hand out a
 * successor that takes other arguments.
 */
#ifndef FH_ACCEL_CUDA_ABI_H
#define FH_ACCEL_CUDA_ABI_H

#include <stddef.h>
#include <stdint.h>

typedef unsigned int cu_result;
typedef int cu_device;
typedef unsigned long long cu_ptr; /* an address on the device */
typedef struct CUctx_st *cu_context;
typedef struct CUmod_st *cu_module;
typedef struct CUfunc_st *cu_function;
typedef struct CUstream_st *cu_stream;
typedef struct CUevent_st *cu_event;
typedef struct CUgraph_st *cu_graph;
typedef struct CUgraphExec_st *cu_graph_exec;

/* CUresult: those that we tell apart */
#define CU_OK 0u
#define CU_INVALID_VALUE 1u
#define CU_OUT_OF_MEMORY 2u
#define CU_NOT_INITIALIZED 3u
#define CU_DEINITIALIZED 4u
#define CU_STUB_LIBRARY 34u
#define CU_NEWER_DRIVER 36u
#define CU_DEVICE_UNAVAILABLE 46u
#define CU_NO_DEVICE 100u
#define CU_INVALID_DEVICE 101u
#define CU_INVALID_IMAGE 200u
#define CU_INVALID_CONTEXT 201u
#define CU_NO_BINARY_FOR_GPU 209u
#define CU_ECC_UNCORRECTABLE 214u
#define CU_INVALID_PTX 218u
#define CU_NVLINK_UNCORRECTABLE 220u
#define CU_JIT_COMPILER_NOT_FOUND 221u
#define CU_UNSUPPORTED_PTX_VERSION 222u
#define CU_JIT_COMPILATION_DISABLED 223u
#define CU_CONTAINED 226u
#define CU_OPERATING_SYSTEM 304u
#define CU_INVALID_HANDLE 400u
#define CU_NOT_FOUND 500u
#define CU_NOT_READY 600u
#define CU_ILLEGAL_ADDRESS 700u
#define CU_LAUNCH_OUT_OF_RESOURCES 701u
#define CU_LAUNCH_TIMEOUT 702u
#define CU_PRIMARY_CONTEXT_ACTIVE 708u
#define CU_CONTEXT_IS_DESTROYED 709u
#define CU_ASSERT 710u
#define CU_HARDWARE_STACK_ERROR 714u
#define CU_ILLEGAL_INSTRUCTION 715u
#define CU_MISALIGNED_ADDRESS 716u
#define CU_INVALID_ADDRESS_SPACE 717u
#define CU_INVALID_PC 718u
#define CU_LAUNCH_FAILED 719u
#define CU_NOT_PERMITTED 800u
#define CU_NOT_SUPPORTED 801u
#define CU_SYSTEM_NOT_READY 802u
#define CU_SYSTEM_DRIVER_MISMATCH 803u
#define CU_COMPAT_NOT_SUPPORTED 804u
#define CU_STREAM_CAPTURE_UNSUPPORTED 900u
#define CU_STREAM_CAPTURE_INVALIDATED 901u
#define CU_EXTERNAL_DEVICE 911u
#define CU_UNKNOWN 999u

/* CUdevice_attribute */
#define CU_ATTR_SM_COUNT 16
#define CU_ATTR_EXEC_TIMEOUT 17
#define CU_ATTR_COMPUTE_MODE 20
#define CU_ATTR_CC_MAJOR 75
#define CU_ATTR_CC_MINOR 76
#define CU_ATTR_SHARED_OPTIN 97
#define CU_MODE_PROHIBITED 2 /* CUcomputemode */

/* CUfunction_attribute */
#define CU_FUNC_LOCAL_BYTES 3
#define CU_FUNC_MAX_DYNAMIC_SHARED 8

/* Flags */
#define CU_SCHED_BLOCKING_SYNC 0x4u
#define CU_STREAM_NON_BLOCKING 0x1u
#define CU_EVENT_BLOCKING_SYNC 0x1u
#define CU_EVENT_DISABLE_TIMING 0x2u
#define CU_HOSTALLOC_PORTABLE 0x1u
#define CU_HOSTALLOC_DEVICEMAP 0x2u
#define CU_CAPTURE_THREAD_LOCAL 1u
#define CU_JIT_ERROR_LOG_BUFFER 5u
#define CU_JIT_ERROR_LOG_BUFFER_BYTES 6u

/* CUdriverProcAddressQueryResult */
#define CU_PROC_FOUND 0u
#define CU_PROC_NOT_FOUND 1u
#define CU_PROC_VERSION 2u

/* The one symbol that is looked up by name in the library; of CUDA 12.0. */
#define CU_GET_PROC_NAME "cuGetProcAddress_v2"
typedef cu_result (*cu_get_proc_fn)(const char *symbol, void **fn, int version, uint64_t flags, unsigned int *status);

/* X(name, version, arguments): all that is asked for, and all that is called. */
#define CU_CALLS(X)                                                                                                    \
	X(DriverGetVersion, 2020, (int *version))                                                                      \
	X(Init, 2000, (unsigned int flags))                                                                            \
	X(GetErrorName, 6000, (cu_result r, const char **out))                                                         \
	X(GetErrorString, 6000, (cu_result r, const char **out))                                                       \
	X(DeviceGetCount, 2000, (int *nr))                                                                             \
	X(DeviceGet, 2000, (cu_device * out, int ordinal))                                                             \
	X(DeviceGetName, 2000, (char *out, int cap, cu_device dev))                                                    \
	X(DeviceGetPCIBusId, 4010, (char *out, int cap, cu_device dev))                                                \
	X(DeviceGetAttribute, 2000, (int *out, unsigned int attr, cu_device dev))                                      \
	X(DevicePrimaryCtxSetFlags, 11000, (cu_device dev, unsigned int flags))                                        \
	X(DevicePrimaryCtxRetain, 7000, (cu_context * out, cu_device dev))                                             \
	X(DevicePrimaryCtxRelease, 11000, (cu_device dev))                                                             \
	X(CtxSetCurrent, 4000, (cu_context ctx))                                                                       \
	X(ModuleLoadDataEx, 2010,                                                                                      \
	  (cu_module * out, const void *image, unsigned int nr, unsigned int *options, void **values))                 \
	X(ModuleUnload, 2000, (cu_module m))                                                                           \
	X(ModuleGetFunction, 2000, (cu_function * out, cu_module m, const char *name))                                 \
	X(FuncGetAttribute, 2020, (int *out, unsigned int attr, cu_function f))                                        \
	X(FuncSetAttribute, 9000, (cu_function f, unsigned int attr, int value))                                       \
	X(MemGetInfo, 3020, (size_t * free_bytes, size_t * total_bytes))                                               \
	X(MemAlloc, 3020, (cu_ptr * out, size_t bytes))                                                                \
	X(MemFree, 3020, (cu_ptr p))                                                                                   \
	X(MemHostAlloc, 2020, (void **out, size_t bytes, unsigned int flags))                                          \
	X(MemFreeHost, 2000, (void *p))                                                                                \
	X(MemHostGetDevicePointer, 3020, (cu_ptr * out, void *p, unsigned int flags))                                  \
	X(MemcpyHtoDAsync, 3020, (cu_ptr dst, const void *src, size_t bytes, cu_stream s))                             \
	X(MemcpyDtoHAsync, 3020, (void *dst, cu_ptr src, size_t bytes, cu_stream s))                                   \
	X(MemcpyDtoDAsync, 3020, (cu_ptr dst, cu_ptr src, size_t bytes, cu_stream s))                                  \
	X(MemsetD8Async, 3020, (cu_ptr dst, unsigned char v, size_t bytes, cu_stream s))                               \
	X(StreamCreate, 2000, (cu_stream * out, unsigned int flags))                                                   \
	X(StreamDestroy, 4000, (cu_stream s))                                                                          \
	X(StreamSynchronize, 2000, (cu_stream s))                                                                      \
	X(StreamBeginCapture, 10010, (cu_stream s, unsigned int mode))                                                 \
	X(StreamEndCapture, 10000, (cu_stream s, cu_graph * out))                                                      \
	X(GraphInstantiateWithFlags, 11040, (cu_graph_exec * out, cu_graph g, unsigned long long flags))               \
	X(GraphDestroy, 10000, (cu_graph g))                                                                           \
	X(GraphLaunch, 10000, (cu_graph_exec g, cu_stream s))                                                          \
	X(GraphExecDestroy, 10000, (cu_graph_exec g))                                                                  \
	X(EventCreate, 2000, (cu_event * out, unsigned int flags))                                                     \
	X(EventDestroy, 4000, (cu_event e))                                                                            \
	X(EventRecord, 2000, (cu_event e, cu_stream s))                                                                \
	X(EventQuery, 2000, (cu_event e))                                                                              \
	X(EventSynchronize, 2000, (cu_event e))                                                                        \
	X(LaunchKernel, 4000,                                                                                          \
	  (cu_function f, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx, unsigned int by,         \
	   unsigned int bz, unsigned int shared_bytes, cu_stream s, void **params, void **extra))

#endif /* FH_ACCEL_CUDA_ABI_H */
