// SPDX-License-Identifier: Apache-2.0
/*
 * How text is cut into words before byte-level BPE, by the names that
 * tokenizer.ggml.pre carries.
 *
 * The rules are those of the models' own tokenizer.json files, as llama.cpp
 * reads them, since the name is llama.cpp's and files are made for it: where
 * it simplifies a rule (gpt-4o and tekken treat every letter outside A-Z and
 * a-z as of both cases) so do we.
 *
 * The patterns are written so that matching takes linear time, whatever the
 * text: a repeat is possessive wherever giving back could not help, and no
 * group is repeated except possessively, so no match needs memory that grows
 * with the text.  White space is listed, because PCRE2's \s also has U+180E.
 */
#include "runtime/model/tok_impl.h"

#include <string.h>

/* The property White_Space, for the inside of a class. */
#define WS "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* 's 't 'm 'd 're 've 'll, in either case or in lower case only. */
#define CONTRACTION "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
#define CONTRACTION_LOWER "'(?:[stmd]|re|ve|ll)"

/* White space up to its last line end; white space but for the blank that belongs to the next word; any. */
#define LINE_ENDS "[" WS "]*[\\r\\n]++"
#define BLANKS "[" WS "]+(?![^" WS "])|[" WS "]+"

/* A word with whatever one character (no line end, letter or digit) stands before it. */
#define BEFORE_WORD "[^\\r\\n\\p{L}\\p{N}]?+"
#define WORD BEFORE_WORD "\\p{L}++"
#define WORD_MARKS "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]++"
#define SIGNS " ?+[^" WS "\\p{L}\\p{N}]++"

/* Words of capitals, then others: letters that are not a-z, letters that are not A-Z; with marks, too. */
#define UPPER "[^\\P{L}a-z]"
#define LOWER "[^\\P{L}A-Z]"
#define UPPER_MARKS "[^\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}a-z]"
#define LOWER_MARKS "[^\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}A-Z]"

#define GPT2 CONTRACTION_LOWER "| ?+\\p{L}++| ?+\\p{N}++|" SIGNS "|" BLANKS
#define LLAMA3(digits) CONTRACTION "|" WORD "|" digits "|" SIGNS "[\\r\\n]*+|" LINE_ENDS "|" BLANKS
#define CASED(upper, lower, before, tail, digits)                                                                      \
	before upper "*" lower "++" tail "|" before upper "++" lower "*+" tail "|" digits "|" SIGNS                    \
		     "[\\r\\n/]*+|" LINE_ENDS "|" BLANKS
#define UNCASED(digits) WORD_MARKS "(?:" CONTRACTION ")?+|" digits "|" SIGNS "[\\r\\n/]*+|" LINE_ENDS "|" BLANKS
#define ASCII_SIGNS "!-/:-@\\[-`{-~"
#define DEEPSEEK3(tail)                                                                                                \
	"[" ASCII_SIGNS "][A-Za-z]++|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]++| ?+[\\p{P}\\p{S}]++" tail "|" BLANKS

/* Letters with a case, as DeepSeek LLM lists them. */
#define CASED_LETTERS                                                                                                  \
	"A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}"                \
	"\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}"                          \
	"\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}"                \
	"\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}"                \
	"\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}"              \
	"\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}"               \
	"\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}"               \
	"\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}"              \
	"\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}"                \
	"\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}"                         \
	"\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}"                         \
	"\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"               \
	"\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}"              \
	"\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}"                             \
	"\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}"                         \
	"\\x{1e900}-\\x{1e943}"

/* DeepSeek's ideographs, kana and Hangul: 0800-4e00 4e00-9fa5 ac00-d7ff, less white space. */
#define CJK                                                                                                            \
	"\\x{800}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}"               \
	"\\x{2060}-\\x{2fff}\\x{3001}-\\x{9fa5}\\x{ac00}-\\x{d7ff}"
#define CJK_KANA "\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{30ff}"

/* AFMoE's Asian scripts.  U+F900 is read in its normalized form, U+8C48, so one range is longer than it was meant. */
#define ASIAN                                                                                                          \
	"\\x{4e00}-\\x{9fff}\\x{3400}-\\x{4dbf}\\x{8c48}-\\x{faff}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}"              \
	"\\x{ff65}-\\x{ff9f}\\x{2f00}-\\x{2fdf}\\x{e40}-\\x{e7f}\\x{e80}-\\x{eff}\\x{1780}-\\x{17ff}"                  \
	"\\x{1000}-\\x{109f}\\x{aa60}-\\x{aa7f}\\x{a9e0}-\\x{a9ff}\\x{ac00}-\\x{d7af}\\x{1100}-\\x{11ff}"

/* Ideographs by their blocks, as Kimi K2 is read. */
#define HAN                                                                                                            \
	"\\x{4e00}-\\x{9fff}\\x{3400}-\\x{4dbf}\\x{20000}-\\x{2a6df}\\x{2a700}-\\x{2ebef}\\x{f900}-\\x{faff}"          \
	"\\x{2f800}-\\x{2fa1f}"

#define RE(text)                                                                                                       \
	{                                                                                                              \
		.how = FH_PRE_REGEX, .pattern = (text)                                                                 \
	}

static const struct fh_pre_rule rule_default = {
	{RE("[\\p{P}$+<=>^~|]++"), RE(GPT2), RE("\\p{N}++"), RE("[0-9][0-9][0-9]")}};
static const struct fh_pre_rule rule_gpt2 = {{RE(GPT2)}};
static const struct fh_pre_rule rule_digits_gpt2 = {{RE("\\p{N}"), RE(GPT2)}};
static const struct fh_pre_rule rule_falcon = {{RE("[\\p{P}$+<=>^~|`]++"), RE(GPT2), RE("[0-9][0-9][0-9]")}};
static const struct fh_pre_rule rule_llama3 = {{RE(LLAMA3("\\p{N}{1,3}+"))}};
static const struct fh_pre_rule rule_qwen2 = {{RE(LLAMA3("\\p{N}"))}};
static const struct fh_pre_rule rule_qwen35 = {
	{RE(CONTRACTION "|" WORD_MARKS "|\\p{N}| ?+[^" WS "\\p{L}\\p{M}\\p{N}]++[\\r\\n]*+|" LINE_ENDS "|" BLANKS)}};
static const struct fh_pre_rule rule_jais2 = {{RE(LLAMA3("\\p{N}{1,3}+")), {.how = FH_PRE_SPACE_HALVING}}};
static const struct fh_pre_rule rule_minicpm5 = {{RE("\\p{N}{1,3}+"), RE(LLAMA3("\\p{N}++"))}};
static const struct fh_pre_rule rule_laguna = {{{.how = FH_PRE_LINES}, RE(LLAMA3("\\p{N}"))}};
static const struct fh_pre_rule rule_ufakzeka = {{RE(WORD "|\\p{N}|" SIGNS "[\\r\\n]*+|" LINE_ENDS "|" BLANKS)}};
static const struct fh_pre_rule rule_bailing = {
	{RE(CONTRACTION "|" WORD "|\\p{N}|" SIGNS "[\\r\\n]*+|[" WS "]*[\\r\\n]|" BLANKS)}};
static const struct fh_pre_rule rule_seed = {{RE(CONTRACTION "|" WORD "|\\p{N}|" SIGNS "|" LINE_ENDS "|" BLANKS)}};
static const struct fh_pre_rule rule_exaone_moe = {
	{RE(CONTRACTION "|" BEFORE_WORD "(?>\\p{L}\\p{M}*+(?> \\p{L}\\p{M}*+)*+)++|\\p{N}|" SIGNS "[\\r\\n/]?+|[" WS
			"]*[\\r\\n]|" BLANKS)}};
static const struct fh_pre_rule rule_tekken = {{RE(CASED(UPPER, LOWER, BEFORE_WORD, "", "\\p{N}"))}};
static const struct fh_pre_rule rule_gpt4o = {
	{RE(CASED(UPPER, LOWER, BEFORE_WORD, "(?:" CONTRACTION ")?+", "\\p{N}{1,3}+"))}};
static const struct fh_pre_rule rule_granite_embed = {
	{RE(CASED(UPPER_MARKS, LOWER_MARKS, "[^\\r\\n\\p{L}\\p{N}]?", "(?:" CONTRACTION ")?+", "\\p{N}{1,3}+"))}};
static const struct fh_pre_rule rule_tiny_aya = {{{.how = FH_PRE_DIGIT_GROUPS}, RE(UNCASED("\\p{N}{1,3}+"))}};
static const struct fh_pre_rule rule_youtu = {
	{RE("[\\x{ac00}-\\x{d7a3}\\x{3131}-\\x{318e}]++|[\\x{ff01}\\x{2026}\\x{201c}\\x{201d}\\x{2018}\\x{2019}\\x{"
	    "2014}"
	    "\\x{ff1a}\\x{ff1b}\\x{ff0c}\\x{3001}-\\x{303f}\\x{fe30}-\\x{fe4f}]++|[\\x{3105}-\\x{312f}]++|[" CJK_KANA
	    "]++"),
	 RE(UNCASED("\\p{N}"))}};
/* White space at the end: (*SKIP) goes past a run that is not, instead of trying each of its characters. */
static const struct fh_pre_rule rule_deepseek_llm = {
	{RE("[\\r\\n]"), RE("[" WS "]?[" CASED_LETTERS "]++"),
	 RE("[" WS "]?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3001}\\x{3002}]++"),
	 RE("[" WS "]++(?:\\z|(*SKIP)(*FAIL))"), RE("[" CJK "]++"), RE("\\p{N}++")}};
static const struct fh_pre_rule rule_deepseek_coder = {
	{RE("[\\r\\n]"), RE("[" WS "]?\\p{L}++"), RE("[" WS "]?\\p{P}++"), RE("[" CJK "]++"), RE("\\p{N}")}};
static const struct fh_pre_rule rule_deepseek3 = {
	{RE("\\p{N}{1,3}+"), RE("[" CJK_KANA "]++"), RE(DEEPSEEK3("[\\r\\n]*+|" LINE_ENDS))}};
static const struct fh_pre_rule rule_spark = {
	{RE("\\p{N}{1,3}+"), RE("[" CJK_KANA "]++"), RE(DEEPSEEK3("|[\\r\\n]")), RE("\\p{N}")}};
static const struct fh_pre_rule rule_afmoe = {
	{{.how = FH_PRE_DIGIT_GROUPS}, RE("[" ASIAN "]++"), RE(DEEPSEEK3("[\\r\\n]*+|" LINE_ENDS))}};
#define BLOOM " ?+[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]++"
static const struct fh_pre_rule rule_bloom = {{RE(BLOOM)}};
static const struct fh_pre_rule rule_viking = {{RE(BLOOM), RE("\\p{N}")}};
static const struct fh_pre_rule rule_superbpe = {{RE("\\p{N}++"), {.how = FH_PRE_ASCII_GROUPS}}};
static const struct fh_pre_rule rule_kimi = {{RE("[" HAN "]++|" BEFORE_WORD "[^\\P{L}" HAN "]++(?:" CONTRACTION
						 ")?+|\\p{N}{1,3}+|" SIGNS "[\\r\\n]*+|" LINE_ENDS "|" BLANKS)}};
static const struct fh_pre_rule rule_chameleon = {{RE("<sentinel:[0-9]++>"), RE("IMGIMG[A-I]{1,4}+Z"),
						   RE("[\\t\\n]|    |  "), RE("\\p{N}"), RE("[\\p{P}" ASCII_SIGNS "]"),
						   RE(GPT2)}};

/* Sorted by rule, not by name: searched once, when a model is opened. */
#define WHOLE FH_PRE_IGNORE_MERGES
#define BOS FH_PRE_ADD_BOS

static const struct fh_pre_name names[] = {
	{"default", &rule_default, 0},
	{"gpt-2", &rule_gpt2, 0},
	{"phi-2", &rule_gpt2, 0},
	{"mpt", &rule_gpt2, 0},
	{"olmo", &rule_gpt2, 0},
	{"jais", &rule_gpt2, 0},
	{"trillion", &rule_gpt2, 0},
	{"granite-docling", &rule_gpt2, 0},
	{"jina-es", &rule_gpt2, 0},
	{"jina-de", &rule_gpt2, 0},
	{"jina-v1-en", &rule_gpt2, 0},
	{"jina-v2-es", &rule_gpt2, 0},
	{"jina-v2-de", &rule_gpt2, 0},
	{"jina-v2-code", &rule_gpt2, 0},
	{"roberta-bpe", &rule_gpt2, 0},
	{"gigachat", &rule_gpt2, 0},
	{"a.x-4.0", &rule_gpt2, 0},
	{"mellum", &rule_gpt2, 0},
	{"modern-bert", &rule_gpt2, 0},
	{"exaone4", &rule_gpt2, 0},
	{"starcoder", &rule_digits_gpt2, 0},
	{"refact", &rule_digits_gpt2, 0},
	{"command-r", &rule_digits_gpt2, 0},
	{"smollm", &rule_digits_gpt2, 0},
	{"codeshell", &rule_digits_gpt2, 0},
	{"exaone", &rule_digits_gpt2, 0},
	{"minerva-7b", &rule_digits_gpt2, 0},
	{"mellum2", &rule_digits_gpt2, 0},
	{"falcon", &rule_falcon, 0},
	{"llama-bpe", &rule_llama3, WHOLE | BOS},
	{"llama3", &rule_llama3, WHOLE | BOS},
	{"llama-v3", &rule_llama3, WHOLE | BOS},
	{"falcon3", &rule_llama3, WHOLE | BOS},
	{"falcon-h1", &rule_llama3, WHOLE | BOS},
	{"pixtral", &rule_llama3, WHOLE | BOS},
	{"midm-2.0", &rule_llama3, WHOLE | BOS},
	{"lfm2", &rule_llama3, WHOLE | BOS},
	{"jina-v5-nano", &rule_llama3, WHOLE | BOS},
	{"dbrx", &rule_llama3, 0},
	{"smaug-bpe", &rule_llama3, 0},
	{"chatglm-bpe", &rule_llama3, 0},
	{"glm4", &rule_llama3, WHOLE},
	{"glm5", &rule_llama3, WHOLE},
	{"qwen2", &rule_qwen2, 0},
	{"deepseek-r1-qwen", &rule_qwen2, 0},
	{"kormo", &rule_qwen2, 0},
	{"f2llmv2", &rule_qwen2, 0},
	{"megrez", &rule_qwen2, 0},
	{"stablelm2", &rule_qwen2, 0},
	{"hunyuan", &rule_qwen2, 0},
	{"solar-open", &rule_qwen2, 0},
	{"grok-2", &rule_qwen2, 0},
	{"qwen35", &rule_qwen35, 0},
	{"jais-2", &rule_jais2, 0},
	{"minicpm5", &rule_minicpm5, WHOLE},
	{"laguna", &rule_laguna, 0},
	{"ufakzeka", &rule_ufakzeka, 0},
	{"bailingmoe", &rule_bailing, 0},
	{"bailingmoe2", &rule_bailing, 0},
	{"llada-moe", &rule_bailing, 0},
	{"seed-coder", &rule_seed, 0},
	{"exaone-moe", &rule_exaone_moe, 0},
	{"tekken", &rule_tekken, WHOLE | BOS},
	{"gpt-4o", &rule_gpt4o, 0},
	{"o200k", &rule_gpt4o, 0},
	{"llama4", &rule_gpt4o, 0},
	{"kanana2", &rule_gpt4o, 0},
	{"talkie", &rule_gpt4o, 0},
	{"minimax-m2", &rule_gpt4o, 0},
	{"granite-embed-multi-97m", &rule_granite_embed, WHOLE},
	{"tiny_aya", &rule_tiny_aya, 0},
	{"cohere2moe", &rule_tiny_aya, 0},
	{"youtu", &rule_youtu, WHOLE},
	{"deepseek-llm", &rule_deepseek_llm, 0},
	{"deepseek-coder", &rule_deepseek_coder, 0},
	{"deepseek-v3", &rule_deepseek3, 0},
	{"hunyuan-dense", &rule_deepseek3, 0},
	{"joyai-llm", &rule_deepseek3, 0},
	{"hy_v4", &rule_deepseek3, 0},
	{"spark2_5", &rule_spark, 0},
	{"afmoe", &rule_afmoe, 0},
	{"poro-chat", &rule_bloom, 0},
	{"bloom", &rule_bloom, 0},
	{"gpt3-finnish", &rule_bloom, 0},
	{"viking", &rule_viking, 0},
	{"superbpe", &rule_superbpe, 0},
	{"kimi-k2", &rule_kimi, 0},
	{"chameleon", &rule_chameleon, BOS},
};

const struct fh_pre_name *fh_tok_pre_find(struct fh_str name)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strlen(names[i].name) == name.n && !memcmp(names[i].name, name.p, name.n))
			return &names[i];
	return NULL;
}
