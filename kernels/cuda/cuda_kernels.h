/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the host and the CUDA kernels agree on: names, arguments, grids, layouts.
 *
 * Plain C and CUDA C++ read this file.  Every kernel is extern "C", takes one
 * structure by value (cuLaunchKernel's kernelParams is { &args }), and finds
 * all per-step values (how many tokens, their ids, positions, block tables,
 * sampling) in device memory, so that a captured graph is replayed with nothing
 * but a new plan in that memory.  Device addresses are uint64_t; 0 is "none".
 * Nothing here is cooperative and nothing needs a stream of its own.
 *
 * The contract is that of kernels.h: a token's result does not depend on its
 * neighbours, on the tile that a launch picks, nor on how a prompt was cut.
 * There are no float atomics; each output has one reduction order that follows
 * from the shape.
 *
 * Alignment: every buffer 256 bytes.  Rows of activations are padded with
 * zeros; whoever allocates them clears them once.
 */
#ifndef FHK_CUDA_KERNELS_H
#define FHK_CUDA_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

/* Small functions of shapes, for both sides */
#if defined(__CUDACC__)
#define FHK_CU_FN static constexpr __host__ __device__ inline
#elif defined(__cplusplus)
#define FHK_CU_FN static constexpr inline
#else
#define FHK_CU_FN static inline
#endif

#define FHK_CU_ABI 1
#define FHK_CU_NONE UINT32_MAX
#define FHK_CU_WARP 32u
#define FHK_CU_ROWS 16u	  /* rows of a unit of weights */
#define FHK_CU_SLICES 8u  /* of a unit's columns, one a warp; partial sums are added in their order */
#define FHK_CU_SPLIT 256u /* tokens of context whose attention is one partial result */
#define FHK_CU_MAX_HEAD 256u
#define FHK_CU_MAX_USED 32u /* experts a token */
#define FHK_CU_MAX_EXPERTS 1024u
#define FHK_CU_MAX_SPANS 8192u /* of 64 logits: 524,288 tokens of vocabulary */

/* A launch. @shared: dynamic shared memory in bytes; above 48 KiB it has to be allowed with cuFuncSetAttribute. */
struct fhk_cu_grid {
	uint32_t x, y, z, threads, shared;
};

FHK_CU_FN uint32_t fhk_cu_div_up(uint32_t n, uint32_t by)
{
	return (n + by - 1) / by;
}

/* ---- weights -------------------------------------------------------------- */

/*
 * F32 stays as the file has it, [rows, cols].  Every other type is repacked by
 * fhk_cu_repack into units of 16 rows; a unit is its chunks one after the
 * other, a chunk is 64 columns (256 for Q4_K Q5_K Q6_K), and no byte is added
 * but the padding of rows to 16 and columns to a chunk, which is zeros.
 *
 * This is the unit of the fast paths too: inside a chunk lie the A fragments of
 * mma.m16n8k32 (quants) or m16n8k16 (16 bits), 16 bytes a lane: lane 4 g + i
 * holds rows g and g + 8.
 *
 *   BF16 F16   4 fragments of 16 columns, 512 bytes each
 *   Q8_0       2 fragments of 32 columns, 512 bytes each; d: f16 [2][8][2]
 *   Q4_0       512 bytes: low nibbles the first 32 columns' fragment, high the second's; d: f16 [2][8][2]
 *   MXFP4      the same 512 bytes; e: u8 [2][8][2]
 *   Q4_K       4 x 512 bytes of nibbles; [16] of the file's 16 bytes {d, dmin, scales[12]}
 *   Q5_K       the same; then 4 x [32 lanes] u32, bit 8 k + 4 b + w is bit 4 of byte k of word w, fragment b
 *   Q6_K       4 x 512 bytes of nibbles; 4 x [32 lanes][2] u32, bits 8 k + 2 w, + 1 of word b are bits 4, 5 of
 *              byte k of word w, fragment b; i8 scale[16 rows][16]; f16 d[16]
 *
 * [8][2] is rows g, g + 8.
 */
FHK_CU_FN int fhk_cu_type_known(uint32_t type)
{
	return type == FHK_F32 || type == FHK_F16 || type == FHK_BF16 || type == FHK_Q8_0 || type == FHK_Q4_0 ||
	       type == FHK_Q4_K || type == FHK_Q5_K || type == FHK_Q6_K || type == FHK_MXFP4;
}

FHK_CU_FN uint32_t fhk_cu_chunk_cols(uint32_t type)
{
	return type == FHK_Q4_K || type == FHK_Q5_K || type == FHK_Q6_K ? 256 : 64;
}

/* 0 for F32 and unknown types */
FHK_CU_FN uint32_t fhk_cu_chunk_bytes(uint32_t type)
{
	switch (type) {
	case FHK_F16:
	case FHK_BF16: return 2048;
	case FHK_Q8_0: return 1088;
	case FHK_Q4_0: return 576;
	case FHK_MXFP4: return 544;
	case FHK_Q4_K: return 2304;
	case FHK_Q5_K: return 2816;
	case FHK_Q6_K: return 3360;
	default: return 0;
	}
}

FHK_CU_FN uint32_t fhk_cu_unit_bytes(uint32_t type, uint32_t cols)
{
	return fhk_cu_div_up(cols, fhk_cu_chunk_cols(type)) * fhk_cu_chunk_bytes(type);
}

FHK_CU_FN uint32_t fhk_cu_units(uint32_t rows)
{
	return fhk_cu_div_up(rows, FHK_CU_ROWS);
}

/* Bytes of one expert's (or a plain) matrix. */
FHK_CU_FN uint64_t fhk_cu_mat_bytes(uint32_t type, uint32_t rows, uint32_t cols)
{
	if (type == FHK_F32)
		return (uint64_t)rows * cols * 4;
	return (uint64_t)fhk_cu_units(rows) * fhk_cu_unit_bytes(type, cols);
}

/* Repack one matrix. Maps of one type may be joined (q, k, v) if each but the last has whole units. */
struct fhk_cu_repack_args {
	uint64_t src;	     /* the file's rows; any alignment */
	uint64_t dst;	     /* unit 0 */
	uint64_t dst_stride; /* bytes from unit to unit; fhk_cu_unit_bytes(), or more to interleave two matrices */
	uint32_t type, rows, cols, unused;
};
#define FHK_CU_REPACK "fhk_cu_repack"

static inline struct fhk_cu_grid fhk_cu_repack_grid(uint32_t type, uint32_t rows, uint32_t cols)
{
	return (struct fhk_cu_grid){fhk_cu_div_up(cols, fhk_cu_chunk_cols(type)), fhk_cu_units(rows), 1, 128, 0};
}

/* ---- activations ------------------------------------------------------------ */

/*
 * A row of activations in the forms that matrices ask for; those that are 0
 * are not written.  Columns are padded to fhk_cu_kpad() with zeros.
 *
 *   f32   [rows][ld]
 *   q8    i8 [rows][ld], with q8d {f32 d, f32 d * sum of q} [rows][ld / 32]
 *   bf16, f16  [rows][ld]
 *
 * The last three are permuted inside each 64 columns, so that a lane finds its
 * share of the B fragments of 64 columns in 16 (q8) or 32 contiguous bytes.
 */
struct fhk_cu_act {
	uint64_t f32, q8, q8d, bf16, f16;
};

FHK_CU_FN uint32_t fhk_cu_kpad(uint32_t cols)
{
	return fhk_cu_div_up(cols, 256) * 256;
}

/* Where column @c of 64 lies */
FHK_CU_FN uint32_t fhk_cu_q8_at(uint32_t c)
{
	return c / 4 % 4 * 16 + c / 32 * 8 + c / 16 % 2 * 4 + c % 4;
}

FHK_CU_FN uint32_t fhk_cu_h16_at(uint32_t c)
{
	return c / 2 % 4 * 16 + c / 16 * 4 + c / 8 % 2 * 2 + c % 2;
}

/* Which form matrices of @type multiply with: offset of its address in struct fhk_cu_act. */
FHK_CU_FN size_t fhk_cu_act_of(uint32_t type)
{
	switch (type) {
	case FHK_F32: return offsetof(struct fhk_cu_act, f32);
	case FHK_BF16: return offsetof(struct fhk_cu_act, bf16);
	case FHK_F16: return offsetof(struct fhk_cu_act, f16);
	default: return offsetof(struct fhk_cu_act, q8);
	}
}

/* Bytes of the form at @offset for @rows rows of @cols columns. */
FHK_CU_FN uint64_t fhk_cu_act_bytes(size_t offset, uint32_t rows, uint32_t cols)
{
	uint64_t n = (uint64_t)rows * fhk_cu_kpad(cols);

	switch (offset) {
	case offsetof(struct fhk_cu_act, f32): return n * 4;
	case offsetof(struct fhk_cu_act, q8): return n;
	case offsetof(struct fhk_cu_act, q8d): return n / 32 * 8;
	default: return n * 2;
	}
}

/* ---- the plan ------------------------------------------------------------- */

/*
 * Per-step values.  The host keeps the arrays at fixed addresses, sized for the
 * largest batch, and copies what changed before a launch.  Kernels bound
 * themselves by the counts here, whatever the grid.
 */
struct fhk_cu_plan {
	uint32_t nr_tokens;
	uint32_t nr_seqs;
	uint32_t nr_outs;  /* rows of logits */
	uint32_t nr_items; /* of attention */
	uint32_t nr_pools;
	uint32_t unused[11];
};

struct fhk_cu_token {
	uint32_t id;  /* or FHK_CU_NONE (FH_TOKEN_PREV): prev[seqs[seq].slot] */
	uint32_t seq; /* index in seqs[] */
	uint32_t pos;
	uint32_t part; /* attention in splits: the partials' first row; FHK_CU_NONE: its item does all splits */
};

struct fhk_cu_seq {
	uint32_t slot; /* 0..max_seqs-1, index in prev[] */
	uint32_t q_start, q_len, pos;
	uint32_t block_off, nr_blocks; /* blocks[block_off ..] */
	uint32_t out;	   /* its first row that is sampled, FHK_CU_NONE: none; nr_draft + 1 rows follow each other */
	uint32_t nr_draft; /* its last tokens are guesses */
};

/*
 * Attention: queries token .. token + nr_q - 1 of one sequence, for every head,
 * over one split of the context, or over all (FHK_CU_NONE: the result goes to
 * out; else to the partials of its tokens).  A sequence that decodes: one item
 * a split, pos / FHK_CU_SPLIT + 1 of them (of its last token).  A prompt: an
 * item for each fhk_cu_item_queries() tokens.  Either gives the same bits.
 */
struct fhk_cu_item {
	uint32_t token, nr_q, seq, split;
};

/* Queries of a prompt's item: as many as share the reading of keys and values. */
FHK_CU_FN uint32_t fhk_cu_item_queries(uint32_t nr_group)
{
	return nr_group >= 16 ? 1 : 16 / nr_group;
}

/* ---- keys and values -------------------------------------------------------- */

/*
 * [block][layer][K, V][head][token 0..31][head_dim]: F16, BF16, or Q8_0 as
 * i8 [32][head_dim] and then f16 scale[32][ceil(head_dim / 32)].  head_dim: a
 * multiple of 8, at most 256.  F32 is not for the GPU.
 */
FHK_CU_FN uint32_t fhk_cu_kv_head_bytes(uint32_t kv_type, uint32_t head_dim)
{
	uint32_t n = kv_type == FHK_Q8_0 ? 32 * head_dim + 64 * fhk_cu_div_up(head_dim, 32) : 64 * head_dim;

	return fhk_cu_div_up(n, 128) * 128;
}

struct fhk_cu_kv {
	uint64_t base;	      /* block 0 + the layer's offset */
	uint64_t block_bytes; /* nr_layers * 2 * nr_kv_heads * head_bytes */
	uint32_t head_bytes;
	uint32_t type; /* FHK_F16, FHK_BF16, FHK_Q8_0 */
	uint32_t head_dim, nr_heads, nr_kv_heads, unused;
};

/* ---- kernels: the residual stream ---------------------------------------------- */

/*
 * x[t] = embedding * scale, and cs[t] = cos, sin of its position, mscale times.
 * The table is the file's rows.  An id that is not in the vocabulary reads row 0.
 */
struct fhk_cu_embed_args {
	uint64_t plan;	 /* struct fhk_cu_plan */
	uint64_t tokens; /* struct fhk_cu_token [] */
	uint64_t seqs;	 /* struct fhk_cu_seq [] */
	uint64_t prev;	 /* u32 [max_seqs] */
	uint64_t table;	 /* [nr_vocab] rows of the file's bytes */
	uint64_t freq;	 /* f64 [nr_pairs] */
	uint64_t x;	 /* f32 [max_tokens, ld] */
	uint64_t cs;	 /* f32 [max_tokens, nr_pairs, 2] */
	uint32_t type, nr_vocab, dim, ld;
	uint32_t nr_pairs;
	float scale, mscale;
	uint32_t unused;
};
#define FHK_CU_EMBED "fhk_cu_embed"

static inline struct fhk_cu_grid fhk_cu_embed_grid(uint32_t max_tokens)
{
	return (struct fhk_cu_grid){max_tokens, 1, 1, 256, 0};
}

/* What fhk_cu_norm adds to x before it norms. */
enum fhk_cu_pre {
	FHK_CU_PRE_NONE,
	FHK_CU_PRE_ADD, /* x += post_w ? y / rms(y) * post_w : y; y is [rows, ld] */
	FHK_CU_PRE_MOE, /* x += sum over slots of weight * y[pair_pos], then the shared expert's */
};

/*
 * Row r of src = rows ? rows[r].token : r of x: add, write back, divide by its
 * root mean square, times w, and write in the forms of @out as row r.
 * PRE_ADD and PRE_MOE index y and the pairs with the row of x.
 */
struct fhk_cu_norm_args {
	uint64_t nr;	       /* u32: how many rows (a count in the plan) */
	uint64_t rows;	       /* struct fhk_cu_out []: only their tokens, or 0: row r is row r */
	uint64_t x;	       /* f32 [*, ld] */
	uint64_t y;	       /* f32 [*, ld], of PRE_ADD and PRE_MOE */
	uint64_t post_w;       /* f32 [dim] or 0 */
	uint64_t w;	       /* f32 [dim]; 0: no norm: x as it is */
	uint64_t pair_pos;     /* u32 [*, used] */
	uint64_t pair_weight;  /* f32 [*, used + 1] */
	uint64_t shared;       /* f32 [*, ld] or 0 */
	struct fhk_cu_act out; /* ld: fhk_cu_kpad(dim) */
	uint32_t pre, used;
	uint32_t dim, ld;
	float eps;
	uint32_t unused;
};
#define FHK_CU_NORM "fhk_cu_norm"

static inline struct fhk_cu_grid fhk_cu_norm_grid(uint32_t max_rows)
{
	return (struct fhk_cu_grid){max_rows, 1, 1, 512, 64};
}

/*
 * h[r] = up ? glu(gate[r], up[r]) : gate[r], in the forms of @out.  Where gate
 * and up are of one type, fhk_cu_mm makes the product itself and up is 0 here.
 */
struct fhk_cu_act_args {
	uint64_t nr;
	uint64_t gate, up; /* f32 [*, ld] */
	struct fhk_cu_act out;
	uint32_t cols, ld;
	uint32_t glu;	   /* enum fhk_glu */
	uint32_t scale_nr; /* rows = *nr * scale_nr (experts a token), at least 1 */
};
#define FHK_CU_ACT "fhk_cu_act"

static inline struct fhk_cu_grid fhk_cu_act_grid(uint32_t max_rows)
{
	return (struct fhk_cu_grid){max_rows, 1, 1, 512, 64};
}

/* ---- kernels: matrices -------------------------------------------------------- */

#define FHK_CU_MM_ADD 1u /* y += instead of y = */
#define FHK_CU_MM_GLU 2u /* y = glu(w x + bias, w2 x + bias2) */

/* Some pairs of one expert: rows first .. first + nr - 1 of the sorted order. */
struct fhk_cu_tile {
	uint32_t expert, first, nr, unused;
};

/*
 * y[r] (+)= W x[r] + bias, for *nr rows; with tiles: for each tile's rows r,
 * y[r] = W[expert] x[idx ? idx[r] : r].
 */
struct fhk_cu_mm_args {
	uint64_t w, w2;			     /* packed; w2: of the same type and shape, with FHK_CU_MM_GLU */
	uint64_t bias, bias2;		     /* f32 [nr_experts, rows] or 0 */
	uint64_t x;			     /* in the form that fhk_cu_act_of(type) says, rows of fhk_cu_kpad(cols) */
	uint64_t xd;			     /* q8d where x is q8 */
	uint64_t y;			     /* f32 [*, ldy] */
	uint64_t nr;			     /* u32: rows; ignored with tiles */
	uint64_t idx;			     /* u32 [] row of x, with tiles; or 0 */
	uint64_t tiles;			     /* struct fhk_cu_tile [] or 0 */
	uint64_t nr_tiles;		     /* u32 */
	uint64_t unit_stride, expert_stride; /* bytes, of w and w2 */
	uint32_t rows, cols, ldy, flags;
	uint32_t glu;  /* enum fhk_glu */
	float softcap; /* > 0: y = softcap * tanh(y / softcap) */
	uint32_t unused[2];
};

/*
 * One kernel for each type and number of rows of x that a block takes together:
 * "fhk_cu_mm_<type>_<8, 16, 32, 64 or 128>"; which one makes no difference to the result.
 */
FHK_CU_FN uint32_t fhk_cu_mm_tile(uint32_t max_rows)
{
	return max_rows <= 8 ? 8 : max_rows <= 16 ? 16 : max_rows <= 32 ? 32 : max_rows <= 64 ? 64 : 128;
}

/* @buf: at least 32 bytes. Returns it, or NULL: no such type. */
static inline const char *fhk_cu_mm_name(uint32_t type, uint32_t tile, char *buf)
{
	static const struct {
		uint32_t type;
		char name[8];
	} names[] = {{FHK_F32, "f32"},	 {FHK_F16, "f16"},   {FHK_BF16, "bf16"},
		     {FHK_Q8_0, "q8_0"}, {FHK_Q4_0, "q4_0"}, {FHK_Q4_K, "q4_k"},
		     {FHK_Q5_K, "q5_k"}, {FHK_Q6_K, "q6_k"}, {FHK_MXFP4, "mxfp4"}};
	const char prefix[] = "fhk_cu_mm_";
	char *p = buf;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (names[i].type != type)
			continue;
		for (const char *s = prefix; *s; s++)
			*p++ = *s;
		for (const char *s = names[i].name; *s; s++)
			*p++ = *s;
		*p++ = '_';
		if (tile >= 100)
			*p++ = (char)('0' + tile / 100);
		if (tile >= 10)
			*p++ = (char)('0' + tile / 10 % 10);
		*p++ = (char)('0' + tile % 10);
		*p = 0;
		return buf;
	}
	return NULL;
}

/* For experts: how many of @max_pairs one of them may expect. */
FHK_CU_FN uint32_t fhk_cu_moe_tile(uint32_t max_pairs, uint32_t nr_experts)
{
	return fhk_cu_mm_tile(fhk_cu_div_up(max_pairs, nr_experts));
}

/*
 * Weights on their way lie in shared memory: with tiles of up to 64 rows each warp
 * has a ring of so many chunks ...
 */
FHK_CU_FN uint32_t fhk_cu_mm_depth(uint32_t type)
{
	switch (type) {
	case FHK_Q4_0:
	case FHK_MXFP4: return 6;
	case FHK_Q8_0: return 4;
	case FHK_Q5_K:
	case FHK_Q6_K: return 2;
	default: return 3;
	}
}

/* ... and the tile of 128 a ring of so many stages, each 64 columns of its rows of x and of eight units. */
FHK_CU_FN uint32_t fhk_cu_mm_stages(uint32_t type)
{
	return type == FHK_BF16 || type == FHK_F16 ? 2 : 3;
}

/* Types with minimums, or scales of 16 columns: a block takes half of the tile's rows, another the others (z of the
 * grid). */
FHK_CU_FN uint32_t fhk_cu_mm_wide_rows(uint32_t type)
{
	return type == FHK_Q4_K || type == FHK_Q5_K || type == FHK_Q6_K ? 64 : 128;
}

FHK_CU_FN uint32_t fhk_cu_mm_stage_bytes(uint32_t type)
{
	uint32_t rows = fhk_cu_mm_wide_rows(type);

	switch (type) {
	case FHK_BF16:
	case FHK_F16: return rows * 144 + 8 * 2048; /* 16 bytes of air between rows */
	case FHK_Q4_K: return rows * 80 + 8 * (512 + 256);
	case FHK_Q5_K: return rows * 80 + 8 * (512 + 128 + 256);
	case FHK_Q6_K: return rows * 80 + 8 * (512 + 256 + 288);
	default: return rows * 80 + 8 * fhk_cu_chunk_bytes(type);
	}
}

/* Bytes of shared memory; tiles of up to 64 rows have sums of slices too, 16 rows and some air for each row of x. */
FHK_CU_FN uint32_t fhk_cu_mm_shared(uint32_t type, uint32_t tile)
{
	if (type == FHK_F32)
		return 0;
	if (tile == 128)
		return fhk_cu_mm_stages(type) * fhk_cu_mm_stage_bytes(type);
	return FHK_CU_SLICES * (fhk_cu_mm_depth(type) * fhk_cu_chunk_bytes(type) + tile * 20 * 4);
}

/* @max_tiles: 0 without tiles, else at most how many fhk_cu_moe_sort can make. Tiles of 128 take eight units a block.
 */
static inline struct fhk_cu_grid fhk_cu_mm_grid(uint32_t type, uint32_t rows, uint32_t tile, uint32_t max_rows,
						uint32_t max_tiles)
{
	uint32_t x = max_tiles ? max_tiles : fhk_cu_div_up(max_rows, tile), units = fhk_cu_units(rows);

	uint32_t z = tile == 128 && type != FHK_F32 ? 128 / fhk_cu_mm_wide_rows(type) : 1;

	return (struct fhk_cu_grid){x, tile == 128 ? fhk_cu_div_up(units, 8) : units, z, FHK_CU_SLICES * 32,
				    fhk_cu_mm_shared(type, tile)};
}

/* ---- kernels: experts -------------------------------------------------------- */

/*
 * logits (the router's, bias included) to the best experts and their weights,
 * as cpu_moe.c: ties to the lowest id, NaN never wins.
 */
struct fhk_cu_route_args {
	uint64_t nr;
	uint64_t logits;      /* f32 [*, ld] */
	uint64_t shared;      /* f32 [*, shared_ld] one logit of the shared expert's gate, or 0 */
	uint64_t pair_expert; /* u32 [*, used] */
	uint64_t pair_weight; /* f32 [*, used + 1] */
	uint32_t nr_experts, used, ld, shared_ld;
	uint32_t norm; /* 0: softmax over all; 1: over the chosen */
	uint32_t unused;
};
#define FHK_CU_ROUTE "fhk_cu_route"

/* A warp a row */
static inline struct fhk_cu_grid fhk_cu_route_grid(uint32_t max_rows)
{
	return (struct fhk_cu_grid){fhk_cu_div_up(max_rows, 4), 1, 1, 128, 0};
}

/* Stable counting sort of the pairs by expert, and the tiles that a grouped multiplication walks. */
struct fhk_cu_moe_sort_args {
	uint64_t nr; /* u32 tokens */
	uint64_t pair_expert;
	uint64_t pair_pos;   /* u32 [*, used]: where in the sorted order */
	uint64_t pair_token; /* u32 [max_pairs]: the token of each sorted pair */
	uint64_t tiles;	     /* struct fhk_cu_tile [fhk_cu_max_tiles()] */
	uint64_t nr_tiles;   /* u32 */
	uint32_t nr_experts, used;
	uint32_t tile; /* rows of a tile: that of the kernel that follows */
	uint32_t unused;
};
#define FHK_CU_MOE_SORT "fhk_cu_moe_sort"

FHK_CU_FN uint32_t fhk_cu_max_tiles(uint32_t max_pairs, uint32_t nr_experts, uint32_t tile)
{
	return (max_pairs < nr_experts ? max_pairs : nr_experts) + max_pairs / tile;
}

static inline struct fhk_cu_grid fhk_cu_moe_sort_grid(uint32_t nr_experts)
{
	return (struct fhk_cu_grid){1, 1, 1, 1024, 4 * (32 + 3) * (nr_experts + 1)};
}

/* ---- kernels: attention --------------------------------------------------------- */

/* Norms of heads, rotation of q (in place) and k, and k and v into the cache. */
struct fhk_cu_rope_kv_args {
	uint64_t plan, tokens, seqs, blocks; /* blocks: u32 [] */
	uint64_t qkv;			     /* f32 [max_tokens, ld]: q, k, v */
	uint64_t cs;
	uint64_t q_norm, k_norm; /* f32 [head_dim] or 0 */
	struct fhk_cu_kv kv;
	uint32_t ld, nr_pairs, interleaved;
	float eps;
};
#define FHK_CU_ROPE_KV "fhk_cu_rope_kv"

/* A warp a head */
static inline struct fhk_cu_grid fhk_cu_rope_kv_grid(uint32_t max_tokens, uint32_t nr_heads, uint32_t nr_kv_heads)
{
	return (struct fhk_cu_grid){max_tokens, fhk_cu_div_up(nr_heads + 2 * nr_kv_heads, 4), 1, 128,
				    4 * FHK_CU_MAX_HEAD * 4};
}

/* Floats of a row of partials: sums [head_dim], maximum, sum of exponentials, two unused. */
FHK_CU_FN uint32_t fhk_cu_partial_floats(uint32_t head_dim)
{
	return head_dim + 4;
}

/*
 * Partials: row (token.part + split) * nr_heads + head.  Items beyond what a
 * window lets a query see write nothing, and fhk_cu_combine does not read them.
 */
struct fhk_cu_attn_args {
	uint64_t plan, tokens, seqs, blocks, items;
	uint64_t q;	  /* f32 [max_tokens, ldq], rotated */
	uint64_t sinks;	  /* f32 [nr_heads] or 0 */
	uint64_t partial; /* f32 */
	uint64_t out;	  /* f32 [max_tokens, ld_out] */
	struct fhk_cu_kv kv;
	uint32_t ldq, ld_out, window;
	float scale, softcap;
	uint32_t unused;
};

/*
 * "fhk_cu_attn_<f16, bf16 or q8_0>_<8 or 16>": query heads that a block takes
 * together.  The grid may be any: blocks walk the items.
 */
FHK_CU_FN uint32_t fhk_cu_attn_pairs(uint32_t max_nr_q, uint32_t nr_group)
{
	return max_nr_q * nr_group <= 8 ? 8 : 16;
}

static inline const char *fhk_cu_attn_name(uint32_t kv_type, uint32_t pairs)
{
	switch (kv_type) {
	case FHK_F16: return pairs == 8 ? "fhk_cu_attn_f16_8" : "fhk_cu_attn_f16_16";
	case FHK_BF16: return pairs == 8 ? "fhk_cu_attn_bf16_8" : "fhk_cu_attn_bf16_16";
	case FHK_Q8_0: return pairs == 8 ? "fhk_cu_attn_q8_0_8" : "fhk_cu_attn_q8_0_16";
	default: return NULL;
	}
}

/* @max_blocks: of the grid, say 4 for each SM */
static inline struct fhk_cu_grid fhk_cu_attn_grid(uint32_t max_items, uint32_t nr_kv_heads, uint32_t nr_group,
						  uint32_t max_nr_q, uint32_t head_dim, uint32_t max_blocks)
{
	uint32_t pairs = fhk_cu_attn_pairs(max_nr_q, nr_group), dims = fhk_cu_div_up(head_dim, 64) * 64;
	uint64_t n = (uint64_t)max_items * nr_kv_heads * fhk_cu_div_up(max_nr_q * nr_group, pairs);
	/* a warp's sums, or scores; q; what the heads have so far; their states; p */
	uint32_t shared = pairs * (FHK_CU_SLICES * 68 * 4 + dims * 6 + 24 + (FHK_CU_SPLIT + 8) * 2);

	return (struct fhk_cu_grid){n < max_blocks ? (uint32_t)n : max_blocks, 1, 1, 256, shared};
}

/*
 * Merge the partials of each token in order of the splits into out (tokens
 * without partials have it there), and write out in the forms of @act.
 */
struct fhk_cu_combine_args {
	uint64_t plan, tokens;
	uint64_t sinks;
	uint64_t partial;
	uint64_t out;	       /* f32 [max_tokens, ld_out] */
	struct fhk_cu_act act; /* act.f32 may be out, with ld_out fhk_cu_kpad(nr_heads * head_dim) */
	uint32_t nr_heads, head_dim, ld_out, window;
};
#define FHK_CU_COMBINE "fhk_cu_combine"

static inline struct fhk_cu_grid fhk_cu_combine_grid(uint32_t max_tokens)
{
	return (struct fhk_cu_grid){max_tokens, 1, 1, 512, 0};
}

/* ---- kernels: the end of a step ---------------------------------------------------- */

#define FHK_CU_OUT_SAMPLE 1u   /* draw a token; without it only the logits are wanted */
#define FHK_CU_SLOT_LOGPROB 8u /* FH_SLOT_LOGPROB, which nothing here may include */
#define FHK_CU_OUT_LOGPROB 2u  /* fill slot.logprob, set FH_SLOT_LOGPROB */

/*
 * A row of logits and what to do with it.  Sampled here: greedy, temperature,
 * top-k, top-p, min-p, penalties, bias, bans, mask, log-probability of the
 * token.  Not here: typical_p < 1 and alternatives (nr_top > 0): leave
 * FHK_CU_OUT_SAMPLE out, take the logits to the host and call fh_sample(), then
 * write prev[] and the slot from there.
 */
struct fhk_cu_out {
	uint32_t token; /* index in the batch */
	uint32_t flags;
	uint32_t index; /* as fh_batch_seq.index: of the token among those generated */
	uint32_t top_k; /* 0: off */
	uint64_t seed;
	uint64_t slot; /* struct fh_slot in memory that the device can write: its first eight bytes, once, last */
	uint64_t mask; /* u32 [ceil(nr_vocab / 32)] or 0 */
	uint32_t adj_off, nr_adj; /* adj[adj_off ..] */
	float temperature, top_p, min_p;
	float repetition, presence, frequency;
	uint32_t unused[2];
};

#define FHK_CU_ADJ_SEEN 1u /* in prompt or output: the repetition penalty applies */
#define FHK_CU_ADJ_BAN 2u  /* may not be sampled */

/* Changes to one token's logit, in this order; a token appears once in a row's list. Ids past the vocabulary: ignored.
 */
struct fhk_cu_adj {
	uint32_t token;
	float bias;
	uint32_t count; /* in the output: frequency and presence */
	uint32_t flags;
};

/* The adjustments are made in @logits, in place: copies for the host come before. */
struct fhk_cu_sample_args {
	uint64_t plan;
	uint64_t outs;	  /* struct fhk_cu_out [] */
	uint64_t adj;	  /* struct fhk_cu_adj [] */
	uint64_t logits;  /* f32 [max_outs, ld] */
	uint64_t sampled; /* u32 [max_outs]: the tokens, for fhk_cu_prev */
	uint32_t nr_vocab, ld;
};
#define FHK_CU_SAMPLE "fhk_cu_sample"
#define FHK_CU_SPAN 64u /* logits whose weights are added first */

static inline struct fhk_cu_grid fhk_cu_sample_grid(uint32_t max_outs, uint32_t nr_vocab)
{
	/* a histogram of 2,048 masses; a sum for each span */
	return (struct fhk_cu_grid){max_outs, 1, 1, 1024, 8 * 2048 + 8 * (fhk_cu_div_up(nr_vocab, FHK_CU_SPAN) + 8)};
}

/* prev[slot] = the sample in the place of the first wrong guess, or the last one. After fhk_cu_sample. */
struct fhk_cu_prev_args {
	uint64_t plan, tokens, seqs, outs;
	uint64_t sampled;
	uint64_t prev;
};
#define FHK_CU_PREV "fhk_cu_prev"

static inline struct fhk_cu_grid fhk_cu_prev_grid(uint32_t max_seqs)
{
	return (struct fhk_cu_grid){fhk_cu_div_up(max_seqs, 128), 1, 1, 128, 0};
}

/* Embeddings of whole texts: pooled += norm(x) of each token in order, or (last) = that of the last. */
struct fhk_cu_pool_item {
	uint32_t token, nr; /* in the batch */
	uint32_t last, row; /* of pooled */
};
struct fhk_cu_pool_args {
	uint64_t plan, pools; /* struct fhk_cu_pool_item [plan.nr_pools] */
	uint64_t x, w;
	uint64_t pooled; /* f32 [*, ld] */
	uint32_t dim, ld;
	float eps;
	uint32_t unused;
};
#define FHK_CU_POOL "fhk_cu_pool"

static inline struct fhk_cu_grid fhk_cu_pool_grid(uint32_t max_pools)
{
	return (struct fhk_cu_grid){max_pools, 1, 1, 512, 64};
}

/* ---- a step ---------------------------------------------------------------------- */

/*
 *   embed
 *   a layer:   norm (PRE_NONE in the first; else what the layer before left: PRE_ADD with its
 *              ffn_post_norm, PRE_MOE) -> norm forms
 *              mm q, k, v (one if joined); rope_kv; attn; combine -> att forms
 *              mm o (ADD into x; or into y, if attn_post_norm)
 *              norm (PRE_ADD with attn_post_norm, or PRE_NONE; w: ffn_norm) -> norm forms
 *     dense    mm gate, up (GLU) -> h; act -> h forms; mm down (ADD into x; or into y, if ffn_post_norm)
 *     experts  mm router (type F32 mostly); route; moe_sort; mm gate, up (GLU, tiles, idx pair_token) -> h;
 *              act (scale_nr: used); mm down (tiles, no idx) -> y; shared expert: as dense, into `shared`
 *   the end:   norm (rows: outs, w: output_norm; the last layer's PRE_ADD or PRE_MOE) -> last forms; pool
 *              mm output (softcap) -> logits; sample; prev
 *
 * PRE_ADD or PRE_MOE together with rows adds only to the rows that are read,
 * each token once: pool has to come after a norm without rows.
 */

/* ---- all of them ------------------------------------------------------------------- */

/* K(name, structure of the arguments) for every kernel: tables, prototypes, checks of sizes. */
#define FHK_CU_MM_TILES(K, type)                                                                                       \
	K(fhk_cu_mm_##type##_8, struct fhk_cu_mm_args)                                                                 \
	K(fhk_cu_mm_##type##_16, struct fhk_cu_mm_args)                                                                \
	K(fhk_cu_mm_##type##_32, struct fhk_cu_mm_args)                                                                \
	K(fhk_cu_mm_##type##_64, struct fhk_cu_mm_args)                                                                \
	K(fhk_cu_mm_##type##_128, struct fhk_cu_mm_args)

#define FHK_CU_KERNELS(K)                                                                                              \
	K(fhk_cu_repack, struct fhk_cu_repack_args)                                                                    \
	K(fhk_cu_embed, struct fhk_cu_embed_args)                                                                      \
	K(fhk_cu_norm, struct fhk_cu_norm_args)                                                                        \
	K(fhk_cu_act, struct fhk_cu_act_args)                                                                          \
	FHK_CU_MM_TILES(K, f32)                                                                                        \
	FHK_CU_MM_TILES(K, f16)                                                                                        \
	FHK_CU_MM_TILES(K, bf16)                                                                                       \
	FHK_CU_MM_TILES(K, q8_0)                                                                                       \
	FHK_CU_MM_TILES(K, q4_0)                                                                                       \
	FHK_CU_MM_TILES(K, q4_k)                                                                                       \
	FHK_CU_MM_TILES(K, q5_k)                                                                                       \
	FHK_CU_MM_TILES(K, q6_k)                                                                                       \
	FHK_CU_MM_TILES(K, mxfp4)                                                                                      \
	K(fhk_cu_route, struct fhk_cu_route_args)                                                                      \
	K(fhk_cu_moe_sort, struct fhk_cu_moe_sort_args)                                                                \
	K(fhk_cu_rope_kv, struct fhk_cu_rope_kv_args)                                                                  \
	K(fhk_cu_attn_f16_8, struct fhk_cu_attn_args)                                                                  \
	K(fhk_cu_attn_f16_16, struct fhk_cu_attn_args)                                                                 \
	K(fhk_cu_attn_bf16_8, struct fhk_cu_attn_args)                                                                 \
	K(fhk_cu_attn_bf16_16, struct fhk_cu_attn_args)                                                                \
	K(fhk_cu_attn_q8_0_8, struct fhk_cu_attn_args)                                                                 \
	K(fhk_cu_attn_q8_0_16, struct fhk_cu_attn_args)                                                                \
	K(fhk_cu_combine, struct fhk_cu_combine_args)                                                                  \
	K(fhk_cu_sample, struct fhk_cu_sample_args)                                                                    \
	K(fhk_cu_prev, struct fhk_cu_prev_args)                                                                        \
	K(fhk_cu_pool, struct fhk_cu_pool_args)

#endif /* FHK_CUDA_KERNELS_H */
