// SPDX-License-Identifier: Apache-2.0
/*
 * The key schedule of TLS 1.3, as far as it is needed to hand a connection to
 * the kernel: from the traffic secret, which OpenSSL tells its key log, to key
 * and IV (RFC 8446, 7.3).
 */
#include <string.h>

#include "runtime/net/tls.h"
#include "runtime/net/tls_lib.h"

/* One HKDF-Expand-Label(secret, label, "", n) of RFC 8446, 7.1. 0 or -EIO. */
static int expand(struct fh_tls_lib *l, const char *digest, const uint8_t *secret, size_t nr_secret, const char *label,
		  uint8_t *out, size_t n)
{
	EVP_KDF_CTX *ctx = l->EVP_KDF_CTX_new(l->tls13_kdf);
	int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY, rc = -EIO;
	OSSL_PARAM p[6];

	if (!ctx)
		return rc;
	/* OpenSSL's parameters have no const; nothing is written to them. */
	p[0] = l->OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode);
	p[1] = l->OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)digest, 0);
	p[2] = l->OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)secret, nr_secret);
	p[3] = l->OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PREFIX, (void *)"tls13 ", 6);
	p[4] = l->OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_LABEL, (void *)label, strlen(label));
	p[5] = l->OSSL_PARAM_construct_end();
	if (l->EVP_KDF_derive(ctx, out, n, p) == 1)
		rc = 0;
	l->EVP_KDF_CTX_free(ctx);
	return rc;
}

int fh_tls_derive(struct fh_tls_lib *l, uint16_t suite, const uint8_t *secret, size_t nr_secret, struct fh_tls_tx *out)
{
	const char *digest = suite == FH_TLS_AES_256_GCM ? "SHA384" : "SHA256";
	size_t nr_key = fh_tls_key_bytes(suite);
	int rc;

	*out = (struct fh_tls_tx){0};
	if (!nr_key || nr_secret != (suite == FH_TLS_AES_256_GCM ? 48 : 32) || !l->tls13_kdf)
		return -EINVAL;
	rc = expand(l, digest, secret, nr_secret, "key", out->key, nr_key);
	if (!rc)
		rc = expand(l, digest, secret, nr_secret, "iv", out->iv, sizeof(out->iv));
	if (rc)
		fh_tls_tx_wipe(out);
	else
		out->suite = suite;
	l->ERR_clear_error();
	return rc;
}

static int digit(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

size_t fh_tls_keylog_secret(const char *line, uint8_t out[FH_TLS_SECRET_MAX])
{
	static const char name[] = "SERVER_TRAFFIC_SECRET_0 ";
	const char *p = strncmp(line, name, sizeof(name) - 1) ? NULL : strchr(line + sizeof(name) - 1, ' ');
	size_t n = 0;

	if (!p)
		return 0;
	for (p++; *p && n < FH_TLS_SECRET_MAX; n++, p += 2) {
		int high = digit(p[0]), low = high < 0 ? -1 : digit(p[1]);

		if (low < 0)
			break;
		out[n] = (uint8_t)(high << 4 | low);
	}
	if (!*p && n)
		return n;
	explicit_bzero(out, FH_TLS_SECRET_MAX);
	return 0;
}
