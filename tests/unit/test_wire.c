// SPDX-License-Identifier: Apache-2.0
/*
 * The wire protocol's parts: the handshake against a vector that others
 * published, all of it against vectors of an implementation of our own in another
 * language (tests/e2e/wire.py wrote wire_vectors.json), and the rules one by one.
 */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/wire_sim.h"

static uint32_t from_hex(const char *hex, uint8_t *out, size_t cap)
{
	size_t n = 0;

	cr_assert_eq(sodium_hex2bin(out, cap, hex, strlen(hex), NULL, &n, NULL), 0);
	return (uint32_t)n;
}

static void expect_hex(const uint8_t *got, const char *hex, const char *what)
{
	uint8_t want[4096];
	uint32_t n = from_hex(hex, want, sizeof(want));

	cr_assert_arr_eq(got, want, n, "%s differs", what);
}

/*
 * "Noise_IK_25519_ChaChaPoly_BLAKE2b" of noise-c's tests/vector/noise-c-basic.txt
 * (github.com/rweather/noise-c).
 */
Test(wire, noise_vector)
{
	static const char prologue[] = "Prologue123", p1[] = "Ludwig von Mises", p2[] = "Murray Rothbard";
	uint8_t is[32], ie[32], rs[32], re[32], rs_public[32], msg[256], got[64], k1[32], k2[32], k3[32], k4[32],
		nonce[12] = {0};
	struct fhw_keypair client, server;
	struct fhw_noise a, b;

	cr_assert_eq(fhw_crypt_init(), 0);
	from_hex("e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1", is, 32);
	from_hex("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a", ie, 32);
	from_hex("31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62", rs_public, 32);
	from_hex("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893", rs, 32);
	from_hex("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b", re, 32);
	fhw_keypair_from(is, &client);
	fhw_keypair_from(rs, &server);
	cr_assert_arr_eq(server.public, rs_public, 32);
	fhw_noise_client(&a, &client, rs_public, ie, prologue, sizeof(prologue) - 1);
	fhw_noise_server(&b, &server, prologue, sizeof(prologue) - 1);
	cr_assert_eq(fhw_noise_write1(&a, (const uint8_t *)p1, sizeof(p1) - 1, msg), 0);
	expect_hex(msg,
		   "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944"
		   "ba83a447b38c83e327ad936929812f624884847b7831e95e197b2f797088efdd232fe541af156ec6d0657602902a8c3e"
		   "e64e470f4b6fcd9298ce0b56fe20f86e60d9d933ec6e103ffb09e6001d6abb64",
		   "message 1");
	cr_assert_eq(fhw_noise_read1(&b, msg, 96 + sizeof(p1) - 1, got), 0);
	cr_assert_arr_eq(got, p1, sizeof(p1) - 1);
	cr_assert_arr_eq(b.rs, client.public, 32);
	cr_assert_eq(fhw_noise_write2(&b, re, (const uint8_t *)p2, sizeof(p2) - 1, msg), 0);
	expect_hex(msg,
		   "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843"
		   "9f069b267a06b3de3ecb1043bcb09807c6cd101f3826192a65f11ef3fe4317",
		   "message 2");
	cr_assert_eq(fhw_noise_read2(&a, msg, 48 + sizeof(p2) - 1, got), 0);
	expect_hex(a.h,
		   "00e51d2aac81a9b8ebe441d6af3e1c8efc0f030cc608332edcb42588ff6a0ce2"
		   "6415ddc106e95277a5e6d54132f1e5245976b89caf96d262f1fe5a7f0c55c078",
		   "the handshake's hash");
	fhw_noise_split(&a, k1, k2);
	fhw_noise_split(&b, k3, k4);
	cr_assert_arr_eq(k1, k3, 32);
	cr_assert_arr_eq(k2, k4, 32);
	crypto_aead_chacha20poly1305_ietf_encrypt(got, NULL, (const uint8_t *)"F. A. Hayek", 11, NULL, 0, NULL, nonce,
						  k1);
	expect_hex(got, "cd54383060e7a28434cca27fb1cc524cfbabeb18181589df219d07", "the first transport message");
}

/* ---- against the other implementation ---- */

static json_t *vectors(void)
{
	json_t *v = json_load_file("tests/unit/wire_vectors.json", 0, NULL);

	cr_assert(v, "tests/unit/wire_vectors.json: run the tests from the repository's root");
	return v;
}

static const char *text(const json_t *v, const char *name)
{
	const char *s = json_string_value(json_object_get(v, name));

	cr_assert(s, "no %s", name);
	return s;
}

Test(wire, handshake_vectors)
{
	uint8_t secret[32], e[32], hello[16], welcome[FHW_WELCOME_BYTES], msg[256], packet[1232] = {0}, mac[16], k1[32],
										    k2[32];
	struct fhw_keypair server, client;
	struct fhw_welcome w = {.flags = FHW_WELCOME_AES,
				.mtu = 1232,
				.nr_slots = 256,
				.max_requests = 512,
				.nr_ctx = 4096,
				.nr_vocab = 32000,
				.model = "a model"};
	struct fhw_hello h = {.flags = FHW_HELLO_AES, .mtu = 1452};
	struct fhw_noise z, y;
	json_t *v = vectors();

	cr_assert_eq(fhw_crypt_init(), 0);
	from_hex(text(v, "server"), secret, 32);
	fhw_keypair_from(secret, &server);
	from_hex(text(v, "client"), secret, 32);
	fhw_keypair_from(secret, &client);
	expect_hex(server.public, text(v, "server_public"), "the server's public key");
	fhw_hello_put(&h, hello);
	expect_hex(hello, text(v, "hello"), "the client's hello");
	fhw_welcome_put(&w, welcome);
	expect_hex(welcome, text(v, "welcome"), "the server's welcome");
	from_hex(text(v, "client_e"), e, 32);
	fhw_noise_client(&z, &client, server.public, e, FHW_PROLOGUE, sizeof(FHW_PROLOGUE) - 1);
	fhw_noise_server(&y, &server, FHW_PROLOGUE, sizeof(FHW_PROLOGUE) - 1);
	cr_assert_eq(fhw_noise_write1(&z, hello, sizeof(hello), msg), 0);
	expect_hex(msg, text(v, "noise1"), "message 1");
	packet[0] = FHW_INIT;
	packet[1] = FHW_VERSION;
	fhw_put32(packet + 2, 0x01020304);
	from_hex(text(v, "cookie"), packet + FHW_INIT_COOKIE, 16);
	memcpy(packet + FHW_INIT_NOISE, msg, FHW_NOISE1_BYTES);
	fhw_init_mac(server.public, packet, sizeof(packet), mac);
	memcpy(packet + FHW_INIT_MAC, mac, 16);
	expect_hex(packet, text(v, "init"), "the INIT packet");
	cr_assert_eq(fhw_noise_read1(&y, msg, FHW_NOISE1_BYTES, hello), 0);
	from_hex(text(v, "server_e"), e, 32);
	cr_assert_eq(fhw_noise_write2(&y, e, welcome, sizeof(welcome), msg), 0);
	expect_hex(msg, text(v, "noise2"), "message 2");
	fhw_noise_split(&y, k1, k2);
	expect_hex(k1, text(v, "to_server"), "the key to the server");
	expect_hex(k2, text(v, "to_client"), "the key to the client");
	json_decref(v);
}

static void packet_vectors(void)
{
	json_t *v = vectors(), *p;
	size_t i;

	cr_assert_eq(fhw_crypt_init(), 0);
	json_array_foreach (json_object_get(v, "packets"), i, p) {
		bool aes = json_is_true(json_object_get(p, "aes")),
		     to_server = json_is_true(json_object_get(p, "to_server"));
		uint64_t pn = (uint64_t)json_integer_value(json_object_get(p, "number"));
		uint8_t secret[32], body[512], want[1024], got[1024];
		uint32_t n = from_hex(text(p, "body"), body, sizeof(body)),
			 bytes = from_hex(text(p, "packet"), want, sizeof(want));
		struct fhw_dir tx, rx;
		struct fhw_hdr h;

		if (aes && !fhw_has_aes())
			continue;
		from_hex(text(v, to_server ? "to_server" : "to_client"), secret, 32);
		fhw_dir_init(&tx, secret, aes);
		fhw_dir_init(&rx, secret, aes);
		cr_assert(fhw_hdr_parse(want, bytes, &h));
		cr_assert_eq(h.pn, pn);
		cr_assert_eq(h.session, 0xa1b2c3d4);
		cr_assert_eq(h.request, 7);
		cr_assert_eq(h.largest, 9);
		cr_assert_eq(h.received, 0x55);
		cr_assert_eq(h.delay, 12);
		cr_assert(fhw_hdr_sane(&h, n, to_server));
		cr_assert(!n || !fhw_hdr_sane(&h, n, !to_server));
		fhw_hdr_put(&h, got);
		fhw_seal(&tx, pn, got, got + FHW_HDR_BYTES, body, n, got + FHW_AD_BYTES);
		cr_assert_eq(bytes, FHW_HDR_BYTES + n);
		cr_assert_arr_eq(got, want, bytes, "packet %zu differs", i);
		cr_assert(fhw_open(&rx, pn, got, got + FHW_HDR_BYTES, n, got + FHW_AD_BYTES));
		cr_assert(!n || !memcmp(got + FHW_HDR_BYTES, body, n));
		/* Any bit of header, tag or body that differs is noticed. */
		for (uint32_t k = 0; k < bytes; k += 5) {
			memcpy(got, want, bytes);
			got[k] ^= 1u << k % 8;
			cr_assert(!fhw_open(&rx, pn, got, got + FHW_HDR_BYTES, n, got + FHW_AD_BYTES));
		}
	}
	cr_assert_eq(i, 18);
	json_decref(v);
}

/* Whose AES-GCM it has to be here, if nobody forbids it: what is installed is used. */
static const char *best_gcm(void)
{
#if defined(__x86_64__) && __has_include(<intel-ipsec-mb.h>)
	if (fhw_has_aes() && dlopen("libIPSec_MB.so.1", RTLD_NOW | RTLD_LOCAL))
		return "libipsec-mb";
#endif
	return "libsodium";
}

/* @n bytes that end where nothing may be touched. */
static uint8_t *at_the_edge(uint8_t *end, size_t n, uint8_t first)
{
	for (size_t i = 0; i < n; i++)
		*(end - n + i) = (uint8_t)(first + i * 7);
	return end - n;
}

/* The last byte of a page, plus one; the page behind it is none. */
static uint8_t *edge(void)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uint8_t *p = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(p, MAP_FAILED);
	cr_assert_eq(mprotect(p + page, page, PROT_NONE), 0);
	return p + page;
}

/* Of every length, with all that is read and written at the end of its page: what libsodium says, and nothing beyond.
 */
static void gcm_edges(void)
{
	enum { MOST = 300 };
	uint8_t *c_end = edge(), *m_end = edge(), *ad_end = edge(), *nonce_end = edge(), *tag_end = edge(),
		secret[32] = {3};
	crypto_aead_aes256gcm_state sodium;
	struct fhw_gcm_key k;

	cr_assert_eq(crypto_aead_aes256gcm_beforenm(&sodium, secret), 0);
	fhw_gcm_expand(&k, secret);
	for (uint32_t n = 0; n <= MOST; n++) {
		uint32_t nr_ad = MOST - n;
		uint8_t *m = at_the_edge(m_end, n, 1), *ad = at_the_edge(ad_end, nr_ad, 2),
			*c = at_the_edge(c_end, n, 0), *nonce = at_the_edge(nonce_end, 12, (uint8_t)n),
			*tag = at_the_edge(tag_end, FHW_TAG_BYTES, 0), want[MOST + 1], want_tag[FHW_TAG_BYTES];

		crypto_aead_aes256gcm_encrypt_detached_afternm(want, want_tag, NULL, m, n, ad, nr_ad, NULL, nonce,
							       &sodium);
		fhw_gcm_seal(&k, nonce, ad, nr_ad, c, m, n, tag);
		cr_assert(!memcmp(c, want, n) && !memcmp(tag, want_tag, sizeof(want_tag)), "%u bytes", n);
		cr_assert(fhw_gcm_open(&k, nonce, ad, nr_ad, c, n, tag), "%u bytes", n);
		cr_assert(!memcmp(c, m, n), "%u bytes", n);
		/* In place, as packets are. */
		fhw_gcm_seal(&k, nonce, ad, nr_ad, c, c, n, tag);
		cr_assert(!memcmp(c, want, n), "%u bytes", n);
		tag[n % FHW_TAG_BYTES] ^= 1;
		cr_assert(!fhw_gcm_open(&k, nonce, ad, nr_ad, c, n, tag), "%u bytes", n);
	}
}

Test(wire, packet_vectors)
{
	unsetenv("FREEHOLD_NO_IPSEC_MB");
	packet_vectors();
	cr_assert_str_eq(fhw_gcm_name(), best_gcm());
	if (fhw_has_aes())
		gcm_edges();
}

Test(wire, packet_vectors_with_libsodium_alone)
{
	setenv("FREEHOLD_NO_IPSEC_MB", "1", 1);
	packet_vectors();
	cr_assert_str_eq(fhw_gcm_name(), "libsodium");
	if (fhw_has_aes())
		gcm_edges();
}

/* ---- keys ---- */

Test(wire, sealed_again_under_another_number)
{
	for (int aes = 0; aes <= fhw_has_aes(); aes++) {
		uint8_t secret[32] = {1}, ad[FHW_AD_BYTES] = {2}, text_[48], c[48], tag[16];
		struct fhw_dir tx, rx;

		cr_assert_eq(fhw_crypt_init(), 0);
		for (int i = 0; i < 48; i++)
			text_[i] = (uint8_t)i;
		fhw_dir_init(&tx, secret, aes);
		fhw_dir_init(&rx, secret, aes);
		memcpy(c, text_, 48);
		fhw_seal(&tx, 5, ad, c, c, 48, tag);
		cr_assert(fhw_unseal(&tx, 5, c, 48));
		cr_assert_arr_eq(c, text_, 48);
		/* Across an epoch. */
		fhw_seal(&tx, (1u << 20) - 1, ad, c, c, 48, tag);
		fhw_seal(&tx, 1u << 20, ad, tag, tag, 0, tag);
		cr_assert(fhw_unseal(&tx, (1u << 20) - 1, c, 48));
		cr_assert_arr_eq(c, text_, 48);
		fhw_seal(&tx, (1u << 20) + 1, ad, c, c, 48, tag);
		cr_assert(fhw_open(&rx, (1u << 20) + 1, ad, c, 48, tag));
		cr_assert_arr_eq(c, text_, 48);
	}
}

Test(wire, epochs)
{
	uint8_t secret[32] = {1}, ad[FHW_AD_BYTES] = {0}, body[1], tag[16], old_tag[16], old[1];
	struct fhw_dir tx, rx, late;

	cr_assert_eq(fhw_crypt_init(), 0);
	fhw_dir_init(&tx, secret, false);
	fhw_dir_init(&rx, secret, false);
	fhw_seal(&tx, 1, ad, old, (const uint8_t *)"a", 1, old_tag);
	for (uint64_t epoch = 0; epoch < 4; epoch++) {
		fhw_seal(&tx, (epoch << 20) + 9, ad, body, (const uint8_t *)"b", 1, tag);
		/* One epoch ahead is taken, two are not: nobody makes us compute keys. */
		fhw_dir_init(&late, secret, false);
		if (epoch > 1)
			cr_assert(!fhw_open(&late, (epoch << 20) + 9, ad, body, 1, tag));
		cr_assert(fhw_open(&rx, (epoch << 20) + 9, ad, body, 1, tag));
		cr_assert_eq(body[0], 'b');
	}
	/* Keys of long ago are gone. */
	cr_assert(!fhw_open(&rx, 1, ad, old, 1, old_tag));
	cr_assert(!fhw_unseal(&tx, 1, old, 1));
}

Test(wire, key_text)
{
	uint8_t key[32], got[32];
	char text_[FHW_KEY_TEXT], bad[64];

	cr_assert_eq(fhw_crypt_init(), 0);
	for (int i = 0; i < 32; i++)
		key[i] = (uint8_t)(255 - i * 7);
	fhw_key_text(key, text_);
	cr_assert_eq(strlen(text_), 43);
	cr_assert_eq(fhw_key_parse(text_, 43, got), 0);
	cr_assert_arr_eq(key, got, 32);
	cr_assert_eq(fhw_key_parse(text_, 42, got), -EINVAL);
	snprintf(bad, sizeof(bad), "%s=", text_);
	cr_assert_eq(fhw_key_parse(bad, 44, got), -EINVAL);
	strcpy(bad, text_);
	bad[5] = '+';
	cr_assert_eq(fhw_key_parse(bad, 43, got), -EINVAL);
}

/* ---- packet numbers ---- */

struct counted {
	struct fhw_flow f;
	struct fhw_rec recs[FHW_RECS];
	uint32_t nr_acked;
};

static void count_acked(struct fhw_flow *f, struct fhw_rec *r)
{
	(void)r;
	((struct counted *)f)->nr_acked++;
}

static struct counted *flow(void)
{
	struct counted *c = calloc(1, sizeof(*c));

	fhw_flow_init(&c->f, c->recs, 1232, 1000);
	c->f.on_acked = count_acked;
	return c;
}

/* Against a set of all numbers that came. */
Test(wire, replay_window)
{
	struct counted *c = flow();
	static bool came[20000];
	struct sim_rng rng = {.s = 12345};
	uint64_t largest = 0;

	for (int i = 0; i < 200000; i++) {
		uint64_t back = sim_rand(&rng, sim_rand(&rng, 50) ? 80 : 3000);
		uint64_t pn = largest + 1 + sim_rand(&rng, sim_rand(&rng, 200) ? 3 : 100);

		if (sim_rand(&rng, 3) && largest > back)
			pn = largest - back;
		if (pn >= 20000)
			break;
		if (came[pn] || pn + 1984 <= largest)
			cr_assert(fhw_flow_is_old(&c->f, pn), "%llu, largest %llu", (unsigned long long)pn,
				  (unsigned long long)largest);
		else
			cr_assert(!fhw_flow_is_old(&c->f, pn), "%llu, largest %llu", (unsigned long long)pn,
				  (unsigned long long)largest);
		if (!fhw_flow_is_old(&c->f, pn)) {
			fhw_flow_received(&c->f, pn, true, 1000);
			came[pn] = true;
			largest = pn > largest ? pn : largest;
			for (uint64_t k = 0; k < 64 && k + 1 < largest; k++)
				cr_assert_eq(c->f.received >> k & 1, came[largest - 1 - k]);
		}
	}
	cr_assert_gt(largest, 19000);
	free(c);
}

Test(wire, losses)
{
	struct counted *c = flow();
	struct fhw_hdr h = {0};

	for (int i = 0; i < 6; i++) {
		cr_assert(fhw_flow_may_send(&c->f, 1000, 1002000));
		fhw_flow_sent(&c->f, 1000, NULL, 1002000);
	}
	/* 6 came, 4 came: 1 to 3 are three behind, 5 is not. */
	h.largest = 6;
	h.received = 1u << 1;
	cr_assert(fhw_flow_acked(&c->f, &h, 1002500));
	cr_assert_eq(c->nr_acked, 2);
	cr_assert_eq(c->f.nr_lost, 3);
	cr_assert_eq(c->f.srtt_us, 500);
	cr_assert_eq(c->f.cwnd, 6160, "half a window after a loss, once");
	/* And 5 is when 9/8 of a round trip, at least a millisecond, have passed. */
	cr_assert_eq(c->f.loss_us, 1003000);
	cr_assert(!fhw_flow_tick(&c->f, 1003000), "a loss is no probe");
	cr_assert_eq(c->f.nr_lost, 4);
	cr_assert_eq(c->f.in_flight, 0);
	/* Built anew under numbers that follow. */
	for (uint64_t pn = 7; pn < 11; pn++) {
		struct fhw_rec *old = fhw_flow_lost(&c->f);

		cr_assert(old && fhw_flow_may_send(&c->f, 1000, 1003000));
		cr_assert_eq(fhw_flow_sent(&c->f, 1000, old, 1003000)->pn, pn);
	}
	cr_assert_null(fhw_flow_lost(&c->f));
	/* A number that was never used is a lie. */
	h.largest = 11;
	cr_assert(!fhw_flow_acked(&c->f, &h, 1003100));
	free(c);
}

Test(wire, probes)
{
	struct counted *c = flow();
	uint64_t now = 2000;
	uint32_t nr = 0;

	fhw_flow_rtt(&c->f, 10000, 0);
	fhw_flow_sent(&c->f, 1000, NULL, now);
	/* 10 ms, four times half of that, and what an acknowledgement may wait: then twice as long, and no more than a
	 * second. */
	for (uint64_t wait = 35000; nr < 8; nr++, wait = 2 * wait < FHW_MAX_PTO_US ? 2 * wait : FHW_MAX_PTO_US) {
		struct fhw_rec *old;

		cr_assert_eq(fhw_flow_next_us(&c->f), now + wait);
		now += wait;
		cr_assert(!fhw_flow_tick(&c->f, now - 1));
		cr_assert_null(fhw_flow_lost(&c->f));
		cr_assert(fhw_flow_tick(&c->f, now));
		cr_assert(!fhw_flow_tick(&c->f, now), "once");
		old = fhw_flow_lost(&c->f);
		cr_assert(old && fhw_flow_may_send(&c->f, 1000, now));
		fhw_flow_sent(&c->f, 1000, old, now);
	}
	cr_assert_eq(c->f.cwnd, 2 * 1232);
	free(c);
}

Test(wire, window_and_pace)
{
	struct counted *c = flow();
	uint64_t now = 1000000, next;
	uint32_t nr = 0;

	fhw_flow_rtt(&c->f, 100000, 0);
	while (fhw_flow_may_send(&c->f, 1232, now)) {
		fhw_flow_sent(&c->f, 1232, NULL, now);
		nr++;
	}
	cr_assert_eq(nr, 10, "the initial window is ten datagrams");
	/* With a window of a hundred the pacer lets sixteen and a few out at once, and the rest over the round trip. */
	c->f.cwnd = 100 * 1232;
	for (nr = 0; fhw_flow_may_send(&c->f, 1232, now + 1); nr++)
		fhw_flow_sent(&c->f, 1232, NULL, now + 1);
	cr_assert_lt(nr, 30);
	next = fhw_flow_next_us(&c->f);
	cr_assert(next > now && next < now + 10000);
	cr_assert(fhw_flow_may_send(&c->f, 1232, next));
	/* Nobody sends what was kept back: its time is not told for ever. */
	while (fhw_flow_may_send(&c->f, 1232, next))
		fhw_flow_sent(&c->f, 1232, NULL, next);
	now = fhw_flow_next_us(&c->f);
	cr_assert(now > next && now < next + 10000);
	fhw_flow_tick(&c->f, now);
	cr_assert_gt(fhw_flow_next_us(&c->f), now);
	free(c);
}

/* Records fill up, are settled in any order, and the tail of one is out while all else goes on. */
Test(wire, records)
{
	struct counted *c = flow();
	struct fhw_rec *first = NULL, *r;
	struct fhw_hdr h = {0};

	c->f.cwnd = UINT32_MAX;
	for (uint32_t i = 0; i < FHW_RECS; i++) {
		c->f.pace_us = 0;
		cr_assert(fhw_flow_may_send(&c->f, 100, 5000));
		r = fhw_flow_sent(&c->f, 100, NULL, 5000);
		first = first ? first : r;
	}
	c->f.pace_us = 0;
	cr_assert(!fhw_flow_may_send(&c->f, 100, 5000), "all places are taken");
	cr_assert_null(fhw_flow_queue(&c->f, FHW_PING, 0));
	first->tail.done = fhw_flow_tail_done;
	fhw_flow_tail_out(first);
	/* It is acknowledged while the carrier still reads its tail: its place stays taken. */
	h.largest = 1;
	cr_assert(fhw_flow_acked(&c->f, &h, 6000));
	cr_assert_eq(c->nr_acked, 1);
	cr_assert(!fhw_flow_may_send(&c->f, 100, 6000));
	first->tail.done(&first->tail);
	c->f.pace_us = 0;
	cr_assert(fhw_flow_may_send(&c->f, 100, 6000));
	cr_assert_eq(c->f.next_pn, 1 + FHW_RECS);
	/* A queued one was never sent, so that nobody can have received it. */
	r = fhw_flow_queue(&c->f, FHW_PING, 0);
	cr_assert_not_null(r);
	h.largest = r->pn;
	cr_assert(fhw_flow_acked(&c->f, &h, 6000));
	cr_assert_eq(c->nr_acked, 1);
	free(c);
}

/* ---- packets that nobody of ours would send ---- */

Test(wire, headers)
{
	uint8_t p[FHW_HDR_BYTES + 16] = {0};
	struct fhw_hdr h = {.kind = FHW_TOKENS, .session = 1, .pn = 1, .request = 1};

	fhw_hdr_put(&h, p);
	cr_assert(fhw_hdr_parse(p, sizeof(p), &h));
	for (uint32_t n = 0; n < FHW_HDR_BYTES; n++)
		cr_assert(!fhw_hdr_parse(p, n, &h));
	p[1] = FHW_NR_KINDS;
	cr_assert(!fhw_hdr_parse(p, sizeof(p), &h));
	h = (struct fhw_hdr){.kind = FHW_PROMPT, .pn = 1, .request = 1, .seq = 100, .ack = 200};
	cr_assert(fhw_hdr_sane(&h, 100, true));
	cr_assert(!fhw_hdr_sane(&h, 101, true));
	cr_assert(!fhw_hdr_sane(&h, 0, true));
	h.seq = 200;
	cr_assert(!fhw_hdr_sane(&h, 1, true));
	h = (struct fhw_hdr){.kind = FHW_TOKENS, .pn = 1, .request = 1, .seq = UINT32_MAX};
	cr_assert(!fhw_hdr_sane(&h, 16, false));
	cr_assert(!fhw_hdr_sane(&h, 8, false));
	h = (struct fhw_hdr){.kind = FHW_CANCEL, .pn = 1};
	cr_assert(!fhw_hdr_sane(&h, 0, true), "of which request?");
}

Test(wire, welcome_that_is_none)
{
	struct fhw_welcome w = {.mtu = 1232, .nr_slots = 256, .max_requests = 1}, got;
	uint8_t p[FHW_WELCOME_BYTES];

	fhw_welcome_put(&w, p);
	cr_assert(fhw_welcome_get(p, &got));
	fhw_put32(p + 8, 100);
	cr_assert(!fhw_welcome_get(p, &got), "no power of two");
	fhw_put32(p + 8, 1u << 20);
	cr_assert(!fhw_welcome_get(p, &got), "too many");
	fhw_put32(p + 8, 16);
	memset(p + 24, 'a', FHW_MODEL_BYTES);
	cr_assert(!fhw_welcome_get(p, &got), "no end of the name");
}
