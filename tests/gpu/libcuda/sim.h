/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stand-in for libcuda.so.1, for testing the host side of the CUDA back end
 * where there is no GPU.  It is a test of the host side and of nothing else:
 * what a GPU does in parallel is done here one step after the other, by the
 * real kernels, compiled for the host (tests/gpu/simt).
 *
 * It is strict where a driver is lenient, so that mistakes show:
 *
 *   - Nothing happens when it is asked for.  Copies and launches wait in their
 *     stream until somebody synchronises or asks an event (FHSIM_ORDER=early: at
 *     once), so a buffer that is written again too soon gives wrong tokens.
 *   - Device memory is closed to the host: it may be touched only while
 *     the stand-in works, and lies between pages that nobody may touch.
 *   - It holds rubbish when it is handed out, and its end is watched.
 *   - Everything has a count; what is left at the end is in the report.
 *
 * The environment:
 *
 *   FHSIM_REPORT=FILE   a JSON object at the end: calls, what leaked, complaints
 *   FHSIM_TRACE=FILE    a line a call
 *   FHSIM_FAIL=NAME:N:CODE[:late],...   the Nth call of cuNAME fails with CODE;
 *                       late: the call succeeds, and what it asked for fails when
 *                       it runs.  CODEs after which CUDA wants a new process stay.
 *   FHSIM_HANG=NAME:N   what that call asked for never ends
 *   FHSIM_ONCE=FILE     FAIL and HANG hold only while FILE is not there; it is
 *                       made then, so that the next process runs well
 *   FHSIM_LACKS=NAME    cuGetProcAddress does not know cuNAME
 *   FHSIM_DRIVER=N FHSIM_DEVICES=N FHSIM_CC=N FHSIM_MEM=BYTES   what there is
 */
#ifndef TESTS_GPU_LIBCUDA_SIM_H
#define TESTS_GPU_LIBCUDA_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "runtime/accel/cuda_abi.h"

enum sim_call {
#define SIM_ID(name, version, args) SIM_##name,
	CU_CALLS(SIM_ID)
#undef SIM_ID
		SIM_NR_CALLS
};

enum sim_kind { SIM_DEVICE, SIM_PINNED };

/* An allocation. */
struct sim_mem {
	struct sim_mem *next;
	enum sim_kind kind;
	uint8_t *base;
	size_t bytes;
	uint8_t *map; /* with the pages around it */
	size_t map_bytes;
};

enum sim_op_kind { SIM_OP_COPY, SIM_OP_SET, SIM_OP_LAUNCH, SIM_OP_EVENT, SIM_OP_GRAPH };

struct sim_op {
	struct sim_op *next;
	enum sim_op_kind kind;
	cu_result fail; /* what running it gives; FHSIM_FAIL with late */
	bool hang;
	union {
		struct {
			uint8_t *dst;
			const uint8_t *src;
			size_t bytes;
		} copy;
		struct {
			uint8_t *dst;
			uint8_t value;
			size_t bytes;
		} set;
		struct {
			cu_function f;
			unsigned int grid[3], block[3], shared_bytes;
			void *param; /* the copy that CUDA makes */
			size_t param_bytes;
		} launch;
		struct {
			cu_event e;
			uint64_t generation;
		} event;
		cu_graph_exec graph;
	};
};

struct sim_ops {
	struct sim_op *head, **tail;
};

struct CUctx_st {
	uint32_t magic;
	int nr_retained;
};

struct CUmod_st {
	uint32_t magic;
	struct CUfunc_st *functions;
};

struct CUfunc_st {
	uint32_t magic;
	struct CUfunc_st *next;
	char name[64];
	int max_shared;
};

struct CUstream_st {
	uint32_t magic;
	struct sim_ops ops;
	struct CUgraph_st *capture; /* NULL: what is asked for runs */
	bool capture_broken;
};

struct CUevent_st {
	uint32_t magic;
	cu_stream stream;
	uint64_t recorded, done;
};

struct CUgraph_st {
	uint32_t magic;
	struct sim_ops ops;
};

struct CUgraphExec_st {
	uint32_t magic;
	struct sim_ops ops;
	uint32_t nr_pending; /* launches that have not run */
};

#define SIM_MAGIC_CTX 0x66680001u
#define SIM_MAGIC_MODULE 0x66680002u
#define SIM_MAGIC_FUNCTION 0x66680003u
#define SIM_MAGIC_STREAM 0x66680004u
#define SIM_MAGIC_EVENT 0x66680005u
#define SIM_MAGIC_GRAPH 0x66680006u
#define SIM_MAGIC_EXEC 0x66680007u
#define SIM_GONE 0x6f6f6f6fu

struct sim {
	/* Settings */
	int driver, nr_devices, cc;
	size_t mem_bytes;
	bool early;
	FILE *trace;
	int report_fd;
	/* State */
	bool initialised;
	cu_result sticky;
	struct sim_mem *mem;
	size_t used_bytes, peak_bytes;
	int nr_modules, nr_functions, nr_streams, nr_events, nr_graphs, nr_execs, nr_retained;
	uint64_t nr_calls[SIM_NR_CALLS];
	uint64_t nr_unpinned;	  /* copies from or to memory that is not pinned */
	uint64_t nr_graph_ops;	  /* operations that ran out of graphs */
	uint64_t nr_launches_run; /* launches that ran, graphs' included */
	char complaint[256];	  /* the first */
	bool reported;
};

extern struct sim sim;

/* What befalls a call: it fails, or what it asked for does, or never ends. */
struct sim_hit {
	cu_result now, late;
	bool hang;
};

/* sim.c */
/* Once, before anything else. */
void sim_setup(void);
/* Write the report, once: when the last context is given back, or at the end. */
void sim_report(void);
/* Count this call of @id and say what befalls it. */
struct sim_hit sim_enter(enum sim_call id);
uint64_t sim_number(const char *name, uint64_t otherwise);
void sim_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* sim_mem.c */
cu_result sim_mem_alloc(enum sim_kind kind, size_t bytes, void **out);
cu_result sim_mem_free(enum sim_kind kind, void *p);
/* The allocation that holds all of [p, p + bytes), or NULL. */
struct sim_mem *sim_mem_find(enum sim_kind kind, const void *p, size_t bytes);
/* Device memory may be touched; after the last sim_mem_close() no longer. */
void sim_mem_open(void);
void sim_mem_close(void);
/* Complain about ends that were written over. */
void sim_mem_check(void);
void sim_mem_counts(int *nr_device, int *nr_pinned);

/* sim_run.c: streams */
void sim_push(cu_stream s, struct sim_op *op);
/* Run the next operation of @s; false when there was none, or it hangs. */
bool sim_run_one(cu_stream s);
cu_result sim_run_all(cu_stream s);
void sim_ops_free(struct sim_ops *ops);
void sim_ops_copy(struct sim_ops *dst, const struct sim_ops *src);

#endif /* TESTS_GPU_LIBCUDA_SIM_H */
