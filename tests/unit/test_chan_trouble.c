// SPDX-License-Identifier: Apache-2.0
/*
 * Channels in trouble: clients that die, that lie, that write rubbish into all
 * that they may write, and a server that goes.  Whoever breaks a rule loses its
 * own channel; everybody else's tokens stay what they must be.
 */
#include <signal.h>
#include <sys/wait.h>

#include "runtime/trust/keydb.h"
#include "runtime/trust/keytab.h"
#include "runtime/trust/rules.h"
#include "tests/unit/audit_lossy.h"
#include "tests/unit/chan_rig.h"

#ifndef MFD_HUGETLB
#define MFD_HUGETLB 0x0004U
#endif

#define MODEL "tools/demo/freehold-stories-13M-moe-Q8_0.gguf"

static const struct fh_chans_config plain;

static struct fh_chans_stats stats_of(struct chan_rig *r)
{
	struct fh_chans_stats s;

	fh_chans_stats(r->f, &s);
	return s;
}

static uint32_t held_blocks(struct chan_rig *r)
{
	struct fh_engine_stats st;

	fh_engine_stats(r->g.e, &st);
	return st.nr_blocks - st.nr_blocks_free - st.nr_blocks_cached;
}

/* ---- death ---- */

/* The client's process is killed in the middle of its answers: in that turn its blocks are free. */
Test(chan_trouble, a_killed_client_leaves_nothing)
{
	struct fh_engine_config cfg = rig_config();
	struct chan_rig rig;
	struct client other;
	struct rng r = {9};

	chan_rig_open(&rig, cfg, plain);
	client_open(&other, chan_rig_url(&rig), 8, 64, 1 << 14);
	for (int round = 0; round < 10; round++) {
		uint64_t nr_before = stats_of(&rig).nr_requests;
		pid_t pid = fork();

		if (!pid) {
			struct client c;
			struct fh_req_desc d;

			client_open(&c, chan_rig_url(&rig), 8, 8, 1 << 14);
			for (uint32_t i = 0; i < 4; i++) {
				for (uint32_t k = 0; k < 64; k++)
					client_arena(&c)[i * 64 + k] = 10 + i;
				d = client_desc(i, i * 64, 64, 900);
				d.flags = FH_REQ_IGNORE_EOS;
				client_submit(&c, &d);
			}
			pause();
			_exit(0);
		}
		cr_assert(soon(10000, stats_of(&rig).nr_requests == nr_before + 4));
		if (round % 2)
			cr_assert(soon(10000, held_blocks(&rig) >= 8), "%u blocks held", held_blocks(&rig));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		cr_assert(soon(2000, stats_of(&rig).nr_open == 1));
		cr_assert_eq(held_blocks(&rig), 0u, "%u blocks are still held", held_blocks(&rig));
		cr_assert_eq(stats_of(&rig).nr_inside, 0u);
		work_run(&other, &r, 4, 4, cfg.nr_ctx);
	}
	cr_assert_eq(stats_of(&rig).nr_violations, 0u);
	client_close(&other);
	chan_rig_close(&rig);
}

/* The server goes: within 100 ms its clients know, whatever they do. */
Test(chan_trouble, the_server_goes)
{
	struct client c[2];
	struct chan_rig rig;
	struct pollfd p;
	uint64_t begin;

	chan_rig_open(&rig, rig_config(), plain);
	for (int i = 0; i < 2; i++)
		client_open(&c[i], chan_rig_url(&rig), 4, 8, 4096);
	begin = fh_now_ns();
	chan_rig_close(&rig);
	cr_assert_lt(fh_now_ns() - begin, 3000000000u);
	for (int i = 0; i < 2; i++) {
		const struct fh_chan_info *info = (const void *)c[i].runtime;

		cr_assert_eq(client_state(&c[i]), FH_CHAN_REVOKED);
		cr_assert_eq(info->revoke_reason, FH_REVOKE_DRAIN);
		p = (struct pollfd){c[i].fd, POLLIN, 0};
		cr_assert_eq(poll(&p, 1, 100), 1);
		cr_assert(p.revents & POLLHUP);
		client_close(&c[i]);
	}
}

/* Strict: a request whose outcome is not in the audit log is not told its end; its channel goes. */
Test(chan_trouble, a_lost_outcome)
{
	struct lossy audit = {.base = {.ops = &lossy_ops, .strict = true}};
	struct fh_req_desc d = client_desc(1, 0, 4, 5);
	struct client c;
	struct chan_rig rig;
	struct fh_cqe e;

	chan_rig_open(&rig, rig_config(), plain);
	/* Nobody has asked for anything yet. */
	fh_chans_frontend(rig.f)->audit = &audit.base;
	client_open(&c, chan_rig_url(&rig), 4, 8, 4096);
	for (int i = 0; i < 4; i++)
		client_arena(&c)[i] = 10;
	d.flags = FH_REQ_IGNORE_EOS;
	client_submit(&c, &d);
	do
		cr_assert(client_next(&c, &e));
	while (!(e.slot.flags & FH_SLOT_LAST));
	atomic_store(&audit.lose, 1);
	client_submit(&c, &d);
	cr_assert(soon(5000, client_state(&c) == FH_CHAN_REVOKED), "state %u", client_state(&c));
	while (client_poll(&c, &e))
		cr_expect(!(e.slot.flags & FH_SLOT_LAST));
	cr_expect_eq(atomic_load(&audit.nr_lost), 1u);
	cr_assert(soon(2000, stats_of(&rig).nr_open == 0));
	client_close(&c);
	chan_rig_close(&rig);
}

static struct fh_guard *load_table(struct fh_keydb *db, const struct fh_keytab_world *world)
{
	struct fh_guard *g;
	struct fh_err err;

	cr_assert_eq(fh_keytab_load(db, world, &g, &err), 0, "%s", err.msg);
	return g;
}

/* A tenant that is locked out loses its open channel; a table that says nothing of the kind takes none away. */
Test(chan_trouble, a_tenant_is_locked_out)
{
	static const char *const rules[] = {"any acme"};
	struct fh_req_desc d = client_desc(1, 0, 4, 5);
	struct fh_key_spec spec = {.tenant = "acme"};
	char dir[] = "/tmp/fhkeysXXXXXX", path[64];
	struct fh_keytab_world world = {.model = "oracle"};
	struct fh_chans_config cc = plain;
	struct fh_rules *parsed;
	struct fh_key_new key;
	struct fh_keydb *db;
	struct chan_rig rig;
	struct fh_err err;
	struct client c;
	struct fh_cqe e;

	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/db", dir);
	cr_assert_eq(fh_keydb_open(path, true, &db, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_keydb_add(db, &spec, 1, &key, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_rules_parse(rules, 1, &parsed, &err), 0, "%s", err.msg);
	world.rules = parsed;
	cc.guard = load_table(db, &world);
	chan_rig_open(&rig, rig_config(), cc);
	fh_guard_put(cc.guard);
	client_open(&c, chan_rig_url(&rig), 4, 8, 4096);
	for (int i = 0; i < 4; i++)
		client_arena(&c)[i] = 10;
	d.flags = FH_REQ_IGNORE_EOS;
	fh_chans_set_guard(rig.f, load_table(db, &world));
	client_submit(&c, &d);
	do
		cr_assert(client_next(&c, &e));
	while (!(e.slot.flags & FH_SLOT_LAST));
	cr_assert_eq(client_state(&c), FH_CHAN_OPEN);
	cr_assert_eq(fh_keydb_set_disabled(db, "acme", true, &err), 0, "%s", err.msg);
	fh_chans_set_guard(rig.f, load_table(db, &world));
	cr_assert(soon(5000, client_state(&c) == FH_CHAN_REVOKED), "state %u", client_state(&c));
	cr_assert(soon(2000, stats_of(&rig).nr_open == 0));
	client_close(&c);
	chan_rig_close(&rig);
	fh_rules_free(parsed);
	fh_keydb_close(db);
	unlink(path);
	rmdir(dir);
}

/* While it drains, what runs goes on and what is new is refused. */
Test(chan_trouble, draining)
{
	struct fh_req_desc d = client_desc(1, 0, 4, 60);
	struct chan_rig rig;
	struct client c;
	struct fh_cqe e;
	uint32_t nr = 0;

	chan_rig_open(&rig, rig_config(), plain);
	client_open(&c, chan_rig_url(&rig), 4, 4, 4096);
	for (int i = 0; i < 4; i++)
		client_arena(&c)[i] = 10;
	d.flags = FH_REQ_IGNORE_EOS;
	client_submit(&c, &d);
	cr_assert(client_next(&c, &e));
	fh_chans_drain(rig.f);
	d.user_data = 2;
	client_submit(&c, &d);
	for (nr = 1; nr < 61;) {
		cr_assert(client_next(&c, &e));
		if (e.user_data == 2)
			cr_assert_eq(e.error, -ESHUTDOWN);
		else
			cr_assert_eq(e.slot.stamp, ++nr);
		if (nr == 60)
			break;
	}
	cr_assert(e.slot.flags & FH_SLOT_LAST);
	client_close(&c);
	chan_rig_close(&rig);
}

/* ---- the handshake ---- */

/* Send @n bytes with @fds and expect to be refused with @error. */
static void expect_refused(int fd, const void *buf, size_t n, const int *fds, size_t nr, int error, const char *what)
{
	struct fh_sock_refused p = {0};
	int got[2];

	cr_assert_eq(client_send(fd, buf, n, fds, nr), (ssize_t)n);
	cr_assert_eq(client_recv(fd, &p, got), FH_SOCK_REFUSED, "%s: not refused", what);
	cr_assert_eq(p.error, error, "%s: %d (%s)", what, p.error, p.why);
	cr_assert(p.why[0] && !p.why[sizeof(p.why) - 1]);
	cr_assert_eq(client_recv(fd, &p, got), 0, "%s: the socket is still open", what);
	close(fd);
}

Test(chan_trouble, hellos_that_are_refused)
{
	struct fh_sock_hello good = client_hello(8, 8, 4096), h;
	struct chan_rig rig;
	const char *url;
	char big[4096] = {0};
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC), fds[16];

	chan_rig_open(&rig, rig_config(), plain);
	url = chan_rig_url(&rig);
#define BAD(field, value, error)                                                                                       \
	h = good;                                                                                                      \
	h.field = value;                                                                                               \
	expect_refused(client_dial(url), &h, sizeof(h), NULL, 0, error, #field)
	BAD(head.size, 39, -EPROTO);
	BAD(head.type, FH_SOCK_ATTACH, -EPROTO);
	BAD(head.type, FH_SOCK_KICK, -EPROTO);
	BAD(version, 2, -EPROTO);
	BAD(flags, 1, -EINVAL);
	BAD(__reserved, 1, -EINVAL);
	BAD(page_bytes, 0, -EINVAL);
	BAD(page_bytes, 4095, -EINVAL);
	BAD(page_bytes, 1 << 20, -EINVAL);
	BAD(sq_entries, 0, -EINVAL);
	BAD(sq_entries, 3, -EINVAL);
	BAD(sq_entries, 8192, -EINVAL);
	BAD(cq_entries, 0, -EINVAL);
	BAD(cq_entries, 1 << 17, -EINVAL);
	BAD(arena_bytes, 0, -EINVAL);
	BAD(arena_bytes, UINT64_MAX, -EINVAL);
	BAD(arena_bytes, FH_ARENA_BYTES_MAX, -EDQUOT);
	expect_refused(client_dial(url), &good, 4, NULL, 0, -EPROTO, "four bytes");
	expect_refused(client_dial(url), &good, sizeof(good) - 1, NULL, 0, -EPROTO, "one byte short");
	memcpy(big, &good, sizeof(good));
	expect_refused(client_dial(url), big, sizeof(big), NULL, 0, -EPROTO, "4 KiB");
	for (int i = 0; i < 16; i++)
		fds[i] = null;
	expect_refused(client_dial(url), &good, sizeof(good), fds, 1, -EPROTO, "a descriptor");
	expect_refused(client_dial(url), &good, sizeof(good), fds, 16, -EPROTO, "sixteen descriptors");
	close(null);
	cr_assert(soon(2000, stats_of(&rig).nr_open == 0));
	chan_rig_close(&rig);
}

/* Number of this process's descriptors. */
static int nr_open_fds(void)
{
	int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void expect_bad_memory(struct chan_rig *rig, int fd, const char *what)
{
	const struct fh_sock_head attach = {sizeof(attach), FH_SOCK_ATTACH};
	struct client c;

	client_welcome(&c, chan_rig_url(rig), 8, 8, 4096);
	expect_refused(c.fd, &attach, sizeof(attach), &fd, 1, -EINVAL, what);
	close(fd);
	close(c.vocab_fd);
	munmap(c.runtime, c.info.chan_bytes);
}

Test(chan_trouble, memory_that_is_refused)
{
	const struct fh_sock_head attach = {sizeof(attach), FH_SOCK_ATTACH}, kick = {sizeof(kick), FH_SOCK_KICK};
	const int seals[] = {0, F_SEAL_SHRINK | F_SEAL_GROW, F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE,
			     F_SEAL_GROW | F_SEAL_FUTURE_WRITE};
	const int all = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE;
	struct fh_chan_info info = {0};
	struct chan_rig rig;
	struct client c;
	int fd, fds[2], before;
	char name[] = "/dev/shm/fhchanXXXXXX";

	fh_chan_layout(&info, 4096, 8, 8, 4096);
	chan_rig_open(&rig, rig_config(), plain);
	before = nr_open_fds();
	for (size_t i = 0; i < sizeof(seals) / sizeof(seals[0]); i++) {
		fd = memfd_create("bad", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		cr_assert_eq(ftruncate(fd, (off_t)info.chan_bytes), 0);
		cr_assert_eq(fcntl(fd, F_ADD_SEALS, seals[i]), 0);
		expect_bad_memory(&rig, fd, "seals");
	}
	for (int d = -1; d < 2; d += 2) {
		fd = memfd_create("bad", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		cr_assert_eq(ftruncate(fd, (off_t)info.chan_bytes + d), 0);
		cr_assert_eq(fcntl(fd, F_ADD_SEALS, all), 0);
		expect_bad_memory(&rig, fd, "length");
	}
	fd = memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
	if (fd >= 0)
		expect_bad_memory(&rig, fd, "huge pages");
	fd = mkstemp(name);
	if (fd >= 0) {
		unlink(name);
		cr_assert_eq(ftruncate(fd, (off_t)info.chan_bytes), 0);
		expect_bad_memory(&rig, fd, "a file of tmpfs");
	}
	expect_bad_memory(&rig, open("/dev/zero", O_RDWR | O_CLOEXEC), "/dev/zero");
	expect_bad_memory(&rig, open("/proc/self/exe", O_RDONLY | O_CLOEXEC), "a file");
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	expect_bad_memory(&rig, fds[0], "a socket");
	close(fds[1]);
	/* None, two, and another packet than was due. */
	for (int i = 0; i < 3; i++) {
		client_welcome(&c, chan_rig_url(&rig), 8, 8, 4096);
		client_map_own(&c);
		client_seal(&c);
		fds[0] = fds[1] = c.own_fd;
		expect_refused(c.fd, i < 2 ? &attach : &kick, sizeof(attach), fds, i == 1 ? 2 : 0, -EPROTO, "ATTACH");
		c.fd = -1;
		client_close(&c);
	}
	cr_assert(soon(2000, nr_open_fds() == before), "%d descriptors, %d before", nr_open_fds(), before);
	chan_rig_close(&rig);
}

/* Limits of channels, of channels of a user, and of their memory. */
Test(chan_trouble, limits)
{
	struct fh_sock_hello h = client_hello(8, 8, 100000);
	struct fh_sock_refused p;
	struct chan_rig rig;
	struct client c[3];
	int fds[2], fd;

	chan_rig_open(&rig, rig_config(), (struct fh_chans_config){.max_per_uid = 3, .max_uid_bytes = 300000});
	for (int i = 0; i < 2; i++)
		client_open(&c[i], chan_rig_url(&rig), 8, 8, 100000);
	expect_refused(client_dial(chan_rig_url(&rig)), &h, sizeof(h), NULL, 0, -EDQUOT, "bytes");
	client_open(&c[2], chan_rig_url(&rig), 8, 8, 4096);
	fd = client_dial(chan_rig_url(&rig));
	cr_assert_eq(client_recv(fd, &p, fds), FH_SOCK_REFUSED);
	cr_assert_eq(p.error, -EDQUOT);
	cr_assert_gt(p.retry_us, 0u);
	close(fd);
	for (int i = 0; i < 3; i++)
		client_close(&c[i]);
	/* What is closed is given back. */
	cr_assert(soon(2000, stats_of(&rig).nr_open == 0));
	usleep(50000);
	for (int i = 0; i < 2; i++)
		client_open(&c[i], chan_rig_url(&rig), 8, 8, 100000);
	for (int i = 0; i < 2; i++)
		client_close(&c[i]);
	chan_rig_close(&rig);
}

/* ---- lies ---- */

/* It is given up with REVOKE_PROTOCOL, and its socket is closed. */
static void expect_given_up(struct chan_rig *rig, struct client *c, uint64_t nr_violations)
{
	const struct fh_chan_info *info = (const void *)c->runtime;

	cr_assert(soon(5000, client_state(c) == FH_CHAN_REVOKED), "state %u", client_state(c));
	cr_assert_eq(info->revoke_reason, FH_REVOKE_PROTOCOL);
	cr_assert(soon(2000, stats_of(rig).nr_open == 1 && !stats_of(rig).nr_inside));
	cr_assert_eq(stats_of(rig).nr_violations, nr_violations);
	client_close(c);
}

Test(chan_trouble, lies_cost_the_channel)
{
	const struct fh_sock_head bad = {sizeof(bad), FH_SOCK_HELLO};
	struct fh_engine_config cfg = rig_config();
	struct chan_rig rig;
	struct client good;
	struct rng r = {21};
	uint64_t nr = 0;

	chan_rig_open(&rig, cfg, plain);
	client_open(&good, chan_rig_url(&rig), 8, 64, 1 << 14);
	for (int kind = 0; kind < 7; kind++) {
		struct fh_req_desc d = client_desc(1, 0, 4, 200);
		struct client c;
		struct fh_cqe e;

		client_open(&c, chan_rig_url(&rig), 8, 8, 4096);
		for (int i = 0; i < 4; i++)
			client_arena(&c)[i] = 10;
		d.flags = FH_REQ_IGNORE_EOS;
		client_submit(&c, &d);
		cr_assert(client_next(&c, &e));
		switch (kind) {
		case 0: atomic_store(c.sq_tail, c.tail + 9); break;
		case 1: atomic_store(c.sq_tail, c.tail - 1); break;
		case 2: atomic_store(c.sq_tail, c.tail + 0x80000000u); break;
		case 3: atomic_store(c.cq_head, c.head + 1000); break;
		case 4:
			/* Only who has used the place that was free can tell that it is not any more. */
			cr_assert(soon(5000, atomic_load(c.cq_tail) - c.head == 8));
			atomic_store(c.cq_head, c.head - 1);
			break;
		case 5: client_send(c.fd, &bad, sizeof(bad), NULL, 0); break;
		default: client_send(c.fd, &bad, 3, NULL, 0); break;
		}
		client_kick(&c);
		expect_given_up(&rig, &c, ++nr);
		work_run(&good, &r, 4, 4, cfg.nr_ctx);
	}
	cr_assert_eq(held_blocks(&rig), 0u);
	client_close(&good);
	chan_rig_close(&rig);
}

/* ---- at full speed ---- */

struct vandal {
	pthread_t thread;
	const char *url;
	_Atomic uint32_t stop;
	uint32_t nr_channels, kind;
};

/* Rubbish over everything that a client may write; a channel that is taken away is opened anew. */
static void *vandal_main(void *arg)
{
	struct vandal *v = arg;
	struct rng r = {31 + v->kind};

	while (!atomic_load(&v->stop)) {
		struct client c;
		uint32_t *sq, *words;

		client_open(&c, v->url, 16, 16, 1 << 14);
		v->nr_channels++;
		sq = (uint32_t *)(c.own + c.info.areas[FH_AREA_SQ].off);
		words = (uint32_t *)(c.own + c.info.areas[FH_AREA_CLIENT].off);
		/* Kind 0 is caught soon; kind 1 keeps its indices right, and so goes on. */
		while (!atomic_load(&v->stop) && client_state(&c) == FH_CHAN_OPEN) {
			struct fh_cqe e;

			for (int i = 0; i < 64; i++)
				sq[rnd(&r, 16 * 32)] = rnd(&r, 8) ? rnd(&r, 64) : rnd(&r, UINT32_MAX);
			client_arena(&c)[rnd(&r, 1 << 12)] = rnd(&r, 100);
			if (v->kind == 1) {
				struct fh_req_desc d = client_desc(rnd(&r, 4), rnd(&r, 2048), 1 + rnd(&r, 30), 20);

				if (!client_sq_full(&c))
					client_submit(&c, &d);
				while (client_poll(&c, &e))
					;
			} else if (!rnd(&r, 100)) {
				__atomic_store_n(&words[rnd(&r, 48)], rnd(&r, 40), __ATOMIC_RELAXED);
				client_kick(&c);
			}
		}
		client_close(&c);
	}
	return NULL;
}

Test(chan_trouble, rubbish_at_full_speed)
{
	struct fh_engine_config cfg = rig_config();
	struct vandal v[2] = {{.kind = 0}, {.kind = 1}};
	struct chan_rig rig;
	struct client c;
	struct rng r = {3};
	uint64_t until;

	chan_rig_open(&rig, cfg, plain);
	client_open(&c, chan_rig_url(&rig), 8, 64, 1 << 14);
	c.how = CLIENT_FUTEX;
	for (int i = 0; i < 2; i++) {
		v[i].url = chan_rig_url(&rig);
		cr_assert_eq(pthread_create(&v[i].thread, NULL, vandal_main, &v[i]), 0);
	}
	until = fh_now_ns() + 2000000000u;
	do
		work_run(&c, &r, 8, 8, cfg.nr_ctx);
	while (fh_now_ns() < until);
	for (int i = 0; i < 2; i++) {
		atomic_store(&v[i].stop, 1);
		pthread_join(v[i].thread, NULL);
	}
	cr_assert_gt(v[0].nr_channels, 1u, "it was never caught");
	cr_assert(soon(5000, stats_of(&rig).nr_open == 1 && !stats_of(&rig).nr_inside));
	cr_assert_eq(held_blocks(&rig), 0u);
	client_close(&c);
	chan_rig_close(&rig);
}

/* ---- the arena ---- */

struct rewriter {
	pthread_t thread;
	uint32_t *ids, nr;
	_Atomic uint32_t stop;
};

enum { BASE_ID = 100, NR_WAVES = 64 };

/* Waves: each prompt is, at its best, one number all over. */
static void *rewrite(void *arg)
{
	struct rewriter *w = arg;

	for (uint32_t wave = 0; !atomic_load(&w->stop); wave++)
		for (uint32_t i = 0; i < w->nr; i++)
			__atomic_store_n(&w->ids[i], BASE_ID + wave % NR_WAVES, __ATOMIC_RELAXED);
	return NULL;
}

/*
 * The null model says its prompt again and again, out of the sequence's
 * snapshot.  While the arena is rewritten at full speed, both times it must say
 * the same: what was fetched once is what is run.
 */
Test(chan_trouble, the_prompt_is_fetched_once)
{
	enum { NR = 300, ROUNDS = 200 };
	struct rewriter w = {.nr = NR};
	struct chan_rig rig;
	struct client c;
	uint32_t nr_mixed = 0;

	chan_rig_open_model(&rig, "null:" MODEL, plain);
	client_open(&c, chan_rig_url(&rig), 4, 1024, 4 * NR);
	w.ids = client_arena(&c);
	for (uint32_t i = 0; i < NR; i++)
		w.ids[i] = BASE_ID;
	cr_assert_eq(pthread_create(&w.thread, NULL, rewrite, &w), 0);
	for (int round = 0; round < ROUNDS; round++) {
		struct fh_req_desc d = client_desc(1, 0, NR, 2 * NR);
		uint32_t said[2 * NR], n = 0;
		struct fh_cqe e;

		d.flags = FH_REQ_IGNORE_EOS;
		client_submit(&c, &d);
		do {
			cr_assert(client_next(&c, &e));
			cr_assert_eq(e.error, 0);
			said[n++] = e.slot.token;
		} while (!(e.slot.flags & FH_SLOT_LAST));
		cr_assert_eq(n, 2 * NR);
		cr_assert_arr_eq(said, said + NR, NR * sizeof(*said), "the prompt changed while it was run");
		for (uint32_t i = 0; i < NR; i++)
			cr_assert(said[i] >= BASE_ID && said[i] < BASE_ID + NR_WAVES);
		nr_mixed += said[0] != said[NR - 1];
	}
	atomic_store(&w.stop, 1);
	pthread_join(w.thread, NULL);
	cr_log_info("%u of %u prompts were caught between two waves", nr_mixed, ROUNDS);
	cr_assert_eq(stats_of(&rig).copied_bytes, (uint64_t)ROUNDS * NR * 4);
	client_close(&c);
	chan_rig_close(&rig);
}
