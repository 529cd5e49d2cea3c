// SPDX-License-Identifier: Apache-2.0
/* The daemon's life, and a client written against the ABI; see serve.h. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "runtime/base/chan_sock.h" /* the vocabulary file */
#include "tests/vm/serve.h"

#define HTTP_PATH "/run/freehold/http"
#define READY_MS 90000
#define F32_ONE 0x3f800000u

uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

void nap_us(unsigned int us)
{
	nanosleep(&(struct timespec){.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000l}, NULL);
}

const char *freehold(void)
{
	const char *path = getenv("FREEHOLD");

	CHECK(path);
	return path;
}

/* ---- the daemon ---- */

static bool has_seccomp(void)
{
	return prctl(PR_GET_SECCOMP) >= 0;
}

static void exec_daemon(const struct daemon *d, const char *const *more)
{
	const char *argv[40] = {freehold(),	    "serve", "--http",	    "unix:" HTTP_PATH,
				"--channel",	    "dev",   "--ctx",	    "512",
				"--max-seqs",	    "16",    "--threads",   "2",
				"--drain",	    "2",     "--log-level", "debug",
				"--no-prefix-cache"};
	int n = 17, fd = open(d->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	/* A kernel without system call filters: the sandbox is tested on those that have them. */
	if (!has_seccomp())
		argv[n++] = "--no-sandbox";
	while (more && *more)
		argv[n++] = *more++;
	if (fd < 0 || dup2(fd, 2) < 0)
		_exit(126);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execv(argv[0], (char *const *)argv);
	_exit(127);
}

void daemon_start(struct daemon *d, const char *const *more)
{
	static unsigned int nr;

	unlink(HTTP_PATH);
	snprintf(d->log, sizeof(d->log), "/tmp/daemon-%d-%u.log", (int)getpid(), nr++);
	fflush(stdout);
	d->pid = fork();
	CHECK(d->pid >= 0);
	if (!d->pid)
		exec_daemon(d, more);
	if (!daemon_said(d, "ready on", READY_MS)) {
		printf("  the daemon did not become ready; its log:\n");
		fflush(stdout);
		if (system("cat /tmp/daemon-*.log"))
			printf("  (no log)\n");
		CHECK(false);
	}
}

static int end(struct daemon *d, int sig)
{
	int status;

	CHECK(kill(d->pid, sig) == 0);
	CHECK(waitpid(d->pid, &status, 0) == d->pid);
	d->pid = 0;
	return status;
}

void daemon_stop(struct daemon *d)
{
	int status = end(d, SIGTERM);

	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void daemon_kill(struct daemon *d)
{
	int status = end(d, SIGKILL);

	CHECK(WIFSIGNALED(status));
}

bool daemon_alive(const struct daemon *d)
{
	int status;

	return waitpid(d->pid, &status, WNOHANG) == 0;
}

char *daemon_said(const struct daemon *d, const char *what, int timeout_ms)
{
	static char line[1024];
	uint64_t until = now_us() + (uint64_t)timeout_ms * 1000;

	for (;;) {
		FILE *f = fopen(d->log, "re");

		while (f && fgets(line, sizeof(line), f)) {
			if (!strstr(line, what) || !strchr(line, '\n'))
				continue;
			fclose(f);
			line[strcspn(line, "\n")] = 0;
			return line;
		}
		if (f)
			fclose(f);
		if (now_us() > until || !daemon_alive(d))
			return NULL;
		nap_us(2000);
	}
}

/* The body of GET @path, with its header before it, into @buf. */
static void http_get(const char *path, char *buf, size_t cap)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = HTTP_PATH};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t n = 0;
	ssize_t got;

	CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	CHECK(dprintf(fd, "GET %s HTTP/1.1\r\nHost: vm\r\nConnection: close\r\n\r\n", path) > 0);
	while (n + 1 < cap && (got = read(fd, buf + n, cap - 1 - n)) > 0)
		n += (size_t)got;
	buf[n] = 0;
	close(fd);
	CHECK(strncmp(buf, "HTTP/1.1 200", 12) == 0);
}

double metric(const char *name)
{
	static char buf[1 << 18];
	char key[160];
	char *at;

	http_get("/metrics", buf, sizeof(buf));
	snprintf(key, sizeof(key), "\n%s ", name);
	at = strstr(buf, key);
	if (!at)
		printf("  no metric %s\n", name);
	CHECK(at);
	return strtod(at + strlen(key), NULL);
}

unsigned int blocks_held(void)
{
	static char buf[1 << 18];
	double all = 0, free_ = 0;
	char *at;

	http_get("/metrics", buf, sizeof(buf));
	at = strstr(buf, "\nfreehold_kv_blocks ");
	CHECK(at);
	all = strtod(at + strlen("\nfreehold_kv_blocks "), NULL);
	at = strstr(buf, "\nfreehold_kv_blocks_free ");
	CHECK(at);
	free_ = strtod(at + strlen("\nfreehold_kv_blocks_free "), NULL);
	return (unsigned int)(all - free_);
}

uint64_t death_known_us(void)
{
	/* There where kmemleak is, and KASAN with it (debug.config). */
	return access("/sys/kernel/debug/kmemleak", F_OK) ? 100000 : 2000000;
}

char *run_greedy(unsigned int tokens)
{
	char command[512], *out = calloc(1, 65536);
	size_t n;
	FILE *f;

	snprintf(command, sizeof(command), "%s run --ctx 512 -p '%s' -n %u --temp 0 2>/dev/null", freehold(), PROMPT,
		 tokens);
	f = popen(command, "re");
	CHECK(f && out);
	n = fread(out, 1, 65535, f);
	CHECK(pclose(f) == 0 && n > 0);
	return out;
}

/* ---- a client ---- */

int ring_open(struct ring *r, uint32_t cq_entries)
{
	int fd = open_client();
	uint64_t until = now_us() + 20000000;

	*r = (struct ring){0};
	if (chan_create(&r->c, fd, 8, cq_entries, 16384)) {
		int saved = errno;

		close(fd);
		errno = saved;
		return -1;
	}
	chan_map_all(&r->c);
	/* The info area says CLOSED, or dead, as soon as it can no longer become open. */
	while (chan_state(&r->c) == FH_CHAN_WAITING && now_us() < until)
		readable(r->c.wake, POLLIN, 100);
	if (chan_state(&r->c) == FH_CHAN_OPEN)
		return 0;
	ring_close(r);
	errno = ECONNREFUSED;
	return -1;
}

void ring_close(struct ring *r)
{
	/* The info area, which says how large the others are, last. */
	for (int i = FH_NR_AREAS - 1; i >= 0; i--)
		if (r->c.area[i])
			munmap(r->c.area[i], i == FH_AREA_INFO ? 4096 : r->c.info->areas[i].bytes);
	close(r->c.wake);
	close(r->c.fd);
	*r = (struct ring){0};
}

struct fh_req_desc ring_desc(uint64_t user_data, uint32_t max_tokens, uint32_t flags)
{
	return (struct fh_req_desc){
		.size = sizeof(struct fh_req_desc),
		.flags = FH_REQ_TEXT | flags,
		.user_data = user_data,
		.prompt_bytes = sizeof(PROMPT) - 1,
		.max_tokens = max_tokens,
		.top_p = F32_ONE,
		.typical_p = F32_ONE,
		.repetition_penalty = F32_ONE,
	};
}

void ring_publish(struct ring *r, const struct fh_req_desc *d)
{
	const struct fh_chan_info *info = r->c.info;
	uint32_t at = (r->sq_tail & (info->sq_entries - 1)) * info->sq_entry_bytes;

	memcpy(r->c.area[FH_AREA_SQ] + at, d, sizeof(*d));
	__atomic_store_n(chan_word(&r->c, FH_AREA_CLIENT, info->sq_tail_off), ++r->sq_tail, __ATOMIC_RELEASE); /* (A) */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);							       /* (J) */
	if (__atomic_load_n(chan_word(&r->c, FH_AREA_RUNTIME, info->runtime_flags_off), __ATOMIC_RELAXED) &
	    FH_RING_NEED_WAKEUP)
		chan_kick(&r->c);
}

void ring_submit(struct ring *r, const struct fh_req_desc *d)
{
	memcpy(r->c.area[FH_AREA_ARENA], PROMPT, sizeof(PROMPT) - 1);
	ring_publish(r, d);
}

static uint32_t cq_tail(struct ring *r)
{
	return __atomic_load_n(chan_word(&r->c, FH_AREA_RUNTIME, r->c.info->cq_tail_off), __ATOMIC_ACQUIRE); /* (F) */
}

/* Until there is something, or the channel has ended. */
static bool ring_wait(struct ring *r, int timeout_ms)
{
	uint32_t *flags = chan_word(&r->c, FH_AREA_CLIENT, r->c.info->client_flags_off);
	uint64_t until = now_us() + (uint64_t)timeout_ms * 1000;

	while (cq_tail(r) == r->cq_head && chan_state(&r->c) == FH_CHAN_OPEN && now_us() < until) {
		__atomic_store_n(flags, FH_RING_NEED_WAKEUP, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_SEQ_CST); /* (K) */
		if (cq_tail(r) == r->cq_head && chan_state(&r->c) == FH_CHAN_OPEN)
			readable(r->c.wake, POLLIN, timeout_ms);
		event_take(r->c.wake);
		__atomic_store_n(flags, 0, __ATOMIC_RELAXED);
	}
	return cq_tail(r) != r->cq_head;
}

bool ring_next(struct ring *r, struct fh_cqe *out, int timeout_ms)
{
	const struct fh_chan_info *info = r->c.info;
	uint32_t at = (r->cq_head & (info->cq_entries - 1)) * info->cq_entry_bytes;

	if (!ring_wait(r, timeout_ms))
		return false;
	memcpy(out, r->c.area[FH_AREA_CQ] + at, sizeof(*out));
	__atomic_store_n(chan_word(&r->c, FH_AREA_CLIENT, info->cq_head_off), ++r->cq_head, __ATOMIC_RELEASE); /* (G) */
	return true;
}

/* The vocabulary that the daemon leaves beside its socket. */
static const struct fh_vocab *vocabulary(void)
{
	int fd = open(FH_VOCAB_PATH, O_RDONLY | O_CLOEXEC);
	const struct fh_vocab *v;
	struct stat st;

	CHECK(fd >= 0 && fstat(fd, &st) == 0);
	v = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	CHECK(v != MAP_FAILED && v->magic == FH_VOCAB_MAGIC && v->total_bytes == (uint64_t)st.st_size);
	return v;
}

int ring_text(struct ring *r, uint32_t max_tokens, char *out, size_t cap)
{
	const struct fh_vocab *v = vocabulary();
	const uint32_t *off = (const uint32_t *)((const char *)v + v->off_off);
	const char *pieces = (const char *)v + v->bytes_off;
	struct fh_req_desc d = ring_desc(7, max_tokens, 0);
	struct fh_cqe e = {0};
	size_t n = 0;

	ring_submit(r, &d);
	while (!(e.slot.flags & FH_SLOT_LAST)) {
		if (!ring_next(r, &e, 60000))
			break;
		if (e.user_data != 7 || e.error)
			break;
		if (e.slot.flags & FH_SLOT_NO_TOKEN)
			continue;
		CHECK(e.slot.token < v->nr_tokens);
		for (uint32_t i = off[e.slot.token]; i < off[e.slot.token + 1] && n + 1 < cap; i++)
			out[n++] = pieces[i];
	}
	out[n] = 0;
	munmap((void *)(uintptr_t)v, v->total_bytes);
	if (e.slot.flags & FH_SLOT_LAST && !e.error)
		return 0;
	printf("  the stream ended early: state %u, error %d, flags %#x, finish %u\n", chan_state(&r->c), e.error,
	       e.slot.flags, e.slot.finish);
	return -1;
}
