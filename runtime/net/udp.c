// SPDX-License-Identifier: Apache-2.0
/* The UDP front end's life; what it does meanwhile is in udp_loop.c. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdlib.h>

#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/thread.h"
#include "runtime/net/dgram_sock.h"
#include "runtime/net/udp_priv.h"

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static void wake(struct fh_frontend *fe)
{
	struct fh_udp *u = container_of(fe, struct fh_udp, fe);

	u->port->ops->wake(u->port);
}

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
	if (u->svc->span && fh_turn_spans_open(&u->spans, FH_UDP_SPANS))
		return fh_errf(err, -ENOMEM, "no memory for traces of UDP");
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
	fh_turn_spans_flush(&u->spans, u->svc);
	fh_turn_spans_close(&u->spans);
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
	sem_destroy(&u->ended);
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
	u->fe.polled = cfg->on_engine ? &fh_udp_polled : NULL;
	u->guard = cfg->guard ? fh_guard_get(cfg->guard) : NULL;
	sem_init(&u->opened, 0, 0);
	sem_init(&u->ended, 0, 0);
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

	if (!rc && cfg->on_engine && nr > 1)
		rc = fh_errf(err, -EINVAL, "udp: the engine's thread carries one queue, not %u", nr);

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

static int start_thread(struct fh_udp *u, struct fh_err *err)
{
	int rc = fh_thread_start(&u->thread, "fh-udp", fh_udp_thread, u);

	if (rc)
		return fh_errf(err, rc, "udp: cannot start the I/O thread: %s", strerror(-rc));
	while (sem_wait(&u->opened))
		;
	if (u->start_rc)
		pthread_join(u->thread, NULL);
	return 0;
}

static int start_one(struct fh_udp *u, struct fh_err *err)
{
	int rc = fh_udp_text_start(u, err);

	if (!rc && !u->cfg.on_engine)
		rc = start_thread(u, err);
	if (rc)
		return rc;
	if (u->cfg.on_engine)
		fh_udp_begin_on_engine(u);
	if (u->start_rc)
		return fh_errf(err, u->start_rc, "%s", u->start_err.msg);
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
	/* With a broken port it sleeps elsewhere. */
	if (u->cfg.on_engine)
		u->svc->kick(u->svc->ctx);
}

void fh_udp_stop(struct fh_udp *u, uint32_t drain_ms)
{
	uint64_t until_us = fh_now_us() + drain_ms * 1000ull;

	for (struct fh_udp *at = u; at; at = at->next)
		ask_to_stop(at, until_us);
	for (; u; u = u->next) {
		if (u->started && !u->cfg.on_engine)
			pthread_join(u->thread, NULL);
		while (u->started && u->cfg.on_engine && sem_wait(&u->ended))
			;
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
