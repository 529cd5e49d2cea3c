// SPDX-License-Identifier: Apache-2.0
/*
 * The UDP front end's life, and its thread.
 *
 * A turn: take what came, what the engine and the tokenizer have done, run the
 * timers, send what the protocol has to say.  Before it sleeps the thread says so
 * (fe.sleeping) and looks at its queue once more, as request.h asks.
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdlib.h>

#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/thread.h"
#include "runtime/net/dgram_sock.h"
#include "runtime/net/udp_priv.h"

#define FEW 4u		    /* datagrams taken at first: mostly there is little to say */
#define GIVE_UP_US 5000000u /* after cancelling: how long the engine may take to give requests back */
#define GOODBYE_US 500000u  /* and how long the last packets may take */

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static void wake(struct fh_frontend *fe)
{
	struct fh_udp *u = container_of(fe, struct fh_udp, fe);

	u->port->ops->wake(u->port);
}

/* ---- the loop ---- */

static int take_datagrams(struct fh_udp *u, bool *any)
{
	struct fh_dgram d[FH_DGRAM_BURST];
	int nr = u->port->ops->recv(u->port, d, FH_DGRAM_BURST);

	if (nr <= 0)
		return nr;
	*any = true;
	u->now_us = fh_now_us();
	for (int i = 0; i < nr; i++)
		if (!fhw_server_recv(u->srv, &d[i], u->now_us))
			u->port->ops->release(u->port, &d[i], 1);
	return 0;
}

/* Let the protocol fill datagrams until it has nothing to say, or there are none. */
static void send_datagrams(struct fh_udp *u, bool *any)
{
	const struct fh_dgram_ops *ops = u->port->ops;
	struct fh_dgram d[FH_DGRAM_BURST];
	uint32_t nr, used, sent, want = FEW;

	do {
		uint64_t now_us = fh_now_us();

		nr = ops->alloc(u->port, d, want);
		want = FH_DGRAM_BURST;
		for (used = 0; used < nr && fhw_server_next(u->srv, &d[used], now_us); used++)
			;
		sent = used ? ops->send(u->port, d, used) : 0;
		*any |= used;
		/* Lost before they left. */
		for (uint32_t i = sent; i < used; i++)
			if (d[i].tail)
				d[i].tail->done(d[i].tail);
		if (sent < nr)
			ops->release(u->port, d + sent, nr - sent);
	} while (nr && used == nr);
}

/* The engine begins with all that came together, and not with the first, for which it might take the core at once. */
static void ring(struct fh_udp *u)
{
	if (!u->rings)
		return;
	u->rings = false;
	if (u->fe.bursts)
		u->svc->ring(u->svc->ctx);
}

static void show_stats(struct fh_udp *u)
{
	if (pthread_mutex_trylock(&u->stats_lock))
		return;
	fhw_server_stats(u->srv, &u->stats);
	u->shown.prompt_bytes = u->prompt_bytes;
	u->shown.text_bytes = u->text_bytes;
	u->shown.copied_bytes = u->copied_bytes + u->stats.copied_bytes;
	u->shown.nr_errors = u->nr_errors;
	pthread_mutex_unlock(&u->stats_lock);
}

static void take_new_keys(struct fh_udp *u)
{
	struct fh_udp_keys *k, old;

	if (!atomic_load_explicit(&u->new_keys, memory_order_relaxed))
		return;
	k = atomic_exchange(&u->new_keys, NULL);
	old = u->keys;
	if (!fhw_server_set_clients(u->srv, (const uint8_t(*)[FHW_KEY_BYTES])k->keys, k->nr)) {
		u->keys = *k;
		*k = old;
		fh_udp_keys_identify(&u->keys, u->guard);
		fh_udp_reqs_recheck(u);
	} else {
		fh_error("udp: no memory for another list of clients; the old one stays");
	}
	fh_udp_keys_free(k);
	free(k);
}

static void take_new_guard(struct fh_udp *u)
{
	struct fh_guard *g;

	if (!atomic_load_explicit(&u->new_guard, memory_order_relaxed))
		return;
	g = atomic_exchange(&u->new_guard, NULL);
	fh_guard_put(u->guard);
	u->guard = g;
	fh_udp_keys_identify(&u->keys, g);
	fh_udp_reqs_recheck(u);
}

/* One turn, without sleeping. 0 or -errno: the port is broken. */
static int turn(struct fh_udp *u, bool *any)
{
	int rc;

	*any = false;
	take_new_guard(u);
	take_new_keys(u);
	rc = take_datagrams(u, any);
	ring(u);
	*any |= fh_udp_take_results(u);
	*any |= fh_udp_audit_release(u);
	ring(u);
	fhw_server_tick(u->srv, fh_now_us());
	send_datagrams(u, any);
	return rc;
}

static int doze(struct fh_udp *u)
{
	uint64_t now_us = fh_now_us(), until_us = fhw_server_next_us(u->srv), timeout_us = UINT64_MAX;
	int rc;

	if (until_us != FHW_NEVER)
		timeout_us = until_us > now_us ? until_us - now_us : 0;
	if (atomic_load_explicit(&u->stop, memory_order_relaxed) && timeout_us > 10000)
		timeout_us = 10000;
	show_stats(u);
	atomic_store(&u->fe.sleeping, 1);
	if (fh_spsc_count(&u->fe.ready))
		timeout_us = 0;
	rc = u->port->ops->wait(u->port, timeout_us);
	atomic_store_explicit(&u->fe.sleeping, 0, memory_order_relaxed);
	return rc == -EINTR ? 0 : rc;
}

static uint32_t nr_open(struct fh_udp *u)
{
	struct fhw_server_stats st;

	fhw_server_stats(u->srv, &st);
	return st.nr_open + st.nr_kept;
}

/* True: the loop is to end. */
static bool is_over(struct fh_udp *u, bool *said)
{
	uint64_t now_us = fh_now_us(), stop_us;

	if (atomic_load_explicit(&u->draining, memory_order_acquire))
		fhw_server_drain(u->srv);
	if (!atomic_load_explicit(&u->stop, memory_order_acquire)) {
		u->busy_us = now_us;
		return false;
	}
	stop_us = atomic_load_explicit(&u->stop_us, memory_order_relaxed);
	/* A client that is gone acknowledges nothing any more. */
	if (u->nr_inside || u->waiting)
		u->busy_us = now_us;
	if (!*said && (!nr_open(u) || now_us >= stop_us || now_us - u->busy_us > GOODBYE_US)) {
		*said = true;
		fhw_server_close_all(u->srv);
		/* Nobody is told anything any more: nothing has to wait for the audit log. */
		u->ending = true;
		atomic_store_explicit(&u->stop_us, stop_us = now_us, memory_order_relaxed);
	}
	return *said && ((!u->nr_inside && !nr_open(u)) || now_us - stop_us > GIVE_UP_US);
}

/* The port is broken, so that nobody reads any more: what runs would wait for it, and is cancelled. */
static void give_back(struct fh_udp *u)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	uint64_t until_us = fh_now_us() + GIVE_UP_US;

	u->ending = true;
	fhw_server_close_all(u->srv);
	while (u->nr_inside && fh_now_us() < until_us) {
		if (!fh_udp_take_results(u))
			nanosleep(&pause, NULL);
		fh_udp_audit_release(u);
		ring(u);
	}
}

static void *io_main(void *arg)
{
	struct fh_udp *u = arg;
	bool any, said = false;
	int rc = 0;

	u->wire.welcome.nr_ctx = u->svc->model.nr_ctx;
	u->wire.welcome.nr_vocab = u->svc->model.nr_vocab;
	snprintf(u->wire.welcome.model, sizeof(u->wire.welcome.model), "%s", u->svc->model.id);
	u->fe.bursts = u->svc->ring != NULL;
	u->start_rc = fhw_server_create(&u->wire, &u->srv, &u->start_err);
	sem_post(&u->opened);
	if (u->start_rc)
		return NULL;
	while (!rc) {
		bool over = is_over(u, &said);

		rc = turn(u, &any);
		if (over)
			break;
		if (!rc && !any)
			rc = doze(u);
	}
	if (rc)
		give_back(u);
	u->port->ops->flush(u->port);
	show_stats(u);
	if (rc)
		fh_error("udp: the socket or device failed: %s; nothing is served there any more", strerror(-rc));
	return NULL;
}

/* ---- life ---- */

static int parse_address(const char *text, struct fh_dgram_addr *out, struct fh_err *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV},
			*ai;
	const char *colon = strrchr(text, ':');
	size_t n = colon ? (size_t)(colon - text) : 0;
	char host[64];
	int rc;

	if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
		text++;
		n -= 2;
	} else if (memchr(text, ':', n)) {
		n = 0;
	}
	if (!n || n >= sizeof(host) || !colon[1] || strlen(colon + 1) > 5 ||
	    strspn(colon + 1, "0123456789") != strlen(colon + 1) || atoi(colon + 1) > 65535)
		return fh_errf(err, -EINVAL, "--udp %s: ADDR:PORT or [V6]:PORT is wanted", text);
	memcpy(host, text, n);
	host[n] = '\0';
	rc = getaddrinfo(host, colon + 1, &hints, &ai);
	if (rc)
		return fh_errf(err, -EINVAL, "--udp %s: %s", text, gai_strerror(rc));
	fh_dgram_from_sockaddr(ai->ai_addr, out);
	freeaddrinfo(ai);
	return 0;
}

static int open_port(struct fh_udp *u, struct fh_err *err)
{
	struct fh_dgram_open o = {.size = sizeof(o), .server = true, .mtu = u->cfg.mtu};
	struct fh_err why = {0};
	int rc;

	if (u->port)
		return 0;
	rc = parse_address(u->cfg.listen, &o.local, err);
	if (rc)
		return rc;
	if (!u->cfg.force_plain && !fh_dgram_uring_open(&o, &u->port, &why))
		return 0;
	/* A port that is taken is taken either way. */
	if (why.code == -EADDRINUSE || why.code == -EACCES || why.code == -EADDRNOTAVAIL)
		return fh_errf(err, why.code, "%s", why.msg);
	if (why.code)
		fh_warn("udp: io_uring is not used: %s", why.msg);
	return fh_dgram_sock_open(&o, &u->port, err);
}

static void name_it(struct fh_udp *u)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	char key[FHW_KEY_TEXT], host[INET6_ADDRSTRLEN];
	struct fh_dgram_addr a;
	bool v4;

	u->port->ops->local(u->port, &a);
	v4 = !memcmp(a.ip, mapped, sizeof(mapped));
	inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? a.ip + 12 : a.ip, host, sizeof(host));
	fhw_key_text(u->key.public, key);
	snprintf(u->url, sizeof(u->url), v4 ? "udp://%s@%s:%u" : "udp://%s@[%s]:%u", key, host, a.port);
}

/* What all queues have: read once, for a file may change meanwhile. */
struct common {
	struct fhw_keypair key;
	struct fh_udp_keys clients;
	uint8_t cookie_key[FHW_KEY_BYTES];
};

static int common_load(struct common *c, const struct fh_udp_config *cfg, struct fh_err *err)
{
	int rc = fhw_crypt_init() ? fh_errf(err, -EIO, "libsodium does not start") : 0;

	if (!rc)
		rc = fhw_key_load(cfg->key_file, &c->key, err);
	if (!rc)
		rc = fh_udp_keys_load(cfg->clients_file, &c->clients, err);
	if (!rc)
		randombytes_buf(c->cookie_key, sizeof(c->cookie_key));
	return rc;
}

static void common_free(struct common *c)
{
	fh_udp_keys_free(&c->clients);
	sodium_memzero(c, sizeof(*c));
}

static int set_up(struct fh_udp *u, const struct common *all, struct fh_err *err)
{
	/* One key gets no more, so that others find some; and a session is promised no more than that. */
	uint32_t share = u->cfg.max_requests - u->cfg.max_requests / 4, most = share < 256 ? share : 256;
	int rc = fh_udp_keys_copy(&all->clients, &u->keys, err);

	u->key = all->key;
	if (!rc && strlen(u->cfg.clients_file) >= sizeof(u->clients_file))
		rc = fh_errf(err, -ENAMETOOLONG, "the path of the clients' keys is too long");
	if (!rc)
		rc = open_port(u, err);
	if (rc)
		return rc;
	u->wire = (struct fhw_server_config){
		.ctx = u,
		.ops = &fh_udp_wire_ops,
		.key = u->key,
		.clients = (const uint8_t(*)[FHW_KEY_BYTES])u->keys.keys,
		.nr_clients = u->keys.nr,
		.welcome = {.mtu = u->port->ops->mtu(u->port, NULL), .nr_slots = FH_UDP_SLOTS, .max_requests = most},
		.max_sessions = u->cfg.max_sessions,
		.cookie_key = u->cookie_key,
		.max_client_requests = share,
		.max_message_bytes = u->cfg.max_text_bytes + 4096,
		.max_held = u->port->ops->max_held ? u->port->ops->max_held(u->port) : 256};
	memcpy(u->cookie_key, all->cookie_key, sizeof(u->cookie_key));
	fh_udp_keys_identify(&u->keys, u->guard);
	strcpy(u->clients_file, u->cfg.clients_file);
	atomic_store(&u->nr_clients, u->keys.nr);
	if (fh_random_seed(&u->random))
		return fh_errf(err, -EIO, "getrandom: %s", strerror(errno));
	name_it(u);
	return fh_udp_reqs_create(u, err);
}

/* Its thread has ended. */
static void destroy_one(struct fh_udp *u)
{
	fh_text_worker_stop(&u->text);
	/* The engine has given everything back; whatever still waits for the log is told to nobody. */
	u->ending = true;
	if (u->srv) {
		fh_udp_take_results(u);
		fh_udp_audit_release(u);
	}
	if (u->port) {
		u->port->ops->close(u->port);
		u->port = NULL;
	}
	fhw_server_destroy(u->srv);
	fh_text_worker_destroy(&u->text);
	fh_udp_reqs_destroy(u);
	fh_udp_keys_free(&u->keys);
	if (atomic_load(&u->new_keys))
		fh_udp_keys_free(atomic_load(&u->new_keys));
	free(atomic_load(&u->new_keys));
	fh_guard_put(u->guard);
	fh_guard_put(atomic_load(&u->new_guard));
	sodium_memzero(&u->key, sizeof(u->key));
	sodium_memzero(u->cookie_key, sizeof(u->cookie_key));
	sodium_memzero(&u->wire, sizeof(u->wire));
	pthread_mutex_destroy(&u->stats_lock);
	sem_destroy(&u->opened);
	free(u);
}

static uint32_t part_of(uint32_t all, uint32_t nr)
{
	return all / nr ? all / nr : 1;
}

/* Of @nr queues, the one with @port, or (NULL) a kernel's socket. The port is closed on failure. */
static int create_one(const struct fh_udp_config *cfg, struct fh_dgram_port *port, uint32_t nr,
		      const struct common *all, const struct fh_service *svc, struct fh_udp **out, struct fh_err *err)
{
	struct fh_udp *u = aligned_alloc(_Alignof(struct fh_udp), sizeof(*u));
	int rc;

	if (!u) {
		if (port)
			port->ops->close(port);
		return fh_errf(err, -ENOMEM, "no memory for the UDP front end");
	}
	memset(u, 0, sizeof(*u));
	u->cfg = *cfg;
	u->cfg.max_requests = part_of(cfg->max_requests ? cfg->max_requests : 1024, nr);
	u->cfg.max_sessions = part_of(cfg->max_sessions ? cfg->max_sessions : 1024, nr);
	u->cfg.max_text_bytes = cfg->max_text_bytes ? cfg->max_text_bytes : 16u << 20;
	u->port = port;
	u->svc = svc;
	u->fe.name = "udp";
	u->fe.wake = wake;
	u->guard = cfg->guard ? fh_guard_get(cfg->guard) : NULL;
	sem_init(&u->opened, 0, 0);
	pthread_mutex_init(&u->stats_lock, NULL);
	rc = set_up(u, all, err);
	if (rc) {
		destroy_one(u);
		return rc;
	}
	*out = u;
	return 0;
}

int fh_udp_create(const struct fh_udp_config *cfg, const struct fh_service *svc, struct fh_udp **out,
		  struct fh_err *err)
{
	uint32_t nr = cfg->nr_ports ? cfg->nr_ports : 1, i = 0;
	struct fh_udp *first = NULL, **at = &first;
	struct common all = {0};
	int rc = common_load(&all, cfg, err);

	for (; !rc && i < nr; i++) {
		rc = create_one(cfg, cfg->nr_ports ? cfg->ports[i] : NULL, nr, &all, svc, at, err);
		if (!rc)
			at = &(*at)->next;
	}
	common_free(&all);
	if (!rc) {
		*out = first;
		return 0;
	}
	for (; i < cfg->nr_ports; i++)
		cfg->ports[i]->ops->close(cfg->ports[i]);
	fh_udp_destroy(first);
	return rc;
}

uint32_t fh_udp_nr_queues(const struct fh_udp *u)
{
	uint32_t nr = 0;

	for (; u; u = u->next)
		nr++;
	return nr;
}

struct fh_frontend *fh_udp_frontend(struct fh_udp *u, uint32_t queue)
{
	while (queue--)
		u = u->next;
	return &u->fe;
}

const char *fh_udp_url(const struct fh_udp *u)
{
	return u->url;
}

const char *fh_udp_backend(const struct fh_udp *u)
{
	return u->port->ops->name;
}

uint32_t fh_udp_nr_clients(const struct fh_udp *u)
{
	return atomic_load_explicit(&u->nr_clients, memory_order_relaxed);
}

static void drop_keys(struct fh_udp_keys *k)
{
	if (k)
		fh_udp_keys_free(k);
	free(k);
}

static struct fh_udp_keys *new_keys(const struct fh_udp_keys *from, struct fh_err *err)
{
	struct fh_udp_keys *k = malloc(sizeof(*k));

	if (!k)
		fh_errf(err, -ENOMEM, "udp: out of memory");
	else if (!fh_udp_keys_copy(from, k, err))
		return k;
	free(k);
	return NULL;
}

int fh_udp_reload(struct fh_udp *u, struct fh_err *err)
{
	struct fh_udp_keys read, *k[FH_UDP_MAX_QUEUES];
	uint32_t nr = fh_udp_nr_queues(u), i = 0;
	int rc = fh_udp_keys_load(u->clients_file, &read, err);

	/* All of them or none: no queue is told before there is a list for each. */
	for (; !rc && i < nr; i++) {
		k[i] = new_keys(&read, err);
		if (!k[i]) {
			rc = -ENOMEM;
			break;
		}
	}
	fh_udp_keys_free(&read);
	if (rc) {
		while (i)
			drop_keys(k[--i]);
		return rc;
	}
	for (i = 0; u; u = u->next, i++) {
		atomic_store_explicit(&u->nr_clients, k[i]->nr, memory_order_relaxed);
		drop_keys(atomic_exchange(&u->new_keys, k[i]));
		u->port->ops->wake(u->port);
	}
	return 0;
}

void fh_udp_set_guard(struct fh_udp *u, struct fh_guard *g)
{
	for (; u; u = u->next) {
		struct fh_guard *own = u->next && g ? fh_guard_get(g) : g;

		fh_guard_put(atomic_exchange(&u->new_guard, own));
		u->port->ops->wake(u->port);
	}
}

static int start_one(struct fh_udp *u, struct fh_err *err)
{
	int rc = fh_udp_text_start(u, err);

	if (rc)
		return rc;
	rc = fh_thread_start(&u->thread, "fh-udp", io_main, u);
	if (rc)
		return fh_errf(err, rc, "udp: cannot start the I/O thread: %s", strerror(-rc));
	while (sem_wait(&u->opened))
		;
	if (u->start_rc) {
		pthread_join(u->thread, NULL);
		return fh_errf(err, u->start_rc, "%s", u->start_err.msg);
	}
	u->started = true;
	return 0;
}

int fh_udp_start(struct fh_udp *u, struct fh_err *err)
{
	int rc = 0;

	for (struct fh_udp *at = u; at && !rc; at = at->next)
		rc = start_one(at, err);
	if (rc)
		fh_udp_stop(u, 0);
	return rc;
}

void fh_udp_drain(struct fh_udp *u)
{
	for (; u; u = u->next) {
		atomic_store_explicit(&u->draining, 1, memory_order_release);
		u->port->ops->wake(u->port);
	}
}

static void ask_to_stop(struct fh_udp *u, uint64_t until_us)
{
	if (!u->started)
		return;
	atomic_store_explicit(&u->stop_us, until_us, memory_order_relaxed);
	atomic_store_explicit(&u->draining, 1, memory_order_release);
	atomic_store_explicit(&u->stop, 1, memory_order_release);
	u->port->ops->wake(u->port);
}

void fh_udp_stop(struct fh_udp *u, uint32_t drain_ms)
{
	uint64_t until_us = fh_now_us() + drain_ms * 1000ull;

	for (struct fh_udp *at = u; at; at = at->next)
		ask_to_stop(at, until_us);
	for (; u; u = u->next) {
		if (u->started)
			pthread_join(u->thread, NULL);
		u->started = false;
	}
}

void fh_udp_destroy(struct fh_udp *u)
{
	fh_udp_stop(u, 0);
	while (u) {
		struct fh_udp *next = u->next;

		destroy_one(u);
		u = next;
	}
}
