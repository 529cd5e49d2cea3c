/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client's half of a channel's rings (uapi/freehold.h has the diagram; the
 * letters in ring.c are its).
 *
 * A link is what carries the channel: it wakes the runtime, sleeps, and knows
 * whether the other side lives.  It embeds struct fhl_ring, which must be its
 * first member.
 *
 * The arena is a ring of bytes, too: descriptors are consumed in their order,
 * so the prompts are freed in theirs.
 */
#ifndef FH_LIB_RING_H
#define FH_LIB_RING_H

#include "runtime/lib/lib_priv.h"

struct fhl_ring;

struct fhl_link_ops {
	/* The runtime asked to be woken. */
	void (*kick)(struct fhl_ring *r);
	/* Take what woke us, and see whether the other side lives: 0, or -errno with @r->c->err. */
	int (*check)(struct fhl_ring *r);
	/*
	 * Sleep until cq_tail may have moved from @seen, a wake-up came, or
	 * @ms have passed.  The ring has said @need in client_flags and looked
	 * again.  0 or -EINTR.
	 */
	int (*sleep)(struct fhl_ring *r, uint32_t seen, int ms);
	uint32_t need; /* FH_RING_*, how sleep() is woken */
	bool zaps;     /* memory of a channel that was taken away gives SIGBUS */
};

struct fhl_ring {
	struct fh_client *c;
	const struct fhl_link_ops *link;
	/* Shared, by who writes them. */
	uint32_t *sq_tail_word, *cq_head_word, *client_flags;
	const uint32_t *sq_head_word, *cq_tail_word, *runtime_flags, *state, *revoke_reason;
	char *sq, *arena;
	const char *cq;
	/* Geometry, as it was checked. */
	uint32_t sq_entries, cq_entries, sq_entry_bytes, cq_entry_bytes;
	uint64_t arena_bytes; /* a multiple of 8 */
	/* Our copies of the indices. */
	uint32_t sq_tail, sq_head, cq_head, cq_tail;
	uint32_t cq_seen; /* cq_head when cq_tail was last looked at */
	uint32_t flags;	  /* what stands in client_flags */
	bool made_room;	  /* the completion ring may have been full: kick when some was read */
	uint64_t checked_ns;
	uint64_t arena_head, arena_tail; /* free-running; a prompt lies at tail % arena_bytes */
	uint64_t *prompt_end;		 /* [sq_entries] arena_tail after that entry; owned */
};

/*
 * Check @info, which was copied from the other side, against what was asked
 * for.  0, or -EPROTO with @c->err.
 */
int fhl_ring_check_info(struct fh_client *c, const struct fh_chan_info *info);
/*
 * Set up @r over mapped areas: @area[i] has the length that @info says.
 * @shared: the info area.  0 or -ENOMEM.
 */
int fhl_ring_init(struct fhl_ring *r, struct fh_client *c, const struct fhl_link_ops *link,
		  const struct fh_chan_info *info, const struct fh_chan_info *shared, void *const *area);
void fhl_ring_destroy(struct fhl_ring *r);

/* The part of struct fhl_ops that rings have in common; c->t is the ring. */
int fhl_ring_submit(struct fh_client *c, struct fhl_req *req, const struct fhl_prompt *prompt,
		    const struct fh_params *p);
int fhl_ring_cancel(struct fh_client *c, struct fhl_req *req);
int fhl_ring_look(struct fh_client *c, struct fh_token *t);
int fhl_ring_arm(struct fh_client *c);
int fhl_ring_wait(struct fh_client *c, uint64_t until_ns);

#endif /* FH_LIB_RING_H */
