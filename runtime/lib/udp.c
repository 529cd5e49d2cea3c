// SPDX-License-Identifier: Apache-2.0
/*
 * Requests in encrypted UDP packets (Documentation/design/wire-protocol.rst):
 * the protocol's client end over a kernel socket.
 *
 * The protocol moves when the caller calls: every look takes in what has come,
 * lets timers run and sends what is due.  Between calls nothing is acknowledged,
 * and the server waits.  The descriptor for poll() is an epoll set of the socket
 * and a timer, so that a program with a loop of its own calls when it is time.
 *
 * We own: the port, the protocol's client, epoll set and timer.
 */
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "runtime/lib/lib_priv.h"
#include "runtime/net/dgram_plugin.h"
#include "runtime/net/dgram_sock.h"
#include "runtime/wire/client.h"

#define PUMP_EVERY 16u /* tokens that are handed out before the socket is looked at again */

struct udp {
	struct fh_dgram_port *port;
	struct fhw_client *wc;
	uint32_t *wire_id; /* [max_requests] by place in the handle's table */
	int ep, timer;
	bool has_fd;	    /* the carrier has one, which is in the epoll set */
	uint32_t nr_popped; /* since the socket was looked at */
};

static struct udp *udp_of(struct fh_client *c)
{
	return c->t;
}

static void wire_random(void *ctx, void *out, size_t n)
{
	(void)ctx;
	randombytes_buf(out, n);
}

/* ---- moving packets ---- */

static void pump_out(struct udp *u, uint64_t now_us)
{
	const struct fh_dgram_ops *ops = u->port->ops;
	struct fh_dgram d[FH_DGRAM_BURST];
	uint32_t nr, used, sent, want = 2;

	do {
		nr = ops->alloc(u->port, d, want);
		want = FH_DGRAM_BURST;
		for (used = 0; used < nr && fhw_client_next(u->wc, &d[used], now_us); used++)
			;
		sent = used ? ops->send(u->port, d, used) : 0;
		if (sent < nr)
			ops->release(u->port, d + sent, nr - sent);
		/* Whoever watches the descriptor does not wait(). */
		if (sent)
			ops->flush(u->port);
	} while (nr && used == nr);
}

/*
 * Take in what has come, let timers run, send. 0 or -errno: the socket is broken.
 * Each burst is acknowledged before the next is read: an acknowledgement tells of
 * 64 packets, and what it leaves out the server takes for lost.
 */
static int pump(struct udp *u)
{
	const struct fh_dgram_ops *ops = u->port->ops;
	struct fh_dgram d[FH_DGRAM_BURST];
	uint64_t now_us = fh_now_us();
	int nr;

	u->nr_popped = 0;
	do {
		nr = ops->recv(u->port, d, FH_DGRAM_BURST);
		for (int i = 0; i < nr; i++)
			fhw_client_recv(u->wc, &d[i], now_us);
		if (nr > 0)
			ops->release(u->port, d, (uint32_t)nr);
		fhw_client_tick(u->wc, now_us);
		pump_out(u, now_us);
	} while (nr == FH_DGRAM_BURST);
	return nr < 0 ? nr : 0;
}

/* ---- as a transport ---- */

static int dead(struct fh_client *c)
{
	const char *why;
	int rc = fhw_client_error(udp_of(c)->wc, &why);

	return fhl_die(c, rc == -EPROTO ? rc : -EPIPE, "%s: %s; open again", c->where, why);
}

static int udp_submit(struct fh_client *c, struct fhl_req *r, const struct fhl_prompt *prompt,
		      const struct fh_params *p)
{
	struct udp *u = udp_of(c);
	uint64_t now_us = fh_now_us();
	struct fh_req_desc d;
	int rc;

	fhl_fill_desc(&d, r, prompt, p);
	rc = fhw_client_submit(u->wc, &d, prompt->data, (uint32_t)prompt->bytes, r->id, now_us,
			       &u->wire_id[r - c->reqs]);
	if (rc == -EAGAIN)
		return fh_errf(&c->err, rc, "%s: as many requests are open as the server allows: read tokens first",
			       c->where);
	if (fhw_client_state(u->wc) == FHW_CLIENT_DEAD)
		return dead(c);
	if (rc)
		return fh_errf(&c->err, rc, "%s: the request cannot be sent: %s", c->where, strerror(-rc));
	pump_out(u, now_us);
	return 0;
}

static int udp_cancel(struct fh_client *c, struct fhl_req *r)
{
	struct udp *u = udp_of(c);
	int rc = fhw_client_cancel(u->wc, u->wire_id[r - c->reqs], fh_now_us());

	if (!rc)
		pump_out(u, fh_now_us());
	return rc == -ENOENT ? 0 : rc;
}

static void translate(struct fh_client *c, struct fhl_req *r, const struct fhw_token *w, struct fh_token *t)
{
	const char *why;

	fhl_token_begin(t, r);
	if (w->is_end) {
		t->flags = FH_SLOT_LAST | FH_SLOT_NO_TOKEN;
		t->finish = w->end.finish;
		t->error = w->end.error;
		t->retry_us = w->end.retry_us;
		if (t->error && fhw_client_state(udp_of(c)->wc) == FHW_CLIENT_DEAD) {
			fhw_client_error(udp_of(c)->wc, &why);
			t->error = -EPIPE;
			fh_errf(&c->err, -EPIPE, "%s: %s", c->where, why);
		} else if (t->error) {
			fh_errf(&c->err, t->error, "%s: the request was refused or failed: %s", c->where,
				strerror(-t->error));
		}
	} else {
		t->token = w->slot.token;
		t->flags = w->slot.flags & FHL_SLOT_FLAGS;
		t->finish = w->slot.finish;
		t->cut_bytes = w->slot.cut_bytes;
		memcpy(&t->logprob, &w->slot.logprob, sizeof(t->logprob));
	}
	if (t->flags & FH_SLOT_NO_TOKEN)
		t->token = 0;
	else
		r->nr_tokens++;
	if (t->flags & FH_SLOT_LAST)
		fhl_req_put(c, r);
}

static bool pop(struct fh_client *c, struct fh_token *t)
{
	struct udp *u = udp_of(c);
	struct fhw_token w;

	while (fhw_client_pop(u->wc, &w)) {
		struct fhl_req *r = fhl_req_find(c, w.user);

		u->nr_popped++;
		if (!r)
			continue;
		translate(c, r, &w, t);
		if (t->flags & FH_SLOT_LAST) {
			/* The server would ask for it again and again, while nobody calls us. */
			fhw_client_ack(u->wc, fh_now_us());
			pump_out(u, fh_now_us());
		}
		return true;
	}
	return false;
}

static int udp_look(struct fh_client *c, struct fh_token *t)
{
	struct udp *u = udp_of(c);
	int rc;

	if (u->nr_popped < PUMP_EVERY && pop(c, t))
		return 0;
	rc = pump(u);
	if (rc)
		return fhl_die(c, rc, "%s: the socket failed: %s", c->where, strerror(-rc));
	if (pop(c, t))
		return 0;
	return fhw_client_state(u->wc) == FHW_CLIENT_DEAD ? dead(c) : -EAGAIN;
}

static int udp_arm(struct fh_client *c)
{
	struct udp *u = udp_of(c);
	uint64_t us = fhw_client_next_us(u->wc);
	struct itimerspec its = {0};

	/* Zero disarms; a time that has passed fires at once. */
	if (us != FHW_NEVER)
		its.it_value =
			(struct timespec){.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000 + 1};
	timerfd_settime(u->timer, TFD_TIMER_ABSTIME, &its, NULL);
	return 0;
}

static int wait_until(struct udp *u, uint64_t until_ns)
{
	uint64_t now_us = fh_now_us(), until_us = fhw_client_next_us(u->wc), timeout_us = UINT64_MAX;
	int rc;

	if (until_ns != UINT64_MAX && until_ns / 1000 < until_us)
		until_us = until_ns / 1000 + 1;
	if (until_us != FHW_NEVER)
		timeout_us = until_us > now_us ? until_us - now_us : 0;
	rc = u->port->ops->wait(u->port, timeout_us);
	return rc == -EINTR ? rc : 0;
}

static int udp_wait(struct fh_client *c, uint64_t until_ns)
{
	return wait_until(udp_of(c), until_ns);
}

static int udp_fd(struct fh_client *c)
{
	if (!udp_of(c)->has_fd)
		return fh_errf(&c->err, -EOPNOTSUPP, "%s: this carrier has no descriptor to poll", c->where);
	return udp_of(c)->ep;
}

static void udp_free(struct udp *u)
{
	if (u->wc && u->port) {
		fhw_client_close(u->wc);
		pump_out(u, fh_now_us());
	}
	fhw_client_destroy(u->wc);
	if (u->port)
		u->port->ops->close(u->port);
	if (u->ep >= 0)
		close(u->ep);
	if (u->timer >= 0)
		close(u->timer);
	free(u->wire_id);
	free(u);
}

static void udp_close(struct fh_client *c)
{
	udp_free(c->t);
}

static const struct fhl_ops udp_ops = {
	.name = "udp",
	.submit = udp_submit,
	.cancel = udp_cancel,
	.look = udp_look,
	.arm = udp_arm,
	.wait = udp_wait,
	.fd = udp_fd,
	.close = udp_close,
};

/* ---- opening ---- */

static int load_key(struct fh_client *c, struct fhw_keypair *key)
{
	const char *path = c->opt.udp_key_file ? c->opt.udp_key_file : getenv("FREEHOLD_UDP_KEY");

	if (!path || !*path)
		return fh_errf(&c->err, -EACCES,
			       "%s: this client needs a secret key: set udp_key_file in the options of fh_open(), or "
			       "FREEHOLD_UDP_KEY; `freehold udp-key` makes one",
			       c->where);
	return fhw_key_load(path, key, &c->err);
}

/* Until the session stands, or cannot. */
static int shake_hands(struct fh_client *c, struct udp *u)
{
	const char *why;
	int rc;

	fhw_client_start(u->wc, fh_now_us());
	for (;;) {
		rc = pump(u);
		if (rc)
			return fh_errf(&c->err, rc, "%s: %s", c->where, strerror(-rc));
		if (fhw_client_state(u->wc) == FHW_CLIENT_OPEN)
			return 0;
		if (fhw_client_state(u->wc) == FHW_CLIENT_DEAD) {
			rc = fhw_client_error(u->wc, &why);
			return fh_errf(&c->err, rc, "%s: %s", c->where, why);
		}
		wait_until(u, c->opt.open_deadline_ns);
	}
}

static int watch(struct udp *u, int fd)
{
	struct epoll_event e = {.events = EPOLLIN};

	return fd < 0 || epoll_ctl(u->ep, EPOLL_CTL_ADD, fd, &e) ? -errno : 0;
}

/*
 * "DEVICE ADDR/PREFIX[@GATEWAY] OPTION...", as FREEHOLD_DPDK has it.  Not asked in
 * programs with more rights than their user.
 */
static int open_dpdk(struct fh_client *c, const struct fh_dgram_open *o, const char *spec, struct fh_dgram_port **port)
{
	struct fh_dgram_open d = *o;
	char device[128], own[128], *slash, *at;
	int n = 0;

	if (sscanf(spec, "%127s %127s%n", device, own, &n) < 2 || !(slash = strchr(own, '/')))
		return fh_errf(&c->err, -EINVAL,
			       "FREEHOLD_DPDK=%.100s: DEVICE ADDR/PREFIX[@GATEWAY] OPTION... is wanted", spec);
	*slash++ = '\0';
	at = strchr(slash, '@');
	if (at)
		*at++ = '\0';
	if (!fh_dgram_parse(own, &d.local))
		return fh_errf(&c->err, -EINVAL, "FREEHOLD_DPDK: %s is no address", own);
	d.device = device;
	d.netmask = slash;
	d.gateway = at;
	return fh_dgram_dpdk(&d, spec + n, port, &c->err);
}

/*
 * A socket on io_uring, or without it: where the kernel refuses it, as many
 * containers do, or the environment asks for that.  What is wrong with the
 * address is said by the second.
 */
static int open_socket(struct fh_client *c, const struct fh_dgram_open *o, struct fh_dgram_port **port)
{
	const char *no = secure_getenv("FREEHOLD_NO_IO_URING");
	struct fh_err why;

	if (!(no && *no) && !fh_dgram_uring_open(o, port, &why))
		return 0;
	return fh_dgram_sock_open(o, port, &c->err);
}

/* The carrier: a device of DPDK where the environment names one, else a socket. */
static int open_port(struct fh_client *c, const struct fh_dgram_open *o, struct fh_dgram_port **port)
{
	const char *spec = secure_getenv("FREEHOLD_DPDK");

	return spec && *spec ? open_dpdk(c, o, spec, port) : open_socket(c, o, port);
}

static int connect_udp(struct fh_client *c, struct udp *u, const struct sockaddr *sa, const struct fhw_keypair *key,
		       const uint8_t server[FHW_KEY_BYTES])
{
	struct fh_dgram_open o = {.size = sizeof(o)};
	struct fhw_client_config cfg = {.key = *key, .max_requests = c->opt.max_requests, .random = wire_random};
	uint64_t now_ns = fh_now_ns();
	int rc, fd;

	fh_dgram_from_sockaddr(sa, &o.peer);
	rc = open_port(c, &o, &u->port);
	if (rc)
		return rc;
	cfg.peer = o.peer;
	cfg.mtu = u->port->ops->mtu(u->port, &o.peer);
	cfg.open_us = c->opt.open_deadline_ns > now_ns ? (c->opt.open_deadline_ns - now_ns) / 1000 + 1 : 1;
	memcpy(cfg.server, server, sizeof(cfg.server));
	rc = fhw_client_create(&cfg, &u->wc, &c->err);
	sodium_memzero(&cfg, sizeof(cfg));
	if (!rc)
		rc = shake_hands(c, u);
	if (rc)
		return rc;
	fd = u->port->ops->fd(u->port);
	u->has_fd = fd >= 0;
	if (u->has_fd && watch(u, fd))
		return fh_errf(&c->err, -errno, "%s: epoll: %s", c->where, strerror(errno));
	return 0;
}

static int make(struct fh_client *c, struct udp **out)
{
	struct udp *u = calloc(1, sizeof(*u));

	if (!u)
		return fh_errf(&c->err, -ENOMEM, "out of memory");
	u->wire_id = calloc(c->opt.max_requests, sizeof(*u->wire_id));
	u->ep = epoll_create1(EPOLL_CLOEXEC);
	u->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (!u->wire_id || u->ep < 0 || u->timer < 0 || watch(u, u->timer)) {
		udp_free(u);
		return fh_errf(&c->err, -ENOMEM, "%s: no memory, or no descriptor", c->where);
	}
	*out = u;
	return 0;
}

static int try_address(struct fh_client *c, const struct sockaddr *sa, const struct fhw_keypair *key,
		       const uint8_t server[FHW_KEY_BYTES])
{
	const struct fhw_welcome *w;
	struct udp *u = NULL;
	int rc = make(c, &u);

	if (rc)
		return rc;
	rc = connect_udp(c, u, sa, key, server);
	if (rc) {
		udp_free(u);
		return rc;
	}
	w = fhw_client_welcome(u->wc);
	snprintf(c->model, sizeof(c->model), "%s", w->model);
	c->nr_ctx = w->nr_ctx;
	c->nr_vocab = w->nr_vocab;
	c->ops = &udp_ops;
	c->t = u;
	return 0;
}

int fhl_udp_open(struct fh_client *c, const char *server_key, const char *host, const char *port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICSERV}, *list, *a;
	uint8_t server[FHW_KEY_BYTES];
	struct fhw_keypair key;
	int rc;

	if (fhw_crypt_init())
		return fh_errf(&c->err, -EIO, "libsodium does not start");
	if (fhw_key_parse(server_key, strlen(server_key), server))
		return fh_errf(&c->err, -EINVAL,
			       "fh_open: '%s': before the @ stands the server's public key, 43 characters", c->where);
	rc = load_key(c, &key);
	if (rc)
		return rc;
	rc = getaddrinfo(host, port, &hints, &list);
	if (rc) {
		rc = fh_errf(&c->err, -ENXIO, "%s: %s", c->where, gai_strerror(rc));
		goto out;
	}
	rc = -ENXIO;
	for (a = list; a; a = a->ai_next) {
		rc = try_address(c, a->ai_addr, &key, server);
		if (rc != -ENETUNREACH && rc != -EHOSTUNREACH && rc != -EADDRNOTAVAIL && rc != -EAFNOSUPPORT)
			break;
	}
	freeaddrinfo(list);
out:
	sodium_memzero(&key, sizeof(key));
	return rc;
}
