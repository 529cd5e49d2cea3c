/* SPDX-License-Identifier: Apache-2.0 */
/* Carriers of datagrams that are shared objects of their own: freehold-dpdk.so. */
#ifndef FH_NET_DGRAM_PLUGIN_H
#define FH_NET_DGRAM_PLUGIN_H

#include "runtime/net/dgram.h"

#define FH_DGRAM_PLUGIN_DPDK "freehold-dpdk.so"

/**
 * fh_dgram_plugin() - load a carrier
 * @name: of the shared object; with a '/' in it, its path
 * @out: the carrier; it stays loaded for as long as the process lives
 * @err: says where it was looked for, or which library it lacks
 *
 * A name is looked for in $FREEHOLD_PLUGIN_DIR (not in programs with more rights
 * than their user), beside the program or library that asks, in freehold/ and
 * ../lib/freehold/ from there, and where the linker looks.
 *
 * Return: 0; -ENOENT: it is not there, or a library that it needs is not;
 * -EPROTO: of another version.
 */
int fh_dgram_plugin(const char *name, const struct fh_dgram_carrier **out, struct fh_err *err);

/**
 * fh_dgram_dpdk() - open a queue of a DPDK device
 * @o: without args and nr_args
 * @words: DPDK's options, then "--" and the plug-in's, separated by spaces; NULL: none
 * @out: to be closed by its ops
 * @err: says what is wrong and what to do
 *
 * Return: 0 or -errno.
 */
int fh_dgram_dpdk(const struct fh_dgram_open *o, const char *words, struct fh_dgram_port **out, struct fh_err *err);

/* "192.0.2.1:4433", "[2001:db8::1]:4433", or without a port, which is 0 then. Numbers only. False: it is none. */
bool fh_dgram_parse(const char *text, struct fh_dgram_addr *out);

#endif /* FH_NET_DGRAM_PLUGIN_H */
