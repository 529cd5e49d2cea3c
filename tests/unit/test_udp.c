// SPDX-License-Identifier: Apache-2.0
/*
 * The UDP front end with an engine in its own thread (fh_engine_start) behind it
 * and libfreehold before it: requests whose tokens are known beforehand, on both
 * carriers; what ends them early; what is left when they have ended.
 */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/base/log.h"
#include "runtime/lib/freehold.h"
#include "runtime/net/dgram_sock.h"
#include "runtime/net/udp_priv.h"
#include "tests/unit/engine_oracle.h"

struct udp_rig {
	struct rig g;
	struct fh_dgram_port *ports[FH_UDP_MAX_QUEUES]; /* before the open: to be used */
	uint32_t nr_ports;
	struct fh_udp *u;
	char dir[32], server_key[64], client_key[64], clients[64];
};

/* Tests with this set: the engine's thread carries the front end. Each test is a process. */
static bool on_engine;

static void write_key(const char *path, uint8_t first, char public[FHW_KEY_TEXT])
{
	uint8_t secret[FHW_KEY_BYTES] = {first, 1, 2, 3};
	char text[FHW_KEY_TEXT];
	struct fhw_keypair k;
	FILE *f = fopen(path, "w");

	cr_assert(f && !fhw_crypt_init());
	fhw_keypair_from(secret, &k);
	fhw_key_text(secret, text);
	fhw_key_text(k.public, public);
	fprintf(f, "# a key\n%s\n", text);
	fclose(f);
}

static void ring(void *ctx)
{
	fh_engine_ring(ctx);
}

static void udp_rig_open_audited(struct udp_rig *r, bool plain, struct fh_auditor *audit)
{
	struct fh_udp_config uc = {
		.listen = "127.0.0.1:0", .max_requests = 256, .force_plain = plain, .on_engine = on_engine};
	struct fh_engine_config cfg = rig_config();
	char public[FHW_KEY_TEXT];
	struct fh_err err = {0};
	FILE *f;

	memcpy(uc.ports, r->ports, sizeof(uc.ports));
	uc.nr_ports = r->nr_ports;
	memset(r, 0, sizeof(*r));
	cfg.max_queue = 128;
	rig_open(&r->g, cfg);
	fh_log_setup(FH_LOG_ERROR, false);
	strcpy(r->dir, "/tmp/fhudpXXXXXX");
	cr_assert(mkdtemp(r->dir));
	snprintf(r->server_key, sizeof(r->server_key), "%s/server", r->dir);
	snprintf(r->client_key, sizeof(r->client_key), "%s/client", r->dir);
	snprintf(r->clients, sizeof(r->clients), "%s/clients", r->dir);
	write_key(r->server_key, 7, public);
	write_key(r->client_key, 9, public);
	f = fopen(r->clients, "w");
	cr_assert(f);
	fprintf(f, "# who may come\n\ntest %s # that is us\n", public);
	fclose(f);
	r->g.svc.ring = ring;
	r->g.svc.model = (struct fh_model_info){.id = "oracle", .nr_vocab = NR_VOCAB, .nr_ctx = cfg.nr_ctx};
	uc.key_file = r->server_key;
	uc.clients_file = r->clients;
	cr_assert_eq(fh_udp_create(&uc, &r->g.svc, &r->u, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_udp_nr_clients(r->u), 1);
	for (uint32_t i = 0; i < fh_udp_nr_queues(r->u); i++) {
		fh_udp_frontend(r->u, i)->audit = audit;
		cr_assert_eq(fh_engine_attach(r->g.e, fh_udp_frontend(r->u, i), &err), 0, "%s", err.msg);
	}
	fh_fake_set_pump(r->g.f, NULL, NULL);
	cr_assert_eq(fh_engine_start(r->g.e, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_udp_start(r->u, &err), 0, "%s", err.msg);
}

static void udp_rig_open(struct udp_rig *r, bool plain)
{
	memset(r, 0, sizeof(*r));
	udp_rig_open_audited(r, plain, NULL);
}

static void udp_rig_close(struct udp_rig *r, uint32_t drain_ms)
{
	fh_udp_stop(r->u, drain_ms);
	fh_engine_stop(r->g.e, 0);
	cr_assert(fh_engine_check(r->g.e), "the engine leaks");
	for (uint32_t i = 0; i < fh_udp_nr_queues(r->u); i++)
		fh_engine_detach(r->g.e, fh_udp_frontend(r->u, i));
	fh_udp_destroy(r->u);
	rig_close(&r->g);
	unlink(r->server_key);
	unlink(r->client_key);
	unlink(r->clients);
	rmdir(r->dir);
}

static struct fh_client *udp_open_at(struct udp_rig *r, const char *url)
{
	struct fh_open_options o;
	struct fh_client *c;

	fh_open_options_init(&o);
	o.udp_key_file = r->client_key;
	o.max_requests = 96;
	cr_assert_eq(fh_open(url, &o, &c), 0, "%s", fh_error_message(c));
	return c;
}

static struct fh_client *udp_open(struct udp_rig *r)
{
	return udp_open_at(r, fh_udp_url(r->u));
}

/* ---- requests whose tokens are known ---- */

enum { WORK_IDS = 64, WORK_OUT = 200, AT_ONCE = 16 };

struct work {
	uint32_t ids[WORK_IDS], nr_ids, max_tokens, nr_out, out[WORK_OUT];
	uint64_t seed, id;
	bool busy, cancelled;
};

static void work_submit(struct fh_client *c, struct work *w, struct rng *r, uint32_t at)
{
	struct fh_params p;

	*w = (struct work){.nr_ids = 1 + rnd(r, WORK_IDS),
			   .max_tokens = 1 + rnd(r, WORK_OUT - 1),
			   .seed = rnd(r, 2) ? ORACLE_LOOPS + rnd(r, 5) : rnd(r, 5),
			   .busy = true};
	for (uint32_t i = 0; i < w->nr_ids; i++)
		w->ids[i] = rnd(r, NR_VOCAB);
	fh_params_init(&p);
	p.max_tokens = w->max_tokens;
	p.flags = FH_REQ_SEED;
	p.seed = w->seed;
	p.user_data = at;
	cr_assert_eq(fh_generate(c, w->ids, w->nr_ids, &p, &w->id), 0, "%s", fh_error_message(c));
	if (!rnd(r, 10)) {
		cr_assert_eq(fh_cancel(c, w->id), 0);
		w->cancelled = true;
	}
}

static bool work_take(struct work *w, const struct fh_token *t, uint32_t nr_ctx)
{
	struct fh_request r = {
		.prompt = w->ids, .nr_prompt = w->nr_ids, .max_tokens = w->max_tokens, .sampling.seed = w->seed};
	uint32_t want[MAX_OUT], nr_want;
	enum fh_finish why;

	cr_assert(w->busy && t->id == w->id, "a token of a request that has ended");
	cr_assert_eq(t->error, 0, "error %d", t->error);
	if (!(t->flags & FH_SLOT_NO_TOKEN)) {
		cr_assert_eq(t->index, w->nr_out);
		w->out[w->nr_out++] = t->token;
	}
	if (!(t->flags & FH_SLOT_LAST))
		return false;
	w->busy = false;
	why = oracle_expect(&r, nr_ctx, want, &nr_want);
	cr_assert(t->finish == why || (w->cancelled && t->finish == FH_FINISH_CANCELLED));
	cr_assert(w->nr_out == nr_want || (w->cancelled && w->nr_out < nr_want));
	cr_assert_arr_eq(w->out, want, w->nr_out * sizeof(*want));
	return true;
}

static void work_run(struct fh_client *c, struct rng *r, uint32_t nr, uint32_t nr_ctx)
{
	struct work *w = calloc(AT_ONCE, sizeof(*w));
	uint32_t nr_begun = 0, nr_ended = 0;

	while (nr_ended < nr) {
		struct fh_token t;

		for (uint32_t i = 0; i < AT_ONCE && nr_begun < nr; i++) {
			if (w[i].busy)
				continue;
			work_submit(c, &w[i], r, i);
			nr_begun++;
		}
		cr_assert_eq(fh_next_token(c, &t, 20000000), 0, "%u of %u requests ended: %s", nr_ended, nr,
			     fh_error_message(c));
		cr_assert_lt(t.user_data, AT_ONCE);
		nr_ended += work_take(&w[t.user_data], &t, nr_ctx);
	}
	free(w);
}

static void requests(bool plain)
{
	struct rng seed = {.s = 11 + plain};
	struct fh_client_info info = {.size = sizeof(info)};
	struct fh_client *c, *other;
	struct udp_rig r;
	char *text;
	size_t n;
	FILE *f;

	/* At both ends. */
	setenv("FREEHOLD_NO_IO_URING", plain ? "1" : "", 1);
	udp_rig_open(&r, plain);
	c = udp_open(&r);
	other = udp_open(&r);
	cr_assert_eq(fh_get_info(c, &info), 0);
	cr_assert_str_eq(info.transport, "udp");
	cr_assert_str_eq(info.model, "oracle");
	cr_assert(info.nr_vocab == NR_VOCAB && info.nr_ctx == rig_config().nr_ctx);
	work_run(c, &seed, 100, rig_config().nr_ctx);
	work_run(other, &seed, 20, rig_config().nr_ctx);
	work_run(c, &seed, 20, rig_config().nr_ctx);
	/* Asked for from another thread's point of view, while it serves. */
	f = open_memstream(&text, &n);
	fh_udp_metrics(r.u, f);
	fclose(f);
	cr_assert(strstr(text, "\nfreehold_udp_sessions_total 2\n"), "%s", text);
	cr_assert(strstr(text, "\nfreehold_udp_packets_dropped_total{reason=\"forged\"} 0\n"), "%s", text);
	free(text);
	fh_close(other);
	fh_close(c);
	udp_rig_close(&r, 2000);
}

Test(udp, requests, .timeout = 120)
{
	requests(false);
}

Test(udp, requests_without_io_uring, .timeout = 120)
{
	requests(true);
}

Test(udp, requests_on_engine, .timeout = 120)
{
	on_engine = true;
	requests(false);
	requests(true);
}

/* As in many containers: both ends find out themselves. */
Test(udp, requests_where_io_uring_is_refused, .timeout = 120)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = 4, .filter = code};
	struct rng seed = {.s = 13};
	struct fh_client *c;
	struct udp_rig r;

	cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	cr_assert_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), 0);
	udp_rig_open(&r, false);
	cr_assert_str_eq(fh_udp_backend(r.u), "socket");
	c = udp_open(&r);
	work_run(c, &seed, 20, rig_config().nr_ctx);
	fh_close(c);
	udp_rig_close(&r, 2000);
}

static uint64_t metric(struct fh_udp *u, const char *name)
{
	unsigned long long v;
	char *text, *at;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	fh_udp_metrics(u, f);
	fclose(f);
	at = strstr(text, name);
	cr_assert(at && sscanf(at + strlen(name), " %llu\n", &v) == 1, "%s", text);
	free(text);
	return v;
}

struct at_queue {
	struct udp_rig *r;
	char url[192];
	struct rng rng;
	pthread_t thread;
};

static void *at_queue(void *arg)
{
	struct at_queue *q = arg;
	struct fh_client *c = udp_open_at(q->r, q->url);

	work_run(c, &q->rng, 60, rig_config().nr_ctx);
	fh_close(c);
	return NULL;
}

/* Two queues, here two sockets, with a thread each and one engine: each serves its own, and they are counted together.
 */
Test(udp, several_queues, .timeout = 120)
{
	struct at_queue q[4] = {0};
	struct udp_rig r = {.nr_ports = 2};
	uint16_t port[2];
	struct fh_err err;

	for (int i = 0; i < 2; i++) {
		struct fh_dgram_open o = {
			.size = sizeof(o), .server = true, .local.ip = {[10] = 0xff, 0xff, 127, 0, 0, 1}};
		struct fh_dgram_addr a;

		cr_assert_eq(fh_dgram_sock_open(&o, &r.ports[i], &err), 0, "%s", err.msg);
		r.ports[i]->ops->local(r.ports[i], &a);
		port[i] = a.port;
	}
	udp_rig_open_audited(&r, true, NULL);
	cr_assert_eq(fh_udp_nr_queues(r.u), 2);
	for (int i = 0; i < 4; i++) {
		int n = (int)(strrchr(fh_udp_url(r.u), ':') - fh_udp_url(r.u));

		q[i] = (struct at_queue){.r = &r, .rng.s = 77u + (uint32_t)i};
		snprintf(q[i].url, sizeof(q[i].url), "%.*s:%u", n, fh_udp_url(r.u), port[i % 2]);
		cr_assert_eq(pthread_create(&q[i].thread, NULL, at_queue, &q[i]), 0);
	}
	for (int i = 0; i < 20; i++) {
		metric(r.u, "\nfreehold_udp_requests_total");
		cr_assert_eq(fh_udp_reload(r.u, &err), 0, "%s", err.msg);
		usleep(2000);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(q[i].thread, NULL);
	/* What a queue shows is of before its last sleep. */
	for (int i = 0; i < 200 && metric(r.u, "\nfreehold_udp_requests_total") < 240; i++)
		usleep(10000);
	cr_assert_eq(metric(r.u, "\nfreehold_udp_requests_total"), 240);
	cr_assert_eq(metric(r.u, "\nfreehold_udp_sessions_total"), 4);
	udp_rig_close(&r, 2000);
}

/* Ask for many tokens, look away until they are there, and read them. How many packets they came in. */
static uint64_t look_away(struct udp_rig *r, struct fh_client *c)
{
	enum { NR = 90, TOKENS = 60 }; /* as many as the engine has places for, a packet each or more */
	uint64_t packets = metric(r->u, "\nfreehold_udp_token_packets_total");

	for (uint32_t i = 0; i < NR; i++) {
		struct fh_params p;

		fh_params_init(&p);
		p.max_tokens = TOKENS;
		cr_assert_eq(fh_generate(c, (uint32_t[]){i % NR_VOCAB}, 1, &p, NULL), 0);
	}
	usleep(100000);
	packets = metric(r->u, "\nfreehold_udp_token_packets_total") - packets;
	for (uint32_t nr_ended = 0; nr_ended < NR;) {
		struct fh_token t;

		cr_assert_eq(fh_next_token(c, &t, 20000000), 0);
		cr_assert_eq(t.error, 0, "error %d", t.error);
		nr_ended += !!(t.flags & FH_SLOT_LAST);
	}
	return packets;
}

/* More packets wait for a client that was away than one acknowledgement tells of: they are not taken for lost. */
Test(udp, client_that_was_away, .timeout = 120)
{
	uint64_t lost, packets = 0;
	struct fh_client *c;
	struct udp_rig r = {0};

	udp_rig_open(&r, true);
	c = udp_open(&r);
	/* Opens the window. */
	work_run(c, &(struct rng){.s = 3}, 100, rig_config().nr_ctx);
	lost = metric(r.u, "\nfreehold_udp_lost_packets_total");
	for (int i = 0; i < 20 && packets < 80; i++)
		packets = look_away(&r, c);
	lost = metric(r.u, "\nfreehold_udp_lost_packets_total") - lost;
	cr_assert_geq(packets, 80, "only %llu packets waited", (unsigned long long)packets);
	cr_assert_lt(lost, 16, "%llu packets were taken for lost", (unsigned long long)lost);
	fh_close(c);
	udp_rig_close(&r, 2000);
}

/* The server goes with requests under way: they end with an error or are cancelled, soon. */
static void stop_under_way(void)
{
	struct rng seed = {.s = 5};
	struct fh_client *c;
	struct fh_token t;
	struct udp_rig r;
	uint32_t nr_ended = 0;
	int rc;

	udp_rig_open(&r, false);
	c = udp_open(&r);
	for (uint32_t i = 0; i < 32; i++) {
		struct work w;

		work_submit(c, &w, &seed, i);
	}
	cr_assert_eq(fh_next_token(c, &t, 20000000), 0);
	nr_ended += !!(t.flags & FH_SLOT_LAST);
	udp_rig_close(&r, 0);
	while (!(rc = fh_next_token(c, &t, 20000000)))
		nr_ended += !!(t.flags & FH_SLOT_LAST);
	cr_assert_eq(rc, -EPIPE, "%d: %s", rc, fh_error_message(c));
	cr_assert_eq(nr_ended, 32);
	cr_assert_eq(fh_generate(c, &(uint32_t){1}, 1,
				 &(struct fh_params){.size = sizeof(struct fh_params), .max_tokens = 1}, NULL),
		     -EPIPE);
	fh_close(c);
}

Test(udp, stop, .timeout = 120)
{
	stop_under_way();
	on_engine = true;
	stop_under_way();
}

/* A client that goes without a word, and one that never reads: neither holds up the server's end. */
static void clients_go(void)
{
	struct rng seed = {.s = 6};
	struct fh_client *c, *silent;
	struct udp_rig r;
	struct work w;

	udp_rig_open(&r, false);
	silent = udp_open(&r);
	for (uint32_t i = 0; i < 8; i++)
		work_submit(silent, &w, &seed, i);
	c = udp_open(&r);
	work_submit(c, &w, &seed, 0);
	fh_close(c);
	c = udp_open(&r);
	work_run(c, &seed, 20, rig_config().nr_ctx);
	udp_rig_close(&r, 0);
	fh_close(c);
	fh_close(silent);
}

Test(udp, clients_that_go, .timeout = 120)
{
	clients_go();
	on_engine = true;
	clients_go();
}

static bool any_cancelled(struct fh_udp *u)
{
	for (uint32_t i = 0; i < 64; i++)
		if (u->reqs[i].req.cancel)
			return true;
	return false;
}

/* The socket goes: what the engine runs is cancelled, for nobody will read it. */
static void port_breaks(void)
{
	struct fh_params p;
	struct fh_client *c;
	struct udp_rig r;
	struct fh_token t;
	uint64_t id;
	int null;

	udp_rig_open(&r, true);
	c = udp_open(&r);
	fh_params_init(&p);
	/* More than the ring has slots for, and nobody gives them back. */
	p.max_tokens = 900;
	p.flags = FH_REQ_SEED;
	p.seed = ORACLE_LOOPS;
	cr_assert_eq(fh_generate(c, (uint32_t[]){1, 2, 3}, 3, &p, &id), 0);
	cr_assert_eq(fh_next_token(c, &t, 20000000), 0);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	cr_assert(null >= 0 && dup2(null, ((struct fh_dgram_sock *)r.u->port)->fd) >= 0);
	close(null);
	r.u->port->ops->wake(r.u->port);
	/* By itself it would wait for so long. */
	fh_udp_stop(r.u, 20000);
	cr_assert(any_cancelled(r.u));
	cr_assert_eq(r.u->nr_inside, 0);
	udp_rig_close(&r, 0);
	fh_close(c);
}

Test(udp, broken_port, .timeout = 60)
{
	port_breaks();
	on_engine = true;
	port_breaks();
}

/* The engine has one thread to lend, and another front end finds out before anything starts. */
Test(udp, engine_carries_one, .timeout = 60)
{
	struct fh_frontend other = {.name = "other", .polled = &fh_udp_polled};
	struct fh_err err = {0};
	struct udp_rig r;

	on_engine = true;
	udp_rig_open(&r, true);
	fh_udp_stop(r.u, 0);
	fh_engine_stop(r.g.e, 0);
	cr_assert_eq(fh_engine_attach(r.g.e, &other, &err), -EBUSY);
	cr_assert(strstr(err.msg, "other"), "%s", err.msg);
	udp_rig_close(&r, 0);
}

/* ---- the audit log ---- */

/* A log whose disk is the test's to move.  All but the thread's own counts are read by the test meanwhile. */
struct fake_log {
	struct fh_auditor base;
	struct fh_udp *u;
	_Atomic uint64_t nr_events, nr_durable;
	_Atomic uint32_t nr_begun, nr_ended, nr_refused, nr_asked, fails, loses;
	_Atomic uint32_t nr_tokens; /* of all answers, as their ends have them */
};

static struct fake_log *log_of(struct fh_auditor *a)
{
	return (struct fake_log *)a;
}

static void log_check(const struct fh_audited *e)
{
	cr_assert_eq(e->who->how, FH_ID_PUBKEY);
	cr_assert(e->who->has_key_id);
	cr_assert_str_eq(e->who->tenant, "test");
}

static int log_begin(struct fh_auditor *a, const struct fh_audited *e, struct fh_audit_ticket **t, uint64_t *seq)
{
	struct fake_log *l = log_of(a);

	log_check(e);
	cr_assert(e->endpoint == FH_AE_UDP && e->body_type == FH_AB_TOKENS);
	cr_assert_eq(e->body_bytes, e->nr_prompt * sizeof(uint32_t));
	if (l->fails)
		return -ENOSPC;
	l->nr_begun++;
	*t = (struct fh_audit_ticket *)l;
	*seq = ++l->nr_events;
	return 0;
}

static uint64_t log_end(struct fh_auditor *a, struct fh_audit_ticket *t, const struct fh_audited *e)
{
	struct fake_log *l = log_of(a);

	log_check(e);
	cr_assert_eq((void *)t, (void *)l);
	/* What ended it is counted, and perhaps no token that anybody sees. */
	cr_assert_leq(e->body_bytes, e->nr_generated * sizeof(uint32_t));
	l->nr_tokens += (uint32_t)(e->body_bytes / sizeof(uint32_t));
	l->nr_ended++;
	return l->loses ? 0 : ++l->nr_events;
}

static uint64_t log_refused(struct fh_auditor *a, const struct fh_audited *e)
{
	struct fake_log *l = log_of(a);

	log_check(e);
	l->nr_refused++;
	return ++l->nr_events;
}

static bool log_durable(struct fh_auditor *a, uint64_t seq)
{
	log_of(a)->nr_asked++;
	return log_of(a)->nr_durable >= seq;
}

static int log_trouble(struct fh_auditor *a)
{
	return log_of(a)->fails ? -ENOSPC : 0;
}

static const struct fh_auditor_ops log_ops = {
	.begin = log_begin, .end = log_end, .refused = log_refused, .durable = log_durable, .trouble = log_trouble};

static void log_sync(struct udp_rig *r, struct fake_log *l, uint64_t nr)
{
	l->nr_durable = nr;
	fh_udp_frontend(r->u, 0)->wake(fh_udp_frontend(r->u, 0));
}

static void until_events(struct fake_log *l, uint64_t nr)
{
	for (int i = 0; l->nr_events < nr; i++) {
		cr_assert_lt(i, 2000, "%llu events of %llu", (unsigned long long)l->nr_events, (unsigned long long)nr);
		usleep(10000);
	}
}

static void ask(struct fh_client *c, uint32_t max_tokens)
{
	struct fh_params p;

	fh_params_init(&p);
	p.max_tokens = max_tokens;
	p.flags = FH_REQ_SEED | FH_REQ_IGNORE_EOS;
	p.seed = ORACLE_LOOPS;
	cr_assert_eq(fh_generate(c, (uint32_t[]){1, 2, 3}, 3, &p, NULL), 0, "%s", fh_error_message(c));
}

static void lets_out_what_is_durable(void)
{
	struct fake_log l = {.base = {.ops = &log_ops, .strict = true, .wants_bodies = true}};
	struct fh_client *c;
	struct fh_token t;
	struct udp_rig r = {0};

	udp_rig_open_audited(&r, false, &l.base);
	c = udp_open(&r);
	ask(c, 20);
	/* All of it has been computed, and its begin and end handed over: not one token gets out. */
	until_events(&l, 2);
	cr_assert_eq(fh_next_token(c, &t, 300000), -ETIMEDOUT);
	/* With the begin durable all but the last. */
	log_sync(&r, &l, 1);
	for (int i = 0; i < 19; i++)
		cr_assert_eq(fh_next_token(c, &t, 20000000), 0, "%s", fh_error_message(c));
	cr_assert_eq(fh_next_token(c, &t, 300000), -ETIMEDOUT, "what the end vouches for waits for it");
	log_sync(&r, &l, 2);
	cr_assert_eq(fh_next_token(c, &t, 20000000), 0, "%s", fh_error_message(c));
	cr_assert(t.flags & FH_SLOT_LAST);
	/* A longer one runs until its ring is full, and on when its begin is durable. */
	ask(c, 400);
	until_events(&l, 3);
	log_sync(&r, &l, 3);
	for (int i = 0; i < 399; i++)
		cr_assert_eq(fh_next_token(c, &t, 20000000), 0, "%s", fh_error_message(c));
	cr_assert_eq(fh_next_token(c, &t, 300000), -ETIMEDOUT);
	until_events(&l, 4);
	log_sync(&r, &l, 4);
	cr_assert_eq(fh_next_token(c, &t, 20000000), 0);
	cr_assert(t.flags & FH_SLOT_LAST);
	/* While it cannot be written, what is new is refused, at once. */
	l.fails = 1;
	ask(c, 5);
	cr_assert_eq(fh_next_token(c, &t, 20000000), 0);
	cr_assert_eq(t.error, -EAGAIN);
	/* One that never gets durable does not keep the server from going, and has its one end. */
	l.fails = 0;
	ask(c, 5);
	until_events(&l, 7);
	udp_rig_close(&r, 0);
	fh_close(c);
	cr_assert(l.nr_begun == 3 && l.nr_ended == 3 && l.nr_refused == 1, "%u, %u, %u", l.nr_begun, l.nr_ended,
		  l.nr_refused);
	cr_assert_eq(l.nr_tokens, 425);
}

Test(udp, strict_log_lets_out_what_is_durable, .timeout = 120)
{
	lets_out_what_is_durable();
	on_engine = true;
	lets_out_what_is_durable();
}

/* An outcome that found no memory: what it would have vouched for stays here, and the client is told of a failure. */
Test(udp, strict_log_keeps_what_it_lost, .timeout = 60)
{
	struct fake_log l = {
		.base = {.ops = &log_ops, .strict = true, .wants_bodies = true}, .nr_durable = UINT64_MAX, .loses = 1};
	struct fh_client *c;
	struct fh_token t;
	struct udp_rig r = {0};

	udp_rig_open_audited(&r, false, &l.base);
	c = udp_open(&r);
	ask(c, 5);
	for (int i = 0; i < 4; i++) {
		cr_assert_eq(fh_next_token(c, &t, 20000000), 0, "%s", fh_error_message(c));
		cr_assert(!(t.flags & FH_SLOT_LAST) && !t.error);
	}
	cr_assert_eq(fh_next_token(c, &t, 20000000), 0, "%s", fh_error_message(c));
	cr_assert(t.flags & FH_SLOT_LAST && t.flags & FH_SLOT_NO_TOKEN);
	cr_assert_eq(t.error, -EIO);
	fh_close(c);
	udp_rig_close(&r, 2000);
	cr_assert_eq(l.nr_ended, 1);
}

/* Requests by the hundred, cancelled ones among them, with a log that says at once that all is durable or does not
 * wait. */
static void logged(bool strict)
{
	struct fake_log l = {.base = {.ops = &log_ops, .strict = strict, .wants_bodies = true},
			     .nr_durable = UINT64_MAX};
	struct rng seed = {.s = 21};
	struct fh_client *c;
	struct udp_rig r = {0};

	udp_rig_open_audited(&r, false, &l.base);
	c = udp_open(&r);
	work_run(c, &seed, 100, rig_config().nr_ctx);
	fh_close(c);
	udp_rig_close(&r, 2000);
	cr_assert_eq(l.nr_begun, l.nr_ended);
	cr_assert(l.nr_begun + l.nr_refused <= 100 && l.nr_begun > 50);
	cr_assert(strict == !!l.nr_asked);
}

Test(udp, logged, .timeout = 120)
{
	logged(false);
	logged(true);
	on_engine = true;
	logged(true);
}
