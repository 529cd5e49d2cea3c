// SPDX-License-Identifier: Apache-2.0
/* The packets of runtime/base/chan_sock.h that a client sends, as bytes: what may come when. */
#include <string.h>

#include "runtime/net/chan_priv.h"

#define MIN_PAGE 4096u
#define MAX_PAGE (64u * 1024) /* the largest page that a supported architecture has */

static int check_hello(const struct fh_sock_hello *h, struct fh_err *err)
{
	struct fh_chan_info info;

	if (h->version != FH_SOCK_VERSION)
		return fh_errf(err, -EPROTO, "version %u of the handshake is not known, %u is", h->version,
			       FH_SOCK_VERSION);
	if (h->flags || h->__reserved)
		return fh_errf(err, -EINVAL, "flags %#x or reserved fields are set that mean nothing yet", h->flags);
	if (h->page_bytes < MIN_PAGE || h->page_bytes > MAX_PAGE || (h->page_bytes & (h->page_bytes - 1)))
		return fh_errf(err, -EINVAL, "pages of %u bytes: a power of two from %u to %u is wanted", h->page_bytes,
			       MIN_PAGE, MAX_PAGE);
	if (fh_chan_layout(&info, h->page_bytes, h->sq_entries, h->cq_entries, h->arena_bytes))
		return fh_errf(err, -EINVAL,
			       "rings of %u and %u entries, %llu bytes of arena: powers of two up to %u and %u, and 1 "
			       "to %llu bytes are taken",
			       h->sq_entries, h->cq_entries, (unsigned long long)h->arena_bytes, FH_SQ_ENTRIES_MAX,
			       FH_CQ_ENTRIES_MAX, FH_ARENA_BYTES_MAX);
	return 0;
}

int fh_sock_packet(const void *buf, size_t bytes, uint32_t nr_fds, enum fh_sock_stage stage,
		   struct fh_sock_hello *hello, struct fh_err *err)
{
	static const struct {
		uint32_t type, bytes, nr_fds;
		const char *name;
	} expect[] = {
		[FH_STAGE_HELLO] = {FH_SOCK_HELLO, sizeof(struct fh_sock_hello), 0, "HELLO"},
		[FH_STAGE_ATTACH] = {FH_SOCK_ATTACH, sizeof(struct fh_sock_head), 1, "ATTACH"},
		[FH_STAGE_OPEN] = {FH_SOCK_KICK, sizeof(struct fh_sock_head), 0, "KICK"},
	};
	struct fh_sock_head head;

	if (bytes < sizeof(head))
		return fh_errf(err, -EPROTO, "a packet of %zu bytes", bytes);
	memcpy(&head, buf, sizeof(head));
	if (head.type != expect[stage].type || head.size != bytes || bytes != expect[stage].bytes)
		return fh_errf(err, -EPROTO, "a packet of type %u and %zu bytes (%u, it says); %s of %u was due",
			       head.type, bytes, head.size, expect[stage].name, expect[stage].bytes);
	if (nr_fds != expect[stage].nr_fds)
		return fh_errf(err, -EPROTO, "%u descriptors with %s, which has %u", nr_fds, expect[stage].name,
			       expect[stage].nr_fds);
	if (stage != FH_STAGE_HELLO)
		return 0;
	memcpy(hello, buf, sizeof(*hello));
	return check_hello(hello, err);
}
