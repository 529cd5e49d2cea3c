// SPDX-License-Identifier: Apache-2.0
/*
 * freehold doctor: whether requests can come over DPDK: the plug-in and its
 * libraries, vfio with an IOMMU, and which cards no kernel driver has.
 */
#include <dirent.h>
#include <glob.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/net/dgram_plugin.h"
#include "tools/doctor.h"

void check_dpdk(struct finding *f)
{
	static const char *const patterns[] = {"/usr/lib/*/librte_eal.so*", "/usr/local/lib/*/librte_eal.so*"};
	const struct fh_dgram_carrier *c;
	char dpdk[160] = "";
	struct fh_err err;
	glob_t g;

	for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]) && !*dpdk; i++) {
		if (glob(patterns[i], 0, NULL, &g))
			continue;
		snprintf(dpdk, sizeof(dpdk), "%s", g.gl_pathv[0]);
		globfree(&g);
	}
	if (!fh_dgram_plugin(FH_DGRAM_PLUGIN_DPDK, &c, &err)) {
		found(f, FOUND_OK, "freehold-dpdk.so can be loaded; DPDK: %s",
		      *dpdk ? dpdk : "where the linker found it");
		return;
	}
	found(f, FOUND_OK, "%s, no plug-in: not needed for HTTP, channels and UDP over the kernel",
	      *dpdk ? dpdk : "no DPDK");
	if (*dpdk)
		mend(f, "for requests over DPDK: apt install libdpdk-dev, then `make` builds freehold-dpdk.so");
	else
		mend(f, "for requests over DPDK: apt install dpdk libdpdk-dev, then `make` builds freehold-dpdk.so");
}

static int count_entries(const char *path)
{
	struct dirent *e;
	DIR *d = opendir(path);
	int n = 0;

	while (d && (e = readdir(d)))
		n += e->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

void check_vfio(struct finding *f)
{
	int groups = count_entries("/sys/kernel/iommu_groups"), ours = 0;
	bool module = !access("/sys/bus/pci/drivers/vfio-pci", F_OK), dev = !access("/dev/vfio/vfio", F_OK);
	char line[16];

	/* Groups whose devices are bound: /dev/vfio/N. */
	ours = count_entries("/dev/vfio") - (dev ? 1 : 0);
	if (!groups) {
		found(f, FOUND_OK, "no IOMMU: cards cannot be given to DPDK safely");
		mend(f,
		     "only for DPDK: switch it on in the firmware (VT-d, AMD-Vi), and intel_iommu=on on the kernel's "
		     "command line");
		if (read_line("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", line, sizeof(line)) &&
		    *line == 'Y') {
			found(f, FOUND_WARN, "no IOMMU, and vfio does without: a card can then write to any memory");
			mend(f, "switch the IOMMU on; Freehold's packet memory cannot be used without one");
		}
		return;
	}
	found(f, FOUND_OK, "IOMMU with %d groups; vfio-pci %s, %d groups open to programs", groups,
	      module ? "is loaded" : "is not loaded", ours > 0 ? ours : 0);
	if (!module)
		mend(f, "only for DPDK: modprobe vfio-pci");
	else if (ours > 0 && geteuid() && access("/dev/vfio/vfio", R_OK | W_OK))
		mend(f, "this user may not open /dev/vfio: chown or a udev rule for the group's file");
}

/* The driver of a PCI device, into @driver; "" when none. */
static void driver_of(const char *dev, char *driver, size_t cap)
{
	char path[PATH_MAX], to[PATH_MAX];
	ssize_t n;

	*driver = 0;
	snprintf(path, sizeof(path), "%.200s/driver", dev);
	n = readlink(path, to, sizeof(to) - 1);
	if (n <= 0)
		return;
	to[n] = 0;
	snprintf(driver, cap, "%.60s", basename(to));
}

void check_nics(struct finding *f)
{
	char list[640] = "", class[16], driver[64];
	int bound = 0, nr = 0;
	size_t len = 0;
	glob_t g;

	if (!glob("/sys/bus/pci/devices/*", 0, NULL, &g)) {
		for (size_t i = 0; i < g.gl_pathc && len + 1 < sizeof(list); i++) {
			char path[PATH_MAX];

			snprintf(path, sizeof(path), "%s/class", g.gl_pathv[i]);
			if (!read_line(path, class, sizeof(class)) || strncmp(class, "0x0200", 6))
				continue;
			driver_of(g.gl_pathv[i], driver, sizeof(driver));
			bound += !strcmp(driver, "vfio-pci");
			len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%s (%s)", nr++ ? ", " : "",
						basename(g.gl_pathv[i]), *driver ? driver : "no driver");
		}
		globfree(&g);
	}
	if (!nr) {
		found(f, FOUND_OK, "no Ethernet card on PCI: DPDK has net_af_packet, net_tap and the like");
		return;
	}
	found(f, FOUND_OK, "%s; %d for DPDK", list, bound);
	if (!bound)
		mend(f, "only for DPDK: dpdk-devbind.py -b vfio-pci ADDRESS, of a card that nothing else needs");
}
