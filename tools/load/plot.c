// SPDX-License-Identifier: Apache-2.0
/*
 * Plots: an SVG whose colours follow the reader's theme, and the same in
 * characters.  Both scale the same way; see report.h.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/load/report.h"

#define W 760.0
#define H 440.0
#define LEFT 74.0
#define RIGHT 20.0
#define TOP 44.0
#define BOTTOM 54.0
#define MAX_TICKS 32
#define ROWS 17

/* One axis: value to 0..1, and where its ticks stand. */
struct scale {
	bool log;
	double from, to;
	double tick[MAX_TICKS];
	int nr_ticks;
};

static double place(const struct scale *s, double v)
{
	if (s->log)
		return (log(v > s->from ? v : s->from) - log(s->from)) / (log(s->to) - log(s->from));
	return (v - s->from) / (s->to - s->from);
}

static void add_tick(struct scale *s, double v)
{
	if (s->nr_ticks < MAX_TICKS && v >= s->from * (1 - 1e-9) && v <= s->to * (1 + 1e-9))
		s->tick[s->nr_ticks++] = v;
}

/* Ticks at 1, 2 and 5 of each power of ten; of many powers, the powers alone. */
static void log_scale(struct scale *s)
{
	double decades;

	s->from = s->from > 0 ? s->from : 1e-3;
	s->to = s->to > s->from * 1.01 ? s->to : s->from * 2;
	decades = log10(s->to / s->from);
	for (double p = pow(10, floor(log10(s->from))); p <= s->to && s->nr_ticks < MAX_TICKS; p *= 10) {
		add_tick(s, p);
		if (decades < 4) {
			add_tick(s, 2 * p);
			add_tick(s, 5 * p);
		}
	}
}

static void linear_scale(struct scale *s)
{
	double step, raw;

	s->from = 0;
	s->to = s->to > 0 ? s->to : 1;
	raw = s->to / 6;
	step = pow(10, floor(log10(raw)));
	step *= raw / step > 5 ? 10 : raw / step > 2 ? 5 : raw / step > 1 ? 2 : 1;
	for (double v = 0; v <= s->to * (1 + 1e-9); v += step)
		add_tick(s, v);
}

static void fit(const struct load_axes *a, const struct load_curve *c, size_t nr, struct scale *x, struct scale *y)
{
	*x = (struct scale){.log = a->log_x, .from = INFINITY, .to = 0};
	*y = (struct scale){.log = a->log_y, .from = INFINITY, .to = a->mark_y};
	for (size_t i = 0; i < nr; i++) {
		for (size_t k = 0; k < c[i].nr; k++) {
			if (c[i].x[k] > 0)
				x->from = fmin(x->from, c[i].x[k]);
			if (c[i].y[k] > 0)
				y->from = fmin(y->from, c[i].y[k]);
			x->to = fmax(x->to, c[i].x[k]);
			y->to = fmax(y->to, c[i].y[k]);
		}
	}
	if (a->y_max > 0)
		y->to = a->y_max;
	x->from = isfinite(x->from) ? x->from : 1;
	y->from = isfinite(y->from) ? y->from : 1;
	if (x->log)
		log_scale(x);
	else
		linear_scale(x);
	if (y->log)
		log_scale(y);
	else
		linear_scale(y);
}

static void put_text(FILE *out, const char *s)
{
	for (; *s; s++) {
		switch (*s) {
		case '<': fputs("&lt;", out); break;
		case '>': fputs("&gt;", out); break;
		case '&': fputs("&amp;", out); break;
		default: fputc(*s, out);
		}
	}
}

static void text_at(FILE *out, double x, double y, const char *attr, const char *s)
{
	fprintf(out, "<text x=\"%.1f\" y=\"%.1f\"%s>", x, y, attr);
	put_text(out, s);
	fputs("</text>\n", out);
}

static double at_x(const struct scale *s, double v)
{
	return LEFT + place(s, v) * (W - LEFT - RIGHT);
}

static double at_y(const struct scale *s, double v)
{
	double p = place(s, v);

	return H - BOTTOM - (p > 1.02 ? 1.02 : p) * (H - TOP - BOTTOM);
}

static void svg_frame(const struct load_axes *a, const struct scale *x, const struct scale *y, FILE *out)
{
	char num[32];

	fprintf(out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" font-family=\"system-ui, "
		"sans-serif\" "
		"font-size=\"12\" role=\"img\">\n<title>",
		W, H);
	put_text(out, a->title);
	fputs("</title>\n<style>\n"
	      ".page { fill: #ffffff } text { fill: #1f2328 } .grid { stroke: #d0d7de; stroke-width: 1 }\n"
	      ".mark { stroke: #57606a; stroke-width: 1.2; stroke-dasharray: 5 4 } .curve { fill: none; stroke-width: "
	      "2 }\n"
	      ".c0 { stroke: #0a58ca } .c1 { stroke: #b3400a } .c2 { stroke: #1a7f37 } .c3 { stroke: #8250df }\n"
	      ".f0 { fill: #0a58ca } .f1 { fill: #b3400a } .f2 { fill: #1a7f37 } .f3 { fill: #8250df }\n"
	      "@media (prefers-color-scheme: dark) {\n"
	      ".page { fill: #0d1117 } text { fill: #e6edf3 } .grid { stroke: #30363d } .mark { stroke: #9198a1 }\n"
	      ".c0 { stroke: #6cb6ff } .c1 { stroke: #f69d50 } .c2 { stroke: #57ab5a } .c3 { stroke: #dcbdfb }\n"
	      ".f0 { fill: #6cb6ff } .f1 { fill: #f69d50 } .f2 { fill: #57ab5a } .f3 { fill: #dcbdfb }\n"
	      "}\n</style>\n",
	      out);
	fprintf(out, "<rect class=\"page\" width=\"%.0f\" height=\"%.0f\"/>\n", W, H);
	text_at(out, W / 2, 22, " text-anchor=\"middle\" font-size=\"15\"", a->title);
	text_at(out, (LEFT + W - RIGHT) / 2, H - 12, " text-anchor=\"middle\"", a->x);
	fprintf(out, "<g transform=\"translate(18 %.0f) rotate(-90)\">", (TOP + H - BOTTOM) / 2);
	text_at(out, 0, 0, " text-anchor=\"middle\"", a->y);
	fputs("</g>\n", out);
	for (int i = 0; i < x->nr_ticks; i++) {
		double px = at_x(x, x->tick[i]);

		fprintf(out, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n", px, px, TOP,
			H - BOTTOM);
		snprintf(num, sizeof(num), "%g", x->tick[i]);
		text_at(out, px, H - BOTTOM + 18, " text-anchor=\"middle\"", num);
	}
	for (int i = 0; i < y->nr_ticks; i++) {
		double py = at_y(y, y->tick[i]);

		fprintf(out, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n", LEFT,
			W - RIGHT, py, py);
		snprintf(num, sizeof(num), "%g", y->tick[i]);
		text_at(out, LEFT - 8, py + 4, " text-anchor=\"end\"", num);
	}
}

void load_plot_svg(const struct load_axes *a, const struct load_curve *c, size_t nr, FILE *out)
{
	struct scale x, y;

	fit(a, c, nr, &x, &y);
	svg_frame(a, &x, &y, out);
	if (a->mark_y > 0) {
		fprintf(out, "<line class=\"mark\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n", LEFT,
			W - RIGHT, at_y(&y, a->mark_y), at_y(&y, a->mark_y));
		text_at(out, W - RIGHT - 4, at_y(&y, a->mark_y) - 5, " text-anchor=\"end\"", a->mark ? a->mark : "");
	}
	for (size_t i = 0; i < nr; i++) {
		fprintf(out, "<polyline class=\"curve c%zu\" points=\"", i % 4);
		for (size_t k = 0; k < c[i].nr; k++)
			fprintf(out, "%.1f,%.1f ", at_x(&x, c[i].x[k]), at_y(&y, c[i].y[k]));
		fputs("\"/>\n", out);
		for (size_t k = 0; c[i].dots && k < c[i].nr; k++)
			fprintf(out, "<circle class=\"f%zu\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>\n", i % 4,
				at_x(&x, c[i].x[k]), at_y(&y, c[i].y[k]));
		fprintf(out, "<rect class=\"f%zu\" x=\"%.1f\" y=\"%.1f\" width=\"14\" height=\"4\"/>\n", i % 4,
			LEFT + 12, TOP + 14 + 18 * (double)i);
		text_at(out, LEFT + 32, TOP + 20 + 18 * (double)i, "", c[i].name);
	}
	fputs("</svg>\n", out);
}

/* Where a curve is at column @col of @cols: its y, or NAN where it is not. */
static double curve_at(const struct load_curve *c, const struct scale *x, int col, int cols)
{
	double want = ((double)col + 0.5) / cols;

	for (size_t k = 1; k < c->nr; k++) {
		double p = place(x, c->x[k - 1]), q = place(x, c->x[k]);

		if (want >= p && want <= q)
			return q > p ? c->y[k - 1] + (want - p) / (q - p) * (c->y[k] - c->y[k - 1]) : c->y[k];
	}
	return NAN;
}

void load_plot_text(const struct load_axes *a, const struct load_curve *c, size_t nr, int width, FILE *out)
{
	static const char marks[] = "*o+x#%";
	int cols = (width < 40 ? 40 : width > 160 ? 160 : width) - 12;
	char grid[ROWS][160];
	struct scale x, y;

	fit(a, c, nr, &x, &y);
	memset(grid, ' ', sizeof(grid));
	for (size_t i = 0; i < nr; i++) {
		for (int col = 0; col < cols; col++) {
			double v = curve_at(&c[i], &x, col, cols), p = place(&y, v);
			int row = (int)((1 - p) * (ROWS - 1) + 0.5);

			if (!isnan(v) && row >= 0 && row < ROWS)
				grid[row][col] = marks[i % 6];
		}
	}
	fprintf(out, "\n%s\n", a->title);
	for (int row = 0; row < ROWS; row++) {
		double p = 1 - (double)row / (ROWS - 1);
		double v = y.log ? y.from * pow(y.to / y.from, p) : y.from + p * (y.to - y.from);

		if (row % 4 == 0)
			fprintf(out, "%9.3g |%.*s\n", v, cols, grid[row]);
		else
			fprintf(out, "%9s |%.*s\n", "", cols, grid[row]);
	}
	fprintf(out, "%9s +", "");
	for (int col = 0; col < cols; col++)
		fputc('-', out);
	fprintf(out, "\n%11s%-*.4g%*.4g\n", "", cols / 2, x.log ? x.from : 0.0, cols - cols / 2, x.to);
	fprintf(out, "%11s%s; up: %s;", "", a->x, a->y);
	for (size_t i = 0; i < nr; i++)
		fprintf(out, " %c %s", marks[i % 6], c[i].name);
	fputc('\n', out);
}
