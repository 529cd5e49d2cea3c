/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sink: a completion ring (uapi/freehold.h) that the requests of a channel
 * share, as the engine writes it.
 *
 * Only the engine's thread touches a struct fh_sink.  What the reader may write
 * is *head alone, and it is never trusted: a head that the ring's rules do not
 * allow sets `broken`, and then the sink has no room for ever.
 *
 *   shown <= tail, tail - *head <= nr_entries
 *   [*head, shown)   the reader's
 *   [shown, tail)    reserved in this turn: a device writes its token there,
 *                    or the engine its copy; all of them are whole when the
 *                    turn ends, and fh_sink_show() publishes them together
 *
 * So the order of a channel's entries is that of reservation, tokens of one
 * request are in their order, and what a step throws away is never shown.
 */
#ifndef FH_BASE_SINK_H
#define FH_BASE_SINK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "uapi/freehold.h"

struct fh_sink {
	char *entries; /* [nr_entries, entry_bytes] struct fh_cqe; borrowed */
	uint32_t nr_entries, entry_bytes;
	const _Atomic uint32_t *head; /* the reader's index */
	_Atomic uint32_t *tail_word;  /* where the tail is published */
	uint32_t shown, tail;
	uint32_t nr_claimed; /* of the step in hand: entries that sequences are planned to need */
	bool broken;
};

/* Entries that may be reserved now. */
static inline uint32_t fh_sink_room(struct fh_sink *k)
{
	/* (H): pairs with the reader's release (G), so that it has read what is overwritten. */
	uint32_t head = atomic_load_explicit(k->head, memory_order_acquire);

	if (k->shown - head > k->nr_entries)
		k->broken = true;
	if (k->broken || k->tail - head >= k->nr_entries)
		return 0;
	return k->nr_entries - (k->tail - head);
}

/* The next entry; there is room. Its slot is the caller's to write before the turn ends. */
static inline struct fh_cqe *fh_sink_reserve(struct fh_sink *k, uint64_t user_data)
{
	struct fh_cqe *c = (struct fh_cqe *)(k->entries + (size_t)(k->tail++ & (k->nr_entries - 1)) * k->entry_bytes);

	*c = (struct fh_cqe){.user_data = user_data};
	return c;
}

/* Publish what was reserved; true if there was any. The caller then looks whether the reader sleeps. */
static inline bool fh_sink_show(struct fh_sink *k)
{
	if (k->shown == k->tail)
		return false;
	k->shown = k->tail;
	atomic_store_explicit(k->tail_word, k->tail, memory_order_release); /* (E) */
	return true;
}

#endif /* FH_BASE_SINK_H */
