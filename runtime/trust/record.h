/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A record of the audit log: what happened, in 60 to 150 bytes.  The bytes are
 * the tree's leaf.
 *
 *   version (2), kind, then fields in rising order of their tag, none twice
 *   tag < 64     a number, as a LEB128 varint of the shortest form
 *   tag >= 64    bytes, their length before them as such a varint
 *
 * A number that is 0 and bytes that are empty are left out.  So every record has
 * one encoding only, which the decoder insists on: a leaf cannot be written in
 * two ways that hash differently.  Binary rather than JSON because of its size
 * (a third), because two hashes of 32 bytes are most of it, and because no JSON
 * writer has to be trusted with being canonical.  Tags that this version does
 * not know are legal, are kept as bytes, and are shown as such.
 *
 * A body (what was asked, what was answered) is not in the record, and neither is
 * a hash of it: the bodies of a tenant that came one after the other are sealed
 * together (see body.h), and a record of its own, FH_REC_BODIES, has the hash of
 * that, and how far back its texts begin.  Version 1 sealed each alone, and the
 * hash stood in its own record.
 */
#ifndef FH_TRUST_RECORD_H
#define FH_TRUST_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FH_RECORD_VERSION 2	/* 1: had no segments; still read */
#define FH_RECORD_MAX 4096	/* bytes of one record */
#define FH_RECORD_NAME_MAX 64	/* of a tenant */
#define FH_RECORD_TEXT_MAX 1024 /* of a byte field */

enum fh_record_kind {
	FH_REC_START = 1,     /* the daemon began: model, its settings */
	FH_REC_STOP = 2,      /* and ended in order */
	FH_REC_BEGIN = 3,     /* a request came */
	FH_REC_END = 4,	      /* and had its outcome */
	FH_REC_REFUSED = 5,   /* a request was turned away before it could begin */
	FH_REC_KEYS = 6,      /* the API keys were read again */
	FH_REC_TENANT = 7,    /* a tenant's body key was made */
	FH_REC_ERASED = 8,    /* and erased, and all its text with it */
	FH_REC_LOST = 9,      /* records could not be written (relaxed mode) */
	FH_REC_REPAIRED = 10, /* the log was mended at a start */
	FH_REC_WEIGHTS = 11,  /* the hash of a file of the weights of a start */
	FH_REC_EXPIRED = 12,  /* bodies of entries below COUNT were removed: they were old enough */
	FH_REC_BODIES = 13,   /* the COUNT bodies of TENANT's entries from REF on, sealed as one */
	FH_NR_REC,
};

/* Tags of numbers. */
enum fh_record_num {
	FH_RN_TIME_US = 1, /* of the event, since 1970, UTC */
	FH_RN_REF,	   /* 1 + an entry.  END: of its BEGIN.  BODIES: of the first.  BEGIN, STOP ...: of the START */
	FH_RN_ENDPOINT,	   /* enum fh_audited_endpoint */
	FH_RN_STATUS,	   /* of HTTP */
	FH_RN_FINISH,	   /* enum fh_finish of its last choice */
	FH_RN_NR_PROMPT,   /* tokens */
	FH_RN_NR_GENERATED, /* tokens */
	FH_RN_NR_CACHED,    /* tokens of the prompt found computed */
	FH_RN_MAX_TOKENS,   /* parameters, as the engine got them */
	FH_RN_N,	    /* choices */
	FH_RN_FLAGS,	    /* FH_RF_... */
	FH_RN_SEED,	    /* of the first choice */
	FH_RN_TEMPERATURE,  /* bits of a binary32 */
	FH_RN_TOP_P,	    /* likewise */
	FH_RN_TOP_K,
	FH_RN_BODY_BYTES,   /* of the text */
	FH_RN_SEALED_BYTES, /* of the sealed body */
	FH_RN_CHAPTER,	    /* 1: the body can be opened without those before it */
	FH_RN_DURATION_US,  /* request to outcome */
	FH_RN_TTFT_US,	    /* request to first token */
	FH_RN_UID,	    /* 1 + the peer's uid, where the kernel said it */
	FH_RN_PID,
	FH_RN_COUNT,	 /* LOST, REPAIRED, KEYS, BODIES: how many */
	FH_RN_BODY_TYPE, /* 0: as the client sent it; 1: answers as JSON; 2: token ids, 32 bits each, little-endian */
	FH_RN_HOW,	 /* enum fh_identity_how */
	FH_RN_CGROUP,	 /* of the peer, where the kernel said it */
	FH_RN_SERIAL,	 /* in the request id that the server made: see the START's settings */
	FH_RN_PAYERS,	 /* END, REFUSED: whose budgets paid, a bit an enum fh_budget_kind; see charge.h */
	FH_RN_MONEY,	 /* likewise: how much, in 10^-12 of the currency; without CHARGES */
	FH_RN_RUN_DEPTH, /* BEGIN, REFUSED: in the tree of agents of RUN */
	FH_RN_NR_REASONING, /* END, REFUSED: of the answer's tokens that were paid, thoughts */
	FH_NR_RN,
};

/* Tags of bytes; the text of them is UTF-8. */
enum fh_record_str {
	FH_RS_TENANT = 64,
	FH_RS_KEY_ID,	  /* which of the tenant's keys: 8 bytes, a keyed hash */
	FH_RS_REQUEST_ID, /* that the client gave, or that it was given */
	FH_RS_MODEL,
	FH_RS_WEIGHTS,	 /* BLAKE2b-256 of the model's file */
	FH_RS_BODY_HASH, /* SHA-256 of the sealed body; or, with FH_RF_HASH_ONLY, keyed BLAKE2b-256 of the text */
	FH_RS_TEXT,	 /* what was wrong; a START's settings */
	FH_RS_HASH,	 /* TENANT: BLAKE2b-256 of the body key.  KEYS: keyed BLAKE2b-256 of the file */
	FH_RS_FRONTEND,
	FH_RS_USER,   /* of the tenant */
	FH_RS_COMMIT, /* where a receipt was asked for: see receipt.h */
	FH_RS_RUN, /* BEGIN, REFUSED: the agent run that it is part of: 16 bytes, over HTTP BLAKE2b-128 of its name */
	FH_RS_CHARGES,	/* END, REFUSED: what was paid and when, where the rest of it does not say so: see charge.h */
	FH_RS_THOUGHTS, /* END, REFUSED: NR_REASONING, piece by piece of CHARGES: see charge.h */
	FH_NR_RS_END,
};
#define FH_NR_RS (FH_NR_RS_END - 64)

#define FH_RF_STREAM 1u	   /* the answer was streamed */
#define FH_RF_CANCELLED 2u /* the client went away */
#define FH_RF_HASH_ONLY 4u /* no body was kept */
#define FH_RF_DRAINED 8u   /* STOP: nothing was running any more */
#define FH_RF_NO_BODY 16u  /* nor its hash */
#define FH_RF_CHARGES 32u  /* START: what is paid is said with each outcome */
#define FH_RF_THOUGHTS 64u /* START: and how much of it was thoughts */

struct fh_record_bytes {
	const uint8_t *p;
	uint32_t n;
};

/* Bytes are borrowed: from the caller when encoding, from the leaf after decoding. */
struct fh_record {
	uint8_t kind;
	uint8_t version; /* 0: the present one */
	uint64_t num[FH_NR_RN];
	struct fh_record_bytes str[FH_NR_RS];
	uint32_t nr_unknown; /* fields of tags that we do not know */
};

static inline void fh_record_set_str(struct fh_record *r, enum fh_record_str tag, const void *p, size_t n)
{
	n = n < FH_RECORD_TEXT_MAX ? n : FH_RECORD_TEXT_MAX;
	r->str[tag - 64] = (struct fh_record_bytes){p, (uint32_t)n};
}

/* Is its body one of those that the next BODIES of its tenant has? */
static inline bool fh_record_in_segment(const struct fh_record *r)
{
	return r->version != 1 && r->kind != FH_REC_BODIES && r->num[FH_RN_BODY_BYTES] && !r->num[FH_RN_SEALED_BYTES] &&
	       !(r->num[FH_RN_FLAGS] & (FH_RF_HASH_ONLY | FH_RF_NO_BODY));
}

/* Bytes written, at most FH_RECORD_MAX: every record that can be made fits. */
size_t fh_record_encode(const struct fh_record *r, uint8_t out[FH_RECORD_MAX]);
/* 0, or -EINVAL with *at the offset of what is wrong. */
int fh_record_decode(const uint8_t *p, size_t n, struct fh_record *r, size_t *at);

/* A LEB128 varint of the shortest form. Bytes written, at most 10; bytes read, or 0: there is none. */
size_t fh_varint_put(uint8_t *out, uint64_t v);
size_t fh_varint_get(const uint8_t *p, size_t left, uint64_t *v);

const char *fh_record_kind_name(uint8_t kind);	  /* "begin"; "?" for none */
const char *fh_record_num_name(unsigned int tag); /* "nr_prompt"; NULL for none */
const char *fh_record_str_name(unsigned int tag);

#endif /* FH_TRUST_RECORD_H */
