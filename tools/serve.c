// SPDX-License-Identifier: Apache-2.0
/* freehold serve: a model over HTTP. */
#include <stdio.h>

#include "runtime/base/log.h"
#include "runtime/daemon/config.h"
#include "runtime/daemon/daemon.h"
#include "tools/cmd.h"

static void usage(void)
{
	fputs("usage: freehold serve [-m MODEL] [--http ADDR:PORT|unix:PATH]... [OPTION...]\n"
	      "\n"
	      "Serve a model over HTTP with OpenAI's API.  Once requests are answered, a line\n"
	      "`freehold: ready on http://ADDR:PORT ...` goes to standard error.  SIGTERM lets\n"
	      "what runs end; SIGHUP reads the key file again.\n",
	      stdout);
	fhd_config_help(stdout, FHD_USE_SERVE, NULL);
	fputs("\n"
	      "A file that --config names holds the same settings, `name = value`, one a line;\n"
	      "a flag overrides it.\n"
	      "\n"
	      "examples:\n"
	      "  freehold serve\n"
	      "  freehold serve -m model.gguf --http 0.0.0.0:8080 --api-key-file keys\n"
	      "  freehold serve --config /etc/freehold/freehold.conf\n"
	      "  curl http://127.0.0.1:8080/v1/completions -d '{\"prompt\": \"Once\", \"max_tokens\": 16}'\n",
	      stdout);
}

int cmd_serve(int argc, char **argv)
{
	struct fhd_config cfg;
	struct fh_err err = {0};
	int rc;

	rc = fhd_config_load(&cfg, FHD_USE_SERVE, argc, argv, NULL, &err);
	if (rc) {
		fprintf(stderr, "freehold serve: %s\n`freehold serve --help` explains the options\n", err.msg);
		return rc == -EINVAL ? 2 : 1;
	}
	if (cfg.help) {
		usage();
		return 0;
	}
	fhd_log_setup(&cfg);
	rc = fhd_daemon_run(&cfg, &err);
	if (rc)
		fh_error("%s", err.msg);
	fhd_config_free(&cfg);
	return rc ? 1 : 0;
}
