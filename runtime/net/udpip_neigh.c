// SPDX-License-Identifier: Apache-2.0
/*
 * Neighbours: which Ethernet address an IP address has.
 *
 * A table of slots; an address may lie in FH_NEIGH_WAYS of them, chosen by a
 * seeded hash, so that nobody can aim at another's slot.  Which of them makes
 * room: victim().  Readers take no lock: each slot has a sequence count, and all
 * its fields are atomic, written with release and read with acquire, so that
 * whoever sees a new field sees the odd count too.  One writer at a time; who
 * finds another at work leaves the update undone and counts it: neighbours
 * repeat themselves.
 */
#include "runtime/net/udpip_priv.h"

static uint32_t slot_of(const struct fh_udpip *s, const uint64_t ip[2])
{
	/* Two rounds of multiply and fold; the seed is secret, and there are only 1,024 slots to tell apart. */
	unsigned __int128 m = (unsigned __int128)(ip[0] ^ s->hash_seed) * 0x9e3779b97f4a7c15ull;
	uint64_t h = (uint64_t)m ^ (uint64_t)(m >> 64);

	m = (unsigned __int128)(h ^ ip[1]) * (s->hash_seed | 1);
	h = (uint64_t)m ^ (uint64_t)(m >> 64);
	return (uint32_t)(h & (FH_NEIGH_SLOTS - 1));
}

static void words_of(const struct fh_ip *ip, uint64_t out[2])
{
	memcpy(out, ip->b, 16);
}

struct snapshot {
	uint64_t mac, heard_ns;
	bool known;
};

/* False: the slot is another's, or was written to meanwhile. */
static bool read_slot(struct fh_neigh *n, const uint64_t ip[2], struct snapshot *out)
{
	uint32_t seq = atomic_load_explicit(&n->seq, memory_order_acquire);
	bool same;

	same = atomic_load_explicit(&n->ip[0], memory_order_acquire) == ip[0] &&
	       atomic_load_explicit(&n->ip[1], memory_order_acquire) == ip[1];
	if (!same)
		return false;
	out->mac = atomic_load_explicit(&n->mac, memory_order_acquire);
	out->heard_ns = atomic_load_explicit(&n->heard_ns, memory_order_acquire);
	out->known = atomic_load_explicit(&n->known, memory_order_acquire);
	return !(seq & 1) && atomic_load_explicit(&n->seq, memory_order_relaxed) == seq;
}

static struct fh_neigh *find(struct fh_udpip *s, const uint64_t ip[2], struct snapshot *out)
{
	uint32_t at = slot_of(s, ip);

	for (uint32_t i = 0; i < FH_NEIGH_WAYS; i++) {
		struct fh_neigh *n = &s->neigh[(at + i) & (FH_NEIGH_SLOTS - 1)];

		if (read_slot(n, ip, out))
			return n;
	}
	return NULL;
}

static uint64_t age(uint64_t now_ns, uint64_t then_ns)
{
	return now_ns > then_ns ? now_ns - then_ns : 0;
}

enum neigh_state fh_neigh_find(struct fh_udpip *s, const struct fh_ip *ip, uint64_t now_ns, uint8_t mac[6])
{
	struct snapshot got;
	uint64_t w[2];

	words_of(ip, w);
	if (!find(s, w, &got) || !got.known || age(now_ns, got.heard_ns) >= FH_NEIGH_DEAD_NS)
		return NEIGH_UNKNOWN;
	memcpy(mac, &got.mac, 6);
	return age(now_ns, got.heard_ns) >= FH_NEIGH_STALE_NS ? NEIGH_STALE : NEIGH_KNOWN;
}

static bool is_gateway(const struct fh_udpip *s, const uint64_t ip[2])
{
	return !memcmp(s->cfg.ip4.gateway.b, ip, 16) || !memcmp(s->cfg.ip6.gateway.b, ip, 16);
}

/* How much a slot is worth; the least makes room. */
enum worth { WORTH_FREE, WORTH_DEAD, WORTH_UNANSWERED, WORTH_LIVE, WORTH_GATEWAY };

static enum worth worth_of(const struct fh_udpip *s, const struct fh_neigh *n, const uint64_t ip[2], uint64_t now_ns)
{
	if (!ip[0] && !ip[1])
		return WORTH_FREE;
	if (is_gateway(s, ip))
		return WORTH_GATEWAY;
	if (!atomic_load_explicit(&n->known, memory_order_relaxed))
		return WORTH_UNANSWERED;
	return age(now_ns, atomic_load_explicit(&n->heard_ns, memory_order_relaxed)) < FH_NEIGH_DEAD_NS ? WORTH_LIVE
													: WORTH_DEAD;
}

/*
 * The slot for @ip: its own, or the least worth, and of those the one not heard
 * of for longest.  NULL: none may be had.  Addresses that were merely written
 * to, as whoever forges senders makes us do, displace each other and never a
 * neighbour that has answered (RFC 6583, 7.1): only what has given a sign of
 * life (@heard) does, and a gateway's question.  A gateway stays for good.
 * Under the lock.
 */
static struct fh_neigh *victim(struct fh_udpip *s, const uint64_t ip[2], bool heard, uint64_t now_ns)
{
	enum worth limit = heard || is_gateway(s, ip) ? WORTH_LIVE : WORTH_UNANSWERED, least = WORTH_GATEWAY;
	struct fh_neigh *best = NULL;
	uint32_t at = slot_of(s, ip);
	uint64_t oldest = UINT64_MAX;

	for (uint32_t i = 0; i < FH_NEIGH_WAYS; i++) {
		struct fh_neigh *n = &s->neigh[(at + i) & (FH_NEIGH_SLOTS - 1)];
		uint64_t has[2] = {atomic_load_explicit(&n->ip[0], memory_order_relaxed),
				   atomic_load_explicit(&n->ip[1], memory_order_relaxed)};
		uint64_t used = atomic_load_explicit(&n->heard_ns, memory_order_relaxed);
		enum worth w;

		if (has[0] == ip[0] && has[1] == ip[1])
			return n;
		w = worth_of(s, n, has, now_ns);
		if (w > limit || w > least || (w == least && used >= oldest))
			continue;
		least = w;
		oldest = used;
		best = n;
	}
	return best;
}

static bool lock(struct fh_udpip *s, struct fh_udpip_stats *st)
{
	if (!atomic_exchange_explicit(&s->neigh_lock, 1, memory_order_acquire))
		return true;
	count(st, FH_UDPIP_NEIGH_LOST);
	return false;
}

static void unlock(struct fh_udpip *s)
{
	atomic_store_explicit(&s->neigh_lock, 0, memory_order_release);
}

/* Under the lock. */
static void write_slot(struct fh_neigh *n, const uint64_t ip[2], const struct snapshot *v, uint64_t probed_ns)
{
	uint32_t seq = atomic_load_explicit(&n->seq, memory_order_relaxed);

	atomic_store_explicit(&n->seq, seq + 1, memory_order_relaxed);
	atomic_store_explicit(&n->ip[0], ip[0], memory_order_release);
	atomic_store_explicit(&n->ip[1], ip[1], memory_order_release);
	atomic_store_explicit(&n->mac, v->mac, memory_order_release);
	atomic_store_explicit(&n->heard_ns, v->heard_ns, memory_order_release);
	atomic_store_explicit(&n->known, v->known, memory_order_release);
	atomic_store_explicit(&n->probed_ns, probed_ns, memory_order_release);
	atomic_store_explicit(&n->seq, seq + 2, memory_order_release);
}

static bool is_for(const struct fh_neigh *n, const uint64_t ip[2])
{
	return atomic_load_explicit(&n->ip[0], memory_order_relaxed) == ip[0] &&
	       atomic_load_explicit(&n->ip[1], memory_order_relaxed) == ip[1];
}

bool fh_neigh_note(struct fh_udpip *s, const struct fh_ip *ip, const uint8_t mac[6], uint32_t how, uint64_t now_ns,
		   struct fh_udpip_stats *st)
{
	struct snapshot v = {.mac = mac_word(mac), .heard_ns = now_ns, .known = true};
	struct fh_neigh *n;
	bool waited = false, ours;
	uint64_t w[2], stale_ns = now_ns > FH_NEIGH_STALE_NS ? now_ns - FH_NEIGH_STALE_NS : 0;

	if (!(how & NEIGH_CONFIRMED))
		v.heard_ns = stale_ns;
	words_of(ip, w);
	if (!lock(s, st))
		return false;
	n = victim(s, w, true, now_ns);
	ours = n && is_for(n, w);
	if (!n || (!ours && !(how & NEIGH_ADD)))
		goto out;
	if (ours && atomic_load_explicit(&n->known, memory_order_relaxed)) {
		uint64_t old = atomic_load_explicit(&n->mac, memory_order_relaxed);

		if (how & NEIGH_KEEP_MAC && old != v.mac)
			goto out;
		/* Saying again what is known does not make it older. */
		if (!(how & NEIGH_CONFIRMED) && old == v.mac)
			goto out;
	}
	waited = ours && !atomic_load_explicit(&n->known, memory_order_relaxed);
	write_slot(n, w, &v, ours ? atomic_load_explicit(&n->probed_ns, memory_order_relaxed) : 0);
out:
	unlock(s);
	return waited;
}

/* One more request in this second, of all that there may be. */
static bool take_probe(struct fh_udpip *s, uint64_t now_ns)
{
	uint64_t second = now_ns / 1000000000, old = atomic_load_explicit(&s->probe_second, memory_order_relaxed), new;

	do {
		uint64_t n = old >> 16 == second ? old & 0xffff : 0;

		if (n >= FH_NEIGH_PROBES_PER_S)
			return false;
		new = second << 16 | (n + 1);
	} while (!atomic_compare_exchange_weak_explicit(&s->probe_second, &old, new, memory_order_relaxed,
							memory_order_relaxed));
	return true;
}

bool fh_udpip_probe_due(struct fh_udpip *s, const struct fh_ip *ip, uint64_t now_ns, struct fh_udpip_stats *st)
{
	struct snapshot v = {.heard_ns = now_ns};
	struct fh_neigh *n;
	uint64_t w[2], then;
	bool due = false, ours;

	words_of(ip, w);
	n = find(s, w, &v);
	/* The usual answer, without the lock: asked a moment ago. */
	if (n) {
		then = atomic_load_explicit(&n->probed_ns, memory_order_acquire);
		if (then && age(now_ns, then) < FH_NEIGH_PROBE_NS)
			return false;
	}
	if (!lock(s, st))
		return false;
	n = victim(s, w, false, now_ns);
	if (!n) {
		/* Only live neighbours where it could lie: it is heard of when it asks for us itself. */
		unlock(s);
		return false;
	}
	ours = is_for(n, w);
	then = atomic_load_explicit(&n->probed_ns, memory_order_relaxed);
	if ((!ours || !then || age(now_ns, then) >= FH_NEIGH_PROBE_NS) && take_probe(s, now_ns)) {
		due = true;
		if (ours) {
			v.mac = atomic_load_explicit(&n->mac, memory_order_relaxed);
			v.heard_ns = atomic_load_explicit(&n->heard_ns, memory_order_relaxed);
			/* What is dead is unknown again, so that its answer is waited for. */
			v.known = atomic_load_explicit(&n->known, memory_order_relaxed) &&
				  age(now_ns, v.heard_ns) < FH_NEIGH_DEAD_NS;
			v.heard_ns = v.known ? v.heard_ns : now_ns;
		} else {
			v = (struct snapshot){.heard_ns = now_ns};
		}
		write_slot(n, w, &v, now_ns ? now_ns : 1);
	}
	unlock(s);
	return due;
}
