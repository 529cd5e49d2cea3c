// SPDX-License-Identifier: Apache-2.0
/* The settings, their defaults and their explanations.  The config owns its strings. */
#include "runtime/daemon/config.h"

#include <glob.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/log.h"
#include "runtime/trust/runs.h"
#include "runtime/engine/engine.h" /* FH_SPEC_MAX */
#include "runtime/net/udp.h"	   /* FH_UDP_MAX_QUEUES */

#ifndef FREEHOLD_DATADIR
#define FREEHOLD_DATADIR "/usr/local/share/freehold"
#endif

#define AT(field) offsetof(struct fhd_config, field)
#define GROUP(name)                                                                                                    \
	{                                                                                                              \
		name, 0, FHD_OPT_GROUP, 0, 0, 0, NULL, NULL                                                            \
	}

/* The part that `run` takes too comes first. */
static const struct fhd_option options[] = {
	GROUP("model:"),
	{"model", 'm', FHD_OPT_STR, AT(model), 0, 0, "FILE",
	 "GGUF file, or one of its splits; null:FILE costs nothing and\n"
	 "echoes the prompt (default: the built-in model)"},
	{"ctx", 'c', FHD_OPT_U32, AT(ctx), 0, 1 << 24, "N",
	 "tokens a sequence may hold (default: the model's, at most 32768)"},
	{"chat-template-file", 0, FHD_OPT_STR, AT(chat_template_file), 0, 0, "FILE",
	 "a Jinja chat template instead of the model's own"},
	GROUP("engine:"),
	{"threads", 't', FHD_OPT_U32, AT(threads), 0, 1024, "N",
	 "compute threads (default: what the affinity mask and the\nCPU quota allow)"},
	{"kv-type", 0, FHD_OPT_CHOICE, AT(kv_type_name), 0, 0, "f16|bf16|q8_0|f32",
	 "how keys and values are kept (default: f16); bf16 makes\nlong prompts faster where the CPU has AVX512-BF16"},
	{"kv-bytes", 0, FHD_OPT_SIZE, AT(kv_bytes), 0, 0, "BYTES",
	 "memory for them, such as 4G (default: what --max-seqs full\ncontexts take, at most half of what is free)"},
	{"speculate", 0, FHD_OPT_CHOICE, AT(speculate), 0, 0, "ngram|off",
	 "guess tokens from what prompt and answer said before and\ncheck several in one step; the answer is the same "
	 "(default: ngram)"},
	{"speculate-tokens", 0, FHD_OPT_U32, AT(speculate_tokens), 1, FH_SPEC_MAX, "N",
	 "guesses of a request in a step, at most (default: 16)"},
	{"draft-model", 0, FHD_OPT_STR, AT(draft_model), 0, 0, "FILE",
	 "a smaller model of the same vocabulary that guesses, too\n(default: none)"},
	{"no-pin", 0, FHD_OPT_OFF, AT(pin_memory), 0, 0, NULL, "do not lock the weights in memory (`run` never does)"},
	{"device", 0, FHD_OPT_STR, AT(device), 0, 0, "auto|cpu|cuda[:N]",
	 "what computes; auto is the CPU: the GPU has never been run\non a real one so far (default: auto; or "
	 "FREEHOLD_DEVICE)"},
	{"device-timeout", 0, FHD_OPT_U32, AT(device_timeout_s), 1, 3600, "SECONDS",
	 "a step on a GPU that takes longer hangs: its requests fail\nand the device is started anew (default: 120)"},
	{"isa", 0, FHD_OPT_CHOICE, AT(isa), 0, 0, "ref|avx2|avx512|avx512_bf16",
	 "instruction set (default: the best; or FREEHOLD_ISA)"},
	{"log-level", 0, FHD_OPT_CHOICE, AT(log_level), 0, 0, "error|warning|info|debug",
	 "what is logged (default: info)"},
	{"config", 0, FHD_OPT_STR, AT(config), 0, 0, "FILE", "read settings from FILE; flags override them"},
	{"help", 'h', FHD_OPT_ON, AT(help), 0, 0, NULL, "print this"},
	GROUP("serving:"),
	{"http", 0, FHD_OPT_LIST, AT(http), 0, 0, "ADDR:PORT|unix:PATH",
	 "listen there; may be repeated; port 0 takes a free one\n(default: 127.0.0.1:8080)"},
	{"model-name", 0, FHD_OPT_STR, AT(model_name), 0, 0, "ID",
	 "what clients call the model (default: the file's own name)"},
	{"api-key-file", 0, FHD_OPT_STR, AT(api_key_file), 0, 0, "FILE",
	 "keys that clients must present, one a line (default: none);\nSIGHUP reads it again"},
	{"max-seqs", 0, FHD_OPT_U32, AT(max_seqs), 1, 4096, "N", "requests that run together (default: 64)"},
	{"max-queue", 0, FHD_OPT_U32, AT(max_queue), 1, 1 << 20, "N",
	 "requests that wait; more are refused (default: 1024)"},
	{"step-tokens", 0, FHD_OPT_U32, AT(step_tokens), 1, 1 << 16, "N", "tokens in one step (default: 512)"},
	{"prefill-chunk", 0, FHD_OPT_U32, AT(prefill_chunk), 1, 1 << 16, "N",
	 "of one prompt in one step (default: 256)"},
	{"deadline-interactive", 0, FHD_OPT_STR, AT(deadline[FH_CLASS_INTERACTIVE]), 0, 0, "TTFT/TPOT",
	 "milliseconds to the first token, and between two, that the\nclass promises; each may be none (default: "
	 "none/none)"},
	{"deadline-standard", 0, FHD_OPT_STR, AT(deadline[FH_CLASS_STANDARD]), 0, 0, "TTFT/TPOT",
	 "likewise of requests that name no class (default: none/none)"},
	{"deadline-batch", 0, FHD_OPT_STR, AT(deadline[FH_CLASS_BATCH]), 0, 0, "TTFT/TPOT",
	 "likewise (default: none/none)"},
	{"cache-dir", 0, FHD_OPT_STR, AT(cache_dir), 0, 0, "DIR",
	 "where what steps cost is kept between runs; none: nowhere\n(default: $CACHE_DIRECTORY, or "
	 "~/.cache/freehold)"},
	{"no-prefix-cache", 0, FHD_OPT_OFF, AT(prefix_cache), 0, 0, NULL,
	 "do not keep the prompts' keys and values for others"},
	{"max-connections", 0, FHD_OPT_U32, AT(max_connections), 1, 1 << 20, "N", "open at once (default: 4096)"},
	{"max-requests", 0, FHD_OPT_U32, AT(max_requests), 1, 1 << 20, "N",
	 "under way over all connections (default: 2048)"},
	{"max-body-bytes", 0, FHD_OPT_SIZE, AT(max_body_bytes), 1024, 1 << 30, "BYTES",
	 "of one request (default: 16M)"},
	{"header-timeout", 0, FHD_OPT_U32, AT(header_timeout_s), 1, 3600, "SECONDS",
	 "for a whole header (default: 10)"},
	{"body-timeout", 0, FHD_OPT_U32, AT(body_timeout_s), 1, 3600, "SECONDS", "for a whole body (default: 60)"},
	{"idle-timeout", 0, FHD_OPT_U32, AT(idle_timeout_s), 1, 86400, "SECONDS",
	 "between two requests (default: 120)"},
	{"write-timeout", 0, FHD_OPT_U32, AT(write_timeout_s), 1, 3600, "SECONDS",
	 "for a client that reads nothing (default: 60)"},
	{"epoll", 0, FHD_OPT_ON, AT(epoll), 0, 0, NULL, "do not use io_uring"},
	{"channel", 0, FHD_OPT_LIST, AT(channel), 0, 0, "auto|dev|unix:PATH|off",
	 "let processes of this host open channels, with requests and\ntokens in shared memory: over the kernel module "
	 "(dev), over\nit where it is loaded (auto), over a socket (unix:PATH); may be\nrepeated (default: off)"},
	{"max-channels", 0, FHD_OPT_U32, AT(max_channels), 1, 1 << 16, "N", "open at once (default: 512)"},
	{"max-user-channels", 0, FHD_OPT_U32, AT(max_user_channels), 1, 1 << 16, "N", "of one user (default: 256)"},
	{"user-channel-bytes", 0, FHD_OPT_SIZE, AT(user_channel_bytes), 1 << 16, 0, "BYTES",
	 "memory that one user's channels take (default: 1G)"},
	{"register-memory", 0, FHD_OPT_ON, AT(register_memory), 0, 0, NULL,
	 "pin weights and KV blocks through the kernel module, where\nit is used: a slower start, and the module shows "
	 "them"},
	{"udp", 0, FHD_OPT_STR, AT(udp), 0, 0, "ADDR:PORT",
	 "take requests in encrypted UDP packets there, too; port 0\ntakes a free one (default: off)"},
	{"udp-key", 0, FHD_OPT_STR, AT(udp_key), 0, 0, "FILE",
	 "this server's secret key, which `freehold udp-key` makes"},
	{"udp-clients", 0, FHD_OPT_STR, AT(udp_clients), 0, 0, "FILE",
	 "who may come: a name and a public key, a line each"},
	{"udp-max-sessions", 0, FHD_OPT_U32, AT(udp_max_sessions), 1, 4096, "N", "open at once (default: 1024)"},
	{"udp-max-requests", 0, FHD_OPT_U32, AT(udp_max_requests), 1, 1 << 16, "N",
	 "under way over all sessions (default: 1024)"},
	{"udp-mtu", 0, FHD_OPT_U32, AT(udp_mtu), 1232, 8950, "BYTES",
	 "payload of the longest packet (default: 8950, less where the\npath to a client carries less)"},
	{"udp-dpdk", 0, FHD_OPT_STR, AT(udp_dpdk), 0, 0, "DEVICE",
	 "carry --udp over this device of DPDK, such as 0000:03:00.0,\ninstead of the kernel (Documentation/dpdk.md)"},
	{"udp-queues", 0, FHD_OPT_U32, AT(udp_queues), 1, FH_UDP_MAX_QUEUES, "N",
	 "DPDK: receive queues, over which the device spreads clients, a\nthread each (default: 1)"},
	{"udp-eal", 0, FHD_OPT_STR, AT(udp_eal), 0, 0, "OPTIONS",
	 "DPDK's options in one string, then -- and the plug-in's"},
	{"udp-prefix", 0, FHD_OPT_STR, AT(udp_prefix), 0, 0, "BITS",
	 "DPDK: of the address of --udp (default: 24, or 64)"},
	{"udp-gateway", 0, FHD_OPT_STR, AT(udp_gateway), 0, 0, "ADDR",
	 "DPDK: to everything beyond the prefix (default: none)"},
	GROUP("audit log:"),
	{"audit", 0, FHD_OPT_STR, AT(audit_dir), 0, 0, "DIR",
	 "log every request and its outcome in DIR, so that it can be\nproved: see freehold-audit(1) (default: none)"},
	{"audit-mode", 0, FHD_OPT_CHOICE, AT(audit_mode), 0, 0, "relaxed|strict",
	 "strict: a request is on the disk before its first token\nleaves, its outcome before the last; what cannot be "
	 "logged\nis refused (default: relaxed)"},
	{"audit-bodies", 0, FHD_OPT_CHOICE, AT(audit_bodies), 0, 0, "full|hash|none",
	 "what is kept of the texts: all, sealed with a key of each\ntenant; their keyed hash; nothing (default: "
	 "full)"},
	{"audit-retain", 0, FHD_OPT_U32, AT(audit_retain_days), 0, 36500, "DAYS",
	 "texts that are older are removed, their records and proofs\nstay; 0: never (default: 184, six months)"},
	GROUP("energy and cost:"),
	{"energy", 0, FHD_OPT_CHOICE, AT(energy), 0, 0, "auto|cpu|gpu|off",
	 "measure energy where the host can: of processors (RAPL), of\nNVIDIA GPUs, of both (default: auto, both)"},
	{"host-hardware", 0, FHD_OPT_FLOAT, AT(host.hardware), 0, 1e9, "MONEY",
	 "what this host cost: the dashboard shows what it costs an hour\nand a million tokens (default: 0)"},
	{"host-years", 0, FHD_OPT_FLOAT, AT(host.years), 0.01, 100, "N", "that it is used for (default: 4)"},
	{"host-hours", 0, FHD_OPT_FLOAT, AT(host.hours), 1, 8784, "N", "a year that it is on (default: 8766, all)"},
	{"host-watts", 0, FHD_OPT_FLOAT, AT(host.watts), 0, 1e6, "N",
	 "that it takes on average, where that is not measured"},
	{"host-kwh-price", 0, FHD_OPT_FLOAT, AT(host.kwh_price), 0, 1000, "MONEY", "of a kilowatt hour (default: 0)"},
	{"host-overhead", 0, FHD_OPT_FLOAT, AT(host.overhead), 1, 100, "FACTOR",
	 "what leaves the socket, in terms of what is measured: fans,\ndisks, cooling, the supply's losses (default: "
	 "1)"},
	{"host-other", 0, FHD_OPT_FLOAT, AT(host.other), 0, 1e9, "MONEY",
	 "rent of its place, people: a month (default: 0)"},
	GROUP("traces:"),
	{"otlp-endpoint", 0, FHD_OPT_STR, AT(otlp_endpoint), 0, 0, "URL",
	 "an OpenTelemetry collector, such as http://127.0.0.1:4318, that\ngets a trace of each request; off (default: "
	 "OTEL_EXPORTER_OTLP_ENDPOINT,\nor none)"},
	{"otlp-headers", 0, FHD_OPT_STR, AT(otlp_headers), 0, 0, "LIST",
	 "NAME=VALUE,... that it wants, such as a key, percent-encoded\n(default: OTEL_EXPORTER_OTLP_HEADERS, or "
	 "none)"},
	{"otlp-timeout", 0, FHD_OPT_U32, AT(otlp_timeout_s), 1, 600, "SECONDS", "for a post to it (default: 10)"},
	{"otlp-queue", 0, FHD_OPT_U32, AT(otlp_queue), 16, 1 << 20, "N",
	 "requests that wait for it; more are dropped (default: 2048)"},
	{"trace-ratio", 0, FHD_OPT_FLOAT, AT(trace_ratio), 0, 1, "SHARE",
	 "of the requests whose clients do not say (traceparent) is\ntraced (default: OTEL_TRACES_SAMPLER_ARG, or 1)"},
	{"log-requests", 0, FHD_OPT_ON, AT(log_requests), 0, 0, NULL,
	 "log each request in JSON, with OpenTelemetry's names"},
	GROUP("identity:"),
	{"keys", 0, FHD_OPT_STR, AT(keys), 0, 0, "FILE",
	 "database of tenants, users and API keys, which freehold-key(1)\nkeeps; its changes are noticed at once "
	 "(default: none)"},
	{"public", 0, FHD_OPT_LIST, AT(pub), 0, 0, "PATH",
	 "an endpoint that needs no key; may be repeated; none: each\nneeds one (default: /health, and / for the "
	 "dashboard's page)"},
	{"rule", 0, FHD_OPT_LIST, AT(rule), 0, 0, "RULE",
	 "whose a process, certificate or UDP client is, such as\n\"uid:1000 cgroup:/batch.slice acme/jobs\", "
	 "\"cert:gateway acme\" "
	 "or\n\"udp:laptop acme\"; may be repeated; the first that fits counts"},
	{"price", 0, FHD_OPT_LIST, AT(price), 0, 0, "PRICE",
	 "what a million tokens cost, for budgets in money, such as\n\"llama* 0.50/0.05/1.50/1.00\": model, then "
	 "prompt, "
	 "cached\nprompt, completion and, if it is another, thoughts; may be\nrepeated; the first that fits counts"},
	{"run-rows", 0, FHD_OPT_U32, AT(run_rows), 0, 1000000, "N",
	 "agent runs of a tenant of which usage is kept one by one, the\nlatest; of all others the sum is (default: "
	 "10000)"},
	{"run-days", 0, FHD_OPT_U32, AT(run_days), 0, 36500, "DAYS",
	 "since a run's last request that it is; 0: for ever (default:\n90)"},
	{"https", 0, FHD_OPT_LIST, AT(https), 0, 0, "ADDR:PORT",
	 "listen there with TLS 1.3; may be repeated; then --http has\nno default"},
	{"tls-cert", 0, FHD_OPT_STR, AT(tls_cert), 0, 0, "FILE",
	 "the server's certificate, and those that lead to its CA (PEM);\nSIGHUP reads it again"},
	{"tls-key", 0, FHD_OPT_STR, AT(tls_key), 0, 0, "FILE", "its private key (PEM)"},
	{"tls-client-ca", 0, FHD_OPT_STR, AT(tls_client_ca), 0, 0, "FILE",
	 "CAs (PEM) that certify clients: organization is the tenant,\ncommon name the user (default: none)"},
	{"tls-client-cert", 0, FHD_OPT_CHOICE, AT(tls_client_cert), 0, 0, "optional|required",
	 "whether a client has to show one (default: optional; an API\nkey does as well)"},
	{"tls-offload", 0, FHD_OPT_CHOICE, AT(tls_offload), 0, 0, "auto|on|off",
	 "let the kernel encrypt what is sent (kTLS): where it can, or\nnot start without, or never (default: auto)"},
	{"tls-timeout", 0, FHD_OPT_U32, AT(tls_timeout_s), 1, 3600, "SECONDS",
	 "for a whole TLS handshake (default: 10)"},
	GROUP("process:"),
	{"drain", 0, FHD_OPT_U32, AT(drain_s), 0, 3600, "SECONDS",
	 "after SIGTERM, let what runs go on for so long (default: 30);\na second signal ends at once"},
	{"user", 0, FHD_OPT_STR, AT(user), 0, 0, "NAME",
	 "become NAME when started as root (default: freehold, if it exists)"},
	{"no-sandbox", 0, FHD_OPT_OFF, AT(sandbox), 0, 0, NULL, "keep all rights (for debugging)"},
	{"log-json", 0, FHD_OPT_ON, AT(log_json), 0, 0, NULL, "log as JSON, a line an event"},
};

static uint32_t nr_options(enum fhd_config_use use)
{
	uint32_t n = sizeof(options) / sizeof(options[0]);

	if (use == FHD_USE_RUN)
		for (n = 0; strcmp(options[n].name, "serving:"); n++)
			;
	return n;
}

void fhd_config_init(struct fhd_config *c, enum fhd_config_use use, struct fhd_option_set *set)
{
	*c = (struct fhd_config){
		.max_seqs = use == FHD_USE_RUN ? 1 : 64,
		.max_queue = 1024,
		.step_tokens = 512,
		.prefill_chunk = 256,
		.prefix_cache = true,
		.speculate_tokens = 16,
		.device_timeout_s = 120,
		.pin_memory = use == FHD_USE_SERVE, /* a short life is not worth it */
		.max_connections = 4096,
		.max_requests = 2048,
		.max_body_bytes = 16u << 20,
		.header_timeout_s = 10,
		.body_timeout_s = 60,
		.idle_timeout_s = 120,
		.write_timeout_s = 60,
		.tls_timeout_s = 10,
		.max_channels = 512,
		.max_user_channels = 256,
		.user_channel_bytes = 1ull << 30,
		.udp_max_sessions = 1024,
		.udp_max_requests = 1024,
		.audit_retain_days = 184,
		.run_rows = FH_RUN_ROWS_DEFAULT,
		.run_days = FH_RUN_DAYS_DEFAULT,
		.otlp_timeout_s = 10,
		.otlp_queue = 2048,
		.trace_ratio = -1,
		.host = {.years = 4, .hours = 8766, .overhead = 1},
		.drain_s = 30,
		.sandbox = true,
	};
	*set = (struct fhd_option_set){.opts = options, .nr = nr_options(use), .base = c};
}

static bool wants_help(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return true;
	return false;
}

static bool is_socket(const char *channel)
{
	return !strncmp(channel, "unix:", 5) && channel[5];
}

static int check_udp(const struct fhd_config *c, struct fh_err *err)
{
	if (c->udp && (!c->udp_key || !c->udp_clients))
		return fh_errf(err, -EINVAL,
			       "--udp %s: --udp-key and --udp-clients are wanted, too: who we are, and who may come",
			       c->udp);
	if (!c->udp_dpdk && (c->udp_eal || c->udp_prefix || c->udp_gateway || c->udp_queues))
		return fh_errf(err, -EINVAL,
			       "--udp-eal, --udp-prefix, --udp-gateway and --udp-queues are for --udp-dpdk, which is "
			       "not there");
	if (c->udp_dpdk && !c->udp)
		return fh_errf(err, -EINVAL, "--udp-dpdk %s: --udp ADDR:PORT is wanted, too: the device's own address",
			       c->udp_dpdk);
	return 0;
}

static int check_channels(const struct fhd_config *c, struct fh_err *err)
{
	const char *socket = NULL;

	for (uint32_t i = 0; i < c->channel.n; i++) {
		const char *v = c->channel.v[i];

		if (!strcmp(v, "off") && c->channel.n > 1)
			return fh_errf(err, -EINVAL, "--channel off: it stands alone");
		if (!is_socket(v) && strcmp(v, "auto") && strcmp(v, "dev") && strcmp(v, "off"))
			return fh_errf(err, -EINVAL, "--channel %s: one of auto, dev, unix:PATH and off is wanted", v);
		if (is_socket(v) && socket)
			return fh_errf(err, -EINVAL, "--channel %s: one socket for channels is enough, and %s is one",
				       v, socket);
		socket = is_socket(v) ? v : socket;
	}
	return 0;
}

static int check_listeners(const struct fhd_config *c, struct fh_err *err)
{
	if (c->http.n + c->https.n > FHD_MAX_LISTEN)
		return fh_errf(err, -EINVAL, "%u addresses to listen on are too many; %d are possible",
			       c->http.n + c->https.n, FHD_MAX_LISTEN);
	if (c->https.n && (!c->tls_cert || !c->tls_key))
		return fh_errf(err, -EINVAL, "--https %s: --tls-cert and --tls-key are needed", c->https.v[0]);
	if (!c->https.n && (c->tls_cert || c->tls_key || c->tls_client_ca))
		return fh_errf(err, -EINVAL, "--tls-cert, --tls-key and --tls-client-ca do nothing without --https");
	if (c->tls_offload && !c->https.n)
		return fh_errf(err, -EINVAL, "--tls-offload %s does nothing without --https", c->tls_offload);
	if (c->tls_client_cert && !c->tls_client_ca)
		return fh_errf(err, -EINVAL, "--tls-client-cert %s: --tls-client-ca says whose certificates count",
			       c->tls_client_cert);
	for (uint32_t i = 0; i < c->https.n; i++)
		if (!strncmp(c->https.v[i], "unix:", 5))
			return fh_errf(err, -EINVAL, "--https %s: TLS is for TCP; a socket of this host goes to --http",
				       c->https.v[i]);
	return 0;
}

/* "none", or milliseconds as microseconds, up to an hour. */
static bool read_ms(const char *text, size_t n, uint32_t *us)
{
	char copy[24], *end;
	double ms;

	if (!n || n >= sizeof(copy))
		return false;
	memcpy(copy, text, n);
	copy[n] = 0;
	*us = 0;
	if (!strcmp(copy, "none"))
		return true;
	ms = strtod(copy, &end);
	if (end == copy || *end || !(ms > 0 && ms <= 3600000))
		return false;
	*us = ms < 0.001 ? 1 : (uint32_t)(ms * 1000);
	return true;
}

int fhd_config_deadlines(const struct fhd_config *c, struct fh_sched_class out[FH_SCHED_CLASSES], struct fh_err *err)
{
	static const char *const names[] = {
		[FH_CLASS_STANDARD] = "standard", [FH_CLASS_INTERACTIVE] = "interactive", [FH_CLASS_BATCH] = "batch"};

	for (int i = 0; i < FH_SCHED_CLASSES; i++) {
		const char *text = c->deadline[i], *slash = text ? strchr(text, '/') : NULL;

		out[i] = (struct fh_sched_class){0};
		if (!text || !strcmp(text, "none"))
			continue;
		if (!slash || !read_ms(text, (size_t)(slash - text), &out[i].ttft_us) ||
		    !read_ms(slash + 1, strlen(slash + 1), &out[i].tpot_us))
			return fh_errf(err, -EINVAL,
				       "deadline-%s %s: milliseconds to the first token and between two are wanted, "
				       "such as 500/50, 500/none or none",
				       names[i], text);
	}
	return 0;
}

const char *fhd_config_channel_path(const struct fhd_config *c)
{
	for (uint32_t i = 0; i < c->channel.n; i++)
		if (is_socket(c->channel.v[i]))
			return c->channel.v[i] + strlen("unix:");
	return NULL;
}

/* What was not set and is no constant. */
static int fill_defaults(struct fhd_config *c, struct fh_err *err)
{
	const char *isa = getenv("FREEHOLD_ISA"), *device = getenv("FREEHOLD_DEVICE");
	const struct fh_accel_ops *ops;
	uint32_t gpu;
	struct fh_sched_class classes[FH_SCHED_CLASSES];
	char path[PATH_MAX];
	int rc;

	if (!c->model) {
		rc = fhd_builtin_model(path, sizeof(path), err);
		if (rc)
			return rc;
		c->model = strdup(path);
		if (!c->model)
			return fh_errf(err, -ENOMEM, "out of memory");
	}
	if (!c->http.n && !c->https.n) {
		c->http.v[0] = strdup("127.0.0.1:8080");
		if (!c->http.v[0])
			return fh_errf(err, -ENOMEM, "out of memory");
		c->http.n = 1;
	}
	if (!c->isa && isa && *isa) {
		c->isa = strdup(isa);
		if (!c->isa)
			return fh_errf(err, -ENOMEM, "out of memory");
	}
	if (!c->device && device && *device) {
		c->device = strdup(device);
		if (!c->device)
			return fh_errf(err, -ENOMEM, "out of memory");
	}
	rc = fh_accel_choose(c->device, &ops, &gpu, err);
	if (!rc)
		rc = fhd_config_deadlines(c, classes, err);
	if (rc)
		return rc;
	if (c->step_tokens < c->max_seqs)
		c->step_tokens = c->max_seqs;
	if (c->prefill_chunk > c->step_tokens)
		c->prefill_chunk = c->step_tokens;
	return 0;
}

int fhd_config_load(struct fhd_config *c, enum fhd_config_use use, int argc, char **argv,
		    const struct fhd_option_set *more, struct fh_err *err)
{
	struct fhd_option_set sets[2], file_set;
	const char *file = fhd_options_peek(argc, argv, "config");
	int rc = 0;

	fhd_config_init(c, use, &sets[0]);
	sets[1] = more ? *more : (struct fhd_option_set){0};
	if (wants_help(argc, argv)) {
		c->help = true;
		return 0;
	}
	/* One file may serve both commands, so a file may hold all settings. */
	file_set = sets[0];
	file_set.nr = nr_options(FHD_USE_SERVE);
	if (file)
		rc = fhd_options_file(file, &file_set, 1, err);
	if (!rc && use == FHD_USE_RUN)
		c->max_seqs = 1;
	if (!rc)
		rc = fhd_options_argv(argc, argv, sets, more ? 2 : 1, err);
	if (!rc)
		rc = check_channels(c, err);
	if (!rc)
		rc = check_udp(c, err);
	if (!rc)
		rc = check_listeners(c, err);
	if (!rc)
		rc = fill_defaults(c, err);
	if (rc)
		fhd_config_free(c);
	return rc;
}

void fhd_config_help(FILE *out, enum fhd_config_use use, const struct fhd_option_set *more)
{
	struct fhd_option_set sets[2] = {
		{.opts = options, .nr = nr_options(use)},
		more ? *more : (struct fhd_option_set){0},
	};

	fhd_options_help(out, sets, more ? 2 : 1);
}

void fhd_config_free(struct fhd_config *c)
{
	struct fhd_option_set set = {.opts = options, .nr = nr_options(FHD_USE_SERVE), .base = c};

	fhd_options_free(&set);
}

void fhd_log_setup(const struct fhd_config *c)
{
	static const char *const levels[] = {"error", "warning", "info", "debug"};
	enum fh_log_level level = FH_LOG_INFO;

	for (unsigned int i = 0; c->log_level && i < sizeof(levels) / sizeof(levels[0]); i++)
		if (!strcmp(c->log_level, levels[i]))
			level = (enum fh_log_level)i;
	fh_log_setup(level, c->log_json);
}

enum fh_kv_type fhd_config_kv_type(const struct fhd_config *c)
{
	const char *name = c->kv_type_name ?: "f16";

	if (!strcmp(name, "q8_0"))
		return FH_KV_Q8_0;
	if (!strcmp(name, "bf16"))
		return FH_KV_BF16;
	return !strcmp(name, "f32") ? FH_KV_F32 : FH_KV_F16;
}

bool fhd_config_audit_strict(const struct fhd_config *c)
{
	return c->audit_dir && c->audit_mode && !strcmp(c->audit_mode, "strict");
}

uint32_t fhd_config_spec_tokens(const struct fhd_config *c)
{
	return c->speculate && !strcmp(c->speculate, "off") ? 0 : c->speculate_tokens;
}

/* The one GGUF file in @dir. */
static bool find_model(const char *dir, char *path, size_t cap)
{
	char pattern[PATH_MAX];
	bool found = false;
	glob_t g;

	if (snprintf(pattern, sizeof(pattern), "%s/*.gguf", dir) >= (int)sizeof(pattern))
		return false;
	if (!glob(pattern, 0, NULL, &g)) {
		found = snprintf(path, cap, "%s", g.gl_pathv[0]) < (int)cap;
		globfree(&g);
	}
	return found;
}

int fhd_builtin_model(char *path, size_t cap, struct fh_err *err)
{
	static const char *const beside[] = {"../tools/demo", "../../tools/demo", "../share/freehold"};
	char exe[PATH_MAX], dir[PATH_MAX + 32];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	if (n > 0) {
		exe[n] = 0;
		dirname(exe);
		for (size_t i = 0; i < sizeof(beside) / sizeof(beside[0]); i++) {
			char real[PATH_MAX];

			snprintf(dir, sizeof(dir), "%s/%s", exe, beside[i]);
			if (realpath(dir, real) && find_model(real, path, cap))
				return 0;
		}
	}
	if (find_model(FREEHOLD_DATADIR, path, cap))
		return 0;
	return fh_errf(err, -ENOENT, "the built-in model is not in %s; name one with -m FILE", FREEHOLD_DATADIR);
}
