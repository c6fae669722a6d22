/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A model of a client, a network and two hosts: what happens in a world, and
 * how one with a proxy is held against one without.
 */

#include "qemu/osdep.h"
#include "colo-tcp-world-int.h"

/* Of a fuzzer's input, for the plan; chance gets the rest */
#define PLAN_BYTES  128
/* That a connection carries at most each way */
#define FUZZ_BYTES  10000
/*
 * Even then something may be late, above all after a loss: what was lost before
 * the session began waits for a commit each time, see match-tcp.c.
 */
#define QUIET_NEEDS(plan) ((plan)->loses ? 6 : 1)

static uint32_t one_of(TcpChance *c, const uint32_t *values, unsigned n)
{
    return values[tcp_chance_below(c, n)];
}

#define ONE_OF(c, ...)                                                  \
    one_of(c, (const uint32_t[]) { __VA_ARGS__ },                       \
           ARRAY_SIZE(((const uint32_t[]) { __VA_ARGS__ })))

static void plan_conn(TcpPlan *plan, TcpChance *c)
{
    *plan = (TcpPlan) {
        .guest_connects = tcp_chance_one_in(c, 3),
        .ts = !tcp_chance_one_in(c, 4),
        .sack = !tcp_chance_one_in(c, 3),
        .start_ms = tcp_chance_below(c, 1500),
        .to_guest = ONE_OF(c, 1, 300, 3000, 20000, 100000),
        .to_client = ONE_OF(c, 0, 300, 3000, 30000, 150000),
        .answers = tcp_chance_one_in(c, 2),
        .closes_last = tcp_chance_one_in(c, 2),
        .guest_buf = ONE_OF(c, 4000, 16000, 60000),
        .client_buf = ONE_OF(c, 4000, 16000, 60000),
    };
    if (tcp_chance_one_in(c, 3)) {
        plan->chunk = ONE_OF(c, 1000, 3000);
        plan->pace_ms = 1 + tcp_chance_below(c, 20);
    }
    if (tcp_chance_one_in(c, 8)) {
        plan->abort = 1 + tcp_chance_below(c, TCP_ABORT__MAX - 1);
        plan->abort_at = tcp_chance_below(c, 1 +
                                          (plan->abort == TCP_ABORT_GUEST
                                           ? plan->to_guest
                                           : plan->to_client));
    }
}

void tcp_world_plan(TcpWorldPlan *plan, uint64_t seed, const uint8_t *data,
                    size_t size)
{
    TcpChance c = { data, MIN(size, PLAN_BYTES), seed ^ 0x5eed };

    *plan = (TcpWorldPlan) {
        .delay_ms = 1 + tcp_chance_below(&c, 40),
        .jitter_ms = ONE_OF(&c, 0, 0, 2, 20),
        .loses = ONE_OF(&c, 0, 20, 100, 300),
        .repeats = ONE_OF(&c, 0, 0, 30),
        .lag_ms = ONE_OF(&c, 0, 1, 5, 20),
        .hiccup_ms = ONE_OF(&c, 0, 0, 50, 150),
        .nic_loses = ONE_OF(&c, 0, 0, 50),
        .checkpoint_ms = ONE_OF(&c, 0, 100, 500, 1000),
        .stop_ms = 1 + tcp_chance_below(&c, 20),
        .transfer_ms = 1 + tcp_chance_below(&c, 50),
        .load_ms = 1 + tcp_chance_below(&c, 20),
        .err_ms = ONE_OF(&c, 0, 0, 200, 1000),
        .session_ms = tcp_chance_below(&c, 600),
        .fail_ms = INT64_MAX,
    };
    if (tcp_chance_one_in(&c, 2)) {
        plan->fail_ms = plan->session_ms + tcp_chance_below(&c, 4000);
        plan->primary_fails = !tcp_chance_one_in(&c, 4);
        plan->sessions_again = ONE_OF(&c, 0, 0, 1, 2);
    }
    for (unsigned i = 0; i < TCP_CONNS; i++) {
        plan_conn(&plan->conns[i], &c);
        if (size) {
            /* Many small worlds */
            plan->conns[i].to_guest = MIN(plan->conns[i].to_guest, FUZZ_BYTES);
            plan->conns[i].to_client = MIN(plan->conns[i].to_client,
                                           FUZZ_BYTES);
        }
    }
}

/* Nothing makes the guests say different things, except when they say it */
static bool plan_is_quiet(const TcpWorldPlan *plan)
{
    for (unsigned i = 0; i < TCP_CONNS; i++) {
        if (plan->conns[i].abort != TCP_ABORT_NONE) {
            return false;
        }
    }
    return !plan->err_ms && !plan->nic_loses && plan->fail_ms == INT64_MAX;
}

char *tcp_world_check(uint64_t seed, const uint8_t *data, size_t size,
                      TcpWorldResult *result)
{
    TcpWorldPlan plan;
    TcpWorldResult alone;
    int64_t may;
    size_t planned = MIN(size, PLAN_BYTES);

    tcp_world_plan(&plan, seed, data, size);
    tcp_world_run(&plan, seed, data + planned, size - planned, false, &alone);
    if (alone.fault) {
        /* Without a proxy: then the model is wrong */
        char *text = g_strdup_printf("alone, %s", alone.fault);

        g_free(alone.fault);
        return text;
    }
    tcp_world_run(&plan, seed, data + planned, size - planned, true, result);
    if (result->fault) {
        return g_steal_pointer(&result->fault);
    }
    may = MAX(alone.stall_ms, TCP_END_RTO_SYN_MS) + alone.rto_ms +
          TCP_COMPARE_MS + plan.stop_ms + plan.transfer_ms + plan.load_ms;
    /* What a failure loses may be what was said again after a loss */
    may += result->failovers * (may + TCP_DETECT_MS);
    if (result->stall_ms > may) {
        return g_strdup_printf("a connection stands still for %" PRId64
                               " ms, alone for %" PRId64 " ms",
                               result->stall_ms, alone.stall_ms);
    }
    if (plan_is_quiet(&plan) && result->needs > QUIET_NEEDS(&plan)) {
        return g_strdup_printf("%u checkpoints are asked for, of guests that "
                               "say the same", result->needs);
    }
    return NULL;
}
