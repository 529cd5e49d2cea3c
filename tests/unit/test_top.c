// SPDX-License-Identifier: Apache-2.0
/* What a server says is shown by `freehold top`, and steers no terminal. */
#include <criterion/criterion.h>
#include <string.h>

#include "tools/top.h"

static void expect_tame(const char *said, const char *want)
{
	char text[64];

	strcpy(text, said);
	cr_expect_eq(top_tame(text), text);
	cr_expect_str_eq(text, want);
}

Test(top, control_characters_are_shown_as_question_marks)
{
	expect_tame("", "");
	expect_tame("status 401: \"no\"", "status 401: \"no\"");
	expect_tame("\033[2J\a\r\n\177", "?[2J????");
	/* C1: in UTF-8, and as one byte, which a terminal of ISO 8859-1 obeys. */
	expect_tame("a\302\2332Jb\302\237", "a??2Jb??");
	expect_tame("a\2332J", "a?2J");
	/* What is no control character stays, at the borders too. */
	expect_tame("\302\240caf\303\251 \342\202\254 \360\237\230\200",
		    "\302\240caf\303\251 \342\202\254 \360\237\230\200");
	/* Cut in the midst, longer than it need be, a surrogate, beyond Unicode. */
	expect_tame("x\342\202", "x??");
	expect_tame("\300\233[", "??[");
	expect_tame("\340\202\233", "???");
	expect_tame("\355\240\200", "???");
	expect_tame("\364\220\200\200", "????");
	expect_tame("\302", "?");
}

/* The lines themselves, of an object with hostile texts and members of wrong types. */
Test(top, a_hostile_status)
{
	const struct top_style style = {.columns = 80, .eol = "\n"};
	const struct top_history h = {0};
	json_error_t why;
	json_t *j =
		json_loads("{\"model\": \"m\\u001b[2J\\u009b1m\", \"version\": 7, \"health\": [], \"rates\": \"fast\","
			   " \"requests\": {\"running\": {}, \"refused\": 1}, \"kv\": null,"
			   " \"tenants\": [{\"tenant\": \"\\u001b]0;x\\u0007\"}, 5, {}]}",
			   0, &why);
	char *text = NULL;
	size_t n = 0;
	FILE *out = open_memstream(&text, &n);

	cr_assert(j && out);
	top_print(j, &h, &style, out);
	fclose(out);
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)text[i];

		cr_expect(c >= 0x20 || c == '\n', "byte %#x at %zu", c, i);
		cr_expect(!(c == 0xc2 && (unsigned char)text[i + 1] < 0xa0), "C1 at %zu", i);
	}
	cr_expect(strstr(text, "m?[2J?1m"), "%s", text);
	free(text);
	json_decref(j);
}
