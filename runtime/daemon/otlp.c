// SPDX-License-Identifier: Apache-2.0
/* The server's side of the exporter: its settings, its process, and what it is handed. */
#include "runtime/daemon/otlp.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/log.h"
#include "runtime/daemon/sandbox.h"

#define SOCKET_BYTES (1 << 20) /* what the server may be ahead of the exporter */
#define BEGIN_MS 10000
#define END_MS 3000

struct fhd_otlp {
	struct fhd_otlp_setup s;
	struct fhd_otlp_sampler sampler;
	int fd;
	atomic_bool gone; /* the exporter has died, and it was said */
};

/* ---- the process ---- */

/* After libcurl is loaded. */
static int confine(const void *ctx, struct fh_err *err)
{
	/*
	 * Names, certificates, and what the C library loads to find them.  No whole /etc: keys may be in it.  A file
	 * that is replaced later, not written to, is not seen any more.
	 */
	static const char *const readable[] = {"/etc/resolv.conf",
					       "/etc/hosts",
					       "/etc/host.conf",
					       "/etc/nsswitch.conf",
					       "/etc/gai.conf",
					       "/etc/services",
					       "/etc/protocols",
					       "/etc/localtime",
					       "/etc/ld.so.cache",
					       "/etc/ssl/certs",
					       "/etc/ssl/cert.pem",
					       "/etc/ssl/openssl.cnf",
					       "/etc/pki/tls/certs",
					       "/etc/pki/ca-trust/extracted",
					       "/etc/crypto-policies",
					       "/etc/ca-certificates/extracted",
					       "/usr/share/ca-certificates",
					       "/usr/lib",
					       "/lib",
					       "/lib64",
					       "/run/systemd/resolve",
					       "/usr/share/zoneinfo",
					       "/dev/urandom",
					       "/dev/null"};
	const struct fhd_config *cfg = ctx;
	struct fhd_sandbox s = {.user = cfg->user, .connects = true};
	struct fhd_sandbox_state state;
	char walls[160];
	int rc;

	_Static_assert(sizeof(readable) / sizeof(readable[0]) <= FHD_SANDBOX_MAX_PATHS,
		       "more paths than a sandbox has");
	for (size_t i = 0; i < sizeof(readable) / sizeof(readable[0]); i++)
		s.readable[s.nr_readable++] = readable[i];
	if (!cfg->sandbox)
		return 0;
	rc = fhd_sandbox_enter(&s, &state, err);
	if (!rc && !FHD_SANITIZED)
		rc = fhd_sandbox_filter_client(&state, err);
	fhd_sandbox_describe(&state, walls, sizeof(walls));
	if (!rc && !state.landlock_abi)
		fh_warn("traces: sandbox of the exporter: %s; without Landlock it may read whatever this user may",
			walls);
	else if (!rc)
		fh_info("traces: sandbox of the exporter: %s", walls);
	return rc;
}

/* Never comes back. */
static void child(const struct fhd_config *cfg, const struct fhd_otlp_setup *s, int fd)
{
	prctl(PR_SET_NAME, "freehold-otlp");
	/* Listeners, models and keys are the server's. */
	if (dup2(fd, STDERR_FILENO + 1) < 0 || close_range(STDERR_FILENO + 2, ~0U, 0))
		_exit(1);
	fhd_otlp_run(s, STDERR_FILENO + 1, confine, cfg);
	_exit(0);
}

/* Its first words: nothing, or why it cannot begin. */
static int hear(struct fhd_otlp *o, struct fh_err *err)
{
	struct pollfd p = {.fd = o->fd, .events = POLLIN};
	char why[256] = "it did not begin";
	ssize_t n = poll(&p, 1, BEGIN_MS) == 1 ? recv(o->fd, why, sizeof(why) - 1, MSG_DONTWAIT) : -1;

	if (n > 0)
		why[n] = 0;
	return n > 0 && !*why ? 0 : fh_errf(err, -ENOENT, "the exporter of traces: %s", why);
}

static int start(const struct fhd_config *cfg, struct fhd_otlp *o, struct fh_err *err)
{
	int fd[2], bytes = SOCKET_BYTES;
	pid_t pid;

	o->s.c = mmap(NULL, sizeof(*o->s.c), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (o->s.c == MAP_FAILED)
		return fh_errf(err, -errno, "the exporter of traces: %s", strerror(errno));
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd))
		return fh_errf(err, -errno, "the exporter of traces: %s", strerror(errno));
	setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	o->fd = fd[0];
	/* Nobody waits for it: the kernel may forget it. */
	signal(SIGCHLD, SIG_IGN);
	pid = fork();
	if (!pid)
		child(cfg, &o->s, fd[1]);
	close(fd[1]);
	if (pid < 0)
		return fh_errf(err, -errno, "the exporter of traces: %s", strerror(errno));
	return hear(o, err);
}

static void stop(struct fhd_otlp *o)
{
	struct pollfd p;

	if (o->fd >= 0) {
		p = (struct pollfd){.fd = o->fd, .events = POLLIN};
		shutdown(o->fd, SHUT_WR);
		poll(&p, 1, END_MS);
		close(o->fd);
	}
	o->fd = -1;
	if (o->s.c && o->s.c != MAP_FAILED)
		munmap(o->s.c, sizeof(*o->s.c));
	o->s.c = NULL;
}

/* What the environment alone asks for, and cannot be had, does not hinder a start. */
static int start_or_warn(const struct fhd_config *cfg, struct fhd_otlp *o, const char *what, struct fh_err *err)
{
	int rc = start(cfg, o, err);

	if (!rc || !*o->s.url || *what == '-')
		return rc;
	fh_warn("%s; there are no traces, which %s of the environment asks for", err->msg, what);
	*o->s.url = 0;
	stop(o);
	return o->s.log_requests ? start(cfg, o, err) : 0;
}

int fhd_otlp_open(const struct fhd_config *cfg, const char *model, struct fhd_otlp **out, struct fh_err *err)
{
	struct fhd_otlp *o = calloc(1, sizeof(*o));
	const char *what;
	int rc;

	*out = NULL;
	if (!o)
		return fh_errf(err, -ENOMEM, "out of memory");
	o->fd = -1;
	o->s = (struct fhd_otlp_setup){
		.timeout_s = cfg->otlp_timeout_s,
		.max_queue = cfg->otlp_queue,
		.log_requests = cfg->log_requests,
		.version = FREEHOLD_VERSION,
		.model = model,
	};
	rc = fhd_otlp_settings(cfg, &o->s, &o->sampler, &what, err);
	if (!rc && (*o->s.url || o->s.log_requests))
		rc = start_or_warn(cfg, o, what, err);
	if (rc || o->fd < 0) {
		fhd_otlp_close(o);
		return rc;
	}
	if (*o->s.url)
		fh_info("traces: %g of all requests to %s", o->sampler.ratio, o->s.shown);
	*out = o;
	return 0;
}

/* Once: what it had is lost. */
static void say_gone(struct fhd_otlp *o)
{
	struct fhd_otlp_counters *c = o->s.c;
	uint64_t done;

	if (atomic_exchange(&o->gone, true))
		return;
	atomic_store(&c->nr_queued, 0);
	done = atomic_load(&c->nr_exported) + atomic_load(&c->nr_failed) + atomic_load(&c->nr_no_room);
	if (atomic_load(&c->nr_sent) > done)
		atomic_fetch_add(&c->nr_gone, atomic_load(&c->nr_sent) - done);
	fh_error("traces: the exporter has died; there are none%s until this server is started again",
		 o->s.log_requests ? ", and no requests in the log," : "");
}

void fhd_otlp_span(struct fhd_otlp *o, struct fh_trace_span *s)
{
	struct fhd_otlp_counters *c = o->s.c;

	s->sampled = *o->s.url && fhd_otlp_sampled(&s->context, &o->sampler);
	if (!s->sampled && !o->s.log_requests)
		return;
	if (send(o->fd, s, sizeof(*s), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
		atomic_fetch_add_explicit(&c->nr_sent, s->sampled, memory_order_relaxed);
	} else if (errno == EPIPE || errno == ECONNRESET) {
		say_gone(o);
		atomic_fetch_add_explicit(&c->nr_gone, 1, memory_order_relaxed);
	} else {
		atomic_fetch_add_explicit(&c->nr_full, 1, memory_order_relaxed);
	}
}

void fhd_otlp_lost(struct fhd_otlp *o, uint32_t nr)
{
	atomic_fetch_add_explicit(&o->s.c->nr_full, nr, memory_order_relaxed);
}

static void print(FILE *out, const char *name, const char *type, const char *help, uint64_t v)
{
	fprintf(out, "# HELP freehold_otlp_%s %s\n# TYPE freehold_otlp_%s %s\nfreehold_otlp_%s %llu\n", name, help,
		name, type, name, (unsigned long long)v);
}

void fhd_otlp_metrics(struct fhd_otlp *o, FILE *out)
{
	const struct fhd_otlp_counters *c = o ? o->s.c : NULL;
	struct pollfd p;

	if (!c)
		return;
	/* It may have died while nobody asked for anything. */
	p = (struct pollfd){.fd = o->fd};
	if (poll(&p, 1, 0) == 1 && p.revents & (POLLHUP | POLLERR))
		say_gone(o);
	print(out, "up", "gauge", "Whether the exporter of traces runs; it is not started again.",
	      !atomic_load(&o->gone));
	print(out, "exported_requests_total", "counter", "Traces of requests that the collector took.",
	      atomic_load(&c->nr_exported));
	fprintf(out,
		"# HELP freehold_otlp_dropped_requests_total Traces that were dropped: no room, not taken, nobody to "
		"post them.\n"
		"# TYPE freehold_otlp_dropped_requests_total counter\n"
		"freehold_otlp_dropped_requests_total{reason=\"queue_full\"} %llu\n"
		"freehold_otlp_dropped_requests_total{reason=\"failed\"} %llu\n"
		"freehold_otlp_dropped_requests_total{reason=\"exporter_gone\"} %llu\n",
		(unsigned long long)(atomic_load(&c->nr_no_room) + atomic_load(&c->nr_full)),
		(unsigned long long)atomic_load(&c->nr_failed), (unsigned long long)atomic_load(&c->nr_gone));
	print(out, "retries_total", "counter", "Posts that were repeated.", atomic_load(&c->nr_retries));
	print(out, "queued_requests", "gauge", "Traces that wait for the collector.", atomic_load(&c->nr_queued));
}

void fhd_otlp_close(struct fhd_otlp *o)
{
	if (!o)
		return;
	stop(o);
	fhd_otlp_list_free(o->s.headers);
	fhd_otlp_list_free(o->s.resource);
	free(o);
}
