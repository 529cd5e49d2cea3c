/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sink: a completion ring (uapi/freehold.h) that the requests of a channel
 * share, as the engine writes it.
 *
 * Only the engine's thread touches a struct fh_sink.  What the reader may write
 * is *head alone, and it is never trusted: a head that went backwards, or beyond
 * what was shown, sets `broken` and is not believed.
 *
 *   [head, shown)   the reader's
 *   [shown, tail)   reserved in this turn: a device writes its token there, or
 *                   the engine its copy; all of them are whole when the turn
 *                   ends, and fh_sink_show() publishes them together.  With a
 *                   strict audit log some may be held back over several turns
 *
 * So the order of a channel's entries is that of reservation, tokens of one
 * request are in their order, and what a step throws away is never shown.
 *
 * Claims are promises to sequences of the step in hand.  Room only grows until
 * it is reserved, so a claim can always be made good.
 */
#ifndef FH_BASE_SINK_H
#define FH_BASE_SINK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "uapi/freehold.h"

struct fh_sink {
	char *entries; /* [nr_entries, entry_bytes] struct fh_cqe; borrowed */
	uint32_t nr_entries, entry_bytes;
	const _Atomic uint32_t *head_word; /* the reader's index */
	_Atomic uint32_t *tail_word;	   /* where the tail is published */
	uint32_t head, shown, tail;
	uint32_t nr_claimed; /* entries that sequences of the step in hand will reserve */
	bool broken;
	uint64_t copied_bytes; /* that the engine copied here instead of letting the device write */
	/* Those that were claimed or reserved from in this turn: the front end shows them and clears both. */
	struct fh_sink **dirty_list, *next_dirty;
	bool dirty;
};

static inline void fh_sink_touch(struct fh_sink *k)
{
	if (k->dirty)
		return;
	k->dirty = true;
	k->next_dirty = *k->dirty_list;
	*k->dirty_list = k;
}

/* Entries that are free and not claimed. */
static inline uint32_t fh_sink_room(struct fh_sink *k)
{
	/* (H): pairs with the reader's release (G), so that it has read what is overwritten. */
	uint32_t head = atomic_load_explicit(k->head_word, memory_order_acquire);

	if (head - k->head <= k->shown - k->head)
		k->head = head;
	else
		k->broken = true;
	return k->nr_entries - (k->tail - k->head) - k->nr_claimed;
}

/* Promise @nr entries; there is room. */
static inline void fh_sink_claim(struct fh_sink *k, uint32_t nr)
{
	k->nr_claimed += nr;
	fh_sink_touch(k);
}

/* The next entry; there is room, or it was claimed. Its slot is the caller's to write before the turn ends. */
static inline struct fh_cqe *fh_sink_reserve(struct fh_sink *k, uint64_t user_data, bool claimed)
{
	struct fh_cqe *c = (struct fh_cqe *)(k->entries + (size_t)(k->tail++ & (k->nr_entries - 1)) * k->entry_bytes);

	k->nr_claimed -= claimed;
	*c = (struct fh_cqe){.user_data = user_data};
	fh_sink_touch(k);
	return c;
}

/*
 * The turn is over: drop the claims, publish what was reserved below @limit,
 * which is not below what was shown.  True if anything was: then look whether
 * the reader sleeps.
 */
static inline bool fh_sink_show_to(struct fh_sink *k, uint32_t limit)
{
	k->nr_claimed = 0;
	k->dirty = false;
	if (k->shown == limit)
		return false;
	k->shown = limit;
	atomic_store(k->tail_word, limit); /* (E), and the full fence before (L) */
	return true;
}

/* All of it. */
static inline bool fh_sink_show(struct fh_sink *k)
{
	return fh_sink_show_to(k, k->tail);
}

#endif /* FH_BASE_SINK_H */
