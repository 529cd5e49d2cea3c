/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * Freehold: what the kernel module and userspace share.
 *
 * This is the only header that both sides include (installed as
 * <linux/freehold.h>).  It has three parts: the request descriptor and the
 * token slot, which rings, UDP packets and HTTP carry alike; the channel, a
 * pair of rings in shared memory whose layout is the same over the kernel
 * module and over two memfds without it; and the ioctls of the two devices.
 * Rules: little endian, fixed sizes, explicit padding that must be zero,
 * nothing is ever renumbered.  Floating-point values travel as their IEEE-754
 * binary32 bits (fh_f32): the kernel moves them and never looks.
 */
#ifndef _UAPI_LINUX_FREEHOLD_H
#define _UAPI_LINUX_FREEHOLD_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define FH_ABI_VERSION 1

/** typedef fh_f32 - the bits of an IEEE-754 binary32 number */
typedef __u32 fh_f32;

/**
 * enum fh_finish - why a sequence ended
 * @FH_FINISH_NONE: it has not ended
 * @FH_FINISH_STOP: an end-of-generation token, a stop token or a stop string
 * @FH_FINISH_LENGTH: max_tokens, or the context, is used up
 * @FH_FINISH_CANCELLED: the reader went away or asked for the end
 * @FH_FINISH_DEADLINE: refused at once: a deadline that was asked for could not be met
 * @FH_FINISH_BUDGET: the tenant's budget is used up
 * @FH_FINISH_ERROR: the device or the engine failed
 * @FH_FINISH_FILTER: a guard rail ended it
 */
enum fh_finish {
	FH_FINISH_NONE = 0,
	FH_FINISH_STOP = 1,
	FH_FINISH_LENGTH = 2,
	FH_FINISH_CANCELLED = 3,
	FH_FINISH_DEADLINE = 4,
	FH_FINISH_BUDGET = 5,
	FH_FINISH_ERROR = 6,
	FH_FINISH_FILTER = 7,
};

/* fh_slot.flags */
#define FH_SLOT_LAST 0x01     /* nothing follows; @finish says why */
#define FH_SLOT_NO_TOKEN 0x02 /* no token in here, only the end */
#define FH_SLOT_CUT 0x04      /* show only @cut_bytes bytes of the text */
#define FH_SLOT_LOGPROB 0x08  /* @logprob is valid */

/**
 * struct fh_slot - one generated token, where its reader will read it
 * @token: vocabulary id
 * @stamp: 1 + index of the token among those generated for its request, so
 *         that a slot once written is never zero; {@token, @stamp} is one
 *         aligned 64-bit word, which a device stores at once
 * @logprob: natural logarithm of the token's probability (fh_f32 bits)
 * @flags: FH_SLOT_*
 * @finish: enum fh_finish, valid with FH_SLOT_LAST
 * @cut_bytes: with FH_SLOT_CUT, how many bytes of this token's text come
 *             before the stop string that ended the sequence
 *
 * Writing a slot does not publish it: the reader looks only at slots below
 * the ring's tail, and only the engine moves the tail.
 */
struct fh_slot {
	__u32 token;
	__u32 stamp;
	fh_f32 logprob;
	__u8 flags;
	__u8 finish;
	__u16 cut_bytes;
} __attribute__((aligned(8)));

/**
 * struct fh_top - one of the most probable tokens at a position
 * @token: vocabulary id
 * @logprob: natural logarithm of its probability (fh_f32 bits)
 */
struct fh_top {
	__u32 token;
	fh_f32 logprob;
};

/* fh_req_desc.req_class: what the deadline defaults and the order come from */
enum fh_class {
	FH_CLASS_STANDARD = 0,
	FH_CLASS_INTERACTIVE = 1,
	FH_CLASS_BATCH = 2,
};

/* fh_req_desc.flags */
#define FH_REQ_TEXT 0x01       /* the prompt is UTF-8, not token ids */
#define FH_REQ_IGNORE_EOS 0x02 /* go on after an end-of-generation token */
#define FH_REQ_LOGPROBS 0x04   /* fill fh_slot.logprob */
#define FH_REQ_SEED 0x08       /* @seed is valid */
#define FH_REQ_CANCEL 0x10     /* end the request that carried this @user_data; nothing else here is read */

/**
 * struct fh_req_desc - one request, as a ring entry or a packet carries it
 * @size: bytes of this structure that the sender knows
 * @flags: FH_REQ_*; unknown bits are refused
 * @user_data: comes back with every answer
 * @prompt_off: where the prompt begins in the sender's arena or payload; a
 *              multiple of 4 without FH_REQ_TEXT
 * @prompt_bytes: its length; a multiple of 4 without FH_REQ_TEXT
 * @max_tokens: at most this many tokens are generated
 * @ttft_us: deadline for the first token, from arrival; 0: the class's own, all ones: none
 * @tpot_us: deadline for the mean time of each further token; likewise
 * @run_id: the agent run that this request is part of; zero: none
 * @budget_tokens: end with FH_FINISH_BUDGET after so many; 0: the tenant's
 * @seed: of the sampler, with FH_REQ_SEED
 * @top_k: keep so many candidates; 0: all
 * @temperature: 0 is greedy
 * @top_p: nucleus; 1 keeps all
 * @min_p: drop what is less probable than this share of the best; 0 keeps all
 * @typical_p: locally typical sampling; 1 keeps all
 * @repetition_penalty: over prompt and output; 1 is none
 * @presence_penalty: over the output; 0 is none
 * @frequency_penalty: over the output; 0 is none
 * @req_class: enum fh_class
 * @__reserved: zero
 */
struct fh_req_desc {
	__u32 size;
	__u32 flags;
	__aligned_u64 user_data;
	__aligned_u64 prompt_off;
	__u32 prompt_bytes;
	__u32 max_tokens;
	__u32 ttft_us;
	__u32 tpot_us;
	__u8 run_id[16];
	__aligned_u64 budget_tokens;
	__aligned_u64 seed;
	__u32 top_k;
	fh_f32 temperature;
	fh_f32 top_p;
	fh_f32 min_p;
	fh_f32 typical_p;
	fh_f32 repetition_penalty;
	fh_f32 presence_penalty;
	fh_f32 frequency_penalty;
	__u32 req_class;
	__u32 __reserved[3];
};

/*
 * ---- The channel -----------------------------------------------------------
 *
 * One client process and the runtime share a channel: a submission ring that
 * the client fills, a completion ring that the runtime fills, and an arena
 * that holds the prompts.  The memory is cut into areas, and each area has
 * one writer; the other side maps it read-only.
 *
 *   area              written by  holds
 *   FH_AREA_INFO      kernel      struct fh_chan_info: geometry, offsets, state, peer
 *   FH_AREA_CLIENT    client      sq_tail, cq_head, client_flags
 *   FH_AREA_RUNTIME   runtime     sq_head, cq_tail, runtime_flags
 *   FH_AREA_SQ        client      sq_entries of struct fh_req_desc, sq_entry_bytes apart
 *   FH_AREA_CQ        runtime     cq_entries of struct fh_cqe, cq_entry_bytes apart
 *   FH_AREA_ARENA     client      the prompts
 *
 * Over the kernel module all areas lie in one file: area i is mapped at
 * out_mmap_off + areas[i].off of the device.  Without the module they lie in
 * two memfds, one per writer (what the kernel writes above, the runtime
 * writes there), and area i is mapped at areas[i].off of its writer's memfd;
 * each memfd has the whole length, and what belongs to the other is a hole.
 * fh_chan_layout() below says where the areas lie, for both.  Only whoever
 * creates a channel calls it: everybody else reads the info area, and takes no
 * size or offset from this header.
 *
 * The order of loads and stores.  Indices are free-running 32-bit counters;
 * entry i lies at i & (entries - 1).  Each side keeps a private copy of the
 * indices that it writes and never reads them back from shared memory.
 *
 *         client                                                runtime
 *         ------                                                -------
 *     load-acquire sq_head,        (D) <---------.
 *       until there is room                      |
 *     write the prompt, the entry                |
 *     store-release sq_tail        (A) ----------|-----> (B)  load-acquire sq_tail
 *     full fence                   (J) <------.  |            copy entry and prompt, once
 *     load runtime_flags:                     |  '------ (C)  store-release sq_head
 *       kick if NEED_WAKEUP                   |               nothing left: set NEED_WAKEUP,
 *                                             '--------> (I)  full fence,
 *                                                             (B) again, sleep if still nothing
 *
 *                                          ,-----------> (H)  load-acquire cq_head,
 *                                          |                    until there is room
 *                                          |                  write the entry
 *     load-acquire cq_tail         (F) <---|------------ (E)  store-release cq_tail
 *     read the entry                       |  ,--------> (L)  full fence
 *     store-release cq_head        (G) ----'  |               load client_flags:
 *     nothing left: set NEED_WAKEUP,          |                 kick if NEED_WAKEUP
 *     full fence,                  (K) <------'
 *     (F) again, sleep if still nothing
 *
 *     load-acquire state           (N) <---------------- (M)  store-release state: the kernel,
 *                                                             without it the runtime
 *
 *   A-B  the entry and its prompt are there before the tail says so
 *   C-D  the entry has been read before its place is used again
 *   E-F  the token is there before the tail says so
 *   G-H  the token has been read before its place is used again
 *   I-J  either the client sees NEED_WAKEUP or the runtime sees the new tail
 *   K-L  either the runtime sees NEED_WAKEUP or the client sees the new tail
 *   M-N  what the kernel wrote into the info area is there before the state
 *
 * A flag is cleared by the side that set it, once it is awake.  Either side
 * checks each index that it loads: tail - head > entries means that the other
 * side is broken or hostile, and the channel is given up.
 */

/** define FH_CHAN_MAGIC - the first word of an info area, "FHCH" */
#define FH_CHAN_MAGIC 0x48434846u

/**
 * enum fh_area - the parts of a channel, in the order in which they lie
 * @FH_AREA_INFO: struct fh_chan_info; nobody but the kernel writes it
 * @FH_AREA_CLIENT: the client's indices
 * @FH_AREA_RUNTIME: the runtime's indices
 * @FH_AREA_SQ: submission entries, written by the client
 * @FH_AREA_CQ: completion entries, written by the runtime
 * @FH_AREA_ARENA: prompts, written by the client
 * @FH_NR_AREAS: how many this version knows
 */
enum fh_area {
	FH_AREA_INFO = 0,
	FH_AREA_CLIENT = 1,
	FH_AREA_RUNTIME = 2,
	FH_AREA_SQ = 3,
	FH_AREA_CQ = 4,
	FH_AREA_ARENA = 5,
	FH_NR_AREAS = 6,
};

/**
 * enum fh_writer - who may write an area
 * @FH_WRITER_KERNEL: the kernel; without the module, the runtime
 * @FH_WRITER_CLIENT: the client
 * @FH_WRITER_RUNTIME: the runtime
 */
enum fh_writer {
	FH_WRITER_KERNEL = 0,
	FH_WRITER_CLIENT = 1,
	FH_WRITER_RUNTIME = 2,
};

/**
 * enum fh_chan_state - the life of a channel; it only ever moves downwards
 * @FH_CHAN_WAITING: created; the runtime has not accepted it yet
 * @FH_CHAN_OPEN: both sides are there
 * @FH_CHAN_CLOSED: the client or the runtime destroyed it
 * @FH_CHAN_CLIENT_DEAD: the client's process is gone
 * @FH_CHAN_RUNTIME_DEAD: the runtime is gone
 * @FH_CHAN_REVOKED: the runtime took it away; @revoke_reason says why, and
 *                   the client's other areas give SIGBUS
 *
 * Anything above FH_CHAN_OPEN is final.
 */
enum fh_chan_state {
	FH_CHAN_WAITING = 1,
	FH_CHAN_OPEN = 2,
	FH_CHAN_CLOSED = 3,
	FH_CHAN_CLIENT_DEAD = 4,
	FH_CHAN_RUNTIME_DEAD = 5,
	FH_CHAN_REVOKED = 6,
};

/**
 * enum fh_revoke_reason - why the runtime took a channel away
 * @FH_REVOKE_NONE: it did not say
 * @FH_REVOKE_PROTOCOL: an index or an entry broke the rules above
 * @FH_REVOKE_LIMIT: the client used more than it may
 * @FH_REVOKE_DRAIN: the runtime is going down
 */
enum fh_revoke_reason {
	FH_REVOKE_NONE = 0,
	FH_REVOKE_PROTOCOL = 1,
	FH_REVOKE_LIMIT = 2,
	FH_REVOKE_DRAIN = 3,
};

/* fh_peer.flags */
#define FH_PEER_VALID 0x01	/* the fields below were stamped by the kernel */
#define FH_PEER_PID_HIDDEN 0x02 /* the process has no pid in the reader's namespace: @pid is 0 */
#define FH_PEER_UID_HIDDEN 0x04 /* nor a uid or gid: @uid, @gid are the overflow ids */
#define FH_PEER_NO_CGROUP 0x08	/* a kernel without cgroups: @cgroup_id is 0 */

/**
 * struct fh_peer - who is on the other side, as the kernel vouches for it
 * @uid: effective user, in the reader's user namespace
 * @gid: effective group, in the reader's user namespace
 * @pid: process (thread group), in the reader's pid namespace
 * @flags: FH_PEER_*
 * @start_boottime_ns: when the process began, CLOCK_BOOTTIME; with @pid it
 *                     names one process, however often the pid is used again
 * @cgroup_id: its cgroup in the unified hierarchy (the inode number of the
 *             cgroup's folder)
 * @chan_gen: number of the channel since the module was loaded, never reused
 *
 * The values are those of the moment at which the process created (or
 * accepted) the channel.
 */
struct fh_peer {
	__u32 uid;
	__u32 gid;
	__u32 pid;
	__u32 flags;
	__aligned_u64 start_boottime_ns;
	__aligned_u64 cgroup_id;
	__aligned_u64 chan_gen;
};

/**
 * struct fh_chan_area - where one area lies
 * @off: from the beginning of the channel, a multiple of @page_bytes
 * @bytes: its length, a multiple of @page_bytes; map exactly this much
 * @writer: enum fh_writer
 * @__reserved: zero
 */
struct fh_chan_area {
	__aligned_u64 off;
	__aligned_u64 bytes;
	__u32 writer;
	__u32 __reserved;
};

/**
 * struct fh_chan_info - the beginning of FH_AREA_INFO
 * @magic: FH_CHAN_MAGIC
 * @abi_version: FH_ABI_VERSION of whoever created the channel
 * @info_bytes: how much of this structure is filled in
 * @page_bytes: areas are multiples of this
 * @state: enum fh_chan_state; load it with acquire
 * @revoke_reason: enum fh_revoke_reason, valid in FH_CHAN_REVOKED
 * @sq_entries: submission entries, a power of two
 * @cq_entries: completion entries, a power of two
 * @sq_entry_bytes: from one submission entry to the next
 * @cq_entry_bytes: from one completion entry to the next
 * @sq_tail_off: of the 32-bit word in FH_AREA_CLIENT
 * @cq_head_off: of the 32-bit word in FH_AREA_CLIENT
 * @client_flags_off: of the 32-bit word in FH_AREA_CLIENT, FH_RING_*
 * @sq_head_off: of the 32-bit word in FH_AREA_RUNTIME
 * @cq_tail_off: of the 32-bit word in FH_AREA_RUNTIME
 * @runtime_flags_off: of the 32-bit word in FH_AREA_RUNTIME, FH_RING_*
 * @nr_areas: entries of @areas that are filled in
 * @__reserved: zero
 * @arena_bytes: what was asked for; the area is rounded up to whole pages
 * @chan_bytes: length of the whole channel
 * @areas: indexed by enum fh_area
 * @peer: the other side.  Over the module each side has an info area of its
 *        own, and this is stamped for its reader; it is valid from
 *        FH_CHAN_OPEN on.  Without the module it is zero: ask SO_PEERCRED.
 */
struct fh_chan_info {
	__u32 magic;
	__u32 abi_version;
	__u32 info_bytes;
	__u32 page_bytes;
	__u32 state;
	__u32 revoke_reason;
	__u32 sq_entries;
	__u32 cq_entries;
	__u32 sq_entry_bytes;
	__u32 cq_entry_bytes;
	__u32 sq_tail_off;
	__u32 cq_head_off;
	__u32 client_flags_off;
	__u32 sq_head_off;
	__u32 cq_tail_off;
	__u32 runtime_flags_off;
	__u32 nr_areas;
	__u32 __reserved;
	__aligned_u64 arena_bytes;
	__aligned_u64 chan_bytes;
	struct fh_chan_area areas[FH_NR_AREAS];
	struct fh_peer peer;
};

/* client_flags and runtime_flags */
#define FH_RING_NEED_WAKEUP 0x01 /* its owner sleeps, or is about to: kick it */
#define FH_RING_NEED_FUTEX 0x02	 /* its owner sleeps on a futex, the index that the other side moves; memfds only */

/* What fh_chan_layout() lets through; the module and the runtime may be stricter. */
#define FH_SQ_ENTRIES_MAX 4096u
#define FH_CQ_ENTRIES_MAX 65536u
#define FH_ARENA_BYTES_MAX (1024ull * 1024 * 1024)

/* What fh_chan_layout() lays out: lines that two sides write are 64 bytes apart at least. */
#define FH_SQ_ENTRY_BYTES 128u
#define FH_LINE_BYTES 64u

/**
 * struct fh_cqe - one completion entry
 * @slot: the token, or with FH_SLOT_NO_TOKEN only the end
 * @user_data: of the request that it belongs to
 * @error: 0, or a negative errno with FH_FINISH_ERROR: -EAGAIN is a refusal
 *         that @retry_us goes with, -EINVAL a descriptor that is wrong; with
 *         FH_FINISH_DEADLINE -EAGAIN: a refusal likewise
 * @retry_us: with -EAGAIN, when trying again may help
 */
struct fh_cqe {
	struct fh_slot slot;
	__aligned_u64 user_data;
	__s32 error;
	__u32 retry_us;
};

/**
 * fh_chan_layout() - lay out a channel
 * @info: zeroed; everything but @state, @revoke_reason and @peer is filled in
 * @page_bytes: a power of two that both sides' page sizes divide
 * @sq_entries: a power of two, up to FH_SQ_ENTRIES_MAX
 * @cq_entries: a power of two, up to FH_CQ_ENTRIES_MAX
 * @arena_bytes: 1 up to FH_ARENA_BYTES_MAX
 *
 * Return: 0, or -1 when an argument is out of range.
 */
static inline int fh_chan_layout(struct fh_chan_info *info, __u32 page_bytes, __u32 sq_entries, __u32 cq_entries,
				 __u64 arena_bytes)
{
	static const __u32 writers[FH_NR_AREAS] = {
		FH_WRITER_KERNEL, FH_WRITER_CLIENT,  FH_WRITER_RUNTIME,
		FH_WRITER_CLIENT, FH_WRITER_RUNTIME, FH_WRITER_CLIENT,
	};
	__u64 bytes[FH_NR_AREAS];
	__u64 mask = (__u64)page_bytes - 1;
	__u64 off = 0;
	int i;

	if (page_bytes < 4096 || (page_bytes & mask))
		return -1;
	if (!sq_entries || sq_entries > FH_SQ_ENTRIES_MAX || (sq_entries & (sq_entries - 1)))
		return -1;
	if (!cq_entries || cq_entries > FH_CQ_ENTRIES_MAX || (cq_entries & (cq_entries - 1)))
		return -1;
	if (!arena_bytes || arena_bytes > FH_ARENA_BYTES_MAX)
		return -1;

	bytes[FH_AREA_INFO] = sizeof(*info);
	bytes[FH_AREA_CLIENT] = 3 * FH_LINE_BYTES;
	bytes[FH_AREA_RUNTIME] = 3 * FH_LINE_BYTES;
	bytes[FH_AREA_SQ] = (__u64)sq_entries * FH_SQ_ENTRY_BYTES;
	bytes[FH_AREA_CQ] = (__u64)cq_entries * sizeof(struct fh_cqe);
	bytes[FH_AREA_ARENA] = arena_bytes;
	for (i = 0; i < FH_NR_AREAS; i++) {
		info->areas[i].off = off;
		info->areas[i].bytes = (bytes[i] + mask) & ~mask;
		info->areas[i].writer = writers[i];
		info->areas[i].__reserved = 0;
		off += info->areas[i].bytes;
	}

	info->magic = FH_CHAN_MAGIC;
	info->abi_version = FH_ABI_VERSION;
	info->info_bytes = sizeof(*info);
	info->page_bytes = page_bytes;
	info->sq_entries = sq_entries;
	info->cq_entries = cq_entries;
	info->sq_entry_bytes = FH_SQ_ENTRY_BYTES;
	info->cq_entry_bytes = sizeof(struct fh_cqe);
	info->sq_tail_off = 0;
	info->cq_head_off = FH_LINE_BYTES;
	info->client_flags_off = 2 * FH_LINE_BYTES;
	info->sq_head_off = 0;
	info->cq_tail_off = FH_LINE_BYTES;
	info->runtime_flags_off = 2 * FH_LINE_BYTES;
	info->nr_areas = FH_NR_AREAS;
	info->__reserved = 0;
	info->arena_bytes = arena_bytes;
	info->chan_bytes = off;
	return 0;
}

/*
 * ---- The ioctls ------------------------------------------------------------
 *
 * /dev/freehold (any client) and /dev/freehold-ctl (the runtime, one at a
 * time).  Every argument begins with @size, the bytes that the caller knows;
 * it may be larger than what the kernel knows if the rest is zero, and later
 * fields that the caller does not know read as zero.  out_ fields are written
 * by the kernel.  Unknown flags and non-zero padding are refused.
 *
 *   ENOTTY      this device has no such ioctl
 *   E2BIG       a newer, non-zero tail
 *   EINVAL      broken arguments, or @size below the first version's
 *   EOPNOTSUPP  an object, a flag or a type that this kernel cannot do
 *   ENOENT      no such id
 *   EMSGSIZE    the array is too small; its count field says what is needed
 *   EDQUOT      a limit of the module; ENOMEM: memory or RLIMIT_MEMLOCK
 *   EPERM       a privilege is missing
 *   EFAULT      memory of the caller that cannot be read or written
 *
 * Ids count from 1 in each open file; what was created through a file goes
 * when that file goes.
 */
#define FH_IOC_TYPE 0xFB

enum {
	FH_CMD_INFO = 0x40,
	FH_CMD_DESTROY = 0x41,
	FH_CMD_CHAN_CREATE = 0x42,
	FH_CMD_CHAN_ACCEPT = 0x43,
	FH_CMD_CHAN_KICK = 0x44,
	FH_CMD_CHAN_REVOKE = 0x45,
	FH_CMD_MEM_IMPORT = 0x46,
	FH_CMD_MEM_EXPORT = 0x47,
	FH_CMD_DMA_MAP = 0x48,
};

/* fh_info.out_caps */
#define FH_CAP_RUNTIME 0x01	   /* a runtime has /dev/freehold-ctl open */
#define FH_CAP_DMA_MAP 0x02	   /* the module was loaded with unsafe_dma=1 */
#define FH_CAP_DMABUF_DYNAMIC 0x04 /* imported dma-bufs may move without being pinned */

/**
 * struct fh_info - ioctl(FH_IOCTL_INFO), both devices
 * @size: sizeof(struct fh_info)
 * @flags: zero
 * @out_abi_version: FH_ABI_VERSION of the module
 * @out_caps: FH_CAP_*
 * @out_chan_max: channels that a uid may have
 * @out_chan_used: channels that the caller's uid has
 * @out_chan_bytes_max: memory that the channels of a uid may take together
 * @out_chan_bytes_used: what the caller's uid takes
 * @out_arena_bytes_max: largest arena
 * @out_mem_bytes_max: most that the runtime may hold in imported dma-bufs
 * @out_mem_bytes_used: what it holds
 * @out_nr_waiting: channels that wait for FH_IOCTL_CHAN_ACCEPT; 0 for clients
 * @out_nr_dead: channels of this file whose other side is gone and that are
 *               still to be destroyed
 * @out_dead_chan_id: one of those, or 0
 * @__reserved: zero
 */
struct fh_info {
	__u32 size;
	__u32 flags;
	__u32 out_abi_version;
	__u32 out_caps;
	__u32 out_chan_max;
	__u32 out_chan_used;
	__aligned_u64 out_chan_bytes_max;
	__aligned_u64 out_chan_bytes_used;
	__aligned_u64 out_arena_bytes_max;
	__aligned_u64 out_mem_bytes_max;
	__aligned_u64 out_mem_bytes_used;
	__u32 out_nr_waiting;
	__u32 out_nr_dead;
	__u32 out_dead_chan_id;
	__u32 __reserved;
};

#define FH_IOCTL_INFO _IO(FH_IOC_TYPE, FH_CMD_INFO)

/**
 * struct fh_destroy - ioctl(FH_IOCTL_DESTROY), both devices
 * @size: sizeof(struct fh_destroy)
 * @id: a channel, a region or a DMA map of this file
 *
 * A channel ends in FH_CHAN_CLOSED for the other side; mappings of it stay
 * until they are unmapped.  A region that a DMA map uses is EBUSY.  A region's
 * own mappings give SIGBUS from here on.
 */
struct fh_destroy {
	__u32 size;
	__u32 id;
};

#define FH_IOCTL_DESTROY _IO(FH_IOC_TYPE, FH_CMD_DESTROY)

/**
 * struct fh_chan_create - ioctl(FH_IOCTL_CHAN_CREATE) on /dev/freehold
 * @size: sizeof(struct fh_chan_create)
 * @flags: zero
 * @sq_entries: a power of two
 * @cq_entries: a power of two
 * @arena_bytes: room for prompts
 * @wake_fd: an eventfd that is signalled when the runtime kicks, accepts or
 *           dies; -1: none, the client only ever polls memory
 * @out_chan_id: for the other calls
 * @out_mmap_off: where FH_AREA_INFO is mapped; the other areas follow it
 *
 * The channel is shown to the runtime once the caller has mapped its info
 * area: that mapping, which neither fork nor exec passes on, is the client's
 * life, and when it goes the channel is dead.  ECONNREFUSED: there is no
 * runtime.
 */
struct fh_chan_create {
	__u32 size;
	__u32 flags;
	__u32 sq_entries;
	__u32 cq_entries;
	__aligned_u64 arena_bytes;
	__s32 wake_fd;
	__u32 out_chan_id;
	__aligned_u64 out_mmap_off;
};

#define FH_IOCTL_CHAN_CREATE _IO(FH_IOC_TYPE, FH_CMD_CHAN_CREATE)

/**
 * struct fh_chan_accept - ioctl(FH_IOCTL_CHAN_ACCEPT) on /dev/freehold-ctl
 * @size: sizeof(struct fh_chan_accept)
 * @flags: zero
 * @wake_fd: an eventfd that is signalled when the client kicks or dies; -1: none
 * @out_chan_id: for the other calls
 * @out_mmap_off: where FH_AREA_INFO is mapped; the other areas follow it
 * @out_chan_bytes: length of all areas together
 * @out_peer: the client, in the caller's namespaces
 *
 * Takes the channel that has waited longest.  EAGAIN: none waits; poll() for
 * EPOLLIN says when.  EPOLLPRI says that FH_IOCTL_INFO has a dead one to show.
 */
struct fh_chan_accept {
	__u32 size;
	__u32 flags;
	__s32 wake_fd;
	__u32 out_chan_id;
	__aligned_u64 out_mmap_off;
	__aligned_u64 out_chan_bytes;
	struct fh_peer out_peer;
};

#define FH_IOCTL_CHAN_ACCEPT _IO(FH_IOC_TYPE, FH_CMD_CHAN_ACCEPT)

/**
 * struct fh_chan_kick - ioctl(FH_IOCTL_CHAN_KICK), both devices
 * @size: sizeof(struct fh_chan_kick)
 * @flags: zero
 * @chan_id: whose other side is to be woken
 * @__reserved: zero
 *
 * Signals the other side's eventfd, from the kernel and without ever
 * blocking.  EPIPE: the channel is not open any more.
 */
struct fh_chan_kick {
	__u32 size;
	__u32 flags;
	__u32 chan_id;
	__u32 __reserved;
};

#define FH_IOCTL_CHAN_KICK _IO(FH_IOC_TYPE, FH_CMD_CHAN_KICK)

/**
 * struct fh_chan_revoke - ioctl(FH_IOCTL_CHAN_REVOKE) on /dev/freehold-ctl
 * @size: sizeof(struct fh_chan_revoke)
 * @flags: zero
 * @chan_id: what to take away
 * @reason: enum fh_revoke_reason, shown to the client
 *
 * The client's areas, all but FH_AREA_INFO, give SIGBUS from here on; the
 * runtime keeps its own mappings until it unmaps them.
 */
struct fh_chan_revoke {
	__u32 size;
	__u32 flags;
	__u32 chan_id;
	__u32 reason;
};

#define FH_IOCTL_CHAN_REVOKE _IO(FH_IOC_TYPE, FH_CMD_CHAN_REVOKE)

/**
 * enum fh_mem_type - where the memory of a region comes from
 * @FH_MEM_PAGES: the module allocates @length bytes; the only type, beside
 *                dma-bufs whose exporter allows it, that is mapped through
 *                /dev/freehold-ctl
 * @FH_MEM_DMABUF: @fd is a dma-buf; @length 0 or its length
 * @FH_MEM_USER: @length bytes at @addr of the caller, hugepages too, pinned
 * @FH_MEM_MEMFD: @length bytes at offset @addr of the memfd @fd, which is
 *                sealed against shrinking; pinned
 */
enum fh_mem_type {
	FH_MEM_PAGES = 1,
	FH_MEM_DMABUF = 2,
	FH_MEM_USER = 3,
	FH_MEM_MEMFD = 4,
};

/* fh_mem_import.flags */
#define FH_MEM_READONLY 0x01 /* FH_MEM_USER, FH_MEM_MEMFD: pin for reading */
#define FH_MEM_PIN 0x02	     /* FH_MEM_DMABUF: it must not move while it is held */

/**
 * struct fh_mem_import - ioctl(FH_IOCTL_MEM_IMPORT) on /dev/freehold-ctl
 * @size: sizeof(struct fh_mem_import)
 * @flags: FH_MEM_READONLY, FH_MEM_PIN
 * @type: enum fh_mem_type
 * @fd: for FH_MEM_DMABUF and FH_MEM_MEMFD; otherwise -1
 * @addr: page aligned; see @type, otherwise 0
 * @length: a multiple of the page size
 * @out_mem_id: for the other calls
 * @__reserved: zero
 * @out_mmap_off: where the region is mapped; 0: it has no CPU mapping here.
 *                An exporter may still refuse the mmap(): EOPNOTSUPP
 */
struct fh_mem_import {
	__u32 size;
	__u32 flags;
	__u32 type;
	__s32 fd;
	__aligned_u64 addr;
	__aligned_u64 length;
	__u32 out_mem_id;
	__u32 __reserved;
	__aligned_u64 out_mmap_off;
};

#define FH_IOCTL_MEM_IMPORT _IO(FH_IOC_TYPE, FH_CMD_MEM_IMPORT)

/**
 * struct fh_mem_export - ioctl(FH_IOCTL_MEM_EXPORT) on /dev/freehold-ctl
 * @size: sizeof(struct fh_mem_export)
 * @flags: zero
 * @mem_id: of type FH_MEM_PAGES, or FH_MEM_DMABUF: that hands out the same
 *          dma-buf again
 * @out_fd: a dma-buf, close-on-exec
 */
struct fh_mem_export {
	__u32 size;
	__u32 flags;
	__u32 mem_id;
	__s32 out_fd;
};

#define FH_IOCTL_MEM_EXPORT _IO(FH_IOC_TYPE, FH_CMD_MEM_EXPORT)

/**
 * enum fh_target_type - what a DMA map is for
 * @FH_TARGET_PCI: @target is domain << 16 | bus << 8 | device << 3 | function
 * @FH_TARGET_NETDEV: @target is an interface's index in the caller's network
 *                    namespace; the device behind it is meant
 */
enum fh_target_type {
	FH_TARGET_PCI = 1,
	FH_TARGET_NETDEV = 2,
};

/**
 * struct fh_dma_range - a piece of a region, as its target addresses it
 * @dma_addr: bus address, valid for the target alone
 * @length: bytes
 */
struct fh_dma_range {
	__aligned_u64 dma_addr;
	__aligned_u64 length;
};

/**
 * struct fh_dma_map - ioctl(FH_IOCTL_DMA_MAP) on /dev/freehold-ctl
 * @size: sizeof(struct fh_dma_map)
 * @flags: zero
 * @mem_id: the region
 * @target_type: enum fh_target_type
 * @target: the device
 * @num_ranges: in: room in @ranges; out: how many there are
 * @out_dma_id: for FH_IOCTL_DESTROY, which unmaps
 * @ranges: array of struct fh_dma_range, in the order of the region
 *
 * EPERM without unsafe_dma=1 and CAP_SYS_RAWIO, or under lockdown.  EBUSY: a
 * driver other than uio owns the device (users of vfio map through vfio).
 * The map is undone when the device goes or a driver takes it.
 */
struct fh_dma_map {
	__u32 size;
	__u32 flags;
	__u32 mem_id;
	__u32 target_type;
	__aligned_u64 target;
	__u32 num_ranges;
	__u32 out_dma_id;
	__aligned_u64 ranges;
};

#define FH_IOCTL_DMA_MAP _IO(FH_IOC_TYPE, FH_CMD_DMA_MAP)

#endif /* _UAPI_LINUX_FREEHOLD_H */
