// SPDX-License-Identifier: Apache-2.0
/* The sorted queue and the tenants' counters; queue.h says what they promise. */
#include "runtime/sched/queue.h"

#include <assert.h>
#include <string.h>

void fh_sched_queue_init(struct fh_sched_queue *q, struct fh_sched_item *item, uint32_t nr)
{
	*q = (struct fh_sched_queue){.item = item, .cap = (uint32_t)fh_sched_queue_cap(nr)};
	q->from = q->cap / 2;
}

/* The first place whose item does not go before (@key_ns, @ticket). */
static uint32_t lower_bound(const struct fh_sched_queue *q, uint64_t key_ns, uint64_t ticket)
{
	uint32_t lo = 0, hi = q->nr;
	const struct fh_sched_item *last;

	/* Most come in order. */
	if (hi) {
		last = fh_sched_queue_at(q, hi - 1);
		if (fh_sched_order(last->key_ns, last->ticket, key_ns, ticket) < 0)
			return hi;
	}
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		const struct fh_sched_item *m = fh_sched_queue_at(q, mid);

		if (fh_sched_order(m->key_ns, m->ticket, key_ns, ticket) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Half of the free room goes to each end: a quarter of the array's length of additions pays for the move. */
static void recentre(struct fh_sched_queue *q)
{
	uint32_t from = (q->cap - q->nr) / 2;

	memmove(q->item + from, q->item + q->from, q->nr * sizeof(*q->item));
	q->from = from;
}

uint32_t fh_sched_queue_add(struct fh_sched_queue *q, const struct fh_sched_item *item)
{
	uint32_t at = lower_bound(q, item->key_ns, item->ticket);
	bool front = at < q->nr / 2;
	struct fh_sched_item *p;

	assert(q->nr < q->cap / 2);
	if (front ? !q->from : q->from + q->nr == q->cap)
		recentre(q);
	p = q->item + q->from;
	if (front) {
		memmove(p - 1, p, at * sizeof(*p));
		q->from--;
	} else {
		memmove(p + at + 1, p + at, (q->nr - at) * sizeof(*p));
	}
	q->nr++;
	q->nr_due += item->due_ns != 0;
	*fh_sched_queue_at(q, at) = *item;
	return at;
}

uint32_t fh_sched_queue_find(const struct fh_sched_queue *q, uint64_t key_ns, uint64_t ticket)
{
	uint32_t at = lower_bound(q, key_ns, ticket);

	return at < q->nr && fh_sched_queue_at(q, at)->ticket == ticket ? at : q->nr;
}

void fh_sched_queue_remove(struct fh_sched_queue *q, uint32_t place)
{
	struct fh_sched_item *p = q->item + q->from;

	assert(place < q->nr);
	q->nr_due -= p[place].due_ns != 0;
	if (place < q->nr / 2) {
		if (place)
			memmove(p + 1, p, place * sizeof(*p));
		q->from++;
	} else {
		memmove(p + place, p + place + 1, (q->nr - place - 1) * sizeof(*p));
	}
	q->nr--;
}

/* ---- tenants ---- */

static double least_served(const struct fh_sched_tenants *t, uint32_t but)
{
	double least = -1;

	for (uint32_t i = 0; i < FH_SCHED_TENANTS; i++)
		if (i != but && t->nr_inside[i] && (least < 0 || t->served[i] < least))
			least = t->served[i];
	return least;
}

void fh_sched_tenant_enter(struct fh_sched_tenants *t, uint32_t tenant)
{
	uint32_t i = tenant % FH_SCHED_TENANTS;

	if (t->nr_inside[i]++)
		return;
	if (t->nr_active++) {
		double least = least_served(t, i);

		if (t->served[i] < least)
			t->served[i] = least;
	}
}

void fh_sched_tenant_leave(struct fh_sched_tenants *t, uint32_t tenant)
{
	uint32_t i = tenant % FH_SCHED_TENANTS;

	assert(t->nr_inside[i]);
	if (!--t->nr_inside[i])
		t->nr_active--;
}

void fh_sched_tenant_served(struct fh_sched_tenants *t, uint32_t tenant, uint32_t nr_read, uint32_t nr_written)
{
	t->served[tenant % FH_SCHED_TENANTS] += nr_read + 2.0 * nr_written;
}

double fh_sched_tenant_ahead(const struct fh_sched_tenants *t, uint32_t tenant)
{
	uint32_t i = tenant % FH_SCHED_TENANTS;
	double least;

	if (t->nr_active <= 1)
		return 0;
	least = least_served(t, i);
	return least >= 0 && t->served[i] > least ? t->served[i] - least : 0;
}

uint32_t fh_sched_queue_next(const struct fh_sched_queue *q, const struct fh_sched_tenants *t)
{
	const struct fh_sched_item *first = fh_sched_queue_at(q, 0), *best = first;
	uint32_t place = 0, end = q->nr < FH_SCHED_LOOK ? q->nr : FH_SCHED_LOOK;

	if (!q->nr || first->due_ns || t->nr_active <= 1)
		return 0;
	for (uint32_t i = 1; i < end; i++) {
		const struct fh_sched_item *it = fh_sched_queue_at(q, i);

		/* Within a tenant the first in order stays the first: only a smaller counter goes before. */
		if (it->due_ns || it->class != first->class ||
		    t->served[it->tenant % FH_SCHED_TENANTS] >= t->served[best->tenant % FH_SCHED_TENANTS])
			continue;
		best = it;
		place = i;
	}
	return place;
}
