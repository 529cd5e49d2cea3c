/* SPDX-License-Identifier: Apache-2.0 */
/*
 * API keys: one a line, '#' comments.
 *
 * Keys lie in fields of equal length, padded with zeros, and a presented key
 * is compared with every field in full: the time says nothing about which key,
 * or how much of it, was right.  A table is immutable once loaded.
 */
#ifndef FH_NET_AUTH_H
#define FH_NET_AUTH_H

#include <stdint.h>

#include "runtime/base/err.h"
#include "runtime/net/http_parse.h"

#define FH_AUTH_MAX_KEY 255 /* bytes of one key */
#define FH_AUTH_MAX_KEYS 4096

struct fh_auth;

/* 0, or -errno with @err naming the line. */
int fh_auth_load(const char *path, struct fh_auth **out, struct fh_err *err);
void fh_auth_free(struct fh_auth *a);
/*
 * @authorization: the value of the header field, "Bearer KEY".  The key's place in the file, from 1 (of equal keys the
 * last); 0: it is not there.
 */
uint32_t fh_auth_check(const struct fh_auth *a, struct fh_span authorization);
/* The key of "Bearer KEY"; n 0: there is none. */
struct fh_span fh_auth_bearer(struct fh_span authorization);

/* The text of key @nr, as fh_auth_check() counts them. */
const char *fh_auth_key(const struct fh_auth *a, uint32_t nr);

#endif /* FH_NET_AUTH_H */
