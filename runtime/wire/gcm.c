// SPDX-License-Identifier: Apache-2.0
/* AES-256-GCM; see gcm.h. */
#include "runtime/wire/gcm.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

#if defined(__x86_64__) && __has_include(<intel-ipsec-mb.h>)
#include <intel-ipsec-mb.h>
#define HAVE_IPSEC_MB 1
#else
#define HAVE_IPSEC_MB 0
#endif

enum { ALIGN = 64 };

/* Where a key of either library begins. */
static void *aligned(const struct fhw_gcm_key *k)
{
	return (void *)(((uintptr_t)k->room + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1));
}

#if HAVE_IPSEC_MB

_Static_assert(sizeof(struct gcm_key_data) + ALIGN - 16 <= FHW_GCM_KEY_BYTES, "a key has room");

/* What was found in the library; set once. */
static struct {
	aes_gcm_pre_t pre;
	aes_gcm_enc_dec_t enc, dec;
	bool used;
} mb;

static void mb_seal(const void *k, const uint8_t *nonce, const uint8_t *ad, uint32_t ad_bytes, uint8_t *c,
		    const uint8_t *m, uint32_t n, uint8_t *tag)
{
	struct gcm_context_data ctx;

	mb.enc(k, &ctx, c, m, n, nonce, ad, ad_bytes, tag, FHW_TAG_BYTES);
}

static bool mb_open(const void *k, const uint8_t *nonce, const uint8_t *ad, uint32_t ad_bytes, uint8_t *c, uint32_t n,
		    const uint8_t *tag)
{
	struct gcm_context_data ctx;
	uint8_t real[FHW_TAG_BYTES];

	mb.dec(k, &ctx, c, c, n, nonce, ad, ad_bytes, real, FHW_TAG_BYTES);
	if (!crypto_verify_16(real, tag))
		return true;
	memset(c, 0, n);
	return false;
}

/* Of all lengths up to some blocks, both ways: does it say what libsodium says? */
static bool mb_agrees(void)
{
	enum { MOST = 300, AD = 46 };
	uint8_t key[32], nonce[12] = {1, 2, 3}, ad[AD], plain[MOST], a[MOST], b[MOST], tag_a[16], tag_b[16];
	crypto_aead_aes256gcm_state sodium;
	struct fhw_gcm_key k;

	for (uint32_t i = 0; i < MOST; i++)
		plain[i] = (uint8_t)(i * 7 + 1);
	memcpy(key, plain + 5, sizeof(key));
	memcpy(ad, plain + 50, sizeof(ad));
	mb.pre(key, aligned(&k));
	if (crypto_aead_aes256gcm_beforenm(&sodium, key))
		return false;
	for (uint32_t n = 0; n <= MOST; n++) {
		nonce[11] = (uint8_t)n;
		crypto_aead_aes256gcm_encrypt_detached_afternm(a, tag_a, NULL, plain, n, ad, AD, NULL, nonce, &sodium);
		mb_seal(aligned(&k), nonce, ad, AD, b, plain, n, tag_b);
		if (memcmp(a, b, n) || memcmp(tag_a, tag_b, sizeof(tag_a)))
			return false;
		if (!mb_open(aligned(&k), nonce, ad, AD, b, n, tag_a) || memcmp(b, plain, n))
			return false;
		tag_a[n % 16] ^= 1;
		if (mb_open(aligned(&k), nonce, ad, AD, a, n, tag_a))
			return false;
	}
	return true;
}

/* The library stays: what it is asked for has no end. */
static void mb_find(void)
{
	void *lib = dlopen("libIPSec_MB.so.1", RTLD_NOW | RTLD_LOCAL);
	IMB_MGR *(*alloc)(uint64_t) = lib ? dlsym(lib, "alloc_mb_mgr") : NULL;
	void (*init)(IMB_MGR *, IMB_ARCH *) = lib ? dlsym(lib, "init_mb_mgr_auto") : NULL;
	void (*release)(IMB_MGR *) = lib ? dlsym(lib, "free_mb_mgr") : NULL;
	IMB_MGR *m = alloc && init && release ? alloc(0) : NULL;
	IMB_ARCH arch = IMB_ARCH_NONE;

	if (!m) {
		if (lib)
			dlclose(lib);
		return;
	}
	init(m, &arch);
	/* Without the CPU's own instructions it would look things up in tables, in a time that tells of the key. */
	if (arch != IMB_ARCH_NONE && arch != IMB_ARCH_NOAESNI) {
		mb.pre = m->gcm256_pre;
		mb.enc = m->gcm256_enc;
		mb.dec = m->gcm256_dec;
	}
	release(m);
	mb.used = mb.pre && mb.enc && mb.dec && mb_agrees();
}

#else

static const struct {
	bool used;
} mb;

#endif

static void find(void)
{
#if HAVE_IPSEC_MB
	/* For tests and for who trusts one library alone. */
	const char *no = secure_getenv("FREEHOLD_NO_IPSEC_MB");

	if (!(no && *no) && crypto_aead_aes256gcm_is_available())
		mb_find();
#endif
}

void fhw_gcm_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, find);
}

const char *fhw_gcm_name(void)
{
	return mb.used ? "libipsec-mb" : "libsodium";
}

void fhw_gcm_expand(struct fhw_gcm_key *k, const uint8_t *key)
{
#if HAVE_IPSEC_MB
	if (mb.used) {
		mb.pre(key, aligned(k));
		return;
	}
#endif
	crypto_aead_aes256gcm_beforenm(aligned(k), key);
}

void fhw_gcm_seal(const struct fhw_gcm_key *k, const uint8_t *nonce, const uint8_t *ad, uint32_t ad_bytes, uint8_t *c,
		  const uint8_t *m, uint32_t n, uint8_t tag[FHW_TAG_BYTES])
{
#if HAVE_IPSEC_MB
	if (mb.used) {
		mb_seal(aligned(k), nonce, ad, ad_bytes, c, m, n, tag);
		return;
	}
#endif
	crypto_aead_aes256gcm_encrypt_detached_afternm(c, tag, NULL, m, n, ad, ad_bytes, NULL, nonce, aligned(k));
}

bool fhw_gcm_open(const struct fhw_gcm_key *k, const uint8_t *nonce, const uint8_t *ad, uint32_t ad_bytes, uint8_t *c,
		  uint32_t n, const uint8_t tag[FHW_TAG_BYTES])
{
#if HAVE_IPSEC_MB
	if (mb.used)
		return mb_open(aligned(k), nonce, ad, ad_bytes, c, n, tag);
#endif
	return !crypto_aead_aes256gcm_decrypt_detached_afternm(c, NULL, c, n, tag, ad, ad_bytes, nonce, aligned(k));
}
