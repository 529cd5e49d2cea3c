/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints: what happens to channels and regions, under
 * /sys/kernel/tracing/events/freehold.  Names of processes are those of the
 * initial namespaces.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM freehold

#if !defined(FH_DRIVER_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define FH_DRIVER_TRACE_H

#include <linux/cred.h>
#include <linux/pid.h>
#include <linux/tracepoint.h>

#include "driver/fh.h"

/* clang-format off */
#define show_chan_state(state)                                                                                         \
	__print_symbolic(state,                                                                                        \
			 { FH_CHAN_WAITING, "waiting" },                                                               \
			 { FH_CHAN_OPEN, "open" },                                                                     \
			 { FH_CHAN_CLOSED, "closed" },                                                                 \
			 { FH_CHAN_CLIENT_DEAD, "client-dead" },                                                       \
			 { FH_CHAN_RUNTIME_DEAD, "runtime-dead" },                                                     \
			 { FH_CHAN_REVOKED, "revoked" })

#define show_mem_type(type)                                                                                            \
	__print_symbolic(type,                                                                                         \
			 { FH_MEM_PAGES, "pages" },                                                                    \
			 { FH_MEM_DMABUF, "dmabuf" },                                                                  \
			 { FH_MEM_USER, "user" },                                                                      \
			 { FH_MEM_MEMFD, "memfd" })

DECLARE_EVENT_CLASS(fh_chan_template,
	TP_PROTO(const struct fh_chan *chan),
	TP_ARGS(chan),
	TP_STRUCT__entry(
		__field(u64, gen)
		__field(u64, bytes)
		__field(u32, uid)
		__field(u32, pid)
	),
	TP_fast_assign(
		__entry->gen = chan->gen;
		__entry->bytes = chan->geo.chan_bytes;
		__entry->uid = __kuid_val(chan->ident[FH_SIDE_CLIENT].cred->euid);
		__entry->pid = pid_nr(chan->ident[FH_SIDE_CLIENT].pid);
	),
	TP_printk("gen=%llu uid=%u pid=%u bytes=%llu", __entry->gen, __entry->uid, __entry->pid, __entry->bytes)
);

DEFINE_EVENT(fh_chan_template, fh_chan_create, TP_PROTO(const struct fh_chan *chan), TP_ARGS(chan));
DEFINE_EVENT(fh_chan_template, fh_chan_accept, TP_PROTO(const struct fh_chan *chan), TP_ARGS(chan));
DEFINE_EVENT(fh_chan_template, fh_chan_free, TP_PROTO(const struct fh_chan *chan), TP_ARGS(chan));

TRACE_EVENT(fh_chan_end,
	TP_PROTO(const struct fh_chan *chan, u32 state, u32 reason),
	TP_ARGS(chan, state, reason),
	TP_STRUCT__entry(
		__field(u64, gen)
		__field(u32, state)
		__field(u32, reason)
	),
	TP_fast_assign(
		__entry->gen = chan->gen;
		__entry->state = state;
		__entry->reason = reason;
	),
	TP_printk("gen=%llu state=%s reason=%u", __entry->gen, show_chan_state(__entry->state), __entry->reason)
);

DECLARE_EVENT_CLASS(fh_mem_template,
	TP_PROTO(const struct fh_mem *mem),
	TP_ARGS(mem),
	TP_STRUCT__entry(
		__field(u32, id)
		__field(u32, type)
		__field(u64, length)
	),
	TP_fast_assign(
		__entry->id = mem->obj.id;
		__entry->type = mem->type;
		__entry->length = mem->length;
	),
	TP_printk("id=%u type=%s bytes=%llu", __entry->id, show_mem_type(__entry->type), __entry->length)
);

DEFINE_EVENT(fh_mem_template, fh_mem_import, TP_PROTO(const struct fh_mem *mem), TP_ARGS(mem));
DEFINE_EVENT(fh_mem_template, fh_mem_export, TP_PROTO(const struct fh_mem *mem), TP_ARGS(mem));
DEFINE_EVENT(fh_mem_template, fh_mem_move, TP_PROTO(const struct fh_mem *mem), TP_ARGS(mem));
DEFINE_EVENT(fh_mem_template, fh_mem_close, TP_PROTO(const struct fh_mem *mem), TP_ARGS(mem));
DEFINE_EVENT(fh_mem_template, fh_mem_free, TP_PROTO(const struct fh_mem *mem), TP_ARGS(mem));
/* clang-format on */

#endif /* FH_DRIVER_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH driver
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
