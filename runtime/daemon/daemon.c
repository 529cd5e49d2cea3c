// SPDX-License-Identifier: Apache-2.0
/*
 * The daemon: who is started when, and ended when.
 *
 *   signals blocked        every thread made later inherits that
 *   model, vocabulary, template     files are opened with the rights of the start
 *   a GPU's process, if --device asks for one: before there are sockets and threads
 *   listeners, the module's device   ports below 1024 too; a taken port is known at once
 *   sandbox, first half    user, capabilities, Landlock: while there is one thread
 *   audit log              its files belong to who the process is now
 *   weights, KV, engine    threads begin here
 *   HTTP, channels, UDP
 *   sandbox, second half   the system call filter, on all threads
 *   "ready"
 *
 * Shut-down goes the other way: no new connections, what runs may end within
 * --drain, then the engine, then memory.  The main thread only waits for
 * signals, in signalfd.
 */
#include "runtime/daemon/daemon.h"

#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/daemon/audit.h"
#include "runtime/daemon/costs.h"
#include "runtime/daemon/core.h"
#include "runtime/daemon/device.h"
#include "runtime/daemon/energy.h"
#include "runtime/daemon/identity.h"
#include "runtime/daemon/notify.h"
#include "runtime/daemon/otlp.h"
#include "runtime/daemon/sandbox.h"
#include "runtime/net/chan.h"
#include "runtime/net/dgram_plugin.h"
#include "runtime/net/http.h"
#include "runtime/net/udp.h"

struct daemon {
	const struct fhd_config *cfg;
	struct fhd_core core;
	struct fh_http *http;
	struct fh_chans *chans;	   /* NULL: none */
	struct fh_udp *udp;	   /* NULL: none */
	struct fh_ctl *ctl;	   /* NULL: the module is not used */
	struct fhd_audit *audit;   /* NULL: nothing is logged */
	struct fhd_energy *energy; /* NULL: nothing is measured */
	struct fhd_otlp *otlp;	   /* NULL: nobody wants traces */
	struct fhd_identity identity;
	struct fhd_notify notify;
	struct fhd_sandbox_state sandbox;
	int signal_fd;
	uint32_t nr_udp_attached; /* queues of the UDP front end, from the first on */
	bool attached, chans_attached, engine_runs, http_runs, chans_run, udp_runs;
	/* Paths that the sandbox is told of. */
	char model_dir[PATH_MAX], key_path[PATH_MAX], clients_path[PATH_MAX], tls_paths[3][PATH_MAX];
	char unix_dirs[FHD_MAX_LISTEN][PATH_MAX], channel_dir[PATH_MAX];
};

static void sample_energy(struct daemon *d)
{
	uint64_t now_ns = fh_now_ns();
	struct fh_engine_work w;

	fh_engine_work(d->core.engine, now_ns, &w);
	fhd_energy_sample(d->energy, now_ns, w.busy_ns);
}

/* ---- signals ---- */

static int block_signals(struct daemon *d, struct fh_err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	signal(SIGPIPE, SIG_IGN);
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return fh_errf(err, -errno, "signals: %s", strerror(errno));
	d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	return d->signal_fd < 0 ? fh_errf(err, -errno, "signalfd: %s", strerror(errno)) : 0;
}

static void end_at_once(int sig)
{
	static const char msg[] = "freehold: a second signal: ending at once\n";

	(void)sig;
	if (write(STDERR_FILENO, msg, sizeof(msg) - 1) < 0)
		_exit(1);
	_exit(1);
}

/* From now on a signal ends the process, while the main thread waits for the drain. */
static void arm_second_signal(void)
{
	struct sigaction sa = {.sa_handler = end_at_once};
	sigset_t set;

	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void reload(struct daemon *d)
{
	const struct fhd_config *cfg = d->cfg;
	struct fh_err why;

	if (!cfg->api_key_file && !cfg->https.n && !d->udp) {
		fh_warn("SIGHUP: there is no --api-key-file to read again, no --tls-cert and no --udp-clients");
		return;
	}
	fhd_notify(&d->notify, "RELOADING=1");
	if (cfg->api_key_file) {
		if (fh_http_reload_keys(d->http, &why))
			fh_error("SIGHUP: %s; the old keys stay", why.msg);
		else
			fh_info("read %s again", cfg->api_key_file);
	}
	if (cfg->https.n) {
		if (fh_http_reload_tls(d->http, &why))
			fh_error("SIGHUP: %s; the old certificate stays", why.msg);
		else
			fh_info("read %s again", cfg->tls_cert);
	}
	if (d->udp) {
		if (fh_udp_reload(d->udp, &why))
			fh_error("SIGHUP: %s; the old clients stay", why.msg);
		else
			fh_info("read %s again: %u clients", cfg->udp_clients, fh_udp_nr_clients(d->udp));
	}
	fhd_audit_keys(d->audit, d->cfg->api_key_file);
	fhd_notify(&d->notify, "READY=1");
}

/*
 * Until a signal to end; its number.  The time until then is good for looking
 * after the energy, unless it is shared out: then who does that looks.
 */
static int wait_for_end(struct daemon *d)
{
	bool sample = d->energy && !d->identity.accounts;
	struct pollfd p = {.fd = d->signal_fd, .events = POLLIN};
	struct signalfd_siginfo si;

	for (;;) {
		ssize_t n;

		if (sample)
			sample_energy(d);
		if (!poll(&p, 1, sample ? FHD_ENERGY_PERIOD_MS : -1))
			continue;
		n = read(d->signal_fd, &si, sizeof(si));
		if (n < 0 && errno == EINTR)
			continue;
		if (n != sizeof(si))
			return SIGTERM;
		if (si.ssi_signo != SIGHUP)
			return (int)si.ssi_signo;
		reload(d);
	}
}

/* ---- start ---- */

/* As far as we may: descriptors for the connections, and memory that may be locked. */
static void raise_limits(void)
{
	struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY}, l;

	if (setrlimit(RLIMIT_MEMLOCK, &all) && !getrlimit(RLIMIT_MEMLOCK, &l)) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_MEMLOCK, &l);
	}
	if (!getrlimit(RLIMIT_NOFILE, &l)) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
}

static enum fh_http_offload tls_offload(const struct fhd_config *cfg)
{
	if (!cfg->tls_offload || !strcmp(cfg->tls_offload, "auto"))
		return FH_HTTP_OFFLOAD_AUTO;
	return strcmp(cfg->tls_offload, "on") ? FH_HTTP_OFFLOAD_OFF : FH_HTTP_OFFLOAD_ON;
}

static int create_http(struct daemon *d, struct fh_err *err)
{
	const struct fhd_config *cfg = d->cfg;
	struct fh_http_config hc = {
		.nr_listen = cfg->http.n + cfg->https.n,
		.api_key_file = cfg->api_key_file,
		.guarded = fhd_identity_guards_http(cfg),
		.public_paths = (const char *const *)cfg->pub.v,
		.nr_public = cfg->pub.n,
		.tls_cert = cfg->tls_cert,
		.tls_key = cfg->tls_key,
		.tls_ca = cfg->tls_client_ca,
		.tls_require = cfg->tls_client_cert && !strcmp(cfg->tls_client_cert, "required"),
		.tls_offload = tls_offload(cfg),
		.tls_timeout_ms = cfg->tls_timeout_s * 1000,
		.max_connections = cfg->max_connections,
		.max_requests = cfg->max_requests,
		.max_body_bytes = (uint32_t)cfg->max_body_bytes,
		.header_timeout_ms = cfg->header_timeout_s * 1000,
		.body_timeout_ms = cfg->body_timeout_s * 1000,
		.idle_timeout_ms = cfg->idle_timeout_s * 1000,
		.write_timeout_ms = cfg->write_timeout_s * 1000,
		.force_epoll = cfg->epoll,
		.version = FREEHOLD_VERSION,
	};

	for (uint32_t i = 0; i < cfg->http.n; i++)
		hc.listen[i] = cfg->http.v[i];
	for (uint32_t i = 0; i < cfg->https.n; i++) {
		hc.listen[cfg->http.n + i] = cfg->https.v[i];
		hc.listen_tls[cfg->http.n + i] = true;
	}
	/* From the first request on: one that comes while the daemon starts must not be refused. */
	if (d->identity.watch)
		hc.guard = d->identity.first;
	return fh_http_create(&hc, &d->core.svc, &d->http, err);
}

static struct daemon *daemon_of(void *core)
{
	return (struct daemon *)((char *)core - offsetof(struct daemon, core));
}

/* What /metrics asks for; @ctx is the core's, as of all functions of its service. */
static void print_metrics(void *ctx, FILE *out)
{
	struct daemon *d = daemon_of(ctx);

	fh_engine_metrics(d->core.engine, out);
	if (d->chans)
		fh_chans_metrics(d->chans, out);
	if (d->udp)
		fh_udp_metrics(d->udp, out);
	fhd_audit_metrics(d->audit, out);
	fhd_identity_metrics(&d->identity, out);
	fhd_energy_metrics(d->energy, out);
	fhd_otlp_metrics(d->otlp, out);
}

/* What those who watch are told. */
static void take_vitals(void *ctx, struct fh_vitals *out)
{
	struct daemon *d = daemon_of(ctx);

	fh_engine_vitals(d->core.engine, out);
	out->prices = d->identity.prices;
	fhd_audit_vitals(d->audit, &out->audit);
	fhd_energy_vitals(d->energy, &out->energy);
	fhd_energy_host(&d->cfg->host, &out->host);
}

static uint32_t take_tenants(void *ctx, struct fh_tenant_use *out, uint32_t max)
{
	return fhd_identity_tenants(&daemon_of(ctx)->identity, out, max);
}

static void take_span(void *ctx, struct fh_trace_span *s)
{
	fhd_otlp_span(daemon_of(ctx)->otlp, s);
}

static void count_lost_spans(void *ctx, uint32_t nr)
{
	fhd_otlp_lost(daemon_of(ctx)->otlp, nr);
}

static bool take_tenant(void *ctx, uint32_t account, struct fh_tenant_use *out)
{
	return fhd_identity_tenant(&daemon_of(ctx)->identity, account, out);
}

static int run_errand(void *ctx, struct fh_key_errand *e)
{
	return fhd_identity_keys(&daemon_of(ctx)->identity, e);
}

static int create_chans(struct daemon *d, struct fh_err *err)
{
	const struct fhd_config *cfg = d->cfg;
	struct fh_chans_config cc = {
		.max_channels = cfg->max_channels,
		.max_per_uid = cfg->max_user_channels,
		.max_uid_bytes = cfg->user_channel_bytes,
		.force_epoll = cfg->epoll,
		.unix_path = fhd_config_channel_path(cfg),
	};
	int rc = fhd_device_open(cfg, &d->ctl, err);

	if (d->identity.watch)
		cc.guard = d->identity.first;
	cc.ctl = d->ctl;
	if (rc || (!cc.ctl && !cc.unix_path))
		return rc;
	return fh_chans_create(&cc, &d->core.svc, &d->chans, err);
}

/* Each queue has a thread that polls: more of them than CPUs would wait for each other. */
static uint32_t wanted_queues(const struct fhd_config *cfg)
{
	uint32_t want = cfg->udp_queues ? cfg->udp_queues : 1, nr_cpus = 1;
	cpu_set_t set;

	if (!sched_getaffinity(0, sizeof(set), &set))
		nr_cpus = (uint32_t)CPU_COUNT(&set);
	if (want <= nr_cpus)
		return want;
	fh_warn("udp: %u queues on %u CPU%s: %u", want, nr_cpus, nr_cpus == 1 ? "" : "s", nr_cpus);
	return nr_cpus;
}

/* A device that no kernel looks after: before the sandbox, which lets nobody at devices. */
static int open_dpdk(const struct fhd_config *cfg, struct fh_udp_config *uc, struct fh_err *err)
{
	struct fh_dgram_open o = {
		.size = sizeof(o),
		.server = true,
		.device = cfg->udp_dpdk,
		.netmask = cfg->udp_prefix,
		.gateway = cfg->udp_gateway,
		.mtu = cfg->udp_mtu,
		.nr_queues = wanted_queues(cfg),
		.fewer_queues = true,
	};
	uint32_t want = o.nr_queues, nr = 1;
	int rc = 0;

	if (!fh_dgram_parse(cfg->udp, &o.local) || !o.local.port)
		return fh_errf(err, -EINVAL,
			       "--udp %s: with --udp-dpdk the device's own ADDR:PORT or [V6]:PORT is wanted", cfg->udp);
	if (!o.netmask)
		o.netmask = *cfg->udp == '[' ? "64" : "24";
	for (; !rc && o.queue < nr; o.queue++) {
		rc = fh_dgram_dpdk(&o, cfg->udp_eal, &uc->ports[o.queue], err);
		if (rc)
			break;
		uc->nr_ports++;
		if (!o.queue && uc->ports[0]->ops->nr_queues)
			nr = uc->ports[0]->ops->nr_queues(uc->ports[0]);
	}
	while (rc && uc->nr_ports) {
		uc->nr_ports--;
		uc->ports[uc->nr_ports]->ops->close(uc->ports[uc->nr_ports]);
	}
	if (!rc && nr < want)
		fh_warn("udp: %s has %u queue%s over which it spreads flows: %u of %u are used", cfg->udp_dpdk, nr,
			nr == 1 ? "" : "s", nr, want);
	return rc;
}

static int create_udp(struct daemon *d, struct fh_err *err)
{
	const struct fhd_config *cfg = d->cfg;
	struct fh_udp_config uc = {
		.listen = cfg->udp,
		.key_file = cfg->udp_key,
		.clients_file = cfg->udp_clients,
		.max_sessions = cfg->udp_max_sessions,
		.max_requests = cfg->udp_max_requests,
		.mtu = cfg->udp_mtu,
		.force_plain = cfg->epoll,
	};

	if (d->identity.watch)
		uc.guard = d->identity.first;
	if (!cfg->udp)
		return 0;
	if (cfg->udp_dpdk) {
		int rc = open_dpdk(cfg, &uc, err);

		if (rc)
			return rc;
	}
	d->core.svc.metrics = print_metrics;
	return fh_udp_create(&uc, &d->core.svc, &d->udp, err);
}

/* The folder of @path, into @out. */
static const char *folder_of(const char *path, char out[PATH_MAX])
{
	char copy[PATH_MAX];

	snprintf(copy, sizeof(copy), "%s", path);
	snprintf(out, PATH_MAX, "%s", dirname(copy));
	return out;
}

/*
 * What must stay readable so that the key file can be read again after it was
 * replaced: its folder; the file alone when the folder is one like /etc.
 */
static const char *key_access(const char *path, char out[PATH_MAX])
{
	char real[PATH_MAX];

	if (!realpath(path, real))
		return path;
	folder_of(real, out);
	return strchr(out + 1, '/') ? out : path;
}

static int confine(struct daemon *d, struct fh_err *err)
{
	static const char *const always[] = {
		"/proc/self",
		"/proc/meminfo",
		"/proc/stat",
		"/proc/cpuinfo",
		"/sys/devices/system",
		"/sys/fs/cgroup",
		"/etc/localtime",
		"/usr/share/zoneinfo",
		"/dev/null",
		"/dev/urandom",
		"/proc/sys/vm/overcommit_memory",
	};
	/* The C library names another thread by way of its /proc/self/task/TID/comm. */
	struct fhd_sandbox s = {
		.user = d->cfg->user, .writable = {"/proc/self/task"}, .nr_writable = 1, .owned = d->cfg->audit_dir};

	if (!d->cfg->sandbox || FHD_SANITIZED) {
		fh_warn("%s: the process keeps all its rights",
			FHD_SANITIZED ? "built with a sanitizer" : "--no-sandbox");
		return 0;
	}
	tzset(); /* reads the time zone while it may */
	for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++)
		s.readable[s.nr_readable++] = always[i];
	s.readable[s.nr_readable++] = folder_of(fh_gguf_path(d->core.model->gguf), d->model_dir);
	if (d->cfg->api_key_file)
		s.readable[s.nr_readable++] = key_access(d->cfg->api_key_file, d->key_path);
	if (d->cfg->udp)
		s.readable[s.nr_readable++] = key_access(d->cfg->udp_clients, d->clients_path);
	for (int i = 0; i < 3; i++) {
		const char *const files[] = {d->cfg->tls_cert, d->cfg->tls_key, d->cfg->tls_client_ca};

		if (files[i])
			s.readable[s.nr_readable++] = key_access(files[i], d->tls_paths[i]);
	}
	for (uint32_t i = 0; i < d->cfg->http.n; i++)
		if (!strncmp(d->cfg->http.v[i], "unix:", 5))
			s.removable[s.nr_removable++] = folder_of(d->cfg->http.v[i] + 5, d->unix_dirs[i]);
	if (fhd_config_channel_path(d->cfg)) {
		/* Who asks for a channel: start and control group stand in its folder of /proc. */
		s.readable[s.nr_readable++] = "/proc";
		s.removable[s.nr_removable++] = folder_of(fhd_config_channel_path(d->cfg), d->channel_dir);
	}
	return fhd_sandbox_enter(&s, &d->sandbox, err);
}

/* What a GPU's own process keeps: it has no socket, and its driver needs devices, libraries and ioctls. */
static int confine_worker(void *ctx, struct fh_err *err)
{
	const struct daemon *d = ctx;
	const struct fhd_sandbox s = {.user = d->cfg->user, .driver = true};
	struct fhd_sandbox_state state;

	if (d->signal_fd >= 0)
		close(d->signal_fd);
	return d->cfg->sandbox && !FHD_SANITIZED ? fhd_sandbox_enter(&s, &state, err) : 0;
}

/* " NAME=VALUE", as long as there is room. */
static void put_setting(char *out, size_t cap, const char *name, const char *value)
{
	size_t n = strlen(out);

	if (value)
		snprintf(out + n, cap - n, " %s=%s", name, value);
}

static void put_list(char *out, size_t cap, const char *name, const struct fhd_strings *list)
{
	for (uint32_t i = 0; i < list->n; i++)
		put_setting(out, cap, name, list->v[i]);
}

/* What decides who is answered, what with, and what of it is kept. Rules last: of many, not all have room. */
static void describe_settings(const struct daemon *d, char *out, size_t cap)
{
	const struct fhd_config *cfg = d->cfg;

	snprintf(out, cap,
		 "version=%s audit-mode=%s audit-bodies=%s audit-retain=%u ctx=%u max-seqs=%u max-queue=%u "
		 "api-key-file=%s speculate=%s ids=req-%016llx",
		 FREEHOLD_VERSION, cfg->audit_mode ?: "relaxed", cfg->audit_bodies ?: "full", cfg->audit_retain_days,
		 d->core.nr_ctx, cfg->max_seqs, cfg->max_queue, cfg->api_key_file ? "yes" : "no",
		 cfg->speculate ?: "ngram", (unsigned long long)fh_http_id_nonce(d->http));
	put_setting(out, cap, "draft-model", d->core.draft_model ? cfg->draft_model : NULL);
	put_setting(out, cap, "keys", cfg->keys);
	for (uint32_t i = 0; i < cfg->http.n + cfg->https.n; i++)
		put_setting(out, cap, i < cfg->http.n ? "http" : "https", fh_http_url(d->http, i));
	if (cfg->tls_client_ca)
		put_setting(out, cap, "tls-client-cert", cfg->tls_client_cert ?: "optional");
	put_list(out, cap, "public", &cfg->pub);
	put_list(out, cap, "channel", &cfg->channel);
	put_setting(out, cap, "udp", d->udp ? fh_udp_url(d->udp) : NULL);
	put_setting(out, cap, "udp-clients", d->udp ? cfg->udp_clients : NULL);
	put_list(out, cap, "price", &cfg->price);
	put_list(out, cap, "rule", &cfg->rule);
}

/* Before the front ends start, so that nothing comes before the start in the log. */
static int start_audit(struct daemon *d, struct fh_err *err)
{
	char settings[FH_AUDIT_SETTINGS_MAX];
	int rc = fhd_audit_attach(d->audit, fh_http_frontend(d->http), NULL, NULL, err);

	if (!rc && d->chans)
		rc = fhd_audit_attach(d->audit, fh_chans_frontend(d->chans), d->core.svc.kick, d->core.svc.ctx, err);
	for (uint32_t i = 0; !rc && d->udp && i < fh_udp_nr_queues(d->udp); i++)
		rc = fhd_audit_attach(d->audit, fh_udp_frontend(d->udp, i), NULL, NULL, err);
	if (rc || !d->audit)
		return rc;
	describe_settings(d, settings, sizeof(settings));
	rc = fhd_audit_start(d->audit, d->core.svc.model.id, settings, d->core.model->gguf,
			     d->core.draft_model ? d->core.draft_model->gguf : NULL, err);
	if (!rc)
		fhd_audit_keys(d->audit, d->cfg->api_key_file);
	return rc;
}

static int start_engine(struct daemon *d, struct fh_err *err)
{
	int rc;

	d->core.ctl = d->cfg->register_memory ? d->ctl : NULL;
	rc = fhd_core_start(&d->core, err);
	if (!rc)
		rc = fh_engine_attach(d->core.engine, fh_http_frontend(d->http), err);
	d->attached = !rc;
	if (!rc)
		rc = fhd_identity_meter(&d->identity, d->core.engine, err);
	if (!rc && d->chans) {
		rc = fh_engine_attach(d->core.engine, fh_chans_frontend(d->chans), err);
		d->chans_attached = !rc;
	}
	for (uint32_t i = 0; !rc && d->udp && i < fh_udp_nr_queues(d->udp); i++) {
		rc = fh_engine_attach(d->core.engine, fh_udp_frontend(d->udp, i), err);
		d->nr_udp_attached += !rc;
	}
	if (!rc)
		rc = start_audit(d, err);
	if (!rc)
		rc = fh_engine_start(d->core.engine, err);
	d->engine_runs = !rc;
	if (!rc)
		rc = fh_http_start(d->http, err);
	d->http_runs = !rc;
	if (!rc && d->chans) {
		rc = fh_chans_start(d->chans, err);
		d->chans_run = !rc;
	}
	if (!rc && d->udp) {
		rc = fh_udp_start(d->udp, err);
		d->udp_runs = !rc;
	}
	return rc;
}

static void open_energy(struct daemon *d)
{
	struct fhd_energy_report r;
	char what[64];

	d->energy = fhd_energy_open(d->cfg->energy, &r);
	d->identity.energy = d->energy;
	fhd_energy_describe(&r, what);
	if (d->energy)
		fh_info("energy: %s", what);
	/* That there is nothing to measure is no news, that it is there and kept from us is. */
	if (r.nr_denied)
		fh_warn("energy: %u counter%s cannot be read, such as %s; `freehold doctor` says how to mend it",
			r.nr_denied, r.nr_denied == 1 ? "" : "s", r.denied);
	if (r.nvml[0])
		fh_warn("energy: NVIDIA's library: %s", r.nvml);
}

static int start(struct daemon *d, struct fh_err *err)
{
	int rc = block_signals(d, err);

	raise_limits();
	if (!rc)
		rc = fhd_core_open(&d->core, d->cfg, err);
	d->core.confine = confine_worker;
	d->core.confine_ctx = d;
	if (!rc)
		rc = fhd_core_spawn(&d->core, err);
	if (!rc) {
		fhd_costs_open(&d->core);
		d->core.calibrate = true;
		d->core.svc.metrics = print_metrics;
		d->core.svc.vitals = take_vitals;
		d->core.svc.tenants = d->cfg->keys ? take_tenants : NULL;
		d->core.svc.tenant = d->cfg->keys ? take_tenant : NULL;
		d->core.svc.keys = d->cfg->keys ? run_errand : NULL;
		/* Before there is a key of anybody's in memory, which that process would have, too. */
		rc = fhd_otlp_open(d->cfg, d->core.svc.model.id, &d->otlp, err);
	}
	d->core.svc.span = d->otlp ? take_span : NULL;
	d->core.svc.spans_lost = count_lost_spans;
	if (!rc)
		rc = fhd_identity_open(&d->identity, d->cfg, d->core.svc.model.id, d->core.think_open != FH_NO_TOKEN,
				       err);
	if (!rc)
		rc = create_http(d, err);
	if (!rc)
		rc = create_chans(d, err);
	if (!rc)
		rc = create_udp(d, err);
	if (!rc)
		open_energy(d);
	if (!rc)
		rc = confine(d, err);
	if (!rc)
		rc = fhd_audit_open(d->cfg, &d->audit, err);
	if (!rc)
		fhd_identity_recount(&d->identity, d->cfg->audit_dir, &d->notify);
	if (!rc)
		rc = start_engine(d, err);
	d->identity.audit = d->audit;
	if (!rc && d->energy)
		sample_energy(d);
	if (!rc)
		rc = fhd_identity_start(&d->identity, d->http, d->chans, d->udp, err);
	if (!rc && d->cfg->sandbox && !FHD_SANITIZED)
		rc = fhd_sandbox_filter(&d->sandbox, fhd_audit_fd(d->audit), fhd_energy_has_gpu(d->energy), err);
	return rc;
}

static void say_ready(struct daemon *d)
{
	char where[640] = "", walls[160];
	size_t n = 0;

	for (uint32_t i = 0; i < d->cfg->http.n + d->cfg->https.n && n < sizeof(where); i++)
		n += (size_t)snprintf(where + n, sizeof(where) - n, "%s%s", i ? " and " : "", fh_http_url(d->http, i));
	if (d->chans && n < sizeof(where))
		snprintf(where + n, sizeof(where) - n, " with channels on %s%s%s", d->ctl ? "the kernel module" : "",
			 d->ctl && fh_chans_url(d->chans) ? " and " : "",
			 fh_chans_url(d->chans) ? fh_chans_url(d->chans) : "");
	fhd_sandbox_describe(&d->sandbox, walls, sizeof(walls));
	fh_info("http: %s; sandbox: %s; chat template: %s; %u KV blocks of %u tokens", fh_http_backend(d->http), walls,
		fhd_text_template_name(d->core.text), d->core.nr_blocks, FH_KV_BLOCK);
	if (fh_http_sealer(d->http))
		fh_info("tls: what is sent is encrypted by %s", fh_http_sealer(d->http));
	if (d->udp)
		fh_info("udp: %s on %s%s, %u client%s known", fh_udp_url(d->udp), fh_udp_backend(d->udp),
			fh_udp_nr_queues(d->udp) > 1 ? ", several queues" : "", fh_udp_nr_clients(d->udp),
			fh_udp_nr_clients(d->udp) == 1 ? "" : "s");
	fhd_core_say_memory(&d->core);
	fh_info("ready on %s (%s, %s, %u thread%s, context %u)", where, d->core.svc.model.id, d->core.info.name,
		d->core.info.nr_threads, d->core.info.nr_threads == 1 ? "" : "s", d->core.nr_ctx);
	fhd_notify(&d->notify, "READY=1\nSTATUS=serving");
}

/* ---- end ---- */

/* What is left of the time for draining. */
static uint32_t left_ms(const struct daemon *d, uint64_t begin_ns)
{
	uint64_t drain_ms = d->cfg->drain_s * 1000ull, took_ms = (fh_now_ns() - begin_ns) / 1000000;

	return took_ms < drain_ms ? (uint32_t)(drain_ms - took_ms) : 0;
}

/* All front ends drain at the same time. */
static void stop_frontends(struct daemon *d)
{
	uint64_t begin_ns = fh_now_ns();

	if (d->chans_run)
		fh_chans_drain(d->chans);
	if (d->udp_runs)
		fh_udp_drain(d->udp);
	if (d->http_runs)
		fh_http_stop(d->http, d->cfg->drain_s * 1000);
	if (d->udp_runs)
		fh_udp_stop(d->udp, left_ms(d, begin_ns));
	if (d->chans_run)
		fh_chans_stop(d->chans, left_ms(d, begin_ns));
}

static void stop(struct daemon *d)
{
	bool ran = d->http_runs;

	stop_frontends(d);
	if (d->engine_runs)
		fh_engine_stop(d->core.engine, 0);
	fhd_audit_quiet(d->audit);
	fhd_identity_stop(&d->identity);
	if (d->attached)
		fh_engine_detach(d->core.engine, fh_http_frontend(d->http));
	if (d->chans_attached)
		fh_engine_detach(d->core.engine, fh_chans_frontend(d->chans));
	while (d->nr_udp_attached)
		fh_engine_detach(d->core.engine, fh_udp_frontend(d->udp, --d->nr_udp_attached));
	fh_chans_destroy(d->chans);
	fh_udp_destroy(d->udp);
	if (d->http)
		fh_http_destroy(d->http);
	if (!fhd_audit_stop(d->audit, ran))
		fhd_identity_settle(&d->identity, d->cfg->audit_dir);
	fhd_identity_close(&d->identity);
	fhd_core_close(&d->core);
	fh_ctl_close(d->ctl);
	fhd_otlp_close(d->otlp);
	fhd_energy_close(d->energy);
	fhd_notify_close(&d->notify);
	if (d->signal_fd >= 0)
		close(d->signal_fd);
}

int fhd_daemon_run(const struct fhd_config *cfg, struct fh_err *err)
{
	struct daemon *d = calloc(1, sizeof(*d));
	int rc, sig;

	if (!d)
		return fh_errf(err, -ENOMEM, "out of memory");
	d->cfg = cfg;
	d->signal_fd = -1;
	fhd_notify_open(&d->notify);
	rc = start(d, err);
	if (!rc) {
		say_ready(d);
		sig = wait_for_end(d);
		fhd_notify(&d->notify, "STOPPING=1");
		fh_info("%s: ending what runs, for at most %u s", sig == SIGINT ? "SIGINT" : "SIGTERM", cfg->drain_s);
		arm_second_signal();
	}
	stop(d);
	free(d);
	return rc;
}
