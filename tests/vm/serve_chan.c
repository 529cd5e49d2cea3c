// SPDX-License-Identifier: Apache-2.0
/*
 * What a client of /dev/freehold gets from the daemon: the tokens that
 * `freehold run` gives, under the name that the kernel vouches for; and what
 * death of either side, or a hostile neighbour, does to the others.
 */
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/vm/serve.h"

#define TOKENS 40
#define CGROUP "/sys/fs/cgroup/freehold-client"

/* Seen by parent and children. */
struct shared {
	_Atomic uint32_t tokens, opened, refused; /* what a client got */
	_Atomic uint64_t ended_us;		  /* when it saw the end of its channel */
	_Atomic uint32_t state, reason;		  /* which end */
	_Atomic uint32_t stop;
	char text[8192];
	int rc;
};

static struct shared *share(void)
{
	struct shared *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(s != MAP_FAILED);
	return s;
}

static void kill_and_reap(pid_t pid)
{
	int status;

	CHECK(kill(pid, SIGKILL) == 0);
	CHECK(waitpid(pid, &status, 0) == pid);
}

/* Until @word is at least @want. */
static bool wait_for(_Atomic uint32_t *word, uint32_t want, unsigned int timeout_ms)
{
	uint64_t until = now_us() + timeout_ms * 1000ull;

	while (*word < want && now_us() < until)
		nap_us(500);
	return *word >= want;
}

static bool wait_free(unsigned int timeout_ms)
{
	uint64_t until = now_us() + timeout_ms * 1000ull;
	unsigned int held;

	while ((held = blocks_held()) && now_us() < until)
		nap_us(1000);
	if (held)
		printf("  %u KV blocks are still held\n", held);
	return !held;
}

/* ---- tokens and names ---- */

static void become_client(void)
{
	struct group *g = getgrnam("freehold");
	gid_t gid;
	FILE *f;

	CHECK(g);
	gid = g->gr_gid;
	CHECK(mkdir(CGROUP, 0755) == 0 || errno == EEXIST);
	f = fopen(CGROUP "/cgroup.procs", "we");
	CHECK(f && fprintf(f, "%d\n", (int)getpid()) > 0 && fclose(f) == 0);
	CHECK(setgroups(1, &gid) == 0);
	CHECK(setresgid(CLIENT_UID, CLIENT_UID, CLIENT_UID) == 0 && setresuid(CLIENT_UID, CLIENT_UID, CLIENT_UID) == 0);
}

/* Another user's process that would rather be root's daemon. */
static void client_that_lies(void *arg)
{
	struct shared *s = arg;
	struct ring r;

	become_client();
	CHECK(prctl(PR_SET_NAME, "freehold") == 0);
	CHECK(ring_open(&r, 64) == 0);
	/* What the kernel stamped cannot be written, and the device of the runtime not be opened. */
	CHECK_ERRNO(mprotect(r.c.info, 4096, PROT_READ | PROT_WRITE), EACCES);
	CHECK_ERRNO(open(RUNTIME_DEV, O_RDWR), EACCES);
	CHECK((r.c.info->peer.flags & FH_PEER_VALID) && r.c.info->peer.uid != CLIENT_UID);
	s->rc = ring_text(&r, TOKENS, s->text, sizeof(s->text));
	ring_close(&r);
}

TEST(serve_greedy_and_names)
{
	struct shared *s = share();
	struct daemon d;
	char *want = run_greedy(TOKENS), name[128], *line;
	struct stat st;
	pid_t pid;

	daemon_start(&d, NULL);
	pid = spawn(client_that_lies, s);
	reap(pid);
	CHECK(s->rc == 0);
	if (strcmp(s->text, want) != 0)
		printf("  run: \"%s\"\n  ring: \"%s\"\n", want, s->text);
	CHECK(strcmp(s->text, want) == 0);
	CHECK(stat(CGROUP, &st) == 0);
	snprintf(name, sizeof(name), "uid %d, pid %d, cgroup %llu", CLIENT_UID, (int)pid,
		 (unsigned long long)st.st_ino);
	line = daemon_said(&d, name, 2000);
	if (!line)
		printf("  the log names no \"%s\"\n", name);
	CHECK(line);
	printf("  %s\n", line);
	CHECK(wait_free(5000));
	daemon_stop(&d);
	free(want);
}

/* Weights and KV blocks as regions of the module, and gone with the daemon. */
TEST(serve_registers_memory)
{
	static const char *const args[] = {"--register-memory", NULL};
	struct daemon d;
	char *line;

	daemon_start(&d, args);
	line = daemon_said(&d, "memory: weights: ", 1000);
	CHECK(line);
	printf("  %s\n", line);
	CHECK(strstr(line, "pinned as the module's region 1") && strstr(line, "pinned as the module's region 2"));
	CHECK(state_count("regions") == 2);
	daemon_stop(&d);
	CHECK(state_count("regions") == 0);
}

/* ---- a death ---- */

/* Generates without end; comes back when its runtime has died. */
static void client_that_streams(void *arg)
{
	struct shared *s = arg;
	struct ring r;

	while (!s->stop) {
		struct fh_req_desc d = ring_desc(1, 450, FH_REQ_IGNORE_EOS);
		struct fh_cqe e = {0};

		if (ring_open(&r, 64)) {
			s->refused++;
			nap_us(2000);
			continue;
		}
		s->opened++;
		do {
			ring_submit(&r, &d);
			while (ring_next(&r, &e, 60000)) {
				s->tokens++;
				if (e.slot.flags & FH_SLOT_LAST)
					break;
			}
		} while (chan_state(&r.c) == FH_CHAN_OPEN && !s->stop);
		s->state = chan_state(&r.c);
		s->ended_us = now_us();
		ring_close(&r);
	}
}

TEST(serve_kill_client)
{
	struct shared *s = share();
	struct daemon d;
	uint64_t killed;
	double before, after;
	pid_t pid;

	daemon_start(&d, NULL);
	CHECK(blocks_held() == 0);
	pid = spawn(client_that_streams, s);
	CHECK(wait_for(&s->tokens, 3, 60000));
	CHECK(blocks_held() > 0);
	kill_and_reap(pid);
	killed = now_us();
	before = metric("freehold_engine_steps_total");
	CHECK(wait_free(5000));
	after = metric("freehold_engine_steps_total");
	printf("  KV blocks were free %.0f steps after the first look, at most %llu us after the death\n",
	       after - before, (unsigned long long)(now_us() - killed));
	CHECK(after - before <= 1);
	daemon_stop(&d);
}

TEST(serve_kill_daemon)
{
	struct shared *s = share();
	struct daemon d;
	uint64_t killed;
	pid_t pid;

	daemon_start(&d, NULL);
	pid = spawn(client_that_streams, s);
	CHECK(wait_for(&s->tokens, 3, 60000));
	killed = now_us();
	daemon_kill(&d);
	CHECK(wait_for(&s->refused, 1, 20000));
	CHECK(s->state == FH_CHAN_RUNTIME_DEAD);
	printf("  the client knew %lld us after the kill\n", (long long)(s->ended_us - killed));
	CHECK(s->ended_us - killed < death_known_us());
	/* A new runtime, and the client comes back by itself. */
	s->tokens = 0;
	daemon_start(&d, NULL);
	CHECK(wait_for(&s->tokens, 3, 60000));
	CHECK(s->opened == 2);
	kill_and_reap(pid);
	CHECK(wait_free(5000));
	daemon_stop(&d);
}

static sigjmp_buf taken_away;

static void on_taken_away(int sig)
{
	(void)sig;
	siglongjmp(taken_away, 1);
}

/* Its areas, all but the info area, are gone when its channel is: SIGBUS, as promised. */
static void client_that_is_drained(void *arg)
{
	struct fh_req_desc d = ring_desc(1, 450, FH_REQ_IGNORE_EOS);
	struct shared *s = arg;
	static struct ring r, again;
	struct fh_cqe e;

	signal(SIGBUS, on_taken_away);
	CHECK(ring_open(&r, 64) == 0);
	if (!sigsetjmp(taken_away, 1)) {
		for (;;) {
			ring_submit(&r, &d);
			while (ring_next(&r, &e, 60000) && !(e.slot.flags & FH_SLOT_LAST))
				s->tokens++;
		}
	}
	s->state = chan_state(&r.c);
	s->reason = r.c.info->revoke_reason;
	for (int i = 0; i < 10000 && !ring_open(&again, 64); i++)
		ring_close(&again);
	s->refused = errno == ECONNREFUSED;
}

/* SIGTERM amid a stream: the channel is taken away with the reason, and who comes later finds nobody. */
TEST(serve_drain)
{
	struct shared *s = share();
	struct daemon d;
	pid_t pid;

	daemon_start(&d, NULL);
	pid = spawn(client_that_is_drained, s);
	CHECK(wait_for(&s->tokens, 3, 60000));
	daemon_stop(&d);
	reap(pid);
	CHECK(s->state == FH_CHAN_REVOKED && s->reason == FH_REVOKE_DRAIN);
	CHECK(s->refused);
}

/* ---- many deaths ---- */

static unsigned int rounds(void)
{
	const char *n = getenv("FH_ROUNDS");

	return n ? (unsigned int)atoi(n) : 50;
}

/* How long after the death of the daemon, at @killed, the client with a channel knew of it. */
static uint64_t known_after_us(struct shared *s, uint64_t killed)
{
	uint64_t until = now_us() + 20000000;

	while (!s->ended_us && now_us() < until)
		nap_us(500);
	CHECK(s->ended_us && s->state == FH_CHAN_RUNTIME_DEAD);
	return s->ended_us - killed;
}

/* The daemon dies as well, or alone; a client that lives knows it soon, @worst_us at most until now, and comes back to
 * the next one. */
static void round_with_daemon(struct daemon *d, struct shared *s, pid_t client, bool both, uint64_t *worst_us)
{
	uint64_t killed, took;
	bool had_channel;

	if (both)
		kill_and_reap(client);
	had_channel = !both && s->opened;
	killed = now_us();
	daemon_kill(d);
	if (had_channel) {
		took = known_after_us(s, killed);
		*worst_us = took > *worst_us ? took : *worst_us;
		if (took >= death_known_us())
			printf("  the client knew %llu us after the kill\n", (unsigned long long)took);
		CHECK(took < death_known_us());
	}
	daemon_start(d, NULL);
	if (both)
		return;
	s->tokens = 0;
	CHECK(wait_for(&s->tokens, 1, 60000));
	kill_and_reap(client);
}

TEST(serve_rounds)
{
	struct shared *s = share();
	unsigned int n = rounds(), of_client = 0, of_daemon = 0, of_both = 0;
	uint64_t worst_us = 0;
	const char *seed = getenv("FH_SEED");
	struct daemon d;

	alarm(120 + n * 15);
	srandom(seed ? (unsigned int)atoi(seed) : 1);
	daemon_start(&d, NULL);
	for (unsigned int i = 0; i < n; i++) {
		unsigned int what = (unsigned int)random() % 10;
		pid_t pid;

		*s = (struct shared){0};
		pid = spawn(client_that_streams, s);
		/* Anything from before its first call to amid a stream. */
		nap_us((unsigned int)random() % (i % 2 ? 20000 : 300000));
		if (what < 8) {
			kill_and_reap(pid);
			of_client++;
		} else {
			round_with_daemon(&d, s, pid, what == 9, &worst_us);
			of_daemon += what == 8;
			of_both += what == 9;
		}
		if (!wait_free(10000) || !daemon_alive(&d)) {
			printf("  in round %u\n", i);
			CHECK(false);
		}
	}
	printf("  killed: %u times the client, %u times the daemon, %u times both\n", of_client, of_daemon, of_both);
	printf("  clients knew of the daemon's death within %llu us\n", (unsigned long long)worst_us);
	daemon_stop(&d);
}

/* ---- a hostile neighbour ---- */

static uint32_t rng;

static uint32_t rnd(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 17;
	rng ^= rng << 5;
	return rng;
}

/* A descriptor that is almost right: these go further in than rubbish does. */
static void put_plausible(struct ring *r)
{
	const struct fh_chan_info *info = r->c.info;
	struct fh_req_desc d = ring_desc(rnd(), 1 + rnd() % 8, rnd() % 4 ? 0 : rnd());

	switch (rnd() % 4) {
	case 0: d.prompt_off = rnd() % 20000; break;
	case 1: d.prompt_bytes = rnd() % 32768; break;
	case 2: ((uint32_t *)&d)[rnd() % (sizeof(d) / 4)] = rnd(); break;
	default: break;
	}
	memcpy(r->c.area[FH_AREA_SQ] + (rnd() % info->sq_entries) * info->sq_entry_bytes, &d, sizeof(d));
}

static void scribble(struct ring *r)
{
	static const int mine[] = {FH_AREA_CLIENT, FH_AREA_SQ, FH_AREA_ARENA};
	int area = mine[rnd() % 3];
	volatile uint32_t *word = (volatile uint32_t *)r->c.area[area];

	word[rnd() % (r->c.info->areas[area].bytes / 4)] = rnd();
	if (rnd() % 16 == 0)
		put_plausible(r);
	if (rnd() % 8 == 0)
		*(volatile uint32_t *)chan_word(&r->c, FH_AREA_CLIENT, r->c.info->sq_tail_off) = r->sq_tail +=
			rnd() % 3;
	if (rnd() % 256 == 0)
		*(volatile uint32_t *)chan_word(&r->c, FH_AREA_CLIENT, r->c.info->cq_head_off) = rnd();
	if (rnd() % 64 == 0)
		chan_kick(&r->c);
}

static void on_sigbus(int sig)
{
	(void)sig;
	_exit(0); /* its channel was taken away while it wrote: its areas are gone, as promised */
}

static void hostile(void *arg)
{
	struct shared *s = arg;
	struct ring r;

	signal(SIGBUS, on_sigbus);
	rng = (uint32_t)getpid() * 2654435761u | 1;
	if (ring_open(&r, 64))
		return;
	s->opened++;
	for (unsigned int n = rnd() % 200000; n && !s->stop && chan_state(&r.c) == FH_CHAN_OPEN; n--)
		scribble(&r);
}

/* One after the other, until it is told to stop. */
static void hostile_again(void *arg)
{
	struct shared *s = arg;

	while (!s->stop)
		reap(spawn(hostile, s));
}

TEST(serve_hostile)
{
	struct shared *s = share();
	char *want = run_greedy(TOKENS), text[8192];
	unsigned int n = rounds() > 50 ? 24 : 4;
	struct daemon d;
	struct ring r;
	pid_t pids[2];

	/* Two who write as fast as they can beside two threads that compute, on two emulated cores: a stream is six
	 * seconds, or many times that where the host's cores are somebody else's. */
	alarm(120 + n * 40);
	daemon_start(&d, NULL);
	for (int i = 0; i < 2; i++)
		pids[i] = spawn(hostile_again, s);
	CHECK(wait_for(&s->opened, 2, 60000));
	for (unsigned int i = 0; i < n; i++) {
		CHECK(ring_open(&r, 64) == 0);
		CHECK(ring_text(&r, TOKENS, text, sizeof(text)) == 0);
		if (strcmp(text, want) != 0)
			printf("  alone: \"%s\"\n  beside: \"%s\"\n", want, text);
		CHECK(strcmp(text, want) == 0);
		ring_close(&r);
	}
	s->stop = 1;
	for (int i = 0; i < 2; i++)
		reap(pids[i]);
	CHECK(daemon_alive(&d));
	printf("  %u hostile channels, %.0f of them given up\n", s->opened,
	       metric("freehold_channel_violations_total"));
	CHECK(metric("freehold_channel_violations_total") > 0);
	CHECK(wait_free(10000));
	daemon_stop(&d);
	free(want);
}
