/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linux's kTLS, for what is sent: the kernel makes TLS 1.3 records of what is
 * written to a socket (Documentation/networking/tls.rst).  Knows no OpenSSL.
 *
 * Who hands a socket over writes plaintext to it from then on.  Other records
 * than application data go with fh_tls_record, one a message.
 */
#ifndef FH_NET_TLS_KERNEL_H
#define FH_NET_TLS_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "runtime/base/err.h"

/* TLS cipher suites, as they are numbered on the wire (RFC 8446, B.4). */
#define FH_TLS_AES_128_GCM 0x1301u
#define FH_TLS_AES_256_GCM 0x1302u
#define FH_TLS_CHACHA20_POLY1305 0x1303u

#define FH_TLS_KEY_MAX 32
#define FH_TLS_IV_BYTES 12

/* What one direction is sealed with. A secret: wipe it. */
struct fh_tls_tx {
	uint16_t suite; /* 0: there is none */
	uint8_t key[FH_TLS_KEY_MAX];
	uint8_t iv[FH_TLS_IV_BYTES];
};

void fh_tls_tx_wipe(struct fh_tls_tx *k);
/* Bytes of the suite's key; 0: the kernel is not asked to seal with it. */
size_t fh_tls_key_bytes(uint16_t suite);

/*
 * The kernel seals what @fd sends from here on, the first record with number
 * @seq.  0 or -errno, and then the socket is as it was: ENOENT without the tls
 * module, ENOTCONN when the peer has closed its side.
 */
int fh_tls_kernel_seal(int fd, const struct fh_tls_tx *k, uint64_t seq);

/* Does this kernel do it? Tries with a connection to itself. 0, or -errno with @err: why not, and what would help. */
int fh_tls_kernel_probe(struct fh_err *err);

/* An alert, as a message to be sent on such a socket. It stays where it is until that has been done. */
struct fh_tls_record {
	struct msghdr msg;
	struct iovec iov;
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(1)];
	uint8_t data[2];
};

void fh_tls_record_alert(struct fh_tls_record *r, uint8_t level, uint8_t alert);

/*
 * Has TCP sent, and the peer acknowledged, all that it was given?  @acked: how
 * many bytes he has, as a sign of progress.  True as well for a socket that is lost.
 */
bool fh_tls_kernel_drained(int fd, uint64_t *acked);

#endif /* FH_NET_TLS_KERNEL_H */
