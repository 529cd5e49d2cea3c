/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What can be set: by a flag, else by the file that --config names, else the
 * default.  `serve` takes all of it, `run` the part about the model.
 */
#ifndef FH_DAEMON_CONFIG_H
#define FH_DAEMON_CONFIG_H

#include "runtime/accel/accel.h"
#include "runtime/base/budget.h"
#include "runtime/daemon/options.h"
#include "runtime/sched/sched.h" /* struct fh_sched_class */

/* What the host costs, in the currency of the prices. */
struct fhd_host_cost {
	float hardware, years;	/* what it cost, and for how long it is used */
	float hours;		/* a year that it is on */
	float watts, kwh_price; /* that it takes, where that is not measured; of a kilowatt hour */
	float overhead;		/* what comes out of the wall, in terms of what is measured */
	float other;		/* a month: rent of its place, people */
};

struct fhd_config {
	/* The model. */
	char *model;	  /* GGUF file, or "null:FILE"; never NULL once loaded */
	char *model_name; /* that clients ask for; NULL: the file's own */
	char *chat_template_file;
	/* The engine. */
	uint32_t threads;   /* 0: what the affinity mask and the CPU quota allow */
	uint32_t ctx;	    /* 0: the model's, at most FHD_CTX_DEFAULT */
	uint32_t max_seqs;  /* running together */
	uint32_t max_queue; /* waiting */
	uint32_t step_tokens, prefill_chunk;
	char *deadline[FH_SCHED_CLASSES]; /* by enum fh_class; "TTFT/TPOT" in ms, each of them perhaps "none" */
	char *cache_dir;		  /* NULL: see fhd_costs_open() */
	char *kv_type_name;
	uint64_t kv_bytes; /* 0: by the context, the sequences and the memory that is free */
	bool prefix_cache;
	char *speculate; /* "ngram" or "off"; NULL: the default */
	uint32_t speculate_tokens;
	char *draft_model; /* NULL: none */
	bool pin_memory;
	char *isa;    /* NULL: the best */
	char *device; /* "auto", "cpu", "cuda" or "cuda:N"; NULL: auto */
	uint32_t device_timeout_s;
	/* HTTP. */
	struct fhd_strings http;
	char *api_key_file;
	/* Who may come in. */
	struct fhd_strings https;
	char *tls_cert, *tls_key, *tls_client_ca, *tls_client_cert; /* tls_client_cert: "optional" or "required" */
	char *tls_offload;					    /* "auto", "on" or "off"; NULL: auto */
	uint32_t tls_timeout_s;
	char *keys;		/* the key database; NULL: none */
	struct fhd_strings pub; /* endpoints that are open to all; empty: /health */
	struct fhd_strings rule;
	uint32_t run_rows, run_days; /* of usage by agent run: how many of a tenant, and for how long; 0 days: ever */
	struct fhd_strings price;    /* "MODEL PROMPT/CACHED/COMPLETION", of a million tokens */
	uint32_t max_connections, max_requests;
	uint64_t max_body_bytes;
	uint32_t header_timeout_s, body_timeout_s, idle_timeout_s, write_timeout_s;
	bool epoll;
	/* Channels. */
	struct fhd_strings channel; /* "auto", "dev", "unix:PATH" or "off"; empty is off */
	bool register_memory;
	uint32_t max_channels, max_user_channels;
	uint64_t user_channel_bytes;
	/* UDP. */
	char *udp;	   /* "ADDR:PORT"; NULL: none */
	char *udp_key;	   /* file of our secret key */
	char *udp_clients; /* file of the clients' public keys */
	uint32_t udp_max_sessions, udp_max_requests, udp_mtu, udp_queues;
	/* Over DPDK: a device; its address's prefix and gateway, and DPDK's options; NULL: a kernel socket. */
	char *udp_dpdk, *udp_prefix, *udp_gateway, *udp_eal;
	/* The audit log. */
	char *audit_dir;		 /* NULL: none */
	char *audit_mode, *audit_bodies; /* NULL: the default */
	uint32_t audit_retain_days;	 /* 0: for ever */
	/* Energy and what the host costs. */
	char *energy; /* "auto", "cpu", "gpu" or "off"; NULL: the default */
	struct fhd_host_cost host;
	/* Traces. */
	char *otlp_endpoint, *otlp_headers; /* NULL: the environment's, or none */
	uint32_t otlp_timeout_s, otlp_queue;
	float trace_ratio; /* below 0: the environment's, or 1 */
	bool log_requests;
	/* The process. */
	uint32_t drain_s; /* how long a stop waits for what runs */
	bool sandbox;
	char *user; /* to become when started as root */
	bool log_json;
	char *log_level;
	char *config;
	bool help;
};

#define FHD_CTX_DEFAULT 32768
#define FHD_MAX_LISTEN 8 /* addresses of HTTP, with and without TLS */

enum fhd_config_use { FHD_USE_SERVE, FHD_USE_RUN };

/* Fill in the defaults and describe the options for @use in @set. */
void fhd_config_init(struct fhd_config *c, enum fhd_config_use use, struct fhd_option_set *set);
/*
 * Defaults, then the file of --config, then the command line.  @more: further
 * options of the caller's, or NULL.  -EINVAL, -ENOMEM or why the file cannot be
 * read, with @err.  With c->help nothing else was looked at.
 */
int fhd_config_load(struct fhd_config *c, enum fhd_config_use use, int argc, char **argv,
		    const struct fhd_option_set *more, struct fh_err *err);
void fhd_config_help(FILE *out, enum fhd_config_use use, const struct fhd_option_set *more);
void fhd_config_free(struct fhd_config *c);

/* The log as set. */
void fhd_log_setup(const struct fhd_config *c);
enum fh_kv_type fhd_config_kv_type(const struct fhd_config *c);
/* Of --channel unix:PATH; NULL: none. */
const char *fhd_config_channel_path(const struct fhd_config *c);
/* Nothing is answered that is not logged. */
bool fhd_config_audit_strict(const struct fhd_config *c);
/* Tokens of a sequence to guess in a step; 0: none. */
uint32_t fhd_config_spec_tokens(const struct fhd_config *c);

/* The classes' deadlines. 0, or -EINVAL with @err. */
int fhd_config_deadlines(const struct fhd_config *c, struct fh_sched_class out[FH_SCHED_CLASSES], struct fh_err *err);

/*
 * What a token of @model costs; where it does not think (@thinks) a thought is no dearer than an answer, so that
 * nothing is held for it. 0, or -EINVAL with @err.
 */
int fhd_config_prices(const struct fhd_config *c, const char *model, bool thinks, struct fh_prices *out,
		      struct fh_err *err);

/* Where the built-in model lies: beside the executable's source tree, or where it was installed. -ENOENT with @err. */
int fhd_builtin_model(char *path, size_t cap, struct fh_err *err);

#endif /* FH_DAEMON_CONFIG_H */
