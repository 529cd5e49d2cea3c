// SPDX-License-Identifier: Apache-2.0
/* Setting up a ring of io_uring and its provided buffers: see io_ring.h. */
#include "runtime/base/io_ring.h"

#include <assert.h>
#include <errno.h>
#include <sys/mman.h>

static int open_with(struct io_uring *ring, uint32_t entries, uint32_t cq_entries, unsigned int flags)
{
	struct io_uring_params p = {
		.flags = flags | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP |
			 IORING_SETUP_SUBMIT_ALL,
		.cq_entries = cq_entries,
	};

	return io_uring_queue_init_params(entries, ring, &p);
}

int fh_io_ring_open(struct io_uring *ring, uint32_t entries, uint32_t cq_entries, bool single_issuer)
{
	static const unsigned int ladder[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN,
		IORING_SETUP_COOP_TASKRUN,
		0,
	};
	int rc = -EINVAL;

	for (size_t i = 0; i < sizeof(ladder) / sizeof(ladder[0]) && rc == -EINVAL; i++) {
		if (single_issuer && !(ladder[i] & IORING_SETUP_SINGLE_ISSUER))
			break;
		rc = open_with(ring, entries, cq_entries, ladder[i] | (single_issuer ? IORING_SETUP_TASKRUN_FLAG : 0));
	}
	return rc;
}

int fh_io_ring_open_shared(struct io_uring *ring, uint32_t entries, uint32_t cq_entries)
{
	struct io_uring_probe *probe;
	bool new_enough;
	int rc = open_with(ring, entries, cq_entries, 0);

	if (rc)
		return rc;
	probe = io_uring_get_probe_ring(ring);
	/* Of 6.0, as multishot receives are, which no bit tells of. */
	new_enough = probe && io_uring_opcode_supported(probe, IORING_OP_SEND_ZC);
	io_uring_free_probe(probe);
	if (new_enough)
		return 0;
	io_uring_queue_exit(ring);
	return -ENOSYS;
}

void fh_io_ring_restrict(struct io_uring *ring, const uint8_t *ops, uint32_t nr_ops, uint8_t sqe_flags)
{
	/* What liburing's own enabling and registering of the descriptor need. */
	static const uint8_t registers[] = {IORING_REGISTER_ENABLE_RINGS, IORING_REGISTER_RING_FDS,
					    IORING_UNREGISTER_RING_FDS};
	struct io_uring_restriction res[FH_IO_RING_MAX_OPS + 1 + sizeof(registers)] = {0};
	unsigned int n = 0;

	assert(nr_ops <= FH_IO_RING_MAX_OPS);
	for (; n < nr_ops; n++) {
		res[n].opcode = IORING_RESTRICTION_SQE_OP;
		res[n].sqe_op = ops[n];
	}
	res[n].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
	res[n++].sqe_flags = sqe_flags;
	for (size_t i = 0; i < sizeof(registers); i++) {
		res[n].opcode = IORING_RESTRICTION_REGISTER_OP;
		res[n++].register_op = registers[i];
	}
	io_uring_register_restrictions(ring, res, n);
}

int fh_io_bufs_map(struct fh_io_bufs *b, struct io_uring *ring, uint32_t nr, uint16_t group)
{
	struct io_uring_buf_reg reg = {.ring_entries = nr, .bgid = group};
	void *p = mmap(NULL, nr * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		       0);
	int rc;

	if (p == MAP_FAILED)
		return -ENOMEM;
	*b = (struct fh_io_bufs){.ring = p, .nr = nr};
	reg.ring_addr = (uint64_t)(uintptr_t)p;
	rc = io_uring_register_buf_ring(ring, &reg, 0);
	if (!rc)
		io_uring_buf_ring_init(b->ring);
	return rc;
}

void fh_io_bufs_unmap(struct fh_io_bufs *b)
{
	if (b->ring)
		munmap(b->ring, b->nr * sizeof(struct io_uring_buf));
	b->ring = NULL;
}
