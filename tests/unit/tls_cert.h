/* SPDX-License-Identifier: Apache-2.0 */
/* A certificate for "localhost" and its key, made here, in files. */
#ifndef FH_TESTS_UNIT_TLS_CERT_H
#define FH_TESTS_UNIT_TLS_CERT_H

#include <criterion/criterion.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char cert_path[64], key_path[64];

static void write_pem(char path[64], EVP_PKEY *key, X509 *cert)
{
	FILE *f;
	int fd;

	strcpy(path, "/tmp/fh-tls-XXXXXX");
	fd = mkstemp(path);
	cr_assert_geq(fd, 0);
	f = fdopen(fd, "w");
	if (cert)
		cr_assert(PEM_write_X509(f, cert));
	else
		cr_assert(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL));
	fclose(f);
}

static void make_cert(void)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = X509_new();
	X509_NAME *name = X509_get_subject_name(x);

	cr_assert(key && x);
	ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
	X509_gmtime_adj(X509_getm_notBefore(x), -60);
	X509_gmtime_adj(X509_getm_notAfter(x), 3600);
	X509_set_pubkey(x, key);
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1, -1, 0);
	X509_set_issuer_name(x, name);
	cr_assert(X509_sign(x, key, EVP_sha256()));
	write_pem(cert_path, NULL, x);
	write_pem(key_path, key, NULL);
	X509_free(x);
	EVP_PKEY_free(key);
}

static void forget_cert(void)
{
	unlink(cert_path);
	unlink(key_path);
}

#endif /* FH_TESTS_UNIT_TLS_CERT_H */
