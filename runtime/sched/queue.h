/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests that wait, in order of service, and whose turn it is.
 *
 * Order of service is the earliest deadline first.  A request without a deadline has a
 * wish in its place: when it should begin at the latest, which its class says
 * (FH_SCHED_WISH_*).  So classes have precedence and nobody is passed for ever:
 * a wish comes nearer as time goes by.
 *
 * Between tenants that have no deadlines the one that was served least goes first:
 * tokens are counted, as in the virtual token counters of Sheng and others
 * ("Fairness in serving large language models", 2024): two for each written,
 * one for each read.  A tenant that comes back does not bring old credit.
 *
 * The memory belongs to the caller; nothing is allocated.
 */
#ifndef FH_SCHED_QUEUE_H
#define FH_SCHED_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#define FH_SCHED_TENANTS 256 /* counters; tenants whose numbers are alike modulo this share one */
#define FH_SCHED_LOOK 4096   /* requests in the queue that a turn of tenants is looked for among */

/* What the scheduler knows of a request that waits or whose prompt is being read. */
struct fh_sched_item {
	uint64_t key_ns;     /* its deadline or wish */
	uint64_t ticket;     /* order of arrival, unique */
	uint64_t due_ns;     /* the deadline of its first token, here; 0: none */
	uint32_t way_ns;     /* what that is before the client's */
	uint32_t tpot_us;    /* of the others; 0: none */
	uint32_t nr_tokens;  /* to be computed before the first token is drawn */
	uint32_t nr_context; /* already computed, or expected to be found */
	uint32_t nr_most;    /* tokens that it may draw; 0: nobody knows */
	uint32_t class;
	uint32_t tenant;
	uint32_t ref; /* the caller's */
};

/* Negative: @a goes before @b. 0 only for the same ticket. */
static inline int fh_sched_order(uint64_t key_a, uint64_t ticket_a, uint64_t key_b, uint64_t ticket_b)
{
	if (key_a != key_b)
		return key_a < key_b ? -1 : 1;
	return ticket_a < ticket_b ? -1 : ticket_a > ticket_b;
}

/* A sorted array with room at both ends, so that who goes in front moves few. */
struct fh_sched_queue {
	struct fh_sched_item *item; /* [cap] */
	uint32_t cap, from, nr;
	uint32_t nr_due; /* of them with a deadline */
};

/* How much of an array a queue of @nr needs. */
static inline uint64_t fh_sched_queue_cap(uint32_t nr)
{
	return 2ull * nr + 2;
}

static inline struct fh_sched_item *fh_sched_queue_at(const struct fh_sched_queue *q, uint32_t i)
{
	return &q->item[q->from + i];
}

/* @item: [fh_sched_queue_cap(nr)]; holds @nr afterwards. */
void fh_sched_queue_init(struct fh_sched_queue *q, struct fh_sched_item *item, uint32_t nr);
/* There must be room. Returns its place. */
uint32_t fh_sched_queue_add(struct fh_sched_queue *q, const struct fh_sched_item *item);
/* The place of a request, or q->nr. */
uint32_t fh_sched_queue_find(const struct fh_sched_queue *q, uint64_t key_ns, uint64_t ticket);
void fh_sched_queue_remove(struct fh_sched_queue *q, uint32_t place);

struct fh_sched_tenants {
	double served[FH_SCHED_TENANTS];      /* tokens, by weight */
	uint32_t nr_inside[FH_SCHED_TENANTS]; /* requests that wait or run */
	uint32_t nr_active;		      /* tenants with any */
};

void fh_sched_tenant_enter(struct fh_sched_tenants *t, uint32_t tenant);
void fh_sched_tenant_leave(struct fh_sched_tenants *t, uint32_t tenant);
void fh_sched_tenant_served(struct fh_sched_tenants *t, uint32_t tenant, uint32_t nr_read, uint32_t nr_written);
/* Tokens that it had more than the active one that had least; 0 when nobody else is there. */
double fh_sched_tenant_ahead(const struct fh_sched_tenants *t, uint32_t tenant);

/* Whose turn it is: a place, or q->nr when nobody waits. */
uint32_t fh_sched_queue_next(const struct fh_sched_queue *q, const struct fh_sched_tenants *t);

#endif /* FH_SCHED_QUEUE_H */
