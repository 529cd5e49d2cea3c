// SPDX-License-Identifier: Apache-2.0
/* Names of tiles: groups of three digits, all but the last with an x before them (C2SP tlog-tiles, "Merkle tree"). */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "runtime/trust/merkle.h"

void fh_tile_path(int level, uint64_t index, uint32_t width, char out[FH_TILE_PATH_MAX])
{
	char groups[7][8];
	size_t n, nr = 0;

	assert(level < 64 && width && width <= FH_TILE_WIDTH);
	do {
		snprintf(groups[nr], sizeof(groups[nr]), "%s%03u", nr ? "x" : "", (unsigned int)(index % 1000));
		nr++;
	} while (index /= 1000);
	if (level < 0)
		n = (size_t)snprintf(out, FH_TILE_PATH_MAX, "tile/entries");
	else
		n = (size_t)snprintf(out, FH_TILE_PATH_MAX, "tile/%d", level);
	while (nr--)
		n += (size_t)snprintf(out + n, FH_TILE_PATH_MAX - n, "/%s", groups[nr]);
	if (width < FH_TILE_WIDTH)
		snprintf(out + n, FH_TILE_PATH_MAX - n, ".p/%u", width);
}

/* Read as loosely as is safe, and then see whether it would be written just so. */
bool fh_tile_parse(const char *path, int *level, uint64_t *index, uint32_t *width)
{
	char again[FH_TILE_PATH_MAX];
	unsigned int l = 0, w = FH_TILE_WIDTH;
	const char *p;
	int n = 0;

	if (strlen(path) >= sizeof(again))
		return false;
	if (!strncmp(path, "tile/entries/", 13)) {
		*level = -1;
		p = path + 12;
	} else {
		if (sscanf(path, "tile/%2u%n", &l, &n) != 1 || l >= 64)
			return false;
		*level = (int)l;
		p = path + n;
	}
	*index = 0;
	for (int groups = 0; *p == '/'; groups++) {
		p += 1 + (p[1] == 'x');
		if (groups == 6)
			return false;
		for (int i = 0; i < 3; i++, p++) {
			if (*p < '0' || *p > '9')
				return false;
			*index = *index * 10 + (uint64_t)(*p - '0');
		}
	}
	if (*p && (sscanf(p, ".p/%3u", &w) != 1 || !w || w >= FH_TILE_WIDTH))
		return false;
	*width = w;
	fh_tile_path(*level, *index, w, again);
	return !strcmp(path, again);
}
