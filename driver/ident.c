// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who is who: a process's identity, taken by the kernel when the process
 * creates or accepts a channel, and shown in its reader's namespaces.
 *
 * A struct pid is kept, not a number: numbers are used again.  Credentials are
 * those of that moment; a later setuid() does not change what was stamped.
 */
#include <linux/cgroup.h>
#include <linux/cred.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/sched.h>
#include <linux/uidgid.h>

#include "driver/fh.h"

void fh_ident_take(struct fh_ident *ident)
{
	ident->cred = get_current_cred();
	ident->pid = get_pid(task_tgid(current));
	ident->start_boottime_ns = current->group_leader->start_boottime;
	ident->cgroup_id = 0;
	ident->flags = 0;
#ifdef CONFIG_CGROUPS
	rcu_read_lock();
	ident->cgroup_id = cgroup_id(task_dfl_cgroup(current));
	rcu_read_unlock();
#else
	ident->flags |= FH_PEER_NO_CGROUP;
#endif
}

void fh_ident_drop(struct fh_ident *ident)
{
	if (!ident->cred)
		return;
	put_pid(ident->pid);
	put_cred(ident->cred);
	ident->cred = NULL;
}

/**
 * fh_ident_show() - an identity as another process may read it
 * @ident: who
 * @reader: for whom: ids are translated into its namespaces
 * @chan_gen: of their channel
 * @peer: filled in
 */
void fh_ident_show(const struct fh_ident *ident, const struct fh_ident *reader, u64 chan_gen, struct fh_peer *peer)
{
	struct user_namespace *user_ns = reader->cred->user_ns;

	peer->flags = FH_PEER_VALID | ident->flags;
	peer->uid = from_kuid_munged(user_ns, ident->cred->euid);
	peer->gid = from_kgid_munged(user_ns, ident->cred->egid);
	if (!kuid_has_mapping(user_ns, ident->cred->euid) || !kgid_has_mapping(user_ns, ident->cred->egid))
		peer->flags |= FH_PEER_UID_HIDDEN;
	peer->pid = pid_nr_ns(ident->pid, ns_of_pid(reader->pid));
	if (!peer->pid)
		peer->flags |= FH_PEER_PID_HIDDEN;
	peer->start_boottime_ns = ident->start_boottime_ns;
	peer->cgroup_id = ident->cgroup_id;
	peer->chan_gen = chan_gen;
}
