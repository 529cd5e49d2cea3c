// SPDX-License-Identifier: Apache-2.0
/*
 * The compiled kernels: fat binaries that `make cuda` made, one a source file,
 * taken into this object as they are.  Where there was no nvcc the list is
 * empty, and the program says so when somebody asks for a GPU.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/accel/cuda.h"

/* X(label, file): the Makefile writes this list. */
#ifdef FH_CUDA_IMAGES
#define EMBED(label, file)                                                                                             \
	__asm__(".section .rodata\n"                                                                                   \
		".balign 64\n"                                                                                         \
		"fh_cuda_" #label ":\n"                                                                                \
		".incbin \"" file "\"\n"                                                                               \
		"fh_cuda_" #label "_end:\n"                                                                            \
		".previous\n");                                                                                        \
	extern const char fh_cuda_##label[], fh_cuda_##label##_end[];
#include FH_CUDA_IMAGES
#undef EMBED

static const struct {
	const char *begin, *end;
} images[] = {
#define EMBED(label, file) {fh_cuda_##label, fh_cuda_##label##_end},
#include FH_CUDA_IMAGES
#undef EMBED
};

uint32_t fh_cuda_nr_images(void)
{
	return sizeof(images) / sizeof(images[0]);
}

struct cuda_image cuda_image(uint32_t i)
{
	return (struct cuda_image){images[i].begin, (size_t)(images[i].end - images[i].begin)};
}
#else
uint32_t fh_cuda_nr_images(void)
{
	return 0;
}

struct cuda_image cuda_image(uint32_t i)
{
	(void)i;
	return (struct cuda_image){0};
}
#endif

int cuda_image_file(void **out, struct fh_err *err)
{
	const char *path = getenv("FREEHOLD_CUDA_IMAGE");
	struct stat st;
	FILE *f;
	int rc = 0;

	*out = NULL;
	if (!path || !*path)
		return 0;
	f = fopen(path, "re");
	if (!f || fstat(fileno(f), &st))
		rc = fh_errf(err, -errno, "FREEHOLD_CUDA_IMAGE=%s: %s", path, strerror(errno));
	else if (st.st_size < 16)
		rc = fh_errf(err, -EINVAL, "FREEHOLD_CUDA_IMAGE=%s: this is no fat binary", path);
	if (!rc) {
		*out = calloc(1, (size_t)st.st_size + 1); /* PTX wants its end */
		if (!*out || fread(*out, 1, (size_t)st.st_size, f) != (size_t)st.st_size)
			rc = fh_errf(err, *out ? -EIO : -ENOMEM, "FREEHOLD_CUDA_IMAGE=%s: cannot be read", path);
	}
	if (f)
		fclose(f);
	if (rc) {
		free(*out);
		*out = NULL;
	}
	return rc;
}
