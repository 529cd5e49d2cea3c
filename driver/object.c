// SPDX-License-Identifier: GPL-2.0-only
/*
 * A context's table of objects.
 *
 * An id is reserved first, with an entry that no look-up finds, and published
 * when the answer has reached the caller: what user space never learnt of, it
 * cannot use.  Removing an object from the table closes it, exactly once;
 * whoever still holds a reference works on a closed object and finds that out.
 *
 * An object that others need (users > 0) stays in the table.
 */
#include <linux/slab.h>

#include "driver/fh.h"

void fh_obj_init(struct fh_obj *obj, enum fh_obj_type type, const struct fh_obj_ops *ops)
{
	obj->type = type;
	obj->id = 0;
	obj->users = 0;
	obj->ops = ops;
	refcount_set(&obj->refs, 1);
}

/* The table will hold the reference that fh_obj_init() made. */
int fh_obj_reserve(struct fh_ctx *ctx, struct fh_obj *obj)
{
	/* A client's ids must fit the windows that its mmap can reach. */
	u32 max = ctx->side == FH_SIDE_CLIENT ? FH_CHAN_ID_MAX : FH_ID_MAX;
	int rc;

	rc = xa_alloc(&ctx->objs, &obj->id, XA_ZERO_ENTRY, XA_LIMIT(1, max), GFP_KERNEL_ACCOUNT);
	return rc == -EBUSY ? -EDQUOT : rc;
}

void fh_obj_publish(struct fh_ctx *ctx, struct fh_obj *obj)
{
	void *old = xa_store(&ctx->objs, obj->id, obj, GFP_KERNEL);

	/* The reservation holds the memory, so this cannot fail. */
	WARN_ON(xa_is_err(old));
}

void fh_obj_unreserve(struct fh_ctx *ctx, struct fh_obj *obj)
{
	xa_release(&ctx->objs, obj->id);
}

static struct fh_obj *find(struct fh_ctx *ctx, u32 id, enum fh_obj_type type)
{
	struct fh_obj *obj = xa_load(&ctx->objs, id);

	lockdep_assert_held(&ctx->objs.xa_lock);
	return obj && (type == FH_OBJ_ANY || obj->type == type) ? obj : NULL;
}

/**
 * fh_obj_get() - look an object up for one call
 * @ctx: whose table
 * @id: from user space
 * @type: what it has to be
 *
 * Return: the object, to be given back with fh_obj_put(), or NULL.
 */
struct fh_obj *fh_obj_get(struct fh_ctx *ctx, u32 id, enum fh_obj_type type)
{
	struct fh_obj *obj;

	xa_lock(&ctx->objs);
	obj = find(ctx, id, type);
	if (obj)
		refcount_inc(&obj->refs);
	xa_unlock(&ctx->objs);
	return obj;
}

/* The same, for an object that will need this one: it cannot be destroyed until fh_obj_unuse(). */
struct fh_obj *fh_obj_use(struct fh_ctx *ctx, u32 id, enum fh_obj_type type)
{
	struct fh_obj *obj;

	xa_lock(&ctx->objs);
	obj = find(ctx, id, type);
	if (obj) {
		refcount_inc(&obj->refs);
		obj->users++;
	}
	xa_unlock(&ctx->objs);
	return obj;
}

void fh_obj_unuse(struct fh_ctx *ctx, struct fh_obj *obj)
{
	xa_lock(&ctx->objs);
	obj->users--;
	xa_unlock(&ctx->objs);
	fh_obj_put(obj);
}

void fh_obj_put(struct fh_obj *obj)
{
	if (refcount_dec_and_test(&obj->refs))
		obj->ops->release(obj);
}

int fh_obj_destroy(struct fh_ctx *ctx, u32 id)
{
	struct fh_obj *obj;
	int rc = -ENOENT;

	xa_lock(&ctx->objs);
	obj = find(ctx, id, FH_OBJ_ANY);
	if (obj) {
		rc = obj->users ? -EBUSY : 0;
		if (!rc)
			__xa_erase(&ctx->objs, id);
	}
	xa_unlock(&ctx->objs);
	if (rc)
		return rc;
	obj->ops->close(obj, false);
	fh_obj_put(obj);
	return 0;
}

/* The file is gone: nobody else looks into the table.  Users go before what they use. */
void fh_obj_destroy_all(struct fh_ctx *ctx)
{
	static const enum fh_obj_type order[] = { FH_OBJ_CHAN, FH_OBJ_DMA, FH_OBJ_MEM };
	struct fh_obj *obj;
	unsigned long id;
	int i;

	for (i = 0; i < ARRAY_SIZE(order); i++) {
		xa_for_each(&ctx->objs, id, obj) {
			if (obj->type != order[i])
				continue;
			xa_erase(&ctx->objs, id);
			obj->ops->close(obj, true);
			fh_obj_put(obj);
		}
	}
	WARN_ON(!xa_empty(&ctx->objs));
	xa_destroy(&ctx->objs);
}
