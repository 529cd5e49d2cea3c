// SPDX-License-Identifier: Apache-2.0
/*
 * From a traffic secret to key and IV: RFC 8448's handshake, and for the suites
 * that it does not have, HKDF written out with OpenSSL's HMAC.
 */
#include <criterion/criterion.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

#include "runtime/net/tls.h"

static struct fh_tls_lib *lib_up(void)
{
	struct fh_tls_lib *lib = NULL;
	struct fh_err err;

	cr_assert_eq(fh_tls_lib_open(&lib, &err), 0, "%s", err.msg);
	return lib;
}

static size_t unhex(const char *hex, uint8_t *out)
{
	size_t n = 0;

	for (; hex[2 * n]; n++) {
		unsigned int byte;

		cr_assert_eq(sscanf(hex + 2 * n, "%2x", &byte), 1);
		out[n] = (uint8_t)byte;
	}
	return n;
}

/* RFC 8448, section 3: "derive write traffic keys" of handshake and application data, server and client. */
Test(tls_key, rfc_8448)
{
	static const struct {
		const char *secret, *key, *iv;
	} of[] = {
		{"a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643", "9f02283b6c9c07efc26bb9f2ac92e356",
		 "cf782b88dd83549aadf1e984"},
		{"b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38", "3fce516009c21727d0f2e4e86ee403bc",
		 "5d313eb2671276ee13000b30"},
		{"9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5", "17422dda596ed5d9acd890e3c63f5051",
		 "5b78923dee08579033e523d9"},
	};
	struct fh_tls_lib *lib = lib_up();

	for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		uint8_t secret[48], key[32], iv[16];
		size_t n = unhex(of[i].secret, secret);
		struct fh_tls_tx tx;

		cr_assert_eq(fh_tls_derive(lib, FH_TLS_AES_128_GCM, secret, n, &tx), 0);
		cr_expect_eq(tx.suite, FH_TLS_AES_128_GCM);
		cr_expect_eq(unhex(of[i].key, key), 16);
		cr_expect_eq(unhex(of[i].iv, iv), FH_TLS_IV_BYTES);
		cr_expect_arr_eq(tx.key, key, 16, "secret %zu", i);
		cr_expect_arr_eq(tx.iv, iv, FH_TLS_IV_BYTES, "secret %zu", i);
	}
	fh_tls_lib_close(lib);
}

/* RFC 5869, 2.3, with the one block that keys take, and RFC 8446, 7.1. */
static void expand_label(const EVP_MD *md, const uint8_t *secret, size_t nr_secret, const char *label, uint8_t *out,
			 uint8_t n)
{
	uint8_t info[64] = {0, n, (uint8_t)(6 + strlen(label))}, block[EVP_MAX_MD_SIZE];
	size_t at = 3;

	memcpy(info + at, "tls13 ", 6);
	memcpy(info + at + 6, label, strlen(label));
	at += 6 + strlen(label);
	info[at++] = 0; /* no context */
	info[at++] = 1; /* the first block */
	cr_assert(HMAC(md, secret, (int)nr_secret, info, at, block, NULL));
	memcpy(out, block, n);
}

Test(tls_key, every_suite)
{
	static const struct {
		uint16_t suite;
		uint8_t nr_key, nr_secret;
	} of[] = {{FH_TLS_AES_128_GCM, 16, 32}, {FH_TLS_AES_256_GCM, 32, 48}, {FH_TLS_CHACHA20_POLY1305, 32, 32}};
	struct fh_tls_lib *lib = lib_up();
	struct fh_tls_tx tx;
	uint8_t secret[48];

	for (size_t i = 0; i < sizeof(secret); i++)
		secret[i] = (uint8_t)(i * 7 + 1);
	for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		const EVP_MD *md = of[i].nr_secret == 48 ? EVP_sha384() : EVP_sha256();
		uint8_t key[32], iv[FH_TLS_IV_BYTES];

		expand_label(md, secret, of[i].nr_secret, "key", key, of[i].nr_key);
		expand_label(md, secret, of[i].nr_secret, "iv", iv, sizeof(iv));
		cr_assert_eq(fh_tls_derive(lib, of[i].suite, secret, of[i].nr_secret, &tx), 0);
		cr_expect_eq(fh_tls_key_bytes(of[i].suite), of[i].nr_key);
		cr_expect_arr_eq(tx.key, key, of[i].nr_key);
		cr_expect_arr_eq(tx.iv, iv, sizeof(iv));
		/* A secret of the other hash. */
		cr_expect_lt(fh_tls_derive(lib, of[i].suite, secret, 80u - of[i].nr_secret, &tx), 0);
		cr_expect_eq(tx.suite, 0);
	}
	cr_expect_lt(fh_tls_derive(lib, 0x1304, secret, 32, &tx), 0); /* AES-128-CCM */
	fh_tls_lib_close(lib);
}

Test(tls_key, lines_of_the_key_log)
{
	static const char *const others[] = {
		"",
		"SERVER_TRAFFIC_SECRET_0",
		"SERVER_TRAFFIC_SECRET_0 ",
		"SERVER_TRAFFIC_SECRET_0 00ff",
		"SERVER_TRAFFIC_SECRET_0 00ff ",
		"SERVER_TRAFFIC_SECRET_0 00ff abc",
		"SERVER_TRAFFIC_SECRET_0 00ff ab cd",
		"SERVER_TRAFFIC_SECRET_0 00ff xy",
		"SERVER_HANDSHAKE_TRAFFIC_SECRET 00ff abcd",
		"CLIENT_TRAFFIC_SECRET_0 00ff abcd",
	};
	uint8_t secret[FH_TLS_SECRET_MAX];
	char line[256];
	int n = snprintf(line, sizeof(line), "SERVER_TRAFFIC_SECRET_0 00ff ");

	cr_expect_eq(fh_tls_keylog_secret("SERVER_TRAFFIC_SECRET_0 00ff aBcD09", secret), 3);
	cr_expect(secret[0] == 0xab && secret[1] == 0xcd && secret[2] == 9);
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		cr_expect_eq(fh_tls_keylog_secret(others[i], secret), 0, "'%s'", others[i]);
	for (int i = 0; i < 49; i++)
		sprintf(line + n + 2 * i, "%02x", (unsigned int)i);
	cr_expect_eq(fh_tls_keylog_secret(line, secret), 0, "a secret of 49 bytes");
	line[n + 96] = 0;
	cr_expect_eq(fh_tls_keylog_secret(line, secret), 48);
	cr_expect_eq(secret[47], 47);
}
