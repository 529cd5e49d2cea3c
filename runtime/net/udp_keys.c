// SPDX-License-Identifier: Apache-2.0
/* Who may come over UDP: a file of names and public keys, and whose they are. */
#include <stdio.h>
#include <stdlib.h>

#include "runtime/net/udp_priv.h"

void fh_udp_keys_free(struct fh_udp_keys *k)
{
	free(k->clients);
	free(k->keys);
	*k = (struct fh_udp_keys){0};
}

int fh_udp_keys_copy(const struct fh_udp_keys *from, struct fh_udp_keys *to, struct fh_err *err)
{
	*to = (struct fh_udp_keys){.nr = from->nr,
				   .clients = malloc(from->nr * sizeof(*to->clients)),
				   .keys = malloc((size_t)from->nr * FHW_KEY_BYTES)};
	if (!to->clients || !to->keys) {
		fh_udp_keys_free(to);
		return fh_errf(err, -ENOMEM, "udp: out of memory");
	}
	memcpy(to->clients, from->clients, from->nr * sizeof(*to->clients));
	memcpy(to->keys, from->keys, (size_t)from->nr * FHW_KEY_BYTES);
	return 0;
}

static int add(struct fh_udp_keys *k, const char *path, unsigned int line, const char *name, const char *key,
	       struct fh_err *err)
{
	struct fh_udp_client *c = &k->clients[k->nr];

	if (strlen(name) >= sizeof(c->name))
		return fh_errf(err, -EINVAL, "%s:%u: the name is longer than %zu bytes", path, line,
			       sizeof(c->name) - 1);
	if (fhw_key_parse(key, strlen(key), k->keys[k->nr]))
		return fh_errf(err, -EINVAL, "%s:%u: '%.60s' is no public key: `freehold udp-key` prints them", path,
			       line, key);
	for (uint32_t i = 0; i < k->nr; i++)
		if (!memcmp(k->keys[i], k->keys[k->nr], FHW_KEY_BYTES))
			return fh_errf(err, -EINVAL, "%s:%u: %s has the key of %s", path, line, name,
				       k->clients[i].name);
	strcpy(c->name, name);
	c->tenant = FH_TENANT_UDP | line;
	k->nr++;
	return 0;
}

int fh_udp_keys_load(const char *path, struct fh_udp_keys *k, struct fh_err *err)
{
	char line[512], *name, *key, *more, *save;
	unsigned int nr = 0;
	int rc = 0;
	FILE *f;

	*k = (struct fh_udp_keys){.clients = calloc(FH_UDP_MAX_CLIENTS, sizeof(*k->clients)),
				  .keys = calloc(FH_UDP_MAX_CLIENTS, FHW_KEY_BYTES)};
	if (!k->clients || !k->keys)
		return fh_errf(err, -ENOMEM, "udp: out of memory");
	f = fopen(path, "re");
	if (!f)
		return fh_errf(err, -errno, "cannot read the clients' keys in %s: %s", path, strerror(errno));
	while (!rc && fgets(line, sizeof(line), f)) {
		nr++;
		name = strtok_r(line, " \t\r\n", &save);
		if (!name || *name == '#')
			continue;
		key = strtok_r(NULL, " \t\r\n", &save);
		more = strtok_r(NULL, " \t\r\n", &save);
		if (!key || (more && *more != '#'))
			rc = fh_errf(err, -EINVAL, "%s:%u: a line is NAME PUBLIC-KEY", path, nr);
		else if (k->nr == FH_UDP_MAX_CLIENTS)
			rc = fh_errf(err, -E2BIG, "%s: more than %u keys", path, FH_UDP_MAX_CLIENTS);
		else
			rc = add(k, path, nr, name, key, err);
	}
	fclose(f);
	if (!rc && !k->nr)
		rc = fh_errf(err, -EINVAL,
			     "%s: no key in it, so nobody could come in; write NAME PUBLIC-KEY, one a line", path);
	return rc;
}

/* Without a guard the client's name is the tenant, or what its key is called if no tenant can have that name. */
static void own_tenant(struct fh_udp_client *c, const uint8_t key_id[FH_IDENTITY_KEY_BYTES])
{
	struct fh_identity *who = &c->grant.who;

	c->grant = (struct fh_grant){.who = {.how = FH_ID_PUBKEY, .has_key_id = true},
				     .tenant_nr = c->tenant,
				     .endpoints = FH_GRANT_ALL,
				     .model = true};
	memcpy(who->key_id, key_id, sizeof(who->key_id));
	if (fh_identity_name_ok(c->name))
		strcpy(who->tenant, c->name);
	else
		snprintf(who->tenant, sizeof(who->tenant), "udp-%02x%02x%02x%02x", key_id[0], key_id[1], key_id[2],
			 key_id[3]);
}

void fh_udp_keys_identify(struct fh_udp_keys *k, const struct fh_guard *g)
{
	uint8_t hash[32];

	for (uint32_t i = 0; i < k->nr; i++) {
		struct fh_udp_client *c = &k->clients[i];
		struct fh_grant grant;

		/* BLAKE2b-256 (RFC 7693), of which the identity has the first bytes. */
		crypto_generichash(hash, sizeof(hash), k->keys[i], FHW_KEY_BYTES, NULL, 0);
		own_tenant(c, hash);
		c->verdict = g ? g->ops->udp(g, c->name, hash, &grant) : FH_GUARD_OK;
		if (g && c->verdict == FH_GUARD_OK)
			c->grant = grant;
	}
}
