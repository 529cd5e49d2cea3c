// SPDX-License-Identifier: Apache-2.0
/* freehold udp-key: secret keys for requests over UDP, and the public keys that belong to them. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "runtime/wire/crypt.h"
#include "tools/cmd.h"

static void usage(FILE *out)
{
	fputs("usage: freehold udp-key FILE\n"
	      "       freehold udp-key --public FILE\n"
	      "\n"
	      "Make a secret key (X25519) in FILE, which must not exist, readable by its owner\n"
	      "alone, and print the public key that belongs to it. A server and each of its\n"
	      "clients need one of their own.\n"
	      "\n"
	      "      --public                    print the public key of the secret key in FILE\n"
	      "  -h, --help                      print this\n"
	      "\n"
	      "examples:\n"
	      "  freehold udp-key server.key\n"
	      "  echo \"laptop $(freehold udp-key laptop.key)\" >> clients\n"
	      "  freehold serve --udp 0.0.0.0:9000 --udp-key server.key --udp-clients clients\n"
	      "  FREEHOLD_UDP_KEY=laptop.key freehold bench serve --max-concurrency 8 \\\n"
	      "      --url udp://$(freehold udp-key --public server.key)@127.0.0.1:9000\n",
	      out);
}

static int write_key(const char *path, const char *text)
{
	static const char head[] = "# a secret key of Freehold's UDP protocol; keep it to yourself\n";
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
	int rc = 0;

	if (!f) {
		fprintf(stderr, "freehold udp-key: %s: %s\n", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return 1;
	}
	if (fprintf(f, "%s%s\n", head, text) < 0 || fflush(f) || fsync(fd))
		rc = 1;
	if (fclose(f))
		rc = 1;
	if (rc) {
		fprintf(stderr, "freehold udp-key: %s: %s\n", path, strerror(errno));
		unlink(path);
	}
	return rc;
}

static int make(const char *path)
{
	char text[FHW_KEY_TEXT], public[FHW_KEY_TEXT];
	uint8_t secret[FHW_KEY_BYTES];
	struct fhw_keypair k;
	int rc;

	if (fhw_crypt_init()) {
		fputs("freehold udp-key: libsodium does not start\n", stderr);
		return 1;
	}
	randombytes_buf(secret, sizeof(secret));
	fhw_keypair_from(secret, &k);
	fhw_key_text(secret, text);
	fhw_key_text(k.public, public);
	rc = write_key(path, text);
	if (!rc)
		puts(public);
	sodium_memzero(secret, sizeof(secret));
	sodium_memzero(text, sizeof(text));
	sodium_memzero(&k, sizeof(k));
	return rc;
}

static int show(const char *path)
{
	char public[FHW_KEY_TEXT];
	struct fhw_keypair k;
	struct fh_err err;

	if (fhw_key_load(path, &k, &err)) {
		fprintf(stderr, "freehold udp-key: %s\n", err.msg);
		return 1;
	}
	fhw_key_text(k.public, public);
	puts(public);
	sodium_memzero(&k, sizeof(k));
	return 0;
}

int cmd_udp_key(int argc, char **argv)
{
	const char *path = NULL;
	bool public = false;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			usage(stdout);
			return 0;
		}
		if (!strcmp(argv[i], "--public")) {
			public = true;
		} else if (argv[i][0] == '-' || path) {
			fprintf(stderr,
				"freehold udp-key: '%s' is not understood; `freehold udp-key --help` explains\n",
				argv[i]);
			return 2;
		} else {
			path = argv[i];
		}
	}
	if (!path) {
		usage(stderr);
		return 2;
	}
	return public ? show(path) : make(path);
}
