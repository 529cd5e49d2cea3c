/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A channel without the kernel module: how client and runtime agree on one.
 *
 * The socket is AF_UNIX, SOCK_SEQPACKET; each packet is one struct below, in
 * full.  The socket is the channel's life: whoever finds it closed knows that
 * the other side is gone.  Identity is SO_PEERCRED's.
 *
 *        client                                  runtime
 *        ------                                  -------
 *   HELLO: geometry wanted       --------->  refuses, or lays the channel out in a
 *                                            memfd of its own (what the kernel or the
 *                                            runtime writes), maps it, seals it
 *                                <---------  WELCOME, with that memfd and, where the
 *                                            model has one, the vocabulary's
 *   checks the seals, reads the info area,
 *   makes a memfd of chan_bytes for what
 *   the client writes, maps it, seals it
 *   ATTACH, with that memfd      --------->  checks kind, length and seals, maps it
 *                                            read-only, stores FH_CHAN_OPEN in the info
 *                                            area's state (M) and sends
 *                                <---------  OPEN
 *   KICK when NEED_WAKEUP is set <-------->  the same
 *
 * REFUSED instead of WELCOME or OPEN says why, and the socket is closed.
 *
 * Seals: a writer adds F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_FUTURE_WRITE after
 * it has mapped its memfd, so that the other side can neither write it nor be
 * hurt by SIGBUS when it reads; and F_SEAL_SEAL.  A receiver that misses one of
 * the first three refuses, and so it does when the file is not tmpfs
 * (fstatfs(): a huge-page file can run dry under a reader).
 *
 * Sleeping.  FH_RING_NEED_WAKEUP asks for a KICK packet, which makes the socket
 * readable: that is what poll() sees.  FH_RING_NEED_FUTEX says that its owner
 * waits, with a shared futex, on the word that the other side moves: the
 * runtime on sq_tail, the client on cq_tail.  A futex does not learn of a death,
 * so who sleeps on one looks at the socket every FH_SOCK_LOOK_MS.
 *
 * A client that reads a completion ring which was full (tail - head == entries)
 * kicks in the same way after it has made room, with the same fence: a runtime
 * whose sequences all wait for room sleeps, too.  Without that kick it looks
 * again within 64 ms.
 */
#ifndef FH_BASE_CHAN_SOCK_H
#define FH_BASE_CHAN_SOCK_H

#include <stdint.h>

#define FH_SOCK_VERSION 1
#define FH_SOCK_PATH "/run/freehold/channel.sock" /* where clients look first */
#define FH_SOCK_LOOK_MS 50

enum fh_sock_type {
	FH_SOCK_HELLO = 1,
	FH_SOCK_WELCOME = 2,
	FH_SOCK_ATTACH = 3,
	FH_SOCK_OPEN = 4,
	FH_SOCK_KICK = 5,
	FH_SOCK_REFUSED = 6,
};

/* Every packet begins with this; WELCOME, ATTACH, OPEN and KICK are nothing else. */
struct fh_sock_head {
	uint32_t size; /* of the packet */
	uint32_t type; /* enum fh_sock_type */
};

struct fh_sock_hello {
	struct fh_sock_head head;
	uint32_t version; /* FH_SOCK_VERSION */
	uint32_t flags;	  /* zero */
	uint32_t sq_entries, cq_entries;
	uint64_t arena_bytes;
	uint32_t page_bytes; /* the client's page size */
	uint32_t __reserved; /* zero */
};

/* Descriptors of WELCOME, in this order. */
#define FH_SOCK_FD_RUNTIME 0 /* the runtime's memfd */
#define FH_SOCK_FD_VOCAB 1   /* a sealed memfd with struct fh_vocab; absent when the model has no vocabulary */
#define FH_SOCK_MAX_FDS 2

struct fh_sock_refused {
	struct fh_sock_head head;
	int32_t error;	   /* negative errno: -EINVAL, -EPROTO, -EDQUOT, -ENOMEM, -EACCES, -ESHUTDOWN */
	uint32_t retry_us; /* with -EDQUOT: when trying again may help; 0: unknown */
	char why[120];	   /* UTF-8, ends with a zero */
};

/*
 * The vocabulary, so that a client that reads token ids can show text:
 * piece i is bytes[off[i]..off[i + 1]), what the token adds in the middle of a
 * text; empty for control tokens.  Pieces need not be whole UTF-8 characters:
 * whoever joins them holds an unfinished one back.
 * With the module, which passes no descriptors, the same bytes lie in the file
 * FH_VOCAB_PATH.
 */
#define FH_VOCAB_MAGIC 0x56434846u /* "FHCV" */
#define FH_VOCAB_PATH "/run/freehold/vocabulary"

struct fh_vocab {
	uint32_t magic;
	uint32_t nr_tokens;
	uint64_t model_bytes_off; /* of the model's id, UTF-8, not terminated */
	uint32_t model_bytes;
	uint32_t nr_ctx;      /* tokens a sequence may hold */
	uint64_t off_off;     /* of uint32_t off[nr_tokens + 1] */
	uint64_t bytes_off;   /* of the pieces */
	uint64_t total_bytes; /* of the file */
};

#endif /* FH_BASE_CHAN_SOCK_H */
