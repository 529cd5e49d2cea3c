// SPDX-License-Identifier: Apache-2.0
/*
 * Waiting.  A core that only polls is lost to everybody else, and small hosts
 * have two: after some empty polls it is given back.
 *
 *   - While it polls the processor may wait for the device's write to memory
 *     (UMWAIT), where processor and driver can.
 *   - Then it sleeps: until the device interrupts, where its driver can; else
 *     for a while that grows up to idle_sleep_us, and looks again.
 *
 * wake() sets a word and, if the thread sleeps, writes an eventfd.  Both sides
 * are sequentially consistent: either wake() sees `sleeping`, or the thread sees
 * `woken` before it sleeps.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_epoll.h>
#include <rte_errno.h>
#include <rte_interrupts.h>
#include <rte_lcore.h>
#include <rte_pause.h>
#include <rte_power_intrinsics.h>

#include "runtime/dpdk/dpdk.h"

#define SLEEP_FIRST_NS 20000u	    /* the first sleep without interrupts */
#define SLEEP_TAILS_NS 1000000u	    /* with something out that no interrupt tells of */
#define SLEEP_PENDING_NS 250000000u /* while frames wait for a neighbour, whose answer interrupts ... */
#define SLEEP_OTHERS_NS 2000000u    /* ... or comes at another queue, which tells nobody */
#define SLEEP_COARSE_NS 2000000u    /* from here on it may be woken some of a millisecond early, by one call for all */
#define MONITOR_NS 20000u	    /* one wait for a write */
#define CLOCK_EVERY 16u		    /* empty polls between two looks at the clock */
#define YIELD_EVERY 64u		    /* and between two offers of the core to whoever waits for it */

uint64_t fhd_dpdk_clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void fhd_dpdk_thread(struct fhd_dpdk_port *p)
{
	pthread_t self = pthread_self();

	if (p->has_thread && pthread_equal(p->thread, self))
		return;
	p->thread = self;
	p->has_thread = true;
	/* The kernel may be 50 us late with a sleep, which is more than the first of them; a client's thread is his. */
	if (p->server && p->intr_fd < 0)
		prctl(PR_SET_TIMERSLACK, 1000ul);
	/* Without an identity of DPDK's every buffer would be taken from the pool's shared ring. */
	p->lcore = rte_lcore_id() == LCORE_ID_ANY && !rte_thread_register();
}

static void drain(int fd)
{
	uint64_t n;

	while (read(fd, &n, sizeof(n)) > 0)
		;
}

/* ---- interrupts ---- */

static bool try_interrupts(struct fhd_dpdk_port *p)
{
	p->intr_fd = epoll_create1(EPOLL_CLOEXEC);
	if (p->intr_fd < 0)
		return false;
	if (!rte_eth_dev_rx_intr_ctl_q(p->dev->id, p->queue, p->intr_fd, RTE_INTR_EVENT_ADD, NULL)) {
		p->wake_event = (struct rte_epoll_event){.epdata = {.event = EPOLLIN}};
		/* Some drivers say only here that they have none. */
		if (!rte_eth_dev_rx_intr_enable(p->dev->id, p->queue)) {
			rte_eth_dev_rx_intr_disable(p->dev->id, p->queue);
			if (!rte_epoll_ctl(p->intr_fd, EPOLL_CTL_ADD, p->wake_fd, &p->wake_event))
				return true;
		}
		rte_eth_dev_rx_intr_ctl_q(p->dev->id, p->queue, p->intr_fd, RTE_INTR_EVENT_DEL, NULL);
	}
	close(p->intr_fd);
	p->intr_fd = -1;
	return false;
}

/* Many drivers have none, which DPDK's log takes for an error. */
static void open_interrupts(struct fhd_dpdk_port *p)
{
	int level = fhd_dpdk_hush("lib.ethdev");

	try_interrupts(p);
	fhd_dpdk_speak("lib.ethdev", level);
}

int fhd_dpdk_idle_open(struct fhd_dpdk_port *p, struct fh_err *err)
{
	p->intr_fd = p->outer_fd = -1;
	p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->wake_fd < 0)
		return fh_errf(err, -errno, "no eventfd: %s", strerror(errno));
	if (p->dev->interrupts)
		open_interrupts(p);
	return 0;
}

void fhd_dpdk_idle_close(struct fhd_dpdk_port *p)
{
	if (p->intr_fd >= 0) {
		rte_eth_dev_rx_intr_disable(p->dev->id, p->queue);
		rte_epoll_ctl(p->intr_fd, EPOLL_CTL_DEL, p->wake_fd, &p->wake_event);
		rte_eth_dev_rx_intr_ctl_q(p->dev->id, p->queue, p->intr_fd, RTE_INTR_EVENT_DEL, NULL);
		close(p->intr_fd);
	}
	if (p->outer_fd >= 0)
		close(p->outer_fd);
	if (p->wake_fd >= 0)
		close(p->wake_fd);
	if (p->lcore && pthread_equal(p->thread, pthread_self()))
		rte_thread_unregister();
	p->intr_fd = p->outer_fd = p->wake_fd = -1;
}

/*
 * Sleep for @ms (-1: for ever) until the device interrupts or wake() is called.
 * DPDK knows how each kind of interrupt is taken note of. 0 or -errno.
 */
static int take_interrupts(struct fhd_dpdk_port *p, int ms)
{
	struct rte_epoll_event e[2];
	int nr = rte_epoll_wait_interruptible(p->intr_fd, e, 2, ms);

	for (int i = 0; i < nr; i++) {
		if (e[i].fd == p->wake_fd)
			drain(p->wake_fd);
		else
			fhd_count(&p->n.nr_interrupts, 1);
	}
	return nr < 0 ? -errno : 0;
}

/* True: asleep is safe, the device will interrupt. False: something came meanwhile. */
static bool arm(struct fhd_dpdk_port *p)
{
	rte_eth_dev_rx_intr_enable(p->dev->id, p->queue);
	p->armed = true;
	/* What came before that makes no interrupt. */
	return !fhd_dpdk_look(p);
}

static void disarm(struct fhd_dpdk_port *p)
{
	if (!p->armed)
		return;
	p->armed = false;
	rte_eth_dev_rx_intr_disable(p->dev->id, p->queue);
}

void fhd_dpdk_arm(struct fhd_dpdk_port *p)
{
	uint64_t one = 1;

	/* What is told of already would make it readable for nothing. */
	drain(p->wake_fd);
	take_interrupts(p, 0);
	if (!arm(p) && write(p->wake_fd, &one, sizeof(one)) < 0)
		return; /* its counter is full: readable as well */
}

int fhd_dpdk_fd(struct fh_dgram_port *base)
{
	struct fhd_dpdk_port *p = fhd_port(base);
	struct epoll_event e = {.events = EPOLLIN};

	if (p->intr_fd < 0)
		return -EOPNOTSUPP;
	if (p->outer_fd >= 0)
		return p->outer_fd;
	p->outer_fd = epoll_create1(EPOLL_CLOEXEC);
	if (p->outer_fd < 0)
		return -errno;
	if (epoll_ctl(p->outer_fd, EPOLL_CTL_ADD, p->intr_fd, &e) ||
	    epoll_ctl(p->outer_fd, EPOLL_CTL_ADD, p->wake_fd, &e)) {
		int rc = -errno;

		close(p->outer_fd);
		p->outer_fd = -1;
		return rc;
	}
	fhd_dpdk_arm(p);
	return p->outer_fd;
}

/* ---- waiting ---- */

void fhd_dpdk_wake(struct fh_dgram_port *base)
{
	struct fhd_dpdk_port *p = fhd_port(base);
	uint64_t one = 1;
	int saved = errno;

	atomic_fetch_add_explicit(&p->n.nr_wakes, 1, memory_order_relaxed);
	atomic_store(&p->woken, 1);
	if (atomic_load(&p->sleeping) && write(p->wake_fd, &one, sizeof(one)) < 0)
		errno = saved; /* its counter is full: it wakes as well */
	errno = saved;
}

/* Something to return for. */
static bool has_news(struct fhd_dpdk_port *p)
{
	if (p->tails_out)
		fhd_dpdk_reap(p);
	if (fhd_dpdk_look(p) || p->tail_done)
		return true;
	return atomic_load_explicit(&p->woken, memory_order_relaxed) && atomic_exchange(&p->woken, 0);
}

/* Between two polls: let the processor wait for the device's write, if both can. */
static void breathe(struct fhd_dpdk_port *p, bool *monitor)
{
	struct rte_power_monitor_cond cond = {0};

	if (*monitor && rte_lcore_id() != LCORE_ID_ANY && !rte_eth_get_monitor_addr(p->dev->id, p->queue, &cond) &&
	    !rte_power_monitor(&cond, rte_get_tsc_cycles() + rte_get_tsc_hz() / 1000000 * (MONITOR_NS / 1000))) {
		fhd_count(&p->n.nr_monitors, 1);
		return;
	}
	*monitor = false;
	rte_pause();
}

/* Polls for a while; true: return. */
static bool spin(struct fhd_dpdk_port *p, uint64_t deadline_ns)
{
	bool monitor = p->dev->opt.monitor && !p->tails_out;

	for (uint32_t i = 0; i < p->dev->opt.idle_polls; i++) {
		if (has_news(p))
			return true;
		if (i % CLOCK_EVERY == CLOCK_EVERY - 1 && fhd_dpdk_clock_ns() >= deadline_ns)
			return true;
		/* What is waited for may be the work of a thread that waits for this core. */
		if (i % YIELD_EVERY == YIELD_EVERY - 1)
			sched_yield();
		breathe(p, &monitor);
	}
	return has_news(p);
}

static int doze(struct fhd_dpdk_port *p, uint64_t ns)
{
	struct pollfd fds[2] = {{.fd = p->wake_fd, .events = POLLIN}, {.fd = p->intr_fd, .events = POLLIN}};
	struct timespec t = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
	bool exact = p->intr_fd < 0 || ns < SLEEP_COARSE_NS;
	int rc = 0;

	atomic_store(&p->sleeping, 1);
	if (!atomic_load(&p->woken)) {
		fhd_count(&p->n.nr_sleeps, 1);
		if (exact)
			rc = ppoll(fds, p->intr_fd >= 0 ? 2 : 1, &t, NULL) < 0 ? -errno : 0;
		else
			rc = take_interrupts(p, ns / 1000000 < INT_MAX ? (int)(ns / 1000000) : -1);
	}
	atomic_store(&p->sleeping, 0);
	if (fds[0].revents)
		drain(p->wake_fd);
	if (fds[1].revents)
		take_interrupts(p, 0);
	return rc;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static int sleep_until(struct fhd_dpdk_port *p, uint64_t deadline_ns)
{
	uint64_t longest = p->dev->opt.idle_sleep_us * 1000ull, step = least(SLEEP_FIRST_NS, longest), now;
	int rc = 0;

	while (!rc && (now = fhd_dpdk_clock_ns()) < deadline_ns) {
		uint64_t ns = deadline_ns == UINT64_MAX ? UINT64_MAX : deadline_ns - now;

		if (p->intr_fd < 0) {
			ns = least(ns, step);
			step = least(step * 2, longest);
		} else if (!arm(p)) {
			break;
		}
		if (p->tails_out)
			ns = least(ns, SLEEP_TAILS_NS);
		if (p->nr_pending)
			ns = least(ns, p->dev->nr_queues > 1 ? SLEEP_OTHERS_NS : SLEEP_PENDING_NS);
		rc = doze(p, ns);
		disarm(p);
		if (has_news(p))
			break;
	}
	disarm(p);
	return rc == -EINTR || !rc ? rc : -EIO;
}

int fhd_dpdk_wait(struct fh_dgram_port *base, uint64_t timeout_us)
{
	struct fhd_dpdk_port *p = fhd_port(base);
	uint64_t deadline_ns;
	int rc = 0;

	fhd_dpdk_thread(p);
	fhd_dpdk_flush(base);
	if (has_news(p) || !timeout_us)
		goto out;
	p->now_ns = fhd_dpdk_clock_ns();
	deadline_ns = timeout_us > (UINT64_MAX - p->now_ns) / 1000 ? UINT64_MAX : p->now_ns + timeout_us * 1000;
	fhd_count(&p->n.nr_waits, 1);
	if (!spin(p, deadline_ns))
		rc = sleep_until(p, deadline_ns);
out:
	/* An exchange, so that what was done before the wake() is seen after this. */
	atomic_exchange(&p->woken, 0);
	p->tail_done = false;
	return rc;
}
