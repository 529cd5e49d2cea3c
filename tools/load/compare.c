// SPDX-License-Identifier: Apache-2.0
/* Two results side by side; see report.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/load/report.h"

#define MAX_POINTS 256

static json_t *read_json(const char *path, struct fh_err *err)
{
	json_error_t e;
	json_t *j = json_load_file(path, 0, &e);

	if (!j)
		fh_errf(err, -EINVAL, "%s:%d: %s", path, e.line, e.text);
	else if (!json_is_object(j))
		fh_errf(err, -EINVAL, "%s: it is no result of bench serve: no JSON object", path);
	return j;
}

struct points {
	double x[MAX_POINTS], y[MAX_POINTS];
};

static int by_rate(const void *a, const void *b)
{
	double x = json_number_value(json_object_get(*(json_t *const *)a, "request_rate"));
	double y = json_number_value(json_object_get(*(json_t *const *)b, "request_rate"));

	return (x > y) - (x < y);
}

/* The curve of a sweep's or search's points. False: @j has none. */
static bool curve_of(json_t *j, const char *path, struct points *p, struct load_curve *c)
{
	json_t *list = json_object_get(j, "points"), *sorted[MAX_POINTS], *label = json_object_get(j, "label");
	size_t nr = json_array_size(list);

	nr = nr < MAX_POINTS ? nr : MAX_POINTS;
	for (size_t i = 0; i < nr; i++)
		sorted[i] = json_array_get(list, i);
	qsort(sorted, nr, sizeof(*sorted), by_rate);
	for (size_t i = 0; i < nr; i++) {
		p->x[i] = json_number_value(json_object_get(sorted[i], "request_rate"));
		p->y[i] = 100 * json_number_value(json_object_get(sorted[i], "attainment"));
	}
	*c = (struct load_curve){.x = p->x, .y = p->y, .nr = nr, .dots = true};
	snprintf(c->name, sizeof(c->name), "%s", json_is_string(label) ? json_string_value(label) : path);
	return nr > 0;
}

static int plot_both(json_t *const j[2], const char *const path[2], const char *svg, struct fh_err *err)
{
	struct load_axes axes = {.title = "Requests that met their goals",
				 .x = "requests a second",
				 .y = "% of requests",
				 .log_x = true,
				 .y_max = 100,
				 .mark_y = 99,
				 .mark = "99 %"};
	static struct points points[2];
	struct load_curve c[2];
	FILE *f;

	for (int i = 0; i < 2; i++)
		if (!curve_of(j[i], path[i], &points[i], &c[i]))
			return fh_errf(err, -EINVAL, "%s: no curve to plot: it is no result of --sweep or --search",
				       path[i]);
	f = fopen(svg, "we");
	if (!f)
		return fh_errf(err, -errno, "%s: %s", svg, strerror(errno));
	load_plot_svg(&axes, c, 2, f);
	return fclose(f) ? fh_errf(err, -EIO, "%s: cannot be written", svg) : 0;
}

int load_compare(const char *path_a, const char *path_b, const char *svg, FILE *out, struct fh_err *err)
{
	static const char *const rates[] = {"request_throughput", "request_goodput", "output_throughput",
					    "total_token_throughput", "max_rate"};
	static const char *const stats[] = {"mean", "median", "p90", "p99", "p99.9", "max"};
	json_t *a = read_json(path_a, err), *b = a ? read_json(path_b, err) : NULL;
	int n = 0, rc = -EINVAL;

	if (!json_is_object(a) || !json_is_object(b))
		goto out;
	fprintf(out, "%-28s %12s %12s %8s\n", "", "A", "B", "B / A");
	for (size_t i = 0; i < (size_t)LOAD_NR_METRICS * 6 + 5; i++) {
		char key[64];
		double x, y;

		if (i < 5)
			snprintf(key, sizeof(key), "%s", rates[i]);
		else
			snprintf(key, sizeof(key), "%s_%s_ms", stats[(i - 5) % 6], load_metric_key((i - 5) / 6));
		if (!json_is_number(json_object_get(a, key)) || !json_is_number(json_object_get(b, key)))
			continue;
		x = json_number_value(json_object_get(a, key));
		y = json_number_value(json_object_get(b, key));
		fprintf(out, "%-28s %12.3f %12.3f ", key, x, y);
		fprintf(out, x > 0 ? "%8.3f\n" : "\n", y / x);
		n++;
	}
	fprintf(out, "A: %s\nB: %s\n", path_a, path_b);
	rc = n ? 0 : fh_errf(err, -EINVAL, "%s and %s have no figure in common", path_a, path_b);
	if (!rc && svg)
		rc = plot_both((json_t *const[2]){a, b}, (const char *const[2]){path_a, path_b}, svg, err);
out:
	json_decref(a);
	json_decref(b);
	return rc;
}
