// SPDX-License-Identifier: Apache-2.0
/* Packet numbers of one end of a session; see flow.h. */
#include "runtime/wire/flow.h"

#define MIN_WINDOW 2u	   /* datagrams */
#define INITIAL_WINDOW 10u /* likewise, RFC 9002, 7.2 */
#define BURST 16u	   /* datagrams that the pacer lets out together */
#define PERSISTENT 3u	   /* probes in a row without an answer: begin anew */

void fhw_flow_init(struct fhw_flow *f, struct fhw_rec *recs, uint32_t mtu, uint64_t now_us)
{
	memset(recs, 0, FHW_RECS * sizeof(*recs));
	*f = (struct fhw_flow){.recs = recs,
			       .mtu = mtu,
			       .next_pn = 1,
			       .ack_us = FHW_NEVER,
			       .loss_us = FHW_NEVER,
			       .last_us = now_us,
			       .cwnd = (uint64_t)INITIAL_WINDOW * mtu,
			       .ssthresh = UINT64_MAX,
			       .srtt_us = FHW_INITIAL_RTT_US,
			       .rttvar_us = FHW_INITIAL_RTT_US / 2};
}

/* ---- lists ---- */

static void list_add(struct fhw_list *l, struct fhw_rec *r)
{
	r->next = NULL;
	r->prev = l->tail;
	if (l->tail)
		l->tail->next = r;
	else
		l->head = r;
	l->tail = r;
}

static void list_remove(struct fhw_list *l, struct fhw_rec *r)
{
	if (r->prev)
		r->prev->next = r->next;
	else
		l->head = r->next;
	if (r->next)
		r->next->prev = r->prev;
	else
		l->tail = r->prev;
	r->next = r->prev = NULL;
}

static struct fhw_rec *rec_of(struct fhw_flow *f, uint64_t pn)
{
	struct fhw_rec *r = &f->recs[pn % FHW_RECS];

	return r->state != FHW_REC_FREE && r->pn == pn ? r : NULL;
}

static void leave_flight(struct fhw_flow *f, struct fhw_rec *r)
{
	list_remove(&f->flight, r);
	f->in_flight -= r->bytes;
}

static void set_lost(struct fhw_flow *f, struct fhw_rec *r)
{
	leave_flight(f, r);
	r->state = FHW_REC_LOST;
	list_add(&f->lost, r);
}

void fhw_flow_forget(struct fhw_flow *f, struct fhw_rec *r)
{
	if (r->state == FHW_REC_FLIGHT)
		leave_flight(f, r);
	else if (r->state == FHW_REC_LOST)
		list_remove(&f->lost, r);
	r->state = FHW_REC_FREE;
	r->owner = NULL;
}

void fhw_flow_tail_out(struct fhw_rec *r)
{
	r->busy = true;
	r->flow->nr_busy++;
}

void fhw_flow_tail_done(struct fh_dgram_tail *t)
{
	struct fhw_rec *r = (struct fhw_rec *)((char *)t - offsetof(struct fhw_rec, tail));

	r->busy = false;
	r->flow->nr_busy--;
}

/* ---- receiving ---- */

/* RFC 6479's way: a ring of words, of which the oldest is never full. */
#define WINDOW_BITS ((FHW_WINDOW_WORDS - 1) * 64ull)

bool fhw_flow_is_old(const struct fhw_flow *f, uint64_t pn)
{
	if (pn > f->largest)
		return false;
	if (f->largest - pn >= WINDOW_BITS)
		return true;
	return f->window[pn / 64 % FHW_WINDOW_WORDS] >> pn % 64 & 1;
}

static void window_add(struct fhw_flow *f, uint64_t pn)
{
	uint64_t word = pn / 64, at = f->largest / 64;

	if (pn > f->largest) {
		if (word - at > FHW_WINDOW_WORDS)
			at = word - FHW_WINDOW_WORDS;
		while (at < word)
			f->window[++at % FHW_WINDOW_WORDS] = 0;
	}
	f->window[word % FHW_WINDOW_WORDS] |= 1ull << pn % 64;
}

void fhw_flow_received(struct fhw_flow *f, uint64_t pn, bool eliciting, uint64_t now_us)
{
	bool in_order = pn == f->largest + 1;

	window_add(f, pn);
	if (pn > f->largest) {
		uint64_t by = pn - f->largest;

		f->received = by < 64 ? f->received << by : 0;
		if (f->largest && by <= 64)
			f->received |= 1ull << (by - 1);
		f->largest = pn;
		f->largest_us = now_us;
	} else if (f->largest - pn <= 64 && f->largest != pn) {
		f->received |= 1ull << (f->largest - pn - 1);
	}
	f->last_us = now_us;
	if (!eliciting)
		return;
	f->nr_owed++;
	if (!in_order || f->nr_owed >= FHW_ACK_EVERY)
		f->ack_us = now_us;
	else if (f->ack_us == FHW_NEVER)
		f->ack_us = now_us + FHW_ACK_DELAY_US;
}

void fhw_flow_put_ack(struct fhw_flow *f, struct fhw_hdr *h, uint64_t now_us)
{
	uint64_t delay = f->largest ? (now_us - f->largest_us) / FHW_DELAY_US : 0;

	h->largest = f->largest;
	h->received = f->received;
	h->delay = delay < UINT16_MAX ? (uint16_t)delay : UINT16_MAX;
	f->nr_owed = 0;
	f->ack_us = FHW_NEVER;
}

/* ---- round trips, congestion ---- */

void fhw_flow_rtt(struct fhw_flow *f, uint64_t sample_us, uint64_t delay_us)
{
	uint64_t diff;

	if (!f->has_rtt) {
		f->has_rtt = true;
		f->min_rtt_us = f->srtt_us = sample_us;
		f->rttvar_us = sample_us / 2;
		return;
	}
	if (sample_us < f->min_rtt_us)
		f->min_rtt_us = sample_us;
	if (sample_us >= f->min_rtt_us + delay_us)
		sample_us -= delay_us;
	diff = sample_us > f->srtt_us ? sample_us - f->srtt_us : f->srtt_us - sample_us;
	f->rttvar_us = (3 * f->rttvar_us + diff) / 4;
	f->srtt_us = (7 * f->srtt_us + sample_us) / 8;
}

uint64_t fhw_flow_pto_us(const struct fhw_flow *f)
{
	uint64_t var = 4 * f->rttvar_us;

	return f->srtt_us + (var > FHW_GRANULARITY_US ? var : FHW_GRANULARITY_US) + FHW_ACK_DELAY_US;
}

static uint64_t backed_off_us(const struct fhw_flow *f)
{
	uint64_t us = fhw_flow_pto_us(f) << (f->pto_count < 10 ? f->pto_count : 10);

	return us < FHW_MAX_PTO_US ? us : FHW_MAX_PTO_US;
}

static void congestion(struct fhw_flow *f, uint64_t sent_us, uint64_t now_us)
{
	if (sent_us <= f->recovery_us)
		return;
	f->recovery_us = now_us;
	f->ssthresh = f->cwnd / 2;
	if (f->ssthresh < (uint64_t)MIN_WINDOW * f->mtu)
		f->ssthresh = (uint64_t)MIN_WINDOW * f->mtu;
	f->cwnd = f->ssthresh;
}

static void grow(struct fhw_flow *f, const struct fhw_rec *r)
{
	/* Only what the window held back says that a larger one is of use (7.8). */
	if (r->sent_us <= f->recovery_us || !f->limited)
		return;
	if (f->cwnd < f->ssthresh)
		f->cwnd += r->bytes;
	else
		f->cwnd += (uint64_t)f->mtu * r->bytes / f->cwnd;
}

/* What was sent before something that has arrived, by number or by time, is lost. */
static void detect_losses(struct fhw_flow *f, uint64_t now_us)
{
	uint64_t wait = f->srtt_us + f->srtt_us / 8;
	struct fhw_rec *r, *next;

	if (wait < FHW_GRANULARITY_US)
		wait = FHW_GRANULARITY_US;
	f->loss_us = FHW_NEVER;
	for (r = f->flight.head; r && r->pn < f->largest_acked; r = next) {
		next = r->next;
		if (f->largest_acked - r->pn >= FHW_REORDER || r->sent_us + wait <= now_us) {
			congestion(f, r->sent_us, now_us);
			set_lost(f, r);
			f->nr_lost++;
		} else if (r->sent_us + wait < f->loss_us) {
			f->loss_us = r->sent_us + wait;
		}
	}
}

static bool take_acked(struct fhw_flow *f, uint64_t pn)
{
	struct fhw_rec *r = rec_of(f, pn);

	if (!r)
		return false;
	if (!r->bytes)
		return false; /* never sent: whoever acknowledges it makes it up */
	if (r->state == FHW_REC_FLIGHT)
		grow(f, r);
	else
		f->nr_spurious++;
	f->on_acked(f, r);
	fhw_flow_forget(f, r);
	return true;
}

/* The bits of @h that no header before has told. */
static uint64_t new_bits(struct fhw_flow *f, const struct fhw_hdr *h)
{
	uint64_t by = h->largest - f->acked_base, known = 0;

	if (h->largest < f->acked_base)
		return h->received; /* late: all of them, it is rare */
	if (by < 64)
		known = f->acked_bits << by;
	if (by && by <= 64 && f->acked_base)
		known |= 1ull << (by - 1);
	f->acked_base = h->largest;
	f->acked_bits = h->received | known;
	return h->received & ~known;
}

bool fhw_flow_acked(struct fhw_flow *f, const struct fhw_hdr *h, uint64_t now_us)
{
	struct fhw_rec *r;
	bool any = false;

	if (h->largest >= f->next_pn)
		return false;
	if (!h->largest)
		return true;
	r = rec_of(f, h->largest);
	if (r && r->bytes && now_us >= r->sent_us) {
		uint64_t delay = (uint64_t)h->delay * FHW_DELAY_US;

		/* As 5.3 has it: a peer does not delay longer than it may. */
		fhw_flow_rtt(f, now_us - r->sent_us, delay < FHW_ACK_DELAY_US ? delay : FHW_ACK_DELAY_US);
	}
	if (h->largest > f->largest_acked)
		f->largest_acked = h->largest;
	any = take_acked(f, h->largest);
	for (uint64_t bits = new_bits(f, h); bits; bits &= bits - 1) {
		uint64_t back = 1 + (uint64_t)__builtin_ctzll(bits);

		if (back < h->largest)
			any |= take_acked(f, h->largest - back);
	}
	if (any) {
		f->pto_count = 0;
		f->limited = false;
	}
	detect_losses(f, now_us);
	return true;
}

/* ---- sending ---- */

/* Numbers whose place is taken, by packets of long ago that are not settled, are left out. */
static bool find_place(struct fhw_flow *f)
{
	for (uint64_t pn = f->next_pn; pn < f->next_pn + FHW_RECS; pn++) {
		const struct fhw_rec *r = &f->recs[pn % FHW_RECS];

		if (r->state != FHW_REC_FREE || r->busy)
			continue;
		f->next_pn = pn;
		return true;
	}
	return false;
}

struct fhw_rec *fhw_flow_queue(struct fhw_flow *f, uint8_t kind, uint32_t request)
{
	struct fhw_rec *r;

	if (!find_place(f))
		return NULL;
	r = &f->recs[f->next_pn % FHW_RECS];
	*r = (struct fhw_rec){.pn = f->next_pn++, .kind = kind, .request = request, .state = FHW_REC_LOST, .flow = f};
	list_add(&f->lost, r);
	return r;
}

bool fhw_flow_may_send(struct fhw_flow *f, uint32_t bytes, uint64_t now_us)
{
	if (!find_place(f))
		return false;
	f->paced = false;
	if (f->probe)
		return true;
	if (f->in_flight + bytes > f->cwnd) {
		f->limited = true;
		return false;
	}
	f->paced = f->pace_us > now_us;
	return !f->paced;
}

struct fhw_rec *fhw_flow_sent(struct fhw_flow *f, uint32_t bytes, struct fhw_rec *old, uint64_t now_us)
{
	struct fhw_rec *r = &f->recs[f->next_pn % FHW_RECS];
	/* 1.25 windows in a round trip, and BURST packets at once (7.7). */
	uint64_t cost_us = bytes * f->srtt_us * 4 / (5 * f->cwnd), credit_us = BURST * f->mtu * f->srtt_us / f->cwnd;

	*r = (struct fhw_rec){
		.pn = f->next_pn++, .sent_us = now_us, .bytes = (uint16_t)bytes, .state = FHW_REC_FLIGHT, .flow = f};
	if (old) {
		r->owner = old->owner;
		r->request = old->request;
		r->seq = old->seq;
		r->ack = old->ack;
		r->nr = old->nr;
		r->kind = old->kind;
		r->kept = old->kept;
		fhw_flow_forget(f, old);
	}
	list_add(&f->flight, r);
	f->in_flight += bytes;
	f->eliciting_us = now_us;
	f->probe = false;
	if (f->pace_us + credit_us < now_us)
		f->pace_us = now_us - credit_us;
	f->pace_us += cost_us;
	return r;
}

struct fhw_rec *fhw_flow_lost(struct fhw_flow *f)
{
	for (struct fhw_rec *r = f->lost.head; r; r = r->next)
		if (!r->busy)
			return r;
	return NULL;
}

/* ---- time ---- */

static uint64_t pto_due_us(const struct fhw_flow *f)
{
	return f->flight.head ? f->eliciting_us + backed_off_us(f) : FHW_NEVER;
}

bool fhw_flow_tick(struct fhw_flow *f, uint64_t now_us)
{
	/* What it held back may be wanted no more: then nobody asks again. */
	if (f->paced && f->pace_us <= now_us)
		f->paced = false;
	if (f->loss_us <= now_us)
		detect_losses(f, now_us);
	if (pto_due_us(f) > now_us)
		return false;
	f->pto_count++;
	f->nr_probes++;
	f->probe = true;
	f->eliciting_us = now_us;
	if (f->pto_count >= PERSISTENT)
		f->cwnd = (uint64_t)MIN_WINDOW * f->mtu;
	set_lost(f, f->flight.head);
	return true;
}

uint64_t fhw_flow_next_us(const struct fhw_flow *f)
{
	uint64_t us = pto_due_us(f);

	if (f->nr_owed && f->ack_us < us)
		us = f->ack_us;
	if (f->paced && f->pace_us < us)
		us = f->pace_us;
	return f->loss_us < us ? f->loss_us : us;
}
