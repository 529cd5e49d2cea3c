/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One end of a datagram path, for measuring and for tests: a kernel socket with
 * plain system calls, or a DPDK device through freehold-dpdk.so.
 */
#ifndef FH_TOOLS_DATAGRAM_H
#define FH_TOOLS_DATAGRAM_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/err.h"
#include "runtime/net/dgram.h"

struct end_options {
	const char *device; /* of DPDK; NULL: a kernel socket */
	const char *eal;    /* EAL options and ours, in one string, as a shell would split it without quotes */
	const char *prefix, *gateway;
	struct fh_dgram_addr local, peer;
	bool server, no_offload;
	uint32_t queue, nr_queues, mtu;
};

struct end {
	int fd;			    /* a socket, or -1 */
	struct fh_dgram_port *port; /* or a port */
	bool server;
	uint8_t buf[FH_DGRAM_MAX_MTU + 64]; /* what came over the socket */
};

int end_open(struct end *e, const struct end_options *o, struct fh_err *err);
void end_close(struct end *e);

/* Send @bytes at @payload and, behind them, those of @tail (NULL: none). False: not now. */
bool end_send(struct end *e, const struct fh_dgram_addr *to, const uint8_t *payload, uint32_t bytes,
	      struct fh_dgram_tail *tail);
/*
 * Wait up to @timeout_us (a socket: a tenth of a second, or not at all) for datagrams and hand each to @fn, whose
 * result true sends it back as it is.  How many, or -errno.
 */
typedef bool (*end_fn)(void *ctx, const uint8_t *data, uint32_t bytes);
int end_take(struct end *e, uint64_t timeout_us, end_fn fn, void *ctx);

#endif /* FH_TOOLS_DATAGRAM_H */
