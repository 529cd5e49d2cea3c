// SPDX-License-Identifier: Apache-2.0
/*
 * What the compressor of bodies knows before the first: the frames of requests
 * and answers, and words of English, the most frequent last.
 *
 * It is part of the format: a byte of it that is changed makes every chapter of
 * version 2 unreadable.  Another text needs another version of the record.
 */
#include "runtime/trust/body.h"

const char fh_body_prime[] =
	" government information different according important development community themselves something everything"
	" nothing anything someone everyone together although whether without within another between against during"
	" through because however therefore perhaps already always almost usually often sometimes never again around"
	" answer question problem example reason result number figure table list point line part place case fact idea"
	" language computer software program system server service network security password account customer order"
	" company business product project market money price report document letter message email meeting office"
	" function return value string integer array object class method error warning include import const static"
	" please explain describe summarize translate write create make give show find help need want would like"
	" following sentence paragraph text article story poem code python javascript html json sql query data file"
	" family father mother sister brother child children friend people person man woman men women boy girl baby"
	" house home room door window garden tree flower river mountain water fire earth sun moon star rain snow wind"
	" morning evening night today tomorrow yesterday week month year hour minute time moment summer winter spring"
	" hand head face eyes heart body voice word name mind life death love world country city town street road"
	" looked walked turned asked answered called cried smiled laughed thought knew felt heard found left came went"
	" took gave made told began seemed became wanted tried started stopped opened closed played helped learned"
	" happy sad afraid angry kind brave small little big large great long short high low old young new good bad"
	" better best first second third last next many much more most few less other same own such only just even"
	" still also very too quite rather soon then once there here where when while before after until since upon"
	" under over above below behind beside inside outside across along away back down off out up into onto from"
	" one two three four five six seven eight nine ten hundred thousand half every each both either neither none"
	" could should might must may can will shall did does done doing been being having going coming looking"
	" don't didn't can't couldn't wouldn't wasn't isn't I'm I'll it's that's let's you're they're\\n\\n\\\"What"
	" know see look say said think tell ask get put run let keep hold turn move play work live stand sit"
	" him her his hers its our ours your yours their theirs them us me my mine who whom whose which what why how"
	" she had been with him as if there was a great that it would be for the first time in the middle of the"
	" and the of to in a is that for it was on with he as you at be this have from or by not but they were she"
	" all had we his her an are so there said them then out up when one would if no what into day saw very"
	" But the. And he. She was. They were. He said, \\\"I. The little. It is. There was. When the. In the. We are."
	" You are. This is. That is. One day, Once upon a time, there was a\\n\\nThen, \\\"Yes, \\\"No, \\\"Oh, said "
	"the"
	",\"logprobs\":null,\"top_p\":0.9,\"top_k\":40,\"presence_penalty\":0,\"frequency_penalty\":0,\"seed\":1,\"n\":"
	"1"
	",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"\",\"description\":\"\",\"parameters\":{\"type\":"
	"\"object\",\"properties\":{}}}}],\"response_format\":{\"type\":\"json_object\"},\"stop\":[\"\\n\"]"
	"{\"prompt\":\"\",\"max_tokens\":16,\"temperature\":0,\"stream\":true,\"stream_options\":{\"include_usage\":"
	"true}}"
	"{\"prompt\": \"\", \"max_tokens\": 100, \"temperature\": 0.7, \"stream\": false, \"seed\": 1}"
	"{\"model\": \"\", \"messages\": [{\"role\": \"system\", \"content\": \"You are a helpful assistant.\"}, "
	"{\"role\": "
	"\"user\", \"content\": \"\"}, {\"role\": \"assistant\", \"content\": \"\"}], \"max_tokens\": 256}"
	"{\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"length\"}]}"
	"{\"model\":\"\",\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful "
	"assistant.\"},{\"role\":\"user\","
	"\"content\":\"\"},{\"role\":\"assistant\",\"content\":\"\"}],\"max_tokens\":200,\"temperature\":0.7}"
	"{\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"stop\"}]}";
const size_t fh_body_prime_bytes = sizeof(fh_body_prime) - 1;
