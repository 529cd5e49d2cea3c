// SPDX-License-Identifier: Apache-2.0
/*
 * Merging, the part that SPM and byte-level BPE share: neighbouring symbols
 * join, best pair first and leftmost among equals, until none is left that may.
 *
 * The symbols form a list over an array, candidates wait in a binary heap.  A
 * merge leaves the candidates of its neighbours in the heap; each is found out
 * when it comes up: symbols only grow, so a changed pair is longer.  Every
 * merge adds at most two candidates, so a word of n symbols sees less than 3 n
 * of them: O(n log n), with at most 2 n in the heap at once.
 *
 * The scratch memory belongs to the call (struct fh_tok_work); a short word
 * finds room in it without an allocation.
 */
#include "runtime/model/tok_impl.h"

#include <assert.h>
#include <stdlib.h>

int fh_tok_push(struct fh_tok_work *w, uint32_t id)
{
	if (w->nr_ids == w->ids_cap) {
		size_t cap = w->ids_cap + w->ids_cap / 2 + 32;
		uint32_t *ids;

		if (w->nr_ids == UINT32_MAX)
			return -E2BIG;
		ids = realloc(w->ids, cap * sizeof(*ids));
		if (!ids)
			return -ENOMEM;
		w->ids = ids;
		w->ids_cap = cap;
	}
	w->ids[w->nr_ids++] = id;
	return 0;
}

int fh_tok_reserve(struct fh_tok_work *w, size_t nr)
{
	struct fh_tok_symbol *symbols;
	struct fh_tok_pair *heap;

	if (nr <= w->symbols_cap)
		return 0;
	if (nr >= UINT32_MAX / 2)
		return -E2BIG;
	symbols = malloc(nr * sizeof(*symbols));
	heap = malloc(2 * nr * sizeof(*heap));
	if (!symbols || !heap) {
		free(symbols);
		free(heap);
		return -ENOMEM;
	}
	if (w->symbols != w->fixed_symbols) {
		free(w->symbols);
		free(w->heap);
	}
	w->symbols = symbols;
	w->heap = heap;
	w->symbols_cap = nr;
	return 0;
}

static void heap_push(struct fh_tok_work *w, struct fh_tok_pair p)
{
	size_t i = w->nr_heap++;

	assert(i < 2 * w->symbols_cap);
	while (i) {
		size_t up = (i - 1) / 2;

		if (w->heap[up].key <= p.key)
			break;
		w->heap[i] = w->heap[up];
		i = up;
	}
	w->heap[i] = p;
}

static struct fh_tok_pair heap_pop(struct fh_tok_work *w)
{
	struct fh_tok_pair top = w->heap[0], last = w->heap[--w->nr_heap];
	size_t i = 0;

	for (;;) {
		size_t kid = 2 * i + 1;

		if (kid >= w->nr_heap)
			break;
		if (kid + 1 < w->nr_heap && w->heap[kid + 1].key < w->heap[kid].key)
			kid++;
		if (last.key <= w->heap[kid].key)
			break;
		w->heap[i] = w->heap[kid];
		i = kid;
	}
	w->heap[i] = last;
	return top;
}

static void consider(struct fh_tok_work *w, const char *word, uint32_t left, uint32_t right, fh_tok_pair_fn pair)
{
	const struct fh_tok_symbol *l, *r;
	uint32_t id, order;

	if (left == FH_NO_TOKEN || right == FH_NO_TOKEN)
		return;
	l = &w->symbols[left];
	r = &w->symbols[right];
	id = pair(w->t, word, l, r, &order);
	if (id != FH_NO_TOKEN)
		heap_push(w, (struct fh_tok_pair){(uint64_t)order << 32 | left, l->bytes + r->bytes, id});
}

void fh_tok_merge(struct fh_tok_work *w, const char *word, uint32_t nr, fh_tok_pair_fn pair)
{
	w->nr_heap = 0;
	for (uint32_t i = 1; i < nr; i++)
		consider(w, word, i - 1, i, pair);
	while (w->nr_heap) {
		struct fh_tok_pair p = heap_pop(w);
		uint32_t left = (uint32_t)p.key;
		struct fh_tok_symbol *l = &w->symbols[left], *r;

		if (!l->bytes || l->next == FH_NO_TOKEN)
			continue;
		r = &w->symbols[l->next];
		if (l->bytes + r->bytes != p.bytes)
			continue;
		l->bytes = p.bytes;
		l->id = p.id;
		l->next = r->next;
		r->bytes = 0;
		if (l->next != FH_NO_TOKEN)
			w->symbols[l->next].prev = left;
		consider(w, word, l->prev, left, pair);
		consider(w, word, left, l->next, pair);
	}
}
