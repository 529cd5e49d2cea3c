// SPDX-License-Identifier: Apache-2.0
/* Records to bytes and back. */
#include "runtime/trust/record.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static const char *const kinds[FH_NR_REC] = {
	[FH_REC_START] = "start",	[FH_REC_STOP] = "stop",	      [FH_REC_BEGIN] = "begin",
	[FH_REC_END] = "end",		[FH_REC_REFUSED] = "refused", [FH_REC_KEYS] = "keys",
	[FH_REC_TENANT] = "tenant",	[FH_REC_ERASED] = "erased",   [FH_REC_LOST] = "lost",
	[FH_REC_REPAIRED] = "repaired", [FH_REC_WEIGHTS] = "weights", [FH_REC_EXPIRED] = "expired",
	[FH_REC_BODIES] = "bodies",
};

static const char *const nums[FH_NR_RN] = {
	[FH_RN_TIME_US] = "time_us",
	[FH_RN_REF] = "ref",
	[FH_RN_ENDPOINT] = "endpoint",
	[FH_RN_STATUS] = "status",
	[FH_RN_FINISH] = "finish",
	[FH_RN_NR_PROMPT] = "nr_prompt",
	[FH_RN_NR_GENERATED] = "nr_generated",
	[FH_RN_NR_CACHED] = "nr_cached",
	[FH_RN_MAX_TOKENS] = "max_tokens",
	[FH_RN_N] = "n",
	[FH_RN_FLAGS] = "flags",
	[FH_RN_SEED] = "seed",
	[FH_RN_TEMPERATURE] = "temperature",
	[FH_RN_TOP_P] = "top_p",
	[FH_RN_TOP_K] = "top_k",
	[FH_RN_BODY_BYTES] = "body_bytes",
	[FH_RN_SEALED_BYTES] = "sealed_bytes",
	[FH_RN_CHAPTER] = "chapter",
	[FH_RN_DURATION_US] = "duration_us",
	[FH_RN_TTFT_US] = "ttft_us",
	[FH_RN_UID] = "uid",
	[FH_RN_PID] = "pid",
	[FH_RN_COUNT] = "count",
	[FH_RN_BODY_TYPE] = "body_type",
	[FH_RN_HOW] = "how",
	[FH_RN_CGROUP] = "cgroup",
	[FH_RN_SERIAL] = "serial",
	[FH_RN_PAYERS] = "payers",
	[FH_RN_MONEY] = "money",
	[FH_RN_RUN_DEPTH] = "run_depth",
	[FH_RN_NR_REASONING] = "nr_reasoning",
};

static const char *const strs[FH_NR_RS] = {
	[FH_RS_TENANT - 64] = "tenant",	  [FH_RS_KEY_ID - 64] = "key_id",     [FH_RS_REQUEST_ID - 64] = "request_id",
	[FH_RS_MODEL - 64] = "model",	  [FH_RS_WEIGHTS - 64] = "weights",   [FH_RS_BODY_HASH - 64] = "body_hash",
	[FH_RS_TEXT - 64] = "text",	  [FH_RS_HASH - 64] = "hash",	      [FH_RS_FRONTEND - 64] = "frontend",
	[FH_RS_USER - 64] = "user",	  [FH_RS_COMMIT - 64] = "commit",     [FH_RS_RUN - 64] = "run",
	[FH_RS_CHARGES - 64] = "charges", [FH_RS_THOUGHTS - 64] = "thoughts",
};

const char *fh_record_kind_name(uint8_t kind)
{
	return kind < FH_NR_REC && kinds[kind] ? kinds[kind] : "?";
}

const char *fh_record_num_name(unsigned int tag)
{
	return tag < FH_NR_RN ? nums[tag] : NULL;
}

const char *fh_record_str_name(unsigned int tag)
{
	return tag >= 64 && tag < FH_NR_RS_END ? strs[tag - 64] : NULL;
}

size_t fh_varint_put(uint8_t *out, uint64_t v)
{
	size_t n = 0;

	for (; v >= 0x80; v >>= 7)
		out[n++] = (uint8_t)(v | 0x80);
	out[n++] = (uint8_t)v;
	return n;
}

/* Bytes read; 0: it ends too early, is longer than need be, or does not fit 64 bits. */
size_t fh_varint_get(const uint8_t *p, size_t left, uint64_t *v)
{
	*v = 0;
	for (size_t n = 0; n < left && n < 10; n++) {
		if (n == 9 && p[n] > 1)
			return 0;
		*v |= (uint64_t)(p[n] & 0x7f) << 7 * n;
		if (!(p[n] & 0x80))
			return n && !p[n] ? 0 : n + 1;
	}
	return 0;
}

/* Long texts are cut where all of them do not fit; of each there is room for so much. */
#define SHARE 256u

static size_t head_bytes(size_t n)
{
	return n < 128 ? 2 : 3;
}

static size_t reserve(const struct fh_record *r, unsigned int from)
{
	size_t n = 0;

	for (unsigned int i = from; i < FH_NR_RS; i++) {
		size_t share = r->str[i].n < SHARE ? r->str[i].n : SHARE;

		n += share ? head_bytes(share) + share : 0;
	}
	return n;
}

size_t fh_record_encode(const struct fh_record *r, uint8_t out[FH_RECORD_MAX])
{
	size_t n = 0, room;

	out[n++] = r->version ? r->version : FH_RECORD_VERSION;
	out[n++] = r->kind;
	for (unsigned int i = 1; i < FH_NR_RN; i++) {
		if (!r->num[i])
			continue;
		out[n++] = (uint8_t)i;
		n += fh_varint_put(out + n, r->num[i]);
	}
	for (unsigned int i = 0; i < FH_NR_RS; i++) {
		const struct fh_record_bytes *b = &r->str[i];
		uint32_t bytes = b->n;

		if (!bytes)
			continue;
		room = FH_RECORD_MAX - n - reserve(r, i + 1) - head_bytes(bytes);
		assert(room >= (bytes < SHARE ? bytes : SHARE));
		bytes = bytes < room ? bytes : (uint32_t)room;
		out[n++] = (uint8_t)(64 + i);
		n += fh_varint_put(out + n, bytes);
		memcpy(out + n, b->p, bytes);
		n += bytes;
	}
	return n;
}

/* One field at @p. Bytes read, or 0. */
static size_t get_field(const uint8_t *p, size_t left, uint8_t tag, struct fh_record *r)
{
	uint64_t v;
	size_t n = fh_varint_get(p, left, &v);

	if (!n || !v)
		return 0;
	if (tag < 64) {
		if (tag < FH_NR_RN)
			r->num[tag] = v;
		else
			r->nr_unknown++;
		return n;
	}
	if (v > left - n || v > FH_RECORD_TEXT_MAX)
		return 0;
	if (tag < FH_NR_RS_END)
		r->str[tag - 64] = (struct fh_record_bytes){p + n, (uint32_t)v};
	else
		r->nr_unknown++;
	return n + (size_t)v;
}

int fh_record_decode(const uint8_t *p, size_t n, struct fh_record *r, size_t *at)
{
	int last = 0;

	*r = (struct fh_record){0};
	*at = 0;
	if (n < 2 || n > FH_RECORD_MAX || !p[0] || p[0] > FH_RECORD_VERSION)
		return -EINVAL;
	*at = 1;
	if (!p[1] || p[1] >= FH_NR_REC || (p[0] == 1 && p[1] >= FH_REC_BODIES))
		return -EINVAL;
	r->version = p[0];
	r->kind = p[1];
	for (*at = 2; *at < n;) {
		uint8_t tag = p[*at];
		size_t used;

		if (tag <= last || tag >= 128)
			return -EINVAL;
		used = get_field(p + *at + 1, n - *at - 1, tag, r);
		if (!used)
			return -EINVAL;
		last = tag;
		*at += 1 + used;
	}
	return 0;
}
