// SPDX-License-Identifier: Apache-2.0
/* libfreehold's header in C++: every call compiles and links, and a handle that cannot be opened says why. */
#include <cstdio>
#include <cstring>
#include <freehold.h>
#include <string>

namespace
{
struct request {
	fh_params params;
	fh_decoder decoder{};
	std::string text;
	request()
	{
		fh_params_init(&params);
		params.req_class = FH_CLASS_INTERACTIVE;
		params.max_tokens = 4;
	}
};

bool run(fh_client *c, request &r)
{
	const uint32_t ids[] = {1, 2, 3};
	const char *text;
	size_t bytes;
	uint64_t id;
	fh_token t;

	if (fh_generate(c, ids, 3, &r.params, &id) && fh_generate_text(c, "a", 1, &r.params, &id))
		return false;
	while (!fh_next_token(c, &t, 1000000) || !fh_try_next(c, &t)) {
		if (!fh_decode(c, &r.decoder, &t, &text, &bytes))
			r.text.append(text, bytes);
		if (t.flags & FH_SLOT_LAST)
			return true;
	}
	return !fh_cancel(c, id) && fh_fd(c) >= 0 && !fh_token_text(c, 1, &text, &bytes);
}
} // namespace

int main()
{
	fh_client_info info{};
	fh_open_options o;
	fh_client *c;
	request r;

	fh_open_options_init(&o);
	if (!fh_open("unix:/nowhere/socket", &o, &c))
		return run(c, r) ? 0 : 1;
	info.size = sizeof(info);
	if (fh_get_info(c, &info) || info.flags || !std::strlen(fh_error_message(c)))
		return 1;
	std::printf("%s: %s\n", fh_library_version(), fh_error_message(c));
	fh_close(c);
	return 0;
}
