// SPDX-License-Identifier: Apache-2.0
/* The server's side of the exporter: its settings, its process, and what it is handed. */
#include "runtime/daemon/otlp.h"

#include <errno.h>
#include <math.h>
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
	double ratio;
	int fd;
};

/* ---- settings ---- */

static const char *env(const char *name)
{
	const char *v = getenv(name);

	return v && *v ? v : NULL;
}

static bool is(const char *v, const char *want)
{
	return v && !strcmp(v, want);
}

/* The collector's address: the settings', else the environment's. False: it does not fit, or is none of HTTP. */
static bool find_url(const struct fhd_config *cfg, char *url, size_t cap)
{
	const char *whole = env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), *base = cfg->otlp_endpoint;
	int n = 0;

	*url = 0;
	if (is(cfg->otlp_endpoint, "off") ||
	    (!base && (is(env("OTEL_SDK_DISABLED"), "true") || is(env("OTEL_TRACES_EXPORTER"), "none"))))
		return true;
	if (!base && !whole)
		base = env("OTEL_EXPORTER_OTLP_ENDPOINT");
	if (base)
		n = snprintf(url, cap, "%s%sv1/traces", base, base[strlen(base) - 1] == '/' ? "" : "/");
	else if (whole)
		n = snprintf(url, cap, "%s", whole);
	return n < (int)cap && (!n || !strncmp(url, "http://", 7) || !strncmp(url, "https://", 8));
}

static double find_ratio(const struct fhd_config *cfg)
{
	const char *arg = env("OTEL_TRACES_SAMPLER_ARG"), *sampler = env("OTEL_TRACES_SAMPLER");
	double v = arg ? strtod(arg, NULL) : 1;

	if (cfg->trace_ratio >= 0)
		return (double)cfg->trace_ratio;
	if (sampler && strstr(sampler, "always_off"))
		return 0;
	return sampler && strstr(sampler, "traceidratio") && v >= 0 && v <= 1 ? v : 1;
}

bool fhd_otlp_sampled(const struct fh_trace_context *c, double ratio)
{
	uint64_t low = 0;

	if (c->known)
		return c->sampled;
	/* The last 56 bits are random by the standard's second level, and by ours. */
	for (int i = 9; i < 16; i++)
		low = low << 8 | c->trace_id[i];
	return (double)low < ratio * 0x1p56;
}

/* ---- the process ---- */

static int confine(const struct fhd_config *cfg, struct fh_err *err)
{
	/* Names, certificates, and what the C library loads to find them. */
	struct fhd_sandbox s = {.user = cfg->user,
				.readable = {"/etc", "/usr/share/ca-certificates", "/usr/lib", "/lib", "/lib64",
					     "/run/systemd/resolve", "/usr/share/zoneinfo", "/dev/urandom",
					     "/dev/null"},
				.nr_readable = 9,
				.connects = true};
	struct fhd_sandbox_state state;

	return cfg->sandbox ? fhd_sandbox_enter(&s, &state, err) : 0;
}

/* Never comes back. */
static void child(const struct fhd_config *cfg, const struct fhd_otlp_setup *s, int fd)
{
	struct fh_err err;

	prctl(PR_SET_NAME, "freehold-otlp");
	/* Listeners, models and keys are the server's. */
	if (dup2(fd, STDERR_FILENO + 1) < 0 || close_range(STDERR_FILENO + 2, ~0U, 0))
		_exit(1);
	fd = STDERR_FILENO + 1;
	if (confine(cfg, &err)) {
		if (send(fd, err.msg, strlen(err.msg) + 1, MSG_NOSIGNAL) < 0)
			_exit(2);
		_exit(1);
	}
	fhd_otlp_run(s, fd);
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

int fhd_otlp_open(const struct fhd_config *cfg, const char *model, struct fhd_otlp **out, struct fh_err *err)
{
	struct fhd_otlp *o = calloc(1, sizeof(*o));
	const char *headers = env("OTEL_EXPORTER_OTLP_TRACES_HEADERS"), *service = env("OTEL_SERVICE_NAME");
	int rc;

	*out = NULL;
	if (!o)
		return fh_errf(err, -ENOMEM, "out of memory");
	o->fd = -1;
	o->s = (struct fhd_otlp_setup){
		.timeout_s = cfg->otlp_timeout_s,
		.max_queue = cfg->otlp_queue,
		.log_requests = cfg->log_requests,
		.headers = cfg->otlp_headers ? cfg->otlp_headers
			   : headers	     ? headers
					     : env("OTEL_EXPORTER_OTLP_HEADERS"),
		.service = service ? service : "freehold",
		.version = FREEHOLD_VERSION,
		.model = model,
	};
	o->ratio = find_ratio(cfg);
	if (!find_url(cfg, o->s.url, sizeof(o->s.url))) {
		free(o);
		return fh_errf(err, -EINVAL, "--otlp-endpoint: http://HOST:4318 or https://HOST is wanted, or off");
	}
	if (!*o->s.url && !o->s.log_requests) {
		free(o);
		return 0;
	}
	rc = start(cfg, o, err);
	if (rc) {
		fhd_otlp_close(o);
		return rc;
	}
	if (*o->s.url)
		fh_info("traces: %g of all requests to %s", o->ratio, o->s.url);
	*out = o;
	return 0;
}

void fhd_otlp_span(struct fhd_otlp *o, struct fh_trace_span *s)
{
	s->sampled = *o->s.url && fhd_otlp_sampled(&s->context, o->ratio);
	if (!s->sampled && !o->s.log_requests)
		return;
	if (send(o->fd, s, sizeof(*s), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		atomic_fetch_add_explicit(&o->s.c->nr_no_room, 1, memory_order_relaxed);
}

static void print(FILE *out, const char *name, const char *type, const char *help, uint64_t v)
{
	fprintf(out, "# HELP freehold_otlp_%s %s\n# TYPE freehold_otlp_%s %s\nfreehold_otlp_%s %llu\n", name, help,
		name, type, name, (unsigned long long)v);
}

void fhd_otlp_metrics(const struct fhd_otlp *o, FILE *out)
{
	const struct fhd_otlp_counters *c = o ? o->s.c : NULL;

	if (!c)
		return;
	print(out, "exported_requests_total", "counter", "Traces of requests that the collector took.",
	      atomic_load(&c->nr_exported));
	fprintf(out,
		"# HELP freehold_otlp_dropped_requests_total Traces that were dropped: no room, or not taken.\n"
		"# TYPE freehold_otlp_dropped_requests_total counter\n"
		"freehold_otlp_dropped_requests_total{reason=\"queue_full\"} %llu\n"
		"freehold_otlp_dropped_requests_total{reason=\"failed\"} %llu\n",
		(unsigned long long)atomic_load(&c->nr_no_room), (unsigned long long)atomic_load(&c->nr_failed));
	print(out, "retries_total", "counter", "Posts that were repeated.", atomic_load(&c->nr_retries));
	print(out, "queued_requests", "gauge", "Traces that wait for the collector.", atomic_load(&c->nr_queued));
}

void fhd_otlp_close(struct fhd_otlp *o)
{
	struct pollfd p;

	if (!o)
		return;
	if (o->fd >= 0) {
		p = (struct pollfd){.fd = o->fd, .events = POLLIN};
		shutdown(o->fd, SHUT_WR);
		poll(&p, 1, END_MS);
		close(o->fd);
	}
	if (o->s.c && o->s.c != MAP_FAILED)
		munmap(o->s.c, sizeof(*o->s.c));
	free(o);
}
