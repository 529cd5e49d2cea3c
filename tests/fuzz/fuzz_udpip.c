// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: frames from a hostile link.
 *
 * The input is a series of frames for one host, each after a byte that says how
 * much time passes and how much room is behind the frame, and two with its
 * length.  Whatever comes: a payload lies within its frame, an answer within its
 * memory, a frame counts once, and no answer is answered, so that two hosts
 * cannot be set upon each other.  Checksums are looked at or taken for good, by
 * the first byte of the input.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/net/udpip.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_FRAME = 2048 };

static const struct fh_udpip_config config = {
	.mac = {0x02, 0, 0, 0, 0, 0x0a},
	.port = 4433,
	.mtu = 1500,
	.ip4 = {.set = true, .prefix = 24, .ip.b = {[10] = 0xff, 0xff, 192, 0, 2, 1}},
	.ip6 = {.set = true, .prefix = 64, .ip.b = {0x20, 0x01, 0x0d, 0xb8, [7] = 1, [15] = 1}},
};

static struct fh_udpip host;

static uint64_t seen(const struct fh_udpip_stats *st)
{
	uint64_t n = 0;

	for (int i = 0; i < FH_UDPIP_NR_RX; i++)
		n += fh_udpip_stat(st, i);
	return n;
}

/* As the sender would find it: the answer, to his address. */
static void must_be_silent(const uint8_t *frame, uint32_t bytes, enum fh_csum_seen seen_csum)
{
	uint8_t *copy = malloc(bytes + FH_UDPIP_CONTROL_MAX);
	struct fh_udpip_stats st = {0};
	struct fh_udpip_rx rx;

	memcpy(copy, frame, bytes);
	memcpy(copy, config.mac, 6);
	fh_udpip_rx(&host, copy, bytes, bytes + FH_UDPIP_CONTROL_MAX, seen_csum, seen_csum, 1, &st, &rx);
	assert(rx.verdict != FH_UDPIP_REPLY);
	free(copy);
}

static void one_frame(const uint8_t *data, uint32_t bytes, uint32_t more, uint64_t now_ns, enum fh_csum_seen csum,
		      struct fh_udpip_stats *st)
{
	uint32_t cap = bytes + more;
	uint8_t *f = malloc(cap ? cap : 1);
	uint64_t before = seen(st);
	struct fh_udpip_route r;
	struct fh_udpip_rx rx;

	memcpy(f, data, bytes);
	fh_udpip_rx(&host, f, bytes, cap, csum, csum, now_ns, st, &rx);
	assert(seen(st) == before + 1);
	if (rx.verdict == FH_UDPIP_DATA) {
		assert(rx.off + rx.bytes <= bytes && (rx.off == FH_UDPIP_HEAD_IP4 || rx.off == FH_UDPIP_HEAD_MAX));
		/* It can be answered, or nobody can be reached there. */
		fh_udpip_route(&host, &rx.from, rx.port, &r);
	} else if (rx.verdict == FH_UDPIP_REPLY) {
		assert(rx.off == 0 && rx.bytes <= cap && rx.bytes >= FH_ETH_BYTES && !memcmp(f + 6, config.mac, 6));
		must_be_silent(f, rx.bytes, csum);
	}
	free(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fh_udpip_stats st = {0};
	enum fh_csum_seen csum;
	uint64_t now_ns = 1;

	if (!size)
		return 0;
	assert(!fh_udpip_init(&host, &config, 42));
	csum = data[0] & 1 ? FH_CSUM_GOOD : FH_CSUM_UNKNOWN;
	data++;
	size--;
	while (size >= 3) {
		uint32_t bytes = (uint32_t)(data[1] << 8 | data[2]) % MAX_FRAME, how = data[0];

		data += 3;
		size -= 3;
		bytes = bytes < size ? bytes : (uint32_t)size;
		now_ns += (uint64_t)(how & 15) * 7000000000;
		one_frame(data, bytes, how & 16 ? FH_UDPIP_CONTROL_MAX : 0, now_ns, csum, &st);
		data += bytes;
		size -= bytes;
	}
	return 0;
}
