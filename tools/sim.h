/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine that is not there: the daemon's scheduler over a trace, with the
 * clock and the steps made up from prices.
 *
 * Everything that decides is runtime/sched; here are only the clock, the memory
 * for keys and values as a count of tokens, and the bookkeeping of results.
 */
#ifndef FH_TOOLS_SIM_H
#define FH_TOOLS_SIM_H

#include "runtime/sched/sched.h"
#include "tools/load/search.h"
#include "tools/trace.h"

struct sim_config {
	struct fh_sched_limits limits;
	struct fh_sched_cost cost; /* of the machine; the scheduler knows the same */
	double noise;		   /* steps are off by so much (deviation of the logarithm); 0: never */
	uint64_t kv_tokens;	   /* room for keys and values */
	uint32_t max_queue;
	uint64_t overhead_ns;	  /* between a client and the engine, each request */
	uint64_t gap_ns;	  /* between two steps; the scheduler learns it as it does live */
	double overhead_token_ns; /* and for each token of a prompt: it is parsed and tokenized */
	/*
	 * Deadlines: of everybody in microseconds (0: none), or times what an idle machine would need (0: not so), by
	 * these prices or, if there are any, by measured times.
	 */
	uint32_t ttft_us, tpot_us;
	double ttft_times, tpot_times;
	struct load_calibration unloaded;      /* .nr 0: none were measured */
	double batch_share, interactive_share; /* of the requests; the rest is standard */
	uint64_t seed;
};

enum sim_end { SIM_REFUSED, SIM_DONE };

/* What became of a request. */
struct sim_result {
	float ttft_s, tpot_s, e2e_s;  /* tpot_s: mean of what follows the first token; 0 for one token */
	float ttft_due_s, tpot_due_s; /* 0: none */
	float itl_max_s;
	uint32_t nr_gen;
	uint8_t end; /* enum sim_end */
};

struct sim_totals {
	uint64_t nr_steps, nr_preempted, nr_late, prompt_tokens, generated_tokens;
	double busy_s, end_s; /* steps; until the last request was over */
};

/* Times on an idle machine. */
double sim_unloaded_ttft_s(const struct sim_config *c, uint32_t nr_prompt);
double sim_unloaded_tpot_s(const struct sim_config *c, uint32_t nr_prompt, uint32_t nr_gen);

/*
 * Run machine @machine of @nr_machines, which gets every @nr_machines-th request,
 * over @t.  @out: [t->nr], of which it fills its own; @sum is added to.
 * 0, -ENOMEM, or -EINVAL with @err for what can never run.
 */
int sim_machine(const struct sim_config *c, const struct trace *t, uint32_t machine, uint32_t nr_machines,
		struct sim_result *out, struct sim_totals *sum, struct fh_err *err);

#endif /* FH_TOOLS_SIM_H */
