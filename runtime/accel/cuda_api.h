/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CUDA driver, loaded at run time: one table of functions, and what its
 * errors mean.
 *
 * Nothing links against CUDA.  libcuda.so.1 comes with the driver; all of its
 * functions but one are asked for through cuGetProcAddress with the version of
 * the signature that we call (cuda_abi.h).
 */
#ifndef FH_ACCEL_CUDA_API_H
#define FH_ACCEL_CUDA_API_H

#include <stdbool.h>

#include "runtime/accel/cuda_abi.h"
#include "runtime/base/err.h"

#define FH_CU_DRIVER_MIN 12000 /* the first with cuGetProcAddress_v2 */
#define FH_CU_CC_MIN 80	       /* Ampere: what the kernels are compiled for */

struct fh_cu {
	void *lib;
	int driver; /* the CUDA version that it speaks, 1000 * major + 10 * minor */
#define CU_MEMBER(name, version, args) cu_result(*name) args;
	CU_CALLS(CU_MEMBER)
#undef CU_MEMBER
};

/**
 * fh_cu_load() - load the driver and initialise it
 * @cu: filled in
 * @err: says what is missing, where it was looked for, and what to do
 *
 * The library stays in the process for good, as CUDA wants it.
 *
 * Return: 0; -ENOENT: no libcuda.so.1; -ENOTSUP: a driver that is too old;
 * -ENODEV: no device; otherwise what cuInit's error stands for.
 */
int fh_cu_load(struct fh_cu *cu, struct fh_err *err);

struct fh_cu_device {
	cu_device dev;
	int ordinal;
	char name[96];		  /* "NVIDIA H200" */
	char where[32];		  /* "0000:1b:00.0" */
	int cc;			  /* 10 * major + minor */
	int nr_sms, shared_bytes; /* that a block may have when it asks */
	bool exec_timeout;	  /* a kernel that runs for seconds is ended by the driver */
	bool prohibited;	  /* its compute mode lets nobody in */
};

/* How many there are. 0 or more, or -errno with @err. */
int fh_cu_nr_devices(const struct fh_cu *cu, struct fh_err *err);
/* What device number @ordinal is; whether we can run on it is for fh_cu_device_usable() to say. */
int fh_cu_device(const struct fh_cu *cu, int ordinal, struct fh_cu_device *out, struct fh_err *err);
/* 0, or -ENOTSUP with @err saying why not. */
int fh_cu_device_usable(const struct fh_cu_device *d, struct fh_err *err);

/**
 * fh_cu_errf() - turn a result into an error
 * @cu: may be NULL, or half loaded: numbers are then not named
 * @r: of a call; CU_OK gives 0
 * @err: "WHAT: NAME (what CUDA says of it): what to do"; may be NULL
 * @fmt: printf format of what was being done, and where
 *
 * Return: 0, or -ENOMEM, -ENODEV, -ENOTSUP, -EINVAL, -EIO.
 */
int fh_cu_errf(const struct fh_cu *cu, cu_result r, struct fh_err *err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* After this error every further call fails until the process ends (cuda.h says so of each of them). */
bool fh_cu_is_sticky(cu_result r);

/* How many fat binaries of kernels are built in; 0: there was no nvcc. */
uint32_t fh_cuda_nr_images(void);

#endif /* FH_ACCEL_CUDA_API_H */
