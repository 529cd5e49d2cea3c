/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the users of io_uring share: a ring that is born disabled, restricted to
 * what its owner submits, and its provided buffers.
 */
#ifndef FH_BASE_IO_RING_H
#define FH_BASE_IO_RING_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * Open a ring that whoever is to use it enables, with the best flags that this
 * kernel takes; @single_issuer: with none that lack SINGLE_ISSUER (Linux 6.0),
 * and with IORING_SQ_TASKRUN to tell what waits for who asks.
 * 0 or -errno.
 */
int fh_io_ring_open(struct io_uring *ring, uint32_t entries, uint32_t cq_entries, bool single_issuer);
/*
 * One that several threads use in turn, which no flag of those goes with; of
 * Linux 6.0 or newer.  -ENOSYS: an older kernel's.
 */
int fh_io_ring_open_shared(struct io_uring *ring, uint32_t entries, uint32_t cq_entries);

#define FH_IO_RING_MAX_OPS 16
/*
 * Before it is enabled: it takes nothing but @ops, with @sqe_flags.  An old
 * kernel's refusal costs a line of defence, not the service.
 */
void fh_io_ring_restrict(struct io_uring *ring, const uint8_t *ops, uint32_t nr_ops, uint8_t sqe_flags);

/* An entry to fill; a full queue is pushed out to the kernel first. */
static inline struct io_uring_sqe *fh_io_ring_sqe(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	while (!sqe) {
		/* -EBUSY: completions must be reaped first; get_events flushes the kernel's backlog to the ring. */
		if (io_uring_submit(ring) < 0)
			io_uring_get_events(ring);
		sqe = io_uring_get_sqe(ring);
	}
	return sqe;
}

/* Buffers that the kernel receives into; their memory is the owner's. */
struct fh_io_bufs {
	struct io_uring_buf_ring *ring; /* NULL: not mapped */
	uint32_t nr;
	uint32_t nr_returned; /* put back but not shown to the kernel yet */
};

/* Room for @nr buffers, a power of two, in the ring's group @group; there are none in it yet. 0 or -errno. */
int fh_io_bufs_map(struct fh_io_bufs *b, struct io_uring *ring, uint32_t nr, uint16_t group);
/* After the ring is gone: the kernel may read it until then. */
void fh_io_bufs_unmap(struct fh_io_bufs *b);

static inline void fh_io_bufs_put(struct fh_io_bufs *b, void *data, uint32_t bytes, uint32_t id)
{
	io_uring_buf_ring_add(b->ring, data, bytes, (unsigned short)id, (int)(b->nr - 1), (int)b->nr_returned++);
}

static inline void fh_io_bufs_show(struct fh_io_bufs *b)
{
	if (!b->nr_returned)
		return;
	io_uring_buf_ring_advance(b->ring, (int)b->nr_returned);
	b->nr_returned = 0;
}

#endif /* FH_BASE_IO_RING_H */
