// SPDX-License-Identifier: Apache-2.0
/*
 * Where LeakSanitizer looks in a Criterion program: in the process of each test,
 * and not in the runner that starts them.  The timer of Criterion 2.4's runner
 * forgets what it has allocated for a test that ended in time (48 bytes), which
 * is seen or not as the stack happens to lie.
 *
 * Linked with the unit tests under AddressSanitizer.
 */
#include <stdlib.h>

int __lsan_is_turned_off(void);

/* Criterion's own mark of a test's process. */
int __lsan_is_turned_off(void)
{
	return !getenv("BXFI_MAP");
}
