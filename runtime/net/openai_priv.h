/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the request parser share. Nobody else includes this but its tests. */
#ifndef FH_NET_OPENAI_PRIV_H
#define FH_NET_OPENAI_PRIV_H

#include "runtime/net/openai.h"

struct fh_oai_parser {
	struct fh_oai *o;
	const struct fh_text_ops *text;
	const struct fh_model_info *model;
	struct fh_oai_error *err;
};

/* Every field of @root that is known: store it, or refuse it by name. 0 or -EINVAL. */
int fh_oai_read_fields(struct fh_oai_parser *p, json_t *root);
/* After the fields: prompts, messages, inputs become token ids. 0 or -EINVAL. */
int fh_oai_read_prompts(struct fh_oai_parser *p);

/* The table of fields is searched by halves: true when its names ascend. */
bool fh_oai_fields_sorted(void);

#endif /* FH_NET_OPENAI_PRIV_H */
