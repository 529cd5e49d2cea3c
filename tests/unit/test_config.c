// SPDX-License-Identifier: Apache-2.0
/* Settings: flags over file over default; what is wrong is named, with where it stands. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/daemon/config.h"

static char path[] = "/tmp/freehold-config-XXXXXX";

static void write_file(const char *text)
{
	int fd;

	strcpy(path + strlen(path) - 6, "XXXXXX");
	fd = mkstemp(path);
	cr_assert(fd >= 0);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static void remove_file(void)
{
	unlink(path);
}

static int load(struct fhd_config *c, enum fhd_config_use use, struct fh_err *err, const char *const *args)
{
	char *argv[16] = {(char *)(uintptr_t) "serve"};
	int argc = 1;

	for (; *args; args++)
		argv[argc++] = (char *)(uintptr_t)*args;
	return fhd_config_load(c, use, argc, argv, NULL, err);
}

#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void refused(const char *part, const char *const *args)
{
	struct fhd_config c;
	struct fh_err err = {0};
	int rc = load(&c, FHD_USE_SERVE, &err, args);

	cr_expect_eq(rc, -EINVAL, "%s: %d", args[0], rc);
	cr_expect(strstr(err.msg, part), "want '%s' in: %s", part, err.msg);
	if (!rc)
		fhd_config_free(&c);
}

Test(config, defaults)
{
	struct fhd_config c;
	struct fh_err err;

	cr_assert_eq(load(&c, FHD_USE_SERVE, &err, ARGS("-m", "x.gguf")), 0, "%s", err.msg);
	cr_expect_str_eq(c.model, "x.gguf");
	cr_expect_eq(c.http.n, 1);
	cr_expect_str_eq(c.http.v[0], "127.0.0.1:8080");
	cr_expect(c.prefix_cache && c.sandbox && c.pin_memory && !c.log_json && !c.epoll);
	cr_expect_eq(c.max_queue, 1024);
	cr_expect_eq(fhd_config_kv_type(&c), FH_KV_F16);
	fhd_config_free(&c);
	cr_assert_eq(load(&c, FHD_USE_SERVE, &err, ARGS("-m", "x.gguf", "--kv-type", "bf16")), 0, "%s", err.msg);
	cr_expect_eq(fhd_config_kv_type(&c), FH_KV_BF16);
	fhd_config_free(&c);
}

Test(config, channels)
{
	struct fhd_config c;
	struct fh_err err;

	cr_assert_eq(load(&c, FHD_USE_SERVE, &err, ARGS("-m", "x", "--channel", "auto", "--channel", "unix:/run/c")), 0,
		     "%s", err.msg);
	cr_expect(c.channel.n == 2 && !c.register_memory);
	fhd_config_free(&c);
	cr_assert_eq(load(&c, FHD_USE_SERVE, &err, ARGS("-m", "x", "--channel=off", "--register-memory")), 0);
	cr_expect(c.register_memory);
	fhd_config_free(&c);
	refused("one of auto, dev, unix:PATH and off", ARGS("-m", "x", "--channel", "tcp"));
	refused("one of auto, dev, unix:PATH and off", ARGS("-m", "x", "--channel", "unix:"));
	refused("stands alone", ARGS("-m", "x", "--channel", "dev", "--channel", "off"));
}

Test(config, flags)
{
	struct fhd_config c;
	struct fh_err err;

	cr_assert_eq(
		load(&c, FHD_USE_SERVE, &err,
		     ARGS("--model=a", "--http", "[::1]:0", "--http", "unix:/x", "-t3", "--kv-bytes", "2G", "--kv-type",
			  "q8_0", "--no-prefix-cache", "--no-sandbox", "--max-seqs", "700", "--drain=0")),
		0, "%s", err.msg);
	cr_expect_eq(c.http.n, 2);
	cr_expect_str_eq(c.http.v[1], "unix:/x");
	cr_expect_eq(c.threads, 3);
	cr_expect_eq(c.kv_bytes, 2ull << 30);
	cr_expect_eq(fhd_config_kv_type(&c), FH_KV_Q8_0);
	cr_expect(!c.prefix_cache && !c.sandbox);
	cr_expect_eq(c.drain_s, 0);
	cr_expect(c.step_tokens >= 700, "every running sequence fits into a step");
	fhd_config_free(&c);
}

Test(config, the_file_and_then_the_flags, .fini = remove_file)
{
	struct fhd_config c;
	struct fh_err err;

	write_file("# comment\n[model]\nmodel = file.gguf   # another\n ctx=1024\n\n[http]\nhttp = 127.0.0.1:1\nhttp = "
		   "unix:/a\n"
		   "no-prefix-cache = yes\nlog-json = off ; third\nkv-bytes = 1M\nmodel-name = a # b\napi-key-file = "
		   "/x#y\n");
	cr_assert_eq(load(&c, FHD_USE_SERVE, &err, ARGS("--config", path)), 0, "%s", err.msg);
	cr_expect_str_eq(c.model, "file.gguf");
	cr_expect_eq(c.ctx, 1024);
	cr_expect_eq(c.http.n, 2);
	cr_expect(!c.prefix_cache && !c.log_json);
	cr_expect_str_eq(c.model_name, "a");
	cr_expect_str_eq(c.api_key_file, "/x#y", "a '#' inside a word is no comment");
	fhd_config_free(&c);

	/* A flag wins wherever it stands, and replaces a list. */
	cr_assert_eq(load(&c, FHD_USE_SERVE, &err, ARGS("--http", "0.0.0.0:2", "-c", "64", "--config", path)), 0, "%s",
		     err.msg);
	cr_expect_eq(c.http.n, 1);
	cr_expect_str_eq(c.http.v[0], "0.0.0.0:2");
	cr_expect_eq(c.ctx, 64);
	cr_expect_eq(c.kv_bytes, 1u << 20);
	fhd_config_free(&c);

	/* `run` reads the same file and keeps to one sequence. */
	cr_assert_eq(load(&c, FHD_USE_RUN, &err, ARGS("--config", path)), 0, "%s", err.msg);
	cr_expect_eq(c.max_seqs, 1);
	fhd_config_free(&c);
}

Test(config, wrong_flags_are_named)
{
	refused("there is no option '--nonsense'", ARGS("--nonsense"));
	refused("there is no option '-Z'", ARGS("-Z"));
	refused("'word' is no option", ARGS("word"));
	refused("--threads minus: a whole number from 0 to 1024 is wanted", ARGS("--threads", "minus"));
	refused("--threads -1", ARGS("--threads", "-1"));
	refused("--threads 1025", ARGS("-t", "1025"));
	refused("--threads 1.5", ARGS("-t", "1.5"));
	refused("--max-queue 0", ARGS("--max-queue", "0"));
	refused("--kv-bytes 4X: a number of bytes", ARGS("--kv-bytes", "4X"));
	refused("--kv-bytes 99999999999999T", ARGS("--kv-bytes", "99999999999999T"));
	refused("--kv-type f64: one of f16|bf16|q8_0|f32 is wanted", ARGS("--kv-type", "f64"));
	refused("--kv-type f1: one of", ARGS("--kv-type", "f1"));
	refused("--kv-type : one of", ARGS("--kv-type", ""));
	refused("--model wants a value: FILE", ARGS("-m"));
	refused("--no-sandbox takes no value", ARGS("--no-sandbox=1"));
	refused("too many", ARGS("--http=1", "--http=2", "--http=3", "--http=4", "--http=5", "--http=6", "--http=7",
				 "--http=8", "--http=9"));
}

static void file_refused(const char *text, const char *part)
{
	write_file(text);
	refused(part, ARGS("--config", path));
	remove_file();
}

Test(config, wrong_lines_are_named)
{
	file_refused("\n\nnonsense = 1\n", ":3: there is no setting 'nonsense'");
	file_refused("threads\n", ":1: 'threads': expected NAME = VALUE");
	file_refused("# x\nthreads = many\n", ":2: threads = many: a whole number");
	file_refused("log-json = perhaps\n", ":1: log-json = perhaps: yes or no is wanted");
	file_refused("[open\n", ":1: '[open': a section ends with ']'");
	file_refused("config = other\n", ":1: there is no setting 'config'");
	file_refused("model =\nthreads = 4 5\n", ":2: threads = 4 5");
}

Test(config, a_missing_file_is_named)
{
	struct fhd_config c;
	struct fh_err err;

	cr_expect_eq(load(&c, FHD_USE_SERVE, &err, ARGS("--config", "/nonexistent/x.conf")), -ENOENT);
	cr_expect(strstr(err.msg, "/nonexistent/x.conf"), "%s", err.msg);
}

/* The example that is installed must load, and every setting in it must exist when it is uncommented. */
Test(config, the_example_is_right, .fini = remove_file)
{
	static const char example[] = "tools/packaging/freehold.conf";
	struct fhd_config c;
	struct fh_err err = {0};
	char *text = calloc(1, 65536), *out = calloc(1, 65536), *line, *save;
	FILE *f = fopen(example, "r");
	int nr = 0;

	cr_assert(f, "run it from the repository's root");
	cr_assert(fread(text, 1, 65535, f) > 100);
	fclose(f);
	cr_expect_eq(load(&c, FHD_USE_SERVE, &err, ARGS("-m", "x", "--config", example)), 0, "%s", err.msg);
	fhd_config_free(&c);
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (line[0] == '#' && line[1] >= 'a' && line[1] <= 'z' && strstr(line, " = ")) {
			strcat(strcat(out, line + 1), "\n");
			nr++;
		}
	}
	cr_expect(nr > 20);
	write_file(out);
	cr_expect_eq(load(&c, FHD_USE_SERVE, &err, ARGS("--config", path)), 0, "%s", err.msg);
	fhd_config_free(&c);
	free(out);
	free(text);
}

Test(config, help_is_not_an_error)
{
	struct fhd_config c;
	struct fh_err err;

	cr_assert_eq(load(&c, FHD_USE_SERVE, &err, ARGS("--nonsense", "--help")), 0);
	cr_expect(c.help);
	fhd_config_free(&c);
}
