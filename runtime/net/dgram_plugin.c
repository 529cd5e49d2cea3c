// SPDX-License-Identifier: Apache-2.0
/* Finds and loads carriers of datagrams.  What it finds is as trusted as the program that it is installed with. */
#include "runtime/net/dgram_plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

/* The folder of the program or library that this code is part of, with its '/'. */
static bool own_folder(char *out, size_t cap)
{
	char path[PATH_MAX], *slash;
	Dl_info info;

	if (!dladdr((void *)own_folder, &info) || !info.dli_fname || !realpath(info.dli_fname, path)) {
		/* A program that was started by a name without a path. */
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
