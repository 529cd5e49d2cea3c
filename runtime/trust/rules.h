/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules that say whose a process, a certificate or a client over UDP is, from the configuration:
 *
 *   CONDITION... TENANT[/USER]      or "refuse" in the place of the tenant
 *
 *   uid:N, uid:NAME, pid:N, cgroup:/PATH   a process, as the kernel stamped it
 *   cert:NAME                              a certificate's common name
 *   udp:NAME                               a client over UDP, by its name in the list
 *   any                                    every process
 *
 * All conditions of a rule must hold; the first rule that does decides.
 */
#ifndef FH_TRUST_RULES_H
#define FH_TRUST_RULES_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/err.h"
#include "runtime/base/identity.h"

#define FH_RULES_MAX 64

struct fh_rules;

/* @texts: [nr]. Names of users are looked up now. -EINVAL or -E2BIG with @err, which names the rule. */
int fh_rules_parse(const char *const *texts, uint32_t nr, struct fh_rules **out, struct fh_err *err);
/* NULL is fine. */
void fh_rules_free(struct fh_rules *r);

uint32_t fh_rules_nr(const struct fh_rules *r);
/* Whom rule @i names: tenant, and user or "". False: it refuses. */
bool fh_rules_target(const struct fh_rules *r, uint32_t i, const char **tenant, const char **user);

enum fh_rules_say { FH_RULES_NOTHING, FH_RULES_YES, FH_RULES_REFUSE };

/* Sets @who's tenant and user with FH_RULES_YES. @r may be NULL. Looks cgroups up in /sys/fs/cgroup, now. */
enum fh_rules_say fh_rules_peer(const struct fh_rules *r, uint32_t uid, uint32_t pid, uint64_t cgroup_id,
				struct fh_identity *who);
enum fh_rules_say fh_rules_cert(const struct fh_rules *r, const char *common_name, struct fh_identity *who);
enum fh_rules_say fh_rules_udp(const struct fh_rules *r, const char *name, struct fh_identity *who);

#endif /* FH_TRUST_RULES_H */
