// SPDX-License-Identifier: Apache-2.0
/*
 * The emulator: coroutines, what meets where, matrix instructions.  See simt.h.
 *
 * A thread runs until it has to wait for others (a barrier, an instruction of
 * its warp) or ends; then the scheduler resumes the next one that can go on.
 * Two buffers a warp, used in turn, are enough: nobody reaches the meeting
 * after the next before all have left this one.
 *
 * With the thread sanitizer each thread is a fiber.  Only barriers and
 * __syncwarp order them, and nothing orders two blocks of a launch but that
 * thread i of one comes after thread i of the one before; each block has shared
 * memory of its own, so that what one left there is no false race.  This file
 * itself is then built without the sanitizer (and with -DSIMT_TSAN): what it
 * does on behalf of a thread is no access of the kernel's.
 */
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <ucontext.h>

#include "kernels/cuda/cuda_kernels.h"
#include "tests/gpu/simt/device.h"
#include "tests/gpu/simt/simt.h"

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif

#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SIMT_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#define MAX_THREADS 1024u
#define MAX_SHARED (227u << 10)
#define STACK_BYTES (256u << 10)

enum state { RUNS, AT_BARRIER, AT_MEETING, DONE };

struct warp {
	unsigned int nr_arrived, nr_threads, turn;
	const char *what;
	simt_done done;
	struct simt_words left[2][32];
};

struct fiber {
	struct simt_thread self; /* first: simt_self points here */
	enum state state;
	struct warp *warp;
	const char *file;
	int line;
	uint8_t *stack;
	void *sp;
	void *tsan, *fake;
};

struct simt_thread *simt_self;
uint3 simt_block, simt_block_dim, simt_grid_dim;

static struct fiber *fibers; /* [MAX_THREADS] */
static struct warp warps[MAX_THREADS / 32];
static unsigned int nr_fibers, nr_done, nr_at_barrier, order_seed;
static uint8_t *shared;
static unsigned int shared_bytes;
static void *main_sp;
#ifdef SIMT_TSAN
static void *main_tsan;
#endif
static void (*entry)(const void *param);
static const void *entry_param;
static char *error;
static size_t error_bytes;
static bool failed;
static char *sync_words; /* one byte a block: what its barriers synchronise on */
static uint64_t block_number;

static void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void fail(const char *format, ...)
{
	va_list ap;

	if (!failed && error_bytes) {
		va_start(ap, format);
		vsnprintf(error, error_bytes, format, ap);
		va_end(ap);
	}
	failed = true;
}

/* ---- switching ---- */

#ifdef __x86_64__
/* Saves what a call must keep on the stack that is left, at *from. */
extern "C" void simt_switch(void **from, void *to);
asm(".text\n"
    ".globl simt_switch\n"
    ".hidden simt_switch\n"
    ".type simt_switch, @function\n"
    "simt_switch:\n"
    "	pushq %rbp\n	pushq %rbx\n	pushq %r12\n	pushq %r13\n	pushq %r14\n	pushq %r15\n"
    "	movq %rsp, (%rdi)\n"
    "	movq %rsi, %rsp\n"
    "	popq %r15\n	popq %r14\n	popq %r13\n	popq %r12\n	popq %rbx\n	popq %rbp\n"
    "	ret\n"
    ".size simt_switch, .-simt_switch\n"
    ".section .note.GNU-stack,\"\",@progbits\n"
    ".text\n");

static void *first_sp(uint8_t *stack, void (*fn)(void))
{
	void **sp = (void **)(stack + STACK_BYTES - 64);

	*--sp = nullptr; /* nobody to return to; and the ABI wants 8 modulo 16 at a function's entry */
	*--sp = (void *)fn;
	for (int i = 0; i < 6; i++)
		*--sp = nullptr;
	return sp;
}
#else
static ucontext_t contexts[MAX_THREADS + 1];

static void simt_switch(void **from, void *to)
{
	static unsigned int next;

	if (!*from)
		*from = &contexts[next++ % (MAX_THREADS + 1)];
	swapcontext((ucontext_t *)*from, (ucontext_t *)to);
}

static void *first_sp(uint8_t *stack, void (*fn)(void))
{
	static ucontext_t starts[MAX_THREADS];
	ucontext_t *c = &starts[(size_t)(stack - fibers[0].stack) / STACK_BYTES];

	getcontext(c);
	c->uc_stack.ss_sp = stack;
	c->uc_stack.ss_size = STACK_BYTES;
	makecontext(c, fn, 0);
	return c;
}
#endif

#ifdef SIMT_ASAN
static const void *main_bottom;
static size_t main_bytes;
#endif

static void to_main(struct fiber *f)
{
#ifdef SIMT_ASAN
	__sanitizer_start_switch_fiber(f->state == DONE ? nullptr : &f->fake, main_bottom, main_bytes);
#endif
#ifdef SIMT_TSAN
	__tsan_switch_to_fiber(main_tsan, __tsan_switch_to_fiber_no_sync);
#endif
	simt_switch(&f->sp, main_sp);
#ifdef SIMT_ASAN
	__sanitizer_finish_switch_fiber(f->fake, &main_bottom, &main_bytes);
#endif
}

static void to_fiber(struct fiber *f)
{
#ifdef SIMT_ASAN
	void *fake;

	__sanitizer_start_switch_fiber(&fake, f->stack, STACK_BYTES);
#endif
	simt_self = &f->self;
#ifdef SIMT_TSAN
	__tsan_switch_to_fiber(f->tsan, __tsan_switch_to_fiber_no_sync);
#endif
	simt_switch(&main_sp, f->sp);
#ifdef SIMT_ASAN
	__sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

static void run_thread(void)
{
	struct fiber *f = (struct fiber *)simt_self;

#ifdef SIMT_ASAN
	__sanitizer_finish_switch_fiber(nullptr, &main_bottom, &main_bytes);
#endif
#ifdef SIMT_TSAN
	__tsan_acquire(&entry_param);
#endif
	entry(entry_param);
	if (f->self.nr_copies)
		fail("thread %u ends, and %u of its copies were not waited for", (unsigned int)(f - fibers),
		     f->self.nr_copies);
#ifdef SIMT_TSAN
	__tsan_release(&main_sp);
#endif
	f->state = DONE;
	nr_done++;
	f->warp->nr_threads--;
	to_main(f);
}

static void wait_as(enum state s)
{
	struct fiber *f = (struct fiber *)simt_self;

	f->state = s;
	to_main(f);
	while (failed) /* never resumed; the launch is over */
		to_main(f);
}

/* ---- meetings ---- */

uint8_t *simt_shared(void)
{
	return shared;
}

void simt_check_copy(const void *to, const void *from)
{
	struct fiber *f = (struct fiber *)simt_self;
	uintptr_t at = (uintptr_t)to - (uintptr_t)shared;

	if (((uintptr_t)to | (uintptr_t)from) % 16 || (uintptr_t)to < (uintptr_t)shared || at + 16 > shared_bytes ||
	    f->self.nr_copies == SIMT_MAX_COPIES) {
		fail("thread %u: cp.async to %p, which is %td in shared memory, from %p, with %u on their way",
		     (unsigned int)(f - fibers), to, (ptrdiff_t)at, from, f->self.nr_copies);
		wait_as(DONE);
	}
}

static void barrier_fence(bool arrive)
{
#ifdef SIMT_TSAN
	if (arrive)
		__tsan_release(&sync_words[block_number]);
	else
		__tsan_acquire(&sync_words[block_number]);
#else
	(void)arrive;
#endif
}

static void open_barrier(void)
{
	if (!nr_at_barrier || nr_at_barrier + nr_done < nr_fibers)
		return;
	for (unsigned int i = 0; i < nr_fibers; i++)
		if (fibers[i].state == AT_BARRIER)
			fibers[i].state = RUNS;
	nr_at_barrier = 0;
}

void simt_barrier(const char *file, int line)
{
	struct fiber *f = (struct fiber *)simt_self;

	f->file = file;
	f->line = line;
	for (unsigned int i = 0; i < nr_fibers && nr_at_barrier; i++) {
		if (fibers[i].state != AT_BARRIER)
			continue;
		if (fibers[i].line != line || strcmp(fibers[i].file, file))
			fail("thread %u waits at %s:%d, thread %u at %s:%d", i, fibers[i].file, fibers[i].line,
			     (unsigned int)(f - fibers), file, line);
		break;
	}
	barrier_fence(true);
	nr_at_barrier++;
	f->state = AT_BARRIER;
	open_barrier();
	if (f->state == AT_BARRIER || failed)
		wait_as(f->state);
	barrier_fence(false);
}

struct simt_words simt_meet(const struct simt_words *in, const char *what, simt_done done, unsigned int from)
{
	struct fiber *f = (struct fiber *)simt_self;
	struct warp *w = f->warp;
	struct simt_words *left = w->left[w->turn];

	if (w->nr_threads != 32)
		fail("%s: %u lanes of the warp are left", what, w->nr_threads);
	if (w->nr_arrived && strcmp(w->what, what))
		fail("a lane is at %s, another at %s", w->what, what);
	w->what = what;
	left[f->self.lane] = *in;
	f->state = AT_MEETING;
	if (++w->nr_arrived == 32) {
		struct fiber *first = fibers + (f - fibers) / 32 * 32;

		if (done)
			done(left);
		w->nr_arrived = 0;
		w->turn ^= 1;
		for (unsigned int i = 0; i < 32; i++)
			first[i].state = RUNS;
	}
	if (f->state == AT_MEETING || failed)
		wait_as(f->state);
	return left[from];
}

void simt_memory_fence_of_warp(void)
{
#ifdef SIMT_TSAN
	struct fiber *f = (struct fiber *)simt_self;

	/* Called before and after the meeting, and the other warps' words differ. */
	__tsan_acquire(&f->warp->what);
	__tsan_release(&f->warp->what);
#endif
}

static void ballot(struct simt_words *all)
{
	uint32_t out = 0;

	for (int i = 0; i < 32; i++)
		out |= all[i].w[0] << i;
	for (int i = 0; i < 32; i++)
		all[i].w[0] = out;
}

static void match(struct simt_words *all)
{
	for (int i = 0; i < 32; i++)
		for (int j = 0; j < 32; j++)
			all[i].w[1] |= (uint32_t)(all[i].w[0] == all[j].w[0]) << j;
}

unsigned int __ballot_sync(unsigned int mask, bool v)
{
	struct simt_words in = {{v}};

	(void)mask;
	return simt_meet(&in, "__ballot_sync", ballot, simt_self->lane).w[0];
}

unsigned int __match_any_sync(unsigned int mask, uint32_t v)
{
	struct simt_words in = {{v}};

	(void)mask;
	return simt_meet(&in, "__match_any_sync", match, simt_self->lane).w[1];
}

/* ---- matrix instructions: a lane leaves a[4], b[2], c[4]; PTX ISA, "Matrix Fragments for mma" ---- */

/* A is [16][k], B [8 columns][k], C [16][8]; each element is what F makes of it. */
template <typename T> struct mats {
	T a[16][32], b[8][32], c[16][8];
};

template <typename T> static void take_c(const struct simt_words *all, struct mats<T> *m)
{
	for (unsigned int lane = 0; lane < 32; lane++)
		for (unsigned int i = 0; i < 4; i++)
			memcpy(&m->c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2], &all[lane].w[6 + i], 4);
}

template <typename T> static void give_c(struct simt_words *all, const struct mats<T> *m)
{
	for (unsigned int lane = 0; lane < 32; lane++)
		for (unsigned int i = 0; i < 4; i++)
			memcpy(&all[lane].w[6 + i], &m->c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2], 4);
}

template <typename T> static void multiply(struct mats<T> *m, int depth)
{
	for (int r = 0; r < 16; r++)
		for (int n = 0; n < 8; n++)
			for (int k = 0; k < depth; k++)
				m->c[r][n] += m->a[r][k] * m->b[n][k];
}

/* Bytes: a register has four columns; pairs of registers are rows g and g + 8, then 16 columns on. */
template <int K> static void mma_bytes(struct simt_words *all)
{
	static struct mats<int> m;

	take_c(all, &m);
	for (unsigned int lane = 0; lane < 32; lane++) {
		for (unsigned int i = 0; i < 4; i++) {
			for (unsigned int r = 0; r < K / 8; r++)
				m.a[lane / 4 + r % 2 * 8][r / 2 * 16 + lane % 4 * 4 + i] =
					(int8_t)(all[lane].w[r] >> (8 * i));
			for (unsigned int r = 0; r < K / 16; r++)
				m.b[lane / 4][r * 16 + lane % 4 * 4 + i] = (int8_t)(all[lane].w[4 + r] >> (8 * i));
		}
	}
	multiply(&m, K);
	give_c(all, &m);
}

/* Halves: a register has two columns; pairs of registers are rows g and g + 8, then 8 columns on. */
template <bool BF> static void mma_halves(struct simt_words *all)
{
	static struct mats<float> m;

	take_c(all, &m);
	for (unsigned int lane = 0; lane < 32; lane++) {
		for (unsigned int i = 0; i < 2; i++) {
			for (unsigned int r = 0; r < 4; r++) {
				uint16_t h = (uint16_t)(all[lane].w[r] >> (16 * i));

				m.a[lane / 4 + r % 2 * 8][r / 2 * 8 + lane % 4 * 2 + i] =
					BF ? fhk_bf16_f32(h) : fhk_f16_f32(h);
			}
			for (unsigned int r = 0; r < 2; r++) {
				uint16_t h = (uint16_t)(all[lane].w[4 + r] >> (16 * i));

				m.b[lane / 4][r * 8 + lane % 4 * 2 + i] = BF ? fhk_bf16_f32(h) : fhk_f16_f32(h);
			}
		}
	}
	multiply(&m, 16);
	give_c(all, &m);
}

template <typename T>
static void mma(T c[4], const uint32_t a[4], uint32_t b0, uint32_t b1, const char *what, simt_done done)
{
	struct simt_words in = {{a[0], a[1], a[2], a[3], b0, b1}};

	memcpy(&in.w[6], c, 16);
	in = simt_meet(&in, what, done, simt_self->lane);
	memcpy(c, &in.w[6], 16);
}

void fhk_mma_s8(int c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
	mma(c, a, b0, b1, "mma.m16n8k32.s8", mma_bytes<32>);
}

void fhk_mma_s8_k16(int c[4], uint32_t a0, uint32_t a1, uint32_t b0)
{
	const uint32_t a[4] = {a0, a1, 0, 0};

	mma(c, a, b0, 0, "mma.m16n8k16.s8", mma_bytes<16>);
}

void fhk_mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
	mma(c, a, b0, b1, "mma.m16n8k16.f16", mma_halves<false>);
}

void fhk_mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
	mma(c, a, b0, b1, "mma.m16n8k16.bf16", mma_halves<true>);
}

/* ---- launches ---- */

#define DECLARE(name, args) extern "C" void name(const args a);
FHK_CU_KERNELS(DECLARE)

#define CALL(name, args)                                                                                               \
	static void call_##name(const void *param)                                                                     \
	{                                                                                                              \
		args a;                                                                                                \
                                                                                                                       \
		memcpy(&a, param, sizeof(a));                                                                          \
		name(a);                                                                                               \
	}
FHK_CU_KERNELS(CALL)

static const struct kernel {
	const char *name;
	void (*call)(const void *param);
	size_t param_bytes;
} kernels[] = {
#define ROW(name, args) {#name, call_##name, sizeof(args)},
	FHK_CU_KERNELS(ROW)};

static const struct kernel *find_kernel(const char *name)
{
	for (const struct kernel &k : kernels)
		if (!strcmp(k.name, name))
			return &k;
	return nullptr;
}

size_t fhk_simt_param_bytes(const char *kernel)
{
	const struct kernel *k = find_kernel(kernel);

	return k ? k->param_bytes : 0;
}

void fhk_simt_order(unsigned int seed)
{
	order_seed = seed;
}

/* In 256 KiB pieces of one mapping, made once. */
static bool make_fibers(void)
{
	uint8_t *stacks;

	if (fibers)
		return true;
	stacks = (uint8_t *)mmap(nullptr, (size_t)MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (stacks == MAP_FAILED)
		return false;
	fibers = (struct fiber *)calloc(MAX_THREADS, sizeof(*fibers));
	if (!fibers) {
		munmap(stacks, (size_t)MAX_THREADS * STACK_BYTES);
		return false;
	}
	for (unsigned int i = 0; i < MAX_THREADS; i++)
		fibers[i].stack = stacks + (size_t)i * STACK_BYTES;
	return true;
}

static void begin_block(const unsigned int block[3])
{
	nr_fibers = block[0] * block[1] * block[2];
	nr_done = nr_at_barrier = 0;
	memset(warps, 0, sizeof(warps));
	for (unsigned int i = 0; i < nr_fibers; i++) {
		struct fiber *f = &fibers[i];

		f->self.tid = uint3{i % block[0], i / block[0] % block[1], i / block[0] / block[1]};
		f->self.lane = i % 32;
		f->self.nr_copies = f->self.nr_groups = 0;
		f->warp = &warps[i / 32];
		f->warp->nr_threads++;
		f->state = RUNS;
		f->sp = first_sp(f->stack, run_thread);
#ifdef SIMT_TSAN
		if (!f->tsan)
			f->tsan = __tsan_create_fiber(0);
#endif
	}
}

static const char *state_of(const struct fiber *f)
{
	return f->state == AT_MEETING ? f->warp->what : f->state == AT_BARRIER ? "__syncthreads" : "its end";
}

/* Run all threads to their end, each pass in another order if a seed was given. */
static void run_block(unsigned int *random)
{
	while (nr_done < nr_fibers && !failed) {
		unsigned int ran = 0, offset = 0, step = 1;

		if (order_seed) {
			*random = *random * 1664525u + 1013904223u;
			offset = (*random >> 8) % nr_fibers;
			step = *random >> 31 ? 1 : nr_fibers - 1;
		}
		for (unsigned int i = 0; i < nr_fibers && !failed; i++) {
			struct fiber *f = &fibers[(offset + (size_t)i * step) % nr_fibers];

			if (f->state != RUNS)
				continue;
			to_fiber(f);
			open_barrier(); /* it may have ended */
			ran++;
		}
		if (!ran && !failed)
			for (unsigned int i = 0; i < nr_fibers; i++)
				if (fibers[i].state != DONE)
					fail("thread %u waits for ever at %s", i, state_of(&fibers[i]));
	}
}

/* Run all blocks. @bytes of shared memory end where their allocation ends, so that a sanitizer sees what lies behind.
 */
static void run_grid(const unsigned int grid[3], const unsigned int block[3], unsigned int bytes)
{
	uint64_t nr = (uint64_t)grid[0] * grid[1] * grid[2], room = (bytes + 15) / 16 * 16 + 16;
	unsigned int random = order_seed;
	uint8_t *pool = nullptr;

	shared_bytes = bytes;
#ifdef SIMT_TSAN
	pool = (uint8_t *)mmap(nullptr, room * nr, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			       -1, 0);
	sync_words = (char *)calloc(nr, 1);
#endif
	for (block_number = 0; block_number < nr && !failed; block_number++) {
		uint64_t b = block_number;

		simt_block = uint3{(unsigned int)(b % grid[0]), (unsigned int)(b / grid[0] % grid[1]),
				   (unsigned int)(b / grid[0] / grid[1])};
		shared = pool ? pool + room * b : (uint8_t *)aligned_alloc(16, room);
		memset(shared, 0xff, bytes);
#ifdef SIMT_ASAN
		__asan_poison_memory_region(shared + bytes, room - bytes);
#endif
#ifdef SIMT_TSAN
		__tsan_release(&entry_param);
#endif
		begin_block(block);
		run_block(&random);
#ifdef SIMT_ASAN
		__asan_unpoison_memory_region(shared + bytes, room - bytes);
#endif
		if (!pool)
			free(shared);
	}
#ifdef SIMT_TSAN
	__tsan_acquire(&main_sp);
#endif
	if (pool)
		munmap(pool, room * nr);
	free(sync_words);
	sync_words = nullptr;
}

static int check_launch(const unsigned int grid[3], const unsigned int block[3], unsigned int bytes)
{
	uint64_t threads = (uint64_t)block[0] * block[1] * block[2];

	if (!grid[0] || !grid[1] || !grid[2] || grid[0] > INT32_MAX || grid[1] > 65535 || grid[2] > 65535)
		fail("a grid of %u x %u x %u", grid[0], grid[1], grid[2]);
	else if (!threads || threads > MAX_THREADS || block[2] > 64)
		fail("a block of %u x %u x %u", block[0], block[1], block[2]);
	else if (bytes > MAX_SHARED)
		fail("%u bytes of shared memory", bytes);
	return failed ? -EINVAL : 0;
}

#if defined(SIMT_ASAN) || defined(SIMT_TSAN)
static int run_caught(const unsigned int grid[3], const unsigned int block[3], unsigned int bytes)
{
#ifdef SIMT_TSAN
	main_tsan = __tsan_get_current_fiber();
#endif
	run_grid(grid, block, bytes);
	return failed ? -EINVAL : 0;
}
#else
static sigjmp_buf on_fault;
static void *volatile fault_address;

static void handle_fault(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	fault_address = info->si_addr;
	siglongjmp(on_fault, 1);
}

static int run_caught(const unsigned int grid[3], const unsigned int block[3], unsigned int bytes)
{
	struct sigaction catch_it = {}, was[2];
	volatile bool fault = false;

	catch_it.sa_sigaction = handle_fault;
	catch_it.sa_flags = SA_SIGINFO | SA_NODEFER;
	sigaction(SIGSEGV, &catch_it, &was[0]);
	sigaction(SIGBUS, &catch_it, &was[1]);
	if (!sigsetjmp(on_fault, 1)) {
		run_grid(grid, block, bytes);
	} else {
		fault = true;
		fail("block %u %u %u, thread %u: nothing is mapped at %p", simt_block.x, simt_block.y, simt_block.z,
		     (unsigned int)((struct fiber *)simt_self - fibers), fault_address);
	}
	sigaction(SIGSEGV, &was[0], nullptr);
	sigaction(SIGBUS, &was[1], nullptr);
	return fault ? -EFAULT : failed ? -EINVAL : 0;
}
#endif

int fhk_simt_launch(const char *kernel, const unsigned int grid[3], const unsigned int block[3], unsigned int bytes,
		    const void *param, size_t param_bytes, char *err, size_t err_bytes)
{
	const struct kernel *k = find_kernel(kernel);

	error = err;
	error_bytes = err ? err_bytes : 0;
	failed = false;
	if (!k) {
		fail("no kernel \"%s\"", kernel);
		return -ENOENT;
	}
	if (check_launch(grid, block, bytes))
		return -EINVAL;
	if (param_bytes != k->param_bytes || !make_fibers()) {
		fail("%s takes %zu bytes, not %zu", kernel, k->param_bytes, param_bytes);
		return -EINVAL;
	}
	entry = k->call;
	entry_param = param;
	simt_block_dim = uint3{block[0], block[1], block[2]};
	simt_grid_dim = uint3{grid[0], grid[1], grid[2]};
	return run_caught(grid, block, bytes);
}
