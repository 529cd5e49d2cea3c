// SPDX-License-Identifier: Apache-2.0
/* From the settings to a guard, and from the guard to the front ends. */
#include "runtime/daemon/identity.h"

#include "runtime/base/log.h"

bool fhd_identity_guards_http(const struct fhd_config *cfg)
{
	return cfg->keys || cfg->tls_client_ca;
}

static void changed(void *ctx, struct fh_guard *g)
{
	struct fhd_identity *i = ctx;

	if (i->chans)
		fh_chans_set_guard(i->chans, fh_guard_get(g));
	fh_http_set_guard(i->http, g);
}

int fhd_identity_open(struct fhd_identity *i, const struct fhd_config *cfg, const char *model, struct fh_err *err)
{
	struct fh_keywatch_config kc = {.path = cfg->keys, .world = {.model = model}, .changed = changed, .ctx = i};
	int rc = 0;

	if (!fhd_identity_guards_http(cfg) && !cfg->rule.n)
		return 0;
	if (cfg->rule.n)
		rc = fh_rules_parse((const char *const *)cfg->rule.v, cfg->rule.n, &i->rules, err);
	if (rc)
		return rc;
	kc.world.rules = i->rules;
	kc.world.endpoints = fh_http_endpoints(&kc.world.nr_endpoints);
	rc = fh_keywatch_open(&kc, &i->watch, err);
	if (rc)
		return rc;
	i->first = fh_keywatch_guard(i->watch);
	if (cfg->keys)
		fh_info("keys: %s, %u keys", cfg->keys, fh_keytab_nr_keys(i->first));
	return 0;
}

int fhd_identity_start(struct fhd_identity *i, struct fh_http *http, struct fh_chans *chans, struct fh_err *err)
{
	if (!i->watch)
		return 0;
	i->http = http;
	i->chans = chans;
	fh_http_set_guard(http, fh_keywatch_guard(i->watch));
	return fh_keywatch_start(i->watch, err);
}

void fhd_identity_stop(struct fhd_identity *i)
{
	if (i->watch)
		fh_keywatch_stop(i->watch);
}

void fhd_identity_close(struct fhd_identity *i)
{
	fh_guard_put(i->first);
	fh_keywatch_close(i->watch);
	fh_rules_free(i->rules);
	*i = (struct fhd_identity){0};
}
