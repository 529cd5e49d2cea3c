// SPDX-License-Identifier: Apache-2.0
/* Search for a rate, and unloaded times; see search.h. */
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "tools/load/search.h"

void load_search_begin(struct load_search *s, double start, double precision, uint32_t max_probes)
{
	*s = (struct load_search){.precision = precision,
				  .next = start,
				  .left = max_probes < LOAD_MAX_PROBES ? max_probes : LOAD_MAX_PROBES};
}

/* Where s->next is among those tried; it is added. */
static uint32_t place(struct load_search *s)
{
	uint32_t i = 0;

	while (i < s->nr_tried && s->tried[i].rate != s->next)
		i++;
	if (i == s->nr_tried)
		s->tried[s->nr_tried++].rate = s->next;
	return i;
}

uint32_t load_search_repeats(const struct load_search *s)
{
	for (uint32_t i = 0; i < s->nr_tried; i++)
		if (s->tried[i].rate == s->next)
			return s->tried[i].nr_held + s->tried[i].nr_missed;
	return 0;
}

/* good and bad from all that was tried. A rate above one that was not kept is not kept either. */
static void bracket(struct load_search *s)
{
	s->good = s->bad = 0;
	for (uint32_t i = 0; i < s->nr_tried; i++)
		if (s->tried[i].nr_missed > s->tried[i].nr_held && (s->bad == 0 || s->tried[i].rate < s->bad))
			s->bad = s->tried[i].rate;
	for (uint32_t i = 0; i < s->nr_tried; i++)
		if (s->tried[i].nr_held > s->tried[i].nr_missed && s->tried[i].rate > s->good &&
		    (s->bad == 0 || s->tried[i].rate < s->bad))
			s->good = s->tried[i].rate;
}

/* The gap is closed: is there one of its ends that rests on one probe? */
static bool doubtful(struct load_search *s)
{
	for (uint32_t i = 0; i < s->nr_tried; i++) {
		double rate = s->tried[i].rate;

		if ((rate == s->good || rate == s->bad) && s->tried[i].nr_held + s->tried[i].nr_missed < 2) {
			s->next = rate;
			return true;
		}
	}
	s->sure = true;
	return false;
}

bool load_search_step(struct load_search *s, bool held)
{
	uint32_t i = place(s);

	if (held)
		s->tried[i].nr_held++;
	else
		s->tried[i].nr_missed++;
	bracket(s);
	if (s->left && --s->left == 0)
		return false;
	if (s->tried[i].nr_held == s->tried[i].nr_missed)
		return true; /* the same once more: it decides */
	if (!s->bad)
		s->next = 2 * s->good;
	else if (!s->good)
		s->next = s->bad / 2;
	else if (s->bad <= s->good * (1 + s->precision))
		return doubtful(s);
	else
		s->next = sqrt(s->good * s->bad);
	return true;
}

uint32_t load_calibration_lengths(uint32_t min, uint32_t max, uint32_t want, uint32_t *out)
{
	uint32_t nr = 0;

	for (uint32_t i = 0; i < want; i++) {
		double share = want > 1 ? (double)i / (want - 1) : 0;
		uint32_t n = (uint32_t)(min * pow((double)max / min, share) + 0.5);

		n = n > max ? max : n;
		if (!nr || n > out[nr - 1])
			out[nr++] = n;
	}
	return nr;
}

struct load_deadline load_calibration_deadline(const struct load_calibration *c, uint32_t nr_prompt, double factor)
{
	struct load_deadline d = {0};
	uint32_t i = 0;
	double w, x;

	if (!c->nr)
		return d;
	while (i + 1 < c->nr && c->at[i + 1].nr_prompt < nr_prompt)
		i++;
	d = (struct load_deadline){.ttft_ms = c->at[i].ttft_ms, .tpot_ms = c->at[i].tpot_ms};
	if (i + 1 < c->nr && nr_prompt > c->at[i].nr_prompt) {
		x = (double)c->at[i + 1].nr_prompt - c->at[i].nr_prompt;
		w = (nr_prompt - c->at[i].nr_prompt) / x;
		d.ttft_ms += w * (c->at[i + 1].ttft_ms - d.ttft_ms);
		d.tpot_ms += w * (c->at[i + 1].tpot_ms - d.tpot_ms);
	} else if (nr_prompt > c->at[i].nr_prompt) {
		/* Beyond the longest that was measured: in proportion. */
		d.ttft_ms *= (double)nr_prompt / c->at[i].nr_prompt;
	}
	d.ttft_ms *= factor;
	d.tpot_ms *= factor;
	return d;
}

int load_calibration_read(const char *path, struct load_calibration *out, struct fh_err *err)
{
	json_error_t e;
	json_t *j = json_load_file(path, 0, &e), *list = json_object_get(j, "calibration"), *p;
	size_t i;

	*out = (struct load_calibration){0};
	if (!j)
		return fh_errf(err, -EINVAL, "%s:%d: %s", path, e.line, e.text);
	json_array_foreach (list, i, p) {
		double n = json_number_value(json_object_get(p, "prompt_tokens"));
		double ttft = json_number_value(json_object_get(p, "ttft_ms"));
		double tpot = json_number_value(json_object_get(p, "tpot_ms"));

		if (out->nr == LOAD_MAX_CALIBRATION || n < 1 || n > TRACE_MAX_TOKENS || !(ttft > 0) || !(tpot >= 0) ||
		    (out->nr && n <= out->at[out->nr - 1].nr_prompt)) {
			out->nr = 0;
			break;
		}
		out->at[out->nr].nr_prompt = (uint32_t)n;
		out->at[out->nr].ttft_ms = ttft;
		out->at[out->nr++].tpot_ms = tpot;
	}
	json_decref(j);
	if (!out->nr)
		return fh_errf(err, -EINVAL,
			       "%s: want {\"calibration\": [{\"prompt_tokens\", \"ttft_ms\", \"tpot_ms\"}, ...]} by "
			       "ascending length, as --save-calibration writes it",
			       path);
	return 0;
}

int load_calibration_write(const char *path, const struct load_calibration *c, struct fh_err *err)
{
	json_t *j = json_object(), *list = json_array();
	int rc;

	for (uint32_t i = 0; i < c->nr; i++)
		json_array_append_new(list, json_pack("{s:I,s:f,s:f}", "prompt_tokens", (json_int_t)c->at[i].nr_prompt,
						      "ttft_ms", c->at[i].ttft_ms, "tpot_ms", c->at[i].tpot_ms));
	json_object_set_new(j, "calibration", list);
	rc = json_dump_file(j, path, JSON_INDENT(1));
	json_decref(j);
	return rc ? fh_errf(err, -EIO, "%s: cannot be written", path) : 0;
}
