// SPDX-License-Identifier: Apache-2.0
/*
 * The part of NVML that is used, as a library that is loaded in its place: it
 * tests what we make of the library's answers, not the library.
 *
 * What it says stands in the file that FAKE_NVML names: how many GPUs there are,
 * then for each its energy in mJ and its power in mW, -1: not supported.  It is
 * read anew each time; where it is missing everything fails.
 */
#include <stdio.h>
#include <stdlib.h>

#define MAX_GPUS 8
#define ERROR_NOT_SUPPORTED 3
#define ERROR_GPU_IS_LOST 15

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetCount_v2(unsigned int *nr);
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **device);
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj);
int nvmlDeviceGetPowerUsage(void *device, unsigned int *mw);
const char *nvmlErrorString(int rc);

static int devices[MAX_GPUS];

static int look(unsigned int *nr, long long energy[MAX_GPUS], long long power[MAX_GPUS])
{
	const char *path = getenv("FAKE_NVML");
	FILE *f = path ? fopen(path, "re") : NULL;
	int ok = f && fscanf(f, "%u", nr) == 1 && *nr <= MAX_GPUS;

	for (unsigned int i = 0; ok && i < *nr; i++)
		ok = fscanf(f, "%lld %lld", &energy[i], &power[i]) == 2;
	if (f)
		fclose(f);
	return ok ? 0 : ERROR_GPU_IS_LOST;
}

int nvmlInit_v2(void)
{
	return 0;
}

int nvmlShutdown(void)
{
	return 0;
}

int nvmlDeviceGetCount_v2(unsigned int *nr)
{
	long long energy[MAX_GPUS], power[MAX_GPUS];

	return look(nr, energy, power);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **device)
{
	*device = &devices[i];
	return i < MAX_GPUS ? 0 : 2;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj)
{
	long long energy[MAX_GPUS], power[MAX_GPUS], v;
	unsigned int nr;
	int rc = look(&nr, energy, power);

	if (rc)
		return rc;
	v = energy[(int *)device - devices];
	*mj = (unsigned long long)v;
	return v < 0 ? ERROR_NOT_SUPPORTED : 0;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned int *mw)
{
	long long energy[MAX_GPUS], power[MAX_GPUS], v;
	unsigned int nr;
	int rc = look(&nr, energy, power);

	if (rc)
		return rc;
	v = power[(int *)device - devices];
	*mw = (unsigned int)v;
	return v < 0 ? ERROR_NOT_SUPPORTED : 0;
}

const char *nvmlErrorString(int rc)
{
	return rc == ERROR_NOT_SUPPORTED ? "Not Supported" : "GPU is lost";
}
