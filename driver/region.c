// SPDX-License-Identifier: GPL-2.0-only
/*
 * Regions: memory with a known owner, a limit, and a clean way to take it back.
 *
 * Always:
 *   - fh_dev.mem_bytes is charged with `length` from before a region has any
 *     memory until after it has none.
 *   - Only pages that we allocated ourselves (FH_MEM_PAGES) are mapped from
 *     here.  What a user holds he maps through his own file; a dma-buf's
 *     mapping belongs to its exporter.
 *   - Closing a region revokes its mappings (SIGBUS), but not those of a dma-buf
 *     that was exported from it; its pages go with the last reference, be that
 *     a mapping, a DMA map or an exported dma-buf.
 */
#include <linux/dma-buf.h>
#include <linux/slab.h>

#include "driver/compat.h"
#include "driver/fh.h"
#include "driver/trace.h"

static void mem_close(struct fh_obj *obj, bool file_gone)
{
	struct fh_mem *mem = container_of(obj, struct fh_mem, obj);

	trace_fh_mem_close(mem);
	down_write(&mem->map_lock);
	mem->revoked = true;
	up_write(&mem->map_lock);
	if (mem->type == FH_MEM_PAGES)
		unmap_mapping_range(mem->inode->i_mapping, fh_mem_mmap_off(obj->id), mem->length, 1);
}

/* Whatever there is of it; import's way out as well. */
static void mem_free(struct fh_mem *mem)
{
	switch (mem->type) {
	case FH_MEM_PAGES:
		if (mem->pages)
			fh_pages_free(mem->pages, mem->nr_pages);
		break;
	case FH_MEM_DMABUF:
		fh_dmabuf_release(mem);
		break;
	case FH_MEM_USER:
	case FH_MEM_MEMFD:
		fh_unpin(mem);
		break;
	}
	fh_mem_uncharge(mem->length);
	kfree(mem);
}

static void mem_release(struct fh_obj *obj)
{
	struct fh_mem *mem = container_of(obj, struct fh_mem, obj);

	trace_fh_mem_free(mem);
	spin_lock(&fh_dev.lock);
	list_del(&mem->node);
	spin_unlock(&fh_dev.lock);
	mem_free(mem);
}

static const struct fh_obj_ops mem_obj_ops = {
	.close = mem_close,
	.release = mem_release,
};

/* --- FH_IOCTL_MEM_IMPORT ---------------------------------------------------------- */

static int import_check(const struct fh_mem_import *cmd)
{
	u32 allowed = 0;

	switch (cmd->type) {
	case FH_MEM_PAGES:
		break;
	case FH_MEM_DMABUF:
		allowed = FH_MEM_PIN;
		break;
	case FH_MEM_USER:
	case FH_MEM_MEMFD:
		allowed = FH_MEM_READONLY;
		break;
	default:
		return -EOPNOTSUPP;
	}
	if (cmd->flags & ~allowed)
		return -EOPNOTSUPP;
	if (cmd->__reserved)
		return -EINVAL;
	if ((cmd->type == FH_MEM_PAGES || cmd->type == FH_MEM_USER) && cmd->fd != -1)
		return -EINVAL;
	if ((cmd->type == FH_MEM_PAGES || cmd->type == FH_MEM_DMABUF) && cmd->addr)
		return -EINVAL;
	if (cmd->type == FH_MEM_DMABUF && !cmd->length)
		return 0;
	return fh_range_check(cmd->addr, cmd->length, PAGE_SIZE, FH_MEM_BYTES_MAX);
}

/* A dma-buf says itself how long it is; that has to be known before it is charged. */
static int import_length(const struct fh_mem_import *cmd, u64 *length)
{
	struct dma_buf *dmabuf;
	u64 bytes;

	*length = cmd->length;
	if (cmd->type != FH_MEM_DMABUF)
		return 0;
	dmabuf = dma_buf_get(cmd->fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	bytes = dmabuf->size;
	dma_buf_put(dmabuf);
	if ((cmd->length && cmd->length != bytes) || !bytes || bytes > FH_MEM_BYTES_MAX)
		return -EINVAL;
	*length = bytes;
	return 0;
}

static int import_fill(struct fh_mem *mem, const struct fh_mem_import *cmd)
{
	mem->nr_pages = mem->length >> PAGE_SHIFT;
	switch (mem->type) {
	case FH_MEM_PAGES:
		return fh_pages_alloc(&mem->pages, mem->nr_pages);
	case FH_MEM_DMABUF:
		return fh_dmabuf_import(mem, cmd->fd);
	case FH_MEM_USER:
		return fh_pin_user(mem, cmd->addr);
	case FH_MEM_MEMFD:
		return fh_pin_memfd(mem, cmd->fd, cmd->addr);
	}
	return -EOPNOTSUPP;
}

static struct fh_mem *mem_new(struct fh_ctx *ctx, const struct fh_mem_import *cmd)
{
	struct fh_mem *mem;
	u64 length;
	int rc;

	rc = import_length(cmd, &length);
	if (rc)
		return ERR_PTR(rc);
	mem = kzalloc(sizeof(*mem), GFP_KERNEL_ACCOUNT);
	if (!mem)
		return ERR_PTR(-ENOMEM);
	fh_obj_init(&mem->obj, FH_OBJ_MEM, &mem_obj_ops);
	init_rwsem(&mem->map_lock);
	mem->type = cmd->type;
	mem->flags = cmd->flags;
	mem->length = length;
	mem->inode = ctx->inode;
	rc = fh_mem_charge(length);
	if (rc) {
		kfree(mem);
		return ERR_PTR(rc);
	}
	rc = import_fill(mem, cmd);
	if (rc) {
		mem_free(mem);
		return ERR_PTR(rc);
	}
	spin_lock(&fh_dev.lock);
	list_add_tail(&mem->node, &fh_dev.mems);
	spin_unlock(&fh_dev.lock);
	return mem;
}

int fh_ioctl_mem_import(struct fh_ucmd *ucmd)
{
	struct fh_mem_import *cmd = ucmd->cmd;
	struct fh_mem *mem;
	int rc;

	rc = import_check(cmd);
	if (rc)
		return rc;
	mem = mem_new(ucmd->ctx, cmd);
	if (IS_ERR(mem))
		return PTR_ERR(mem);
	rc = fh_obj_reserve(ucmd->ctx, &mem->obj);
	if (rc)
		goto err_mem;
	cmd->length = mem->length;
	cmd->out_mem_id = mem->obj.id;
	cmd->out_mmap_off = 0;
	if (mem->type == FH_MEM_PAGES || (mem->type == FH_MEM_DMABUF && fh_dmabuf_has_mmap(mem)))
		cmd->out_mmap_off = fh_mem_mmap_off(mem->obj.id);
	rc = fh_ucmd_respond(ucmd, sizeof(*cmd));
	if (rc)
		goto err_reserve;
	trace_fh_mem_import(mem);
	fh_obj_publish(ucmd->ctx, &mem->obj);
	return 0;

err_reserve:
	fh_obj_unreserve(ucmd->ctx, &mem->obj);
err_mem:
	fh_obj_put(&mem->obj);
	return rc;
}

/* --- mappings ------------------------------------------------------------------------ */

static void mem_vm_open(struct vm_area_struct *vma)
{
	struct fh_mem *mem = vma->vm_private_data;

	refcount_inc(&mem->obj.refs);
}

static void mem_vm_close(struct vm_area_struct *vma)
{
	struct fh_mem *mem = vma->vm_private_data;

	fh_obj_put(&mem->obj);
}

/* The device's mappings count from the region's window, those of an exported dma-buf from 0. */
static vm_fault_t insert(struct vm_fault *vmf)
{
	struct fh_mem *mem = vmf->vma->vm_private_data;
	u64 off = ((u64)vmf->pgoff << PAGE_SHIFT) & (BIT_ULL(FH_MEM_WINDOW_SHIFT) - 1);

	if (off >= mem->length)
		return VM_FAULT_SIGBUS;
	return vmf_insert_page(vmf->vma, vmf->address & PAGE_MASK, mem->pages[off >> PAGE_SHIFT]);
}

static vm_fault_t mem_vm_fault(struct vm_fault *vmf)
{
	struct fh_mem *mem = vmf->vma->vm_private_data;
	vm_fault_t ret = VM_FAULT_SIGBUS;

	down_read(&mem->map_lock);
	if (!mem->revoked)
		ret = insert(vmf);
	up_read(&mem->map_lock);
	return ret;
}

static const struct vm_operations_struct mem_vm_ops = {
	.open = mem_vm_open,
	.close = mem_vm_close,
	.fault = mem_vm_fault,
};

/* What was exported is not ours to take back: it goes when its last holder lets go. */
static const struct vm_operations_struct exported_vm_ops = {
	.open = mem_vm_open,
	.close = mem_vm_close,
	.fault = insert,
};

/**
 * fh_mem_map_pages() - map pages of our own
 * @mem: FH_MEM_PAGES
 * @vma: where
 * @off: from the beginning of the region
 * @exported: through a dma-buf, not through the device
 *
 * Return: 0 or -EINVAL.
 */
int fh_mem_map_pages(struct fh_mem *mem, struct vm_area_struct *vma, u64 off, bool exported)
{
	u64 bytes = vma->vm_end - vma->vm_start;

	if (off > mem->length || bytes > mem->length - off)
		return -EINVAL;
	vm_flags_set(vma, VM_MIXEDMAP | VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP);
	refcount_inc(&mem->obj.refs);
	vma->vm_private_data = mem;
	vma->vm_ops = exported ? &exported_vm_ops : &mem_vm_ops;
	return 0;
}

int fh_mem_mmap(struct fh_mem *mem, struct vm_area_struct *vma, u64 off)
{
	switch (mem->type) {
	case FH_MEM_PAGES:
		return fh_mem_map_pages(mem, vma, off, false);
	case FH_MEM_DMABUF:
		return fh_dmabuf_mmap(mem, vma, off);
	default:
		return -EOPNOTSUPP;
	}
}
