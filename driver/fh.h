/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Freehold's kernel module, inside.
 *
 * What it knows: contexts (one an open file), objects in a context's table
 * (channels, regions, DMA maps), and one struct fh_device for what is shared.
 *
 * Locks, outermost first; nothing is taken against this order.
 *
 *   device_lock(target)    a DMA map's device, while it is mapped (dma.c)
 *   fh_device.dma_lock     mutex: the list of DMA maps, and their end
 *   mmap_lock              of whoever faults or maps
 *   dma_resv               of a dma-buf; an exporter's fault takes it under mmap_lock
 *   fh_chan.map_lock       rwsem: a fault's look at `revoked` and its PTE;
 *   fh_mem.map_lock        taken for writing only to set `revoked`, and never
 *                          held across anything that takes mmap_lock
 *   xa_lock(fh_ctx.objs)   a context's table, and obj->users
 *   fh_device.lock         spinlock: states, lists and quotas; leaf
 *
 * So neither map_lock nor fh_device.lock may be held while user memory is
 * read, written or pinned.
 *
 * References.  A context lives as long as its file.  An object lives while its
 * table, a call in progress or a mapping holds it.  A channel is held by the
 * objects of its two sides and by its mappings, and may outlive both files;
 * what is large in it goes from a workqueue, since its last reference may go
 * under mmap_lock.
 */
#ifndef FH_DRIVER_FH_H
#define FH_DRIVER_FH_H

#include <linux/dma-direction.h>
#include <linux/errno.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/refcount.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "driver/pure.h"
#include "uapi/freehold.h"

struct dma_buf;
struct dma_buf_attachment;
struct sg_table;
struct eventfd_ctx;
struct seq_file;

enum fh_side { FH_SIDE_CLIENT, FH_SIDE_RUNTIME, FH_NR_SIDES };

static inline enum fh_side fh_other(enum fh_side side)
{
	return side == FH_SIDE_CLIENT ? FH_SIDE_RUNTIME : FH_SIDE_CLIENT;
}

/* --- contexts and objects: main.c, object.c ---------------------------------- */

enum fh_obj_type { FH_OBJ_ANY, FH_OBJ_CHAN, FH_OBJ_DMA, FH_OBJ_MEM };

struct fh_obj;

/**
 * struct fh_obj_ops - what a kind of object does at its end
 * @close: it has left its table, by DESTROY or because the file is gone:
 *         nobody will find it any more; tell the others
 * @release: the last reference is gone; frees it
 */
struct fh_obj_ops {
	void (*close)(struct fh_obj *obj, bool file_gone);
	void (*release)(struct fh_obj *obj);
};

/**
 * struct fh_obj - an entry in a context's table; the first member of its kind
 * @type: which kind
 * @id: in the table
 * @refs: table, calls in progress, mappings
 * @users: objects that need this one; it cannot be destroyed before them.
 *         Under the table's xa_lock.
 * @ops: its end
 */
struct fh_obj {
	enum fh_obj_type type;
	u32 id;
	refcount_t refs;
	unsigned int users;
	const struct fh_obj_ops *ops;
};

/**
 * struct fh_ctx - one open file
 * @side: which device it was opened on
 * @objs: its objects by id
 * @inode: of its own: all mappings of this file hang on it, so that a zap
 *         meets nobody else's
 */
struct fh_ctx {
	enum fh_side side;
	struct xarray objs;
	struct inode *inode;
};

/**
 * struct fh_ucmd - an ioctl in progress
 * @ctx: the file
 * @ubuffer: the caller's structure
 * @user_size: how much of it the caller knows
 * @cmd: the kernel's copy, zero beyond @user_size
 */
struct fh_ucmd {
	struct fh_ctx *ctx;
	void __user *ubuffer;
	u32 user_size;
	void *cmd;
};

int fh_ucmd_respond(struct fh_ucmd *ucmd, size_t cmd_bytes);

void fh_obj_init(struct fh_obj *obj, enum fh_obj_type type, const struct fh_obj_ops *ops);
int fh_obj_reserve(struct fh_ctx *ctx, struct fh_obj *obj);
void fh_obj_publish(struct fh_ctx *ctx, struct fh_obj *obj);
void fh_obj_unreserve(struct fh_ctx *ctx, struct fh_obj *obj);
struct fh_obj *fh_obj_get(struct fh_ctx *ctx, u32 id, enum fh_obj_type type);
struct fh_obj *fh_obj_use(struct fh_ctx *ctx, u32 id, enum fh_obj_type type);
void fh_obj_unuse(struct fh_ctx *ctx, struct fh_obj *obj);
void fh_obj_put(struct fh_obj *obj);
int fh_obj_destroy(struct fh_ctx *ctx, u32 id);
void fh_obj_destroy_all(struct fh_ctx *ctx);

/* --- who may have how much: quota.c ------------------------------------------- */

/**
 * struct fh_quota - what the channels of one uid take
 * @node: in fh_device.quotas
 * @uid: whose
 * @nr_chans: channels
 * @bytes: their memory
 *
 * Under fh_device.lock; there while it has channels.
 */
struct fh_quota {
	struct hlist_node node;
	kuid_t uid;
	u32 nr_chans;
	u64 bytes;
};

struct fh_quota *fh_quota_charge(kuid_t uid, u64 bytes);
void fh_quota_uncharge(struct fh_quota *quota, u64 bytes);
void fh_quota_read(kuid_t uid, u32 *nr_chans, u64 *bytes);
int fh_mem_charge(u64 bytes);
void fh_mem_uncharge(u64 bytes);

/* --- who is who: ident.c -------------------------------------------------------- */

/**
 * struct fh_ident - a process, as the kernel saw it
 * @cred: its credentials: uid, gid, and the user namespace it reads ids in
 * @pid: of its thread group, and the pid namespace it reads pids in
 * @start_boottime_ns: when it began
 * @cgroup_id: in the unified hierarchy
 * @flags: FH_PEER_NO_CGROUP or 0
 */
struct fh_ident {
	const struct cred *cred;
	struct pid *pid;
	u64 start_boottime_ns;
	u64 cgroup_id;
	u32 flags;
};

void fh_ident_take(struct fh_ident *ident);
void fh_ident_drop(struct fh_ident *ident);
void fh_ident_show(const struct fh_ident *ident, const struct fh_ident *reader, u64 chan_gen, struct fh_peer *peer);

/* --- channels: chan.c, chan_map.c ------------------------------------------------ */

/**
 * struct fh_chan - a channel
 * @ref: objects and mappings
 * @node: in fh_device.chans, all of them
 * @wait_node: in fh_device.waiting or fh_device.dead, or empty
 * @gen: its number since the module was loaded
 * @state: enum fh_chan_state; the info pages show it.  Under fh_device.lock,
 *         read without.
 * @life: mappings of its info page by the process that a side is.  Under
 *        fh_device.lock.
 * @published: the client has mapped its info page.  Under fh_device.lock.
 * @mm: the side's process; compared, never entered
 * @ident: the side's process, once it is there
 * @wake: the side's eventfd or NULL; constant once the side is there
 * @rt_obj: the runtime's object.  Under fh_device.lock.
 * @geo: the kernel's own copy of the geometry
 * @info: the info pages, one a side, each stamped for its reader
 * @pages: of the whole channel by offset; that of the info area is the client's
 * @nr_pages: how many
 * @map_lock: see above
 * @revoked: the client's areas are gone.  Under @map_lock.
 * @client_inode: what the client's mappings hang on
 * @client_id: the channel's id in the client's file, which says where
 * @quota: who pays
 * @free_work: the end
 */
struct fh_chan {
	struct kref ref;
	struct list_head node;
	struct list_head wait_node;
	u64 gen;
	enum fh_chan_state state;
	unsigned int life[FH_NR_SIDES];
	bool published;
	struct mm_struct *mm[FH_NR_SIDES];
	struct fh_ident ident[FH_NR_SIDES];
	struct eventfd_ctx *wake[FH_NR_SIDES];
	struct fh_obj *rt_obj;
	struct fh_chan_info geo;
	struct fh_chan_info *info[FH_NR_SIDES];
	struct page **pages;
	unsigned long nr_pages;
	struct rw_semaphore map_lock;
	bool revoked;
	struct inode *client_inode;
	u32 client_id;
	struct fh_quota *quota;
	struct work_struct free_work;
};

/* A side's handle on a channel. */
struct fh_chan_obj {
	struct fh_obj obj;
	struct fh_chan *chan;
	enum fh_side side;
};

int fh_ioctl_chan_create(struct fh_ucmd *ucmd);
int fh_ioctl_chan_accept(struct fh_ucmd *ucmd);
int fh_ioctl_chan_kick(struct fh_ucmd *ucmd);
int fh_ioctl_chan_revoke(struct fh_ucmd *ucmd);
void fh_chan_end(struct fh_chan *chan, enum fh_chan_state state, u32 reason);
void fh_chan_publish(struct fh_chan *chan);
void fh_chan_put(struct fh_chan *chan);
void fh_chan_refuse_waiting(void);
int fh_chan_mmap(struct fh_ctx *ctx, struct fh_chan_obj *co, struct vm_area_struct *vma, u64 off);
void fh_chan_zap(struct fh_chan *chan);

/* --- regions: region.c, pin.c, dmabuf.c -------------------------------------------- */

/**
 * struct fh_mem - a region
 * @obj: in the runtime's table
 * @node: in fh_device.mems
 * @type: enum fh_mem_type
 * @flags: FH_MEM_*
 * @length: in bytes
 * @pages: for all but FH_MEM_DMABUF
 * @nr_pages: how many
 * @map_lock: see above
 * @revoked: no fault is served any more.  Under @map_lock.
 * @inode: what its mappings hang on
 * @mm: FH_MEM_USER, FH_MEM_MEMFD: whose pinned_vm was charged
 * @user: whose locked_vm was charged
 * @charged_pages: how much
 * @dmabuf: FH_MEM_DMABUF: the buffer
 * @attach: and our hold on it
 * @nr_moves: how often its exporter moved it.  Under its reservation lock.
 */
struct fh_mem {
	struct fh_obj obj;
	struct list_head node;
	enum fh_mem_type type;
	u32 flags;
	u64 length;
	struct page **pages;
	unsigned long nr_pages;
	struct rw_semaphore map_lock;
	bool revoked;
	struct inode *inode;
	struct mm_struct *mm;
	struct user_struct *user;
	unsigned long charged_pages;
	struct dma_buf *dmabuf;
	struct dma_buf_attachment *attach;
	u64 nr_moves;
};

int fh_ioctl_mem_import(struct fh_ucmd *ucmd);
int fh_ioctl_mem_export(struct fh_ucmd *ucmd);
int fh_mem_mmap(struct fh_mem *mem, struct vm_area_struct *vma, u64 off);
int fh_mem_map_pages(struct fh_mem *mem, struct vm_area_struct *vma, u64 off, bool exported);

int fh_pages_alloc(struct page ***pages, unsigned long nr);
void fh_pages_free(struct page **pages, unsigned long nr);

int fh_pin_user(struct fh_mem *mem, u64 addr);
int fh_pin_memfd(struct fh_mem *mem, int fd, u64 off);
void fh_unpin(struct fh_mem *mem);

int fh_dmabuf_import(struct fh_mem *mem, int fd);
void fh_dmabuf_release(struct fh_mem *mem);
int fh_dmabuf_mmap(struct fh_mem *mem, struct vm_area_struct *vma, u64 off);
bool fh_dmabuf_has_mmap(struct fh_mem *mem);

/* What an exporter answered, for user space: some, NVIDIA's among them, use a number that is the kernel's alone. */
static inline int fh_exporter_rc(int rc)
{
	return rc == -ENOTSUPP ? -EOPNOTSUPP : rc;
}

/* --- DMA maps: dma.c ----------------------------------------------------------------- */

int fh_sgt_map(struct fh_mem *mem, struct device *dev, struct sg_table *sgt, enum dma_data_direction dir);
void fh_sgt_unmap(struct device *dev, struct sg_table *sgt, enum dma_data_direction dir);
int fh_ioctl_dma_map(struct fh_ucmd *ucmd);
int fh_dma_init(void);
void fh_dma_exit(void);

/* --- shared ----------------------------------------------------------------------------- */

/**
 * struct fh_device - what all files share
 * @lock: see above
 * @runtime: the one context of /dev/freehold-ctl, or NULL
 * @last_gen: of the channel created last
 * @chans: all channels
 * @waiting: channels that the runtime has not accepted, oldest first
 * @dead: channels that the runtime has not destroyed, and whose client is gone
 * @nr_waiting: length of @waiting
 * @nr_dead: length of @dead
 * @mems: all regions
 * @mem_bytes: what they hold together
 * @nr_clients: open files of /dev/freehold
 * @quotas: by uid
 * @runtime_wq: who polls /dev/freehold-ctl
 * @free_wq: the ends of channels
 * @mnt: where the contexts' inodes come from
 * @pdev: the device that dma-bufs are attached with while no other is named
 * @dma_lock: see above
 * @dmas: all DMA maps
 */
struct fh_device {
	spinlock_t lock; /* see above */
	struct fh_ctx *runtime;
	u64 last_gen;
	struct list_head chans;
	struct list_head waiting;
	struct list_head dead;
	u32 nr_waiting;
	u32 nr_dead;
	struct list_head mems;
	u64 mem_bytes;
	u32 nr_clients;
	struct hlist_head quotas[64];
	wait_queue_head_t runtime_wq;
	struct workqueue_struct *free_wq;
	struct vfsmount *mnt;
	struct platform_device *pdev;
	struct mutex dma_lock; /* see above */
	struct list_head dmas;
};

extern struct fh_device fh_dev;

/* The module's parameters: main.c. */
extern unsigned int fh_chan_max;
extern unsigned int fh_chan_mib_max;
extern unsigned int fh_arena_mib_max;
extern unsigned int fh_mem_mib_max;
extern bool fh_unsafe_dma;

/* debugfs and fdinfo: show.c. */
void fh_show_init(void);
void fh_show_exit(void);
void fh_show_fdinfo(struct seq_file *m, struct file *file);

#endif /* FH_DRIVER_FH_H */
