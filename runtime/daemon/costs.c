// SPDX-License-Identifier: Apache-2.0
/* The file of step costs; costs.h says what it is for. */
#include "runtime/daemon/costs.h"

#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/log.h"

/* The folder, into @out; false: none. */
static bool find_dir(const struct fhd_config *cfg, char out[PATH_MAX])
{
	const char *given = cfg->cache_dir, *systemd = getenv("CACHE_DIRECTORY"), *xdg = getenv("XDG_CACHE_HOME");
	const char *home = getenv("HOME");
	int n = -1;

	if (given && !strcmp(given, "none"))
		return false;
	if (given)
		n = snprintf(out, PATH_MAX, "%s", given);
	else if (systemd && *systemd)
		n = snprintf(out, PATH_MAX, "%.*s", (int)strcspn(systemd, ":"), systemd);
	else if (xdg && *xdg == '/')
		n = snprintf(out, PATH_MAX, "%s/freehold", xdg);
	else if (home && *home == '/')
		n = snprintf(out, PATH_MAX, "%s/.cache/freehold", home);
	return n > 0 && n < PATH_MAX;
}

/* FNV-1a: tells files apart, nothing more. */
static uint64_t hash(uint64_t h, const void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		h = (h ^ ((const unsigned char *)p)[i]) * 0x100000001b3u;
	return h;
}

static uint64_t hash_text(uint64_t h, const char *s)
{
	return hash(h, s ? s : "", s ? strlen(s) + 1 : 1);
}

/* The processor's name, which stands in the first lines. */
static uint64_t hash_host(uint64_t h)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[256];

	for (int i = 0; f && i < 32 && fgets(line, sizeof(line), f); i++)
		if (!strncmp(line, "model name", 10) || !strncmp(line, "CPU part", 8))
			h = hash_text(h, line);
	if (f)
		fclose(f);
	return h;
}

static uint64_t hash_all(const struct fhd_core *c)
{
	const struct fhd_config *cfg = c->cfg;
	uint64_t bytes = fh_gguf_file_bytes(c->model->gguf);
	uint32_t numbers[] = {cfg->threads, (uint32_t)sysconf(_SC_NPROCESSORS_ONLN), fhd_config_spec_tokens(cfg)};
	uint64_t h = hash(0xcbf29ce484222325u, &bytes, sizeof(bytes));

	h = hash(h, numbers, sizeof(numbers));
	h = hash_text(h, c->model->name);
	h = hash_text(h, cfg->isa);
	if (cfg->device && !strncmp(cfg->device, "cuda", 4))
		h = hash_text(h, cfg->device);
	h = hash_text(h, cfg->kv_type_name);
	h = hash_text(h, cfg->draft_model);
	return hash_host(h);
}

/* "costs-NAME-HASH": the name for the reader, the hash for the rest. */
static void file_name(const struct fhd_core *c, char out[80])
{
	char name[41];
	size_t n = 0;

	for (const char *p = c->model->name; p && *p && n < sizeof(name) - 1; p++)
		name[n++] = isalnum((unsigned char)*p) || *p == '-' || *p == '.' ? *p : '_';
	name[n] = 0;
	snprintf(out, 80, "costs-%s-%016llx", name, (unsigned long long)hash_all(c));
}

void fhd_costs_open(struct fhd_core *c)
{
	char dir[PATH_MAX], path[PATH_MAX + 96], name[80];
	ssize_t n;

	c->costs_fd = -1;
	if (!find_dir(c->cfg, dir))
		return;
	file_name(c, name);
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (mkdir(dir, 0700) && errno != EEXIST)
		fh_debug("%s: %s; what steps cost is not kept", dir, strerror(errno));
	c->costs_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (c->costs_fd < 0) {
		fh_debug("%s: %s; what steps cost is not kept", path, strerror(errno));
		return;
	}
	n = pread(c->costs_fd, c->costs, sizeof(c->costs) - 1, 0);
	c->costs[n > 0 ? n : 0] = 0;
}

void fhd_costs_save(struct fhd_core *c)
{
	char text[FHD_COSTS_BYTES];
	size_t n;

	if (c->costs_fd < 0 || !c->engine)
		return;
	n = fh_engine_costs(c->engine, text, sizeof(text));
	/* An end in between leaves a file that is not sane, and is not believed. */
	if (n && n < sizeof(text) && (ftruncate(c->costs_fd, 0) || pwrite(c->costs_fd, text, n, 0) != (ssize_t)n))
		fh_warn("what steps cost could not be kept: %s", strerror(errno));
}

void fhd_costs_close(struct fhd_core *c)
{
	if (c->costs_fd >= 0)
		close(c->costs_fd);
	c->costs_fd = -1;
}
