// SPDX-License-Identifier: Apache-2.0
/* Carriers that are loaded: addresses as text, and what is said of a plug-in that is not there or is none. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "runtime/net/dgram_plugin.h"

Test(dgram_plugin, addresses)
{
	static const char *const bad[] = {
		"",	  "nonsense", "192.0.2", "192.0.2.1:", "192.0.2.1:x",	 "1.2.3.4:65536", "[::1",      "[::1]x",
		"[::1]:", "[]:1",     "host:1",	 "1.2.3.4:-1", "1.2.3.4:1:2:zz", "[::1]:70000",	  "1.2.3.4: 5"};
	static const uint8_t v4[16] = {[10] = 0xff, 0xff, 192, 0, 2, 1}, v6[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = 1};
	struct fh_dgram_addr a;
	char *n = malloc(200);

	cr_assert(fh_dgram_parse("192.0.2.1:4433", &a) && a.port == 4433 && !memcmp(a.ip, v4, 16) && !a.scope);
	cr_assert(fh_dgram_parse("192.0.2.1", &a) && a.port == 0 && !memcmp(a.ip, v4, 16));
	cr_assert(fh_dgram_parse("[2001:db8::1]:65535", &a) && a.port == 65535 && !memcmp(a.ip, v6, 16));
	cr_assert(fh_dgram_parse("[2001:db8::1]", &a) && a.port == 0 && !memcmp(a.ip, v6, 16));
	cr_assert(fh_dgram_parse("2001:db8::1", &a) && a.port == 0 && !memcmp(a.ip, v6, 16));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_not(fh_dgram_parse(bad[i], &a), "%s", bad[i]);
	memset(n, '1', 199);
	n[199] = 0;
	cr_assert_not(fh_dgram_parse(n, &a));
	free(n);
}

Test(dgram_plugin, what_cannot_be_loaded_is_named)
{
	const struct fh_dgram_carrier *c = NULL;
	struct fh_dgram_open o = {.size = sizeof(o)};
	struct fh_dgram_port *port;
	struct fh_err err = {0};

	cr_assert_eq(fh_dgram_plugin("no-such-plugin.so", &c, &err), -ENOENT);
	cr_assert(strstr(err.msg, "no-such-plugin.so"));
	cr_assert_eq(fh_dgram_plugin("/nowhere/x.so", &c, &err), -ENOENT);
	cr_assert(strstr(err.msg, "/nowhere/x.so"));
	/* A library, but no carrier. */
	cr_assert_eq(fh_dgram_plugin("libm.so.6", &c, &err), -EPROTO);
	cr_assert(strstr(err.msg, "no carrier"));
	cr_assert_null(c);
	setenv("FREEHOLD_PLUGIN_DIR", "/nowhere", 1);
	cr_assert_eq(fh_dgram_dpdk(&o, "--no-huge -m 64", &port, &err), -ENOENT);
	cr_assert(strstr(err.msg, "/nowhere/freehold-dpdk.so"), "%s", err.msg);
}
