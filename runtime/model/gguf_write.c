// SPDX-License-Identifier: Apache-2.0
/*
 * The header of a GGUF file, built in two growing buffers: keys and tensors.
 * Both belong to the writer.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/gguf_priv.h"
#include "runtime/model/gguf_types.h"
#include "runtime/model/gguf_write.h"

struct buf {
	uint8_t *p;
	size_t n, cap;
};

struct fh_gguf_writer {
	struct buf head; /* magic, counts, keys; at last everything */
	struct buf infos;
	uint64_t nr_keys, nr_tensors;
	uint64_t data_bytes;
	bool failed, done;
};

static void put(struct fh_gguf_writer *w, struct buf *b, const void *p, size_t n)
{
	if (w->failed || n == 0)
		return;
	if (n > b->cap - b->n) {
		size_t cap = 2 * b->cap + n + 4096;
		uint8_t *q = realloc(b->p, cap);

		if (!q) {
			w->failed = true;
			return;
		}
		b->p = q;
		b->cap = cap;
	}
	memcpy(b->p + b->n, p, n);
	b->n += n;
}

static void put_u32(struct fh_gguf_writer *w, struct buf *b, uint32_t v)
{
	put(w, b, &v, sizeof(v));
}

static void put_u64(struct fh_gguf_writer *w, struct buf *b, uint64_t v)
{
	put(w, b, &v, sizeof(v));
}

static void put_str(struct fh_gguf_writer *w, struct buf *b, struct fh_str s)
{
	put_u64(w, b, s.n);
	put(w, b, s.p, s.n);
}

static struct fh_str from_c(const char *s)
{
	return (struct fh_str){.p = s, .n = strlen(s)};
}

struct fh_gguf_writer *fh_gguf_writer_new(void)
{
	static const uint8_t zeros[24];
	struct fh_gguf_writer *w = calloc(1, sizeof(*w));

	if (w)
		put(w, &w->head, zeros, sizeof(zeros)); /* filled in at the end */
	return w;
}

void fh_gguf_writer_free(struct fh_gguf_writer *w)
{
	if (!w)
		return;
	free(w->head.p);
	free(w->infos.p);
	free(w);
}

static void put_key(struct fh_gguf_writer *w, struct fh_str name, enum fh_gguf_vtype type)
{
	assert(!w->done && w->nr_tensors == 0);
	put_str(w, &w->head, name);
	put_u32(w, &w->head, type);
	w->nr_keys++;
}

void fh_gguf_put_u32(struct fh_gguf_writer *w, const char *key, uint32_t v)
{
	put_key(w, from_c(key), FH_GGUF_U32);
	put_u32(w, &w->head, v);
}

void fh_gguf_put_f32(struct fh_gguf_writer *w, const char *key, float v)
{
	put_key(w, from_c(key), FH_GGUF_F32);
	put(w, &w->head, &v, sizeof(v));
}

void fh_gguf_put_bool(struct fh_gguf_writer *w, const char *key, bool v)
{
	uint8_t byte = v;

	put_key(w, from_c(key), FH_GGUF_BOOL);
	put(w, &w->head, &byte, 1);
}

void fh_gguf_put_str(struct fh_gguf_writer *w, const char *key, const char *v)
{
	put_key(w, from_c(key), FH_GGUF_STR);
	put_str(w, &w->head, from_c(v));
}

void fh_gguf_put_arr(struct fh_gguf_writer *w, const char *key, enum fh_gguf_vtype type, uint64_t n)
{
	put_key(w, from_c(key), FH_GGUF_ARR);
	put_u32(w, &w->head, type);
	put_u64(w, &w->head, n);
}

void fh_gguf_put_elem_str(struct fh_gguf_writer *w, struct fh_str s)
{
	put_str(w, &w->head, s);
}

void fh_gguf_put_elem(struct fh_gguf_writer *w, const void *p, size_t bytes)
{
	put(w, &w->head, p, bytes);
}

void fh_gguf_put_copy(struct fh_gguf_writer *w, const struct fh_gguf *g, uint64_t i)
{
	const struct gguf_key *k = &g->file[0].key[i];

	assert(i < g->file[0].nr_keys);
	put_key(w, k->name, (enum fh_gguf_vtype)k->type);
	put(w, &w->head, k->value, k->bytes);
}

uint64_t fh_gguf_put_tensor(struct fh_gguf_writer *w, const char *name, uint32_t type, uint32_t nr_dims,
			    const uint64_t *ne)
{
	const struct fh_gguf_type *t = fh_gguf_type(type);
	uint64_t bytes;

	assert(t && !w->done && nr_dims >= 1 && nr_dims <= 4 && ne[0] % t->block == 0);
	bytes = ne[0] / t->block * t->block_bytes;
	put_str(w, &w->infos, from_c(name));
	put_u32(w, &w->infos, nr_dims);
	for (uint32_t i = 0; i < nr_dims; i++) {
		put_u64(w, &w->infos, ne[i]);
		if (i)
			bytes *= ne[i];
	}
	put_u32(w, &w->infos, type);
	put_u64(w, &w->infos, w->data_bytes);
	w->data_bytes += (bytes + FH_GGUF_WRITE_ALIGN - 1) / FH_GGUF_WRITE_ALIGN * FH_GGUF_WRITE_ALIGN;
	w->nr_tensors++;
	return bytes;
}

int fh_gguf_writer_header(struct fh_gguf_writer *w, const void **data, size_t *bytes)
{
	static const uint8_t zeros[FH_GGUF_WRITE_ALIGN];
	uint32_t version = 3;

	if (!w->done) {
		put(w, &w->head, w->infos.p, w->infos.n);
		put(w, &w->head, zeros, -w->head.n % FH_GGUF_WRITE_ALIGN);
		w->done = true;
	}
	if (w->failed)
		return -ENOMEM;
	memcpy(w->head.p, "GGUF", 4);
	memcpy(w->head.p + 4, &version, 4);
	memcpy(w->head.p + 8, &w->nr_tensors, 8);
	memcpy(w->head.p + 16, &w->nr_keys, 8);
	*data = w->head.p;
	*bytes = w->head.n;
	return 0;
}

uint64_t fh_gguf_writer_data_bytes(const struct fh_gguf_writer *w)
{
	return w->data_bytes;
}
