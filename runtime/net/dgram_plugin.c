// SPDX-License-Identifier: Apache-2.0
/* Finds and loads carriers of datagrams.  What it finds is as trusted as the program that it is installed with. */
#include "runtime/net/dgram_plugin.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <stdlib.h>
#include <unistd.h>

/*
 * The folder of the program or library that this code is part of, with its '/'.
 * A program's own name is whatever its caller called it: the kernel knows better.
 */
static bool own_folder(char *out, size_t cap)
{
	char path[PATH_MAX], *slash;
	struct link_map *map = NULL;
	Dl_info info;

	if (!dladdr1((void *)own_folder, &info, (void **)&map, RTLD_DL_LINKMAP) || !map)
		return false;
	if (map->l_name[0]) {
		if (!realpath(map->l_name, path))
			return false;
	} else {
		ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

		if (n <= 0)
			return false;
		path[n] = 0;
	}
	slash = strrchr(path, '/');
	if (!slash || (size_t)(slash - path) + 2 > cap)
		return false;
	slash[1] = 0;
	strcpy(out, path);
	return true;
}

/* The first that exists; the linker's own search is the last. */
static void *search(const char *name, char *at, size_t cap)
{
	static const char *const below[] = {"", "freehold/", "../lib/freehold/"};
	const char *dir = secure_getenv("FREEHOLD_PLUGIN_DIR");
	char own[PATH_MAX];

	if (dir) {
		snprintf(at, cap, "%s/%s", dir, name);
		return dlopen(at, RTLD_NOW | RTLD_LOCAL);
	}
	for (size_t i = 0; own_folder(own, sizeof(own)) && i < sizeof(below) / sizeof(below[0]); i++) {
		snprintf(at, cap, "%s%s%s", own, below[i], name);
		if (!access(at, F_OK))
			return dlopen(at, RTLD_NOW | RTLD_LOCAL);
	}
	snprintf(at, cap, "%s", name);
	return dlopen(at, RTLD_NOW | RTLD_LOCAL);
}

int fh_dgram_plugin(const char *name, const struct fh_dgram_carrier **out, struct fh_err *err)
{
	const struct fh_dgram_carrier *c;
	char at[PATH_MAX + 64];
	void *lib;

	if (strchr(name, '/')) {
		snprintf(at, sizeof(at), "%s", name);
		lib = dlopen(at, RTLD_NOW | RTLD_LOCAL);
	} else {
		lib = search(name, at, sizeof(at));
	}
	if (!lib) {
		const char *why = dlerror();

		return fh_errf(err, -ENOENT, "%s cannot be loaded: %s; it is built where DPDK is (Debian: libdpdk-dev)",
			       name, why ? why : "no reason was given");
	}
	c = dlsym(lib, FH_DGRAM_SYMBOL);
	if (c && c->abi == FH_DGRAM_ABI) {
		*out = c;
		return 0;
	}
	dlclose(lib);
	return fh_errf(err, -EPROTO, "%s is %s: install it together with this program", at,
		       c ? "of another version" : "no carrier of datagrams");
}

int fh_dgram_dpdk(const struct fh_dgram_open *o, const char *words, struct fh_dgram_port **out, struct fh_err *err)
{
	enum { MAX_WORDS = 64 };
	const struct fh_dgram_carrier *c;
	const char *args[MAX_WORDS];
	struct fh_dgram_open open = *o;
	char *copy = strdup(words ? words : ""), *save, *w;
	int rc = copy ? fh_dgram_plugin(FH_DGRAM_PLUGIN_DPDK, &c, err) : fh_errf(err, -ENOMEM, "out of memory");

	open.args = args;
	open.nr_args = 0;
	for (w = rc ? NULL : strtok_r(copy, " \t", &save); w; w = strtok_r(NULL, " \t", &save)) {
		if (open.nr_args == MAX_WORDS) {
			rc = fh_errf(err, -E2BIG, "DPDK: more than %d words of options", MAX_WORDS);
			break;
		}
		args[open.nr_args++] = w;
	}
	if (!rc)
		rc = c->open(&open, out, err);
	free(copy);
	return rc;
}

bool fh_dgram_parse(const char *text, struct fh_dgram_addr *out)
{
	char copy[96], *port = NULL, *host = copy, *end;
	unsigned long n = 0;

	*out = (struct fh_dgram_addr){.ip = {[10] = 0xff, [11] = 0xff}};
	if (strlen(text) >= sizeof(copy))
		return false;
	strcpy(copy, text);
	if (*copy == '[') {
		host++;
		end = strchr(copy, ']');
		if (!end || (end[1] && end[1] != ':'))
			return false;
		*end = 0;
		port = end[1] ? end + 2 : NULL;
	} else if (strchr(copy, ':') && strchr(copy, ':') == strrchr(copy, ':')) {
		port = strchr(copy, ':');
		*port++ = 0;
	}
	if (port) {
		n = strtoul(port, &end, 10);
		if (*port < '0' || *port > '9' || *end || n > 65535)
			return false;
	}
	out->port = (uint16_t)n;
	return inet_pton(AF_INET, host, out->ip + 12) == 1 || inet_pton(AF_INET6, host, out->ip) == 1;
}
