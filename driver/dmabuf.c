// SPDX-License-Identifier: GPL-2.0-only
/*
 * dma-bufs, in and out.
 *
 * In: the buffer is held by an attachment of our platform device, a dynamic one
 * if its exporter is dynamic, which lets that move the buffer unless FH_MEM_PIN
 * asks it not to.  That device has no IOMMU and its addresses reach no hardware:
 * it holds the buffer and hears of its moves; DMA goes through an attachment of
 * the real device (dma.c).  It never maps: for an exporter that is not dynamic,
 * NVIDIA's say, a dynamic attachment would, and take a piece of the BAR for it.
 * Pinning through it would make an exporter of video memory move the buffer to
 * where any device can reach it: amdgpu's pin() goes to system memory.
 *
 * Out: pages of our own become a dma-buf that holds a reference to the region.
 * Its file is published last, after the answer has reached the caller.  An
 * imported dma-buf is handed out as what it is.
 *
 * The reservation lock is taken for pinning only, and nothing is copied to or
 * from user space under it.
 */
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/file.h>
#include <linux/platform_device.h>
#include <linux/slab.h>

#include "driver/compat.h"
#include "driver/fh.h"
#include "driver/trace.h"

/* --- in ---------------------------------------------------------------------------- */

static void move_notify(struct dma_buf_attachment *attach)
{
	struct fh_mem *mem = attach->importer_priv;

	dma_resv_assert_held(attach->dmabuf->resv);
	mem->nr_moves++;
	trace_fh_mem_move(mem);
}

static const struct dma_buf_attach_ops importer_ops = {
	.allow_peer2peer = true,
	.move_notify = move_notify,
};

static struct dma_buf_attachment *hold(struct dma_buf *dmabuf, struct fh_mem *mem)
{
	struct device *dev = &fh_dev.pdev->dev;

	if (!dmabuf->ops->pin)
		return dma_buf_attach(dmabuf, dev);
	return dma_buf_dynamic_attach(dmabuf, dev, &importer_ops, mem);
}

int fh_dmabuf_import(struct fh_mem *mem, int fd)
{
	struct dma_buf *dmabuf = dma_buf_get(fd);
	int rc;

	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	mem->dmabuf = dmabuf;
	/* The descriptor may have been replaced since its length was charged. */
	if (dmabuf->size != mem->length)
		return -EAGAIN;
	mem->attach = hold(dmabuf, mem);
	if (IS_ERR(mem->attach)) {
		rc = PTR_ERR(mem->attach);
		mem->attach = NULL;
		return fh_exporter_rc(rc);
	}
	/* What cannot move needs no pin, and has none to take back. */
	if (!dmabuf->ops->pin)
		mem->flags &= ~FH_MEM_PIN;
	if (!(mem->flags & FH_MEM_PIN))
		return 0;
	dma_resv_lock(dmabuf->resv, NULL);
	rc = dma_buf_pin(mem->attach);
	dma_resv_unlock(dmabuf->resv);
	if (rc)
		mem->flags &= ~FH_MEM_PIN; /* nothing to unpin */
	return fh_exporter_rc(rc);
}

void fh_dmabuf_release(struct fh_mem *mem)
{
	if (mem->attach) {
		if (mem->flags & FH_MEM_PIN) {
			dma_resv_lock(mem->dmabuf->resv, NULL);
			dma_buf_unpin(mem->attach);
			dma_resv_unlock(mem->dmabuf->resv);
		}
		dma_buf_detach(mem->dmabuf, mem->attach);
	}
	if (mem->dmabuf)
		dma_buf_put(mem->dmabuf);
}

bool fh_dmabuf_has_mmap(struct fh_mem *mem)
{
	return mem->dmabuf->ops->mmap;
}

/* From here on the mapping is the exporter's: its file, its faults, its revocation. */
int fh_dmabuf_mmap(struct fh_mem *mem, struct vm_area_struct *vma, u64 off)
{
	if (!fh_dmabuf_has_mmap(mem))
		return -EOPNOTSUPP;
	return fh_exporter_rc(dma_buf_mmap(mem->dmabuf, vma, off >> PAGE_SHIFT));
}

/* --- out ----------------------------------------------------------------------------- */

static struct sg_table *exp_map(struct dma_buf_attachment *attach, enum dma_data_direction dir)
{
	struct fh_mem *mem = attach->dmabuf->priv;
	struct sg_table *sgt;
	int rc;

	sgt = kzalloc(sizeof(*sgt), GFP_KERNEL);
	if (!sgt)
		return ERR_PTR(-ENOMEM);
	rc = fh_sgt_map(mem, attach->dev, sgt, dir);
	if (rc) {
		kfree(sgt);
		return ERR_PTR(rc);
	}
	return sgt;
}

static void exp_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt, enum dma_data_direction dir)
{
	fh_sgt_unmap(attach->dev, sgt, dir);
	kfree(sgt);
}

static int exp_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	struct fh_mem *mem = dmabuf->priv;

	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EACCES;
	vm_flags_clear(vma, VM_MAYEXEC);
	return fh_mem_map_pages(mem, vma, (u64)vma->vm_pgoff << PAGE_SHIFT, true);
}

static void exp_release(struct dma_buf *dmabuf)
{
	struct fh_mem *mem = dmabuf->priv;

	fh_obj_put(&mem->obj);
}

static const struct dma_buf_ops exporter_ops = {
	.map_dma_buf = exp_map,
	.unmap_dma_buf = exp_unmap,
	.mmap = exp_mmap,
	.release = exp_release,
};

static struct dma_buf *export(struct fh_mem *mem)
{
	DEFINE_DMA_BUF_EXPORT_INFO(exp_info);
	struct dma_buf *dmabuf;

	if (mem->type == FH_MEM_DMABUF) {
		get_dma_buf(mem->dmabuf);
		return mem->dmabuf;
	}
	if (mem->type != FH_MEM_PAGES)
		return ERR_PTR(-EOPNOTSUPP);
	exp_info.ops = &exporter_ops;
	exp_info.size = mem->length;
	exp_info.flags = O_RDWR | O_CLOEXEC;
	exp_info.priv = mem;
	refcount_inc(&mem->obj.refs);
	dmabuf = dma_buf_export(&exp_info);
	if (IS_ERR(dmabuf))
		fh_obj_put(&mem->obj);
	return dmabuf;
}

int fh_ioctl_mem_export(struct fh_ucmd *ucmd)
{
	struct fh_mem_export *cmd = ucmd->cmd;
	struct dma_buf *dmabuf;
	struct fh_mem *mem;
	struct fh_obj *obj;
	int fd, rc;

	if (cmd->flags)
		return -EOPNOTSUPP;
	obj = fh_obj_get(ucmd->ctx, cmd->mem_id, FH_OBJ_MEM);
	if (!obj)
		return -ENOENT;
	mem = container_of(obj, struct fh_mem, obj);
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		rc = fd;
		goto out_obj;
	}
	dmabuf = export(mem);
	if (IS_ERR(dmabuf)) {
		rc = PTR_ERR(dmabuf);
		goto err_fd;
	}
	cmd->out_fd = fd;
	rc = fh_ucmd_respond(ucmd, sizeof(*cmd));
	if (rc)
		goto err_dmabuf;
	trace_fh_mem_export(mem);
	fd_install(fd, dmabuf->file);
	goto out_obj;

err_dmabuf:
	dma_buf_put(dmabuf);
err_fd:
	put_unused_fd(fd);
out_obj:
	fh_obj_put(obj);
	return rc;
}
