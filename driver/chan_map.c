// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mappings of a channel: who may map which area how, and what their end says
 * about the process that held them.
 *
 * Always:
 *   - A mapping lies in one area.  It is writable only by the area's writer,
 *     and mprotect() cannot change that; it is never executable, never copied
 *     by fork, never grown, never dumped.
 *   - The client's areas are mapped by the process that created the channel
 *     and no other, whoever else holds the file: the runtime was told that
 *     process's name.
 *   - life[side] counts mappings of the info page in the side's own mm.  When
 *     it falls to zero the side is dead: exit, exec, kill -9 and munmap all end
 *     there, and a file that lives on elsewhere (fork, SCM_RIGHTS) does not
 *     change it.  MADV_DOFORK can still copy a mapping into a child: such a
 *     copy does not count.
 *   - A PTE is set under map_lock after a look at `revoked`, so that a zap
 *     which follows the setting of `revoked` misses none.
 *
 * Pages are ordinary ones (VM_MIXEDMAP, neither VM_IO nor VM_PFNMAP): vfio,
 * io_uring and others can pin them.
 */
#include "driver/compat.h"
#include "driver/fh.h"
#include "driver/trace.h"

static enum fh_side vma_side(struct vm_area_struct *vma)
{
	struct fh_ctx *ctx = vma->vm_file->private_data;

	return ctx->side;
}

/* From the beginning of the channel. */
static u64 vma_off(u64 pgoff)
{
	return (pgoff << PAGE_SHIFT) & (BIT_ULL(FH_CHAN_WINDOW_SHIFT) - 1);
}

static bool is_life(struct vm_area_struct *vma)
{
	struct fh_chan *chan = vma->vm_private_data;

	return !vma_off(vma->vm_pgoff) && vma->vm_mm == READ_ONCE(chan->mm[vma_side(vma)]);
}

static void life_add(struct vm_area_struct *vma)
{
	struct fh_chan *chan = vma->vm_private_data;

	if (!is_life(vma))
		return;
	spin_lock(&fh_dev.lock);
	chan->life[vma_side(vma)]++;
	spin_unlock(&fh_dev.lock);
}

/* fork (after MADV_DOFORK), mremap, or the split of an area in two. */
static void chan_vm_open(struct vm_area_struct *vma)
{
	struct fh_chan *chan = vma->vm_private_data;

	kref_get(&chan->ref);
	life_add(vma);
}

static void chan_vm_close(struct vm_area_struct *vma)
{
	struct fh_chan *chan = vma->vm_private_data;
	enum fh_side side = vma_side(vma);
	bool dead = false;

	if (is_life(vma)) {
		spin_lock(&fh_dev.lock);
		dead = !--chan->life[side];
		spin_unlock(&fh_dev.lock);
	}
	if (dead)
		fh_chan_end(chan, side == FH_SIDE_CLIENT ? FH_CHAN_CLIENT_DEAD : FH_CHAN_RUNTIME_DEAD, 0);
	fh_chan_put(chan);
}

static vm_fault_t chan_vm_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct fh_chan *chan = vma->vm_private_data;
	enum fh_side side = vma_side(vma);
	unsigned long nr = vma_off(vmf->pgoff) >> PAGE_SHIFT;
	vm_fault_t ret = VM_FAULT_SIGBUS;
	struct page *page;

	if (nr >= chan->nr_pages)
		return VM_FAULT_SIGBUS;
	page = chan->pages[nr];
	if (!nr)
		page = virt_to_page(chan->info[side]);

	down_read(&chan->map_lock);
	if (!chan->revoked || side == FH_SIDE_RUNTIME || !nr)
		ret = vmf_insert_page(vma, vmf->address & PAGE_MASK, page);
	up_read(&chan->map_lock);
	return ret;
}

static const struct vm_operations_struct chan_vm_ops = {
	.open = chan_vm_open,
	.close = chan_vm_close,
	.fault = chan_vm_fault,
};

int fh_chan_mmap(struct fh_ctx *ctx, struct fh_chan_obj *co, struct vm_area_struct *vma, u64 off)
{
	static const enum fh_writer writer[FH_NR_SIDES] = {
		[FH_SIDE_CLIENT] = FH_WRITER_CLIENT,
		[FH_SIDE_RUNTIME] = FH_WRITER_RUNTIME,
	};
	struct fh_chan *chan = co->chan;
	int area;

	area = fh_area_find(&chan->geo, off, vma->vm_end - vma->vm_start);
	if (area < 0)
		return area;
	/* The runtime may hand its areas to a process that computes for it; its life stays its own. */
	if (vma->vm_mm != chan->mm[co->side] && (co->side == FH_SIDE_CLIENT || area == FH_AREA_INFO))
		return -EACCES;
	if (!fh_area_writable(&chan->geo, area, writer[co->side])) {
		if (vma->vm_flags & VM_WRITE)
			return -EACCES;
		vm_flags_clear(vma, VM_MAYWRITE);
	}
	vm_flags_set(vma, VM_MIXEDMAP | VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP);
	kref_get(&chan->ref);
	vma->vm_private_data = chan;
	vma->vm_ops = &chan_vm_ops;
	if (area == FH_AREA_INFO) {
		life_add(vma);
		if (co->side == FH_SIDE_CLIENT)
			fh_chan_publish(chan);
	}
	return 0;
}

/**
 * fh_chan_zap() - take the client's areas away; all but the info page
 * @chan: the channel
 *
 * Later faults give SIGBUS.  A pin (vfio, io_uring) keeps its page, which
 * nobody else gets before the pin is gone.
 */
void fh_chan_zap(struct fh_chan *chan)
{
	u64 skip = chan->geo.areas[FH_AREA_INFO].bytes;

	down_write(&chan->map_lock);
	chan->revoked = true;
	up_write(&chan->map_lock);
	unmap_mapping_range(chan->client_inode->i_mapping, fh_chan_mmap_off(chan->client_id) + skip,
			    chan->geo.chan_bytes - skip, 1);
}
