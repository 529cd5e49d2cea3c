// SPDX-License-Identifier: Apache-2.0
/* The kernel's side of kTLS: keys into a socket, and records that are no data. */
#include "runtime/net/tls_kernel.h"

#include <arpa/inet.h>
#include <linux/tls.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

#define RECORD_ALERT 21

union crypto_info {
	struct tls_crypto_info info;
	struct tls12_crypto_info_aes_gcm_128 aes_128;
	struct tls12_crypto_info_aes_gcm_256 aes_256;
	struct tls12_crypto_info_chacha20_poly1305 chacha;
};

void fh_tls_tx_wipe(struct fh_tls_tx *k)
{
	explicit_bzero(k, sizeof(*k));
}

size_t fh_tls_key_bytes(uint16_t suite)
{
	switch (suite) {
	case FH_TLS_AES_128_GCM: return TLS_CIPHER_AES_GCM_128_KEY_SIZE;
	case FH_TLS_AES_256_GCM: return TLS_CIPHER_AES_GCM_256_KEY_SIZE;
	case FH_TLS_CHACHA20_POLY1305: return TLS_CIPHER_CHACHA20_POLY1305_KEY_SIZE;
	default: return 0;
	}
}

/* The kernel calls the first four bytes of an IV for GCM salt; the rest it takes for the IV. */
#define FILL(to, k, seq)                                                                                               \
	do {                                                                                                           \
		memcpy((to)->key, (k)->key, sizeof((to)->key));                                                        \
		memcpy((to)->salt, (k)->iv, sizeof((to)->salt));                                                       \
		memcpy((to)->iv, (k)->iv + sizeof((to)->salt), sizeof((to)->iv));                                      \
		memcpy((to)->rec_seq, (seq), sizeof((to)->rec_seq));                                                   \
	} while (0)

/* Bytes of it; 0: the suite is not known. */
static socklen_t fill(union crypto_info *c, const struct fh_tls_tx *k, uint64_t seq)
{
	uint8_t be[8];

	for (int i = 0; i < 8; i++)
		be[i] = (uint8_t)(seq >> (56 - 8 * i));
	memset(c, 0, sizeof(*c));
	c->info.version = TLS_1_3_VERSION;
	switch (k->suite) {
	case FH_TLS_AES_128_GCM:
		c->info.cipher_type = TLS_CIPHER_AES_GCM_128;
		FILL(&c->aes_128, k, be);
		return sizeof(c->aes_128);
	case FH_TLS_AES_256_GCM:
		c->info.cipher_type = TLS_CIPHER_AES_GCM_256;
		FILL(&c->aes_256, k, be);
		return sizeof(c->aes_256);
	case FH_TLS_CHACHA20_POLY1305:
		c->info.cipher_type = TLS_CIPHER_CHACHA20_POLY1305;
		FILL(&c->chacha, k, be);
		return sizeof(c->chacha);
	default: return 0;
	}
}

int fh_tls_kernel_seal(int fd, const struct fh_tls_tx *k, uint64_t seq)
{
	union crypto_info c;
	socklen_t n = fill(&c, k, seq);
	int rc = 0;

	/* A socket that was given the first and refuses the second still sends what it is given, as it is. */
	if (!n)
		rc = -EINVAL;
	else if (setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls") - 1) ||
		 setsockopt(fd, SOL_TLS, TLS_TX, &c, n))
		rc = -errno;
	explicit_bzero(&c, sizeof(c));
	return rc;
}

/* Two ends of a connection within this host. */
static int dial_self(int fd[2])
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), rc = 0;

	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fd[1] = -1;
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (l < 0 || fd[0] < 0 || bind(l, (struct sockaddr *)&a, sizeof(a)) || listen(l, 1) ||
	    getsockname(l, (struct sockaddr *)&a, &len) || connect(fd[0], (struct sockaddr *)&a, sizeof(a)))
		rc = -errno;
	if (!rc) {
		fd[1] = accept4(l, NULL, NULL, SOCK_CLOEXEC);
		rc = fd[1] < 0 ? -errno : 0;
	}
	if (l >= 0)
		close(l);
	return rc;
}

int fh_tls_kernel_probe(struct fh_err *err)
{
	const struct fh_tls_tx k = {.suite = FH_TLS_AES_256_GCM, .key = {1}, .iv = {1}};
	int fd[2], rc = dial_self(fd);

	if (rc)
		fh_errf(err, rc, "a connection to try it with: %s", strerror(-rc));
	else
		rc = fh_tls_kernel_seal(fd[1], &k, 0);
	for (int i = 0; i < 2; i++)
		if (fd[i] >= 0)
			close(fd[i]);
	if (rc == -ENOENT)
		fh_errf(err, rc, "the kernel has no kTLS, or its module is not loaded: `modprobe tls` as root");
	else if (rc && fd[1] >= 0)
		fh_errf(err, rc, "the kernel's kTLS refuses AES-256-GCM for TLS 1.3: %s", strerror(-rc));
	return rc;
}

void fh_tls_record_alert(struct fh_tls_record *r, uint8_t level, uint8_t alert)
{
	struct cmsghdr *c;

	*r = (struct fh_tls_record){.data = {level, alert}};
	r->iov = (struct iovec){.iov_base = r->data, .iov_len = sizeof(r->data)};
	r->msg = (struct msghdr){
		.msg_iov = &r->iov, .msg_iovlen = 1, .msg_control = r->control, .msg_controllen = sizeof(r->control)};
	c = CMSG_FIRSTHDR(&r->msg);
	c->cmsg_level = SOL_TLS;
	c->cmsg_type = TLS_SET_RECORD_TYPE;
	c->cmsg_len = CMSG_LEN(1);
	*CMSG_DATA(c) = RECORD_ALERT;
}

bool fh_tls_kernel_drained(int fd, uint64_t *acked)
{
	struct tcp_info i = {0};
	socklen_t n = sizeof(i);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &n))
		return true;
	*acked = i.tcpi_bytes_acked;
	return !i.tcpi_unacked && !i.tcpi_notsent_bytes;
}
