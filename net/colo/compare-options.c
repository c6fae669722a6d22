/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: options and statistics of colo-compare and filter-compare.
 *
 * Primary.  BQL, but for colo_compare_request() and colo_compare_withdraw().
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "migration/colo.h"
#include "compare-options.h"

/*
 * As published, but for two.  The timeout (3000 ms) no longer releases what the
 * other guest did not say, it asks for a checkpoint, and a client waits so long.
 * And the bound of a queue is its memory, not 1024 packets of one connection,
 * which stopped the whole NIC in the time of a load.
 */
#define DEFAULT_TIMEOUT_MS      200
#define DEFAULT_SCAN_MS         3000
#define DEFAULT_MAX_PACKETS     (1 << 20)
#define DEFAULT_MAX_FLOWS       65536

#define MAX_BYTES               (64 * MiB)
#define IDLE_MS                 (10 * 60 * 1000)

/* A number and its bounds */
typedef struct Number {
    const char *name;
    size_t offset;
    bool wide;                  /* 64 bits, not 32 */
    uint64_t min;
    uint64_t max;
} Number;

static const Number numbers[] = {
    { "compare_timeout", offsetof(ColoCompareOptions, timeout_ms), true, 1,
      3600 * 1000 },
    { "expired_scan_cycle", offsetof(ColoCompareOptions, scan_ms), false, 1,
      3600 * 1000 },
    { "max_queue_size", offsetof(ColoCompareOptions, max_packets), false, 1,
      1 << 20 },
    { "max_connections", offsetof(ColoCompareOptions, max_flows), false, 1,
      1 << 24 },
};

/* An option by its name, however that is spelt */
static const Number *number_of(const char *name)
{
    g_autofree char *published = g_strdelimit(g_strdup(name), "-", '_');
    const Number *n = numbers;

    while (strcmp(n->name, published)) {
        n++;
    }
    return n;
}

static void get_number(Object *obj, Visitor *v, const char *name, void *opaque,
                       Error **errp)
{
    const Number *n = number_of(name);
    void *field = (char *)opaque + n->offset;
    uint64_t value = n->wide ? *(uint64_t *)field : *(uint32_t *)field;

    visit_type_uint64(v, name, &value, errp);
}

static bool refuse_change(const ColoCompareOptions *o, const char *name,
                          Error **errp)
{
    if (o->fixed) {
        error_setg(errp, "'%s' cannot be changed any more", name);
    }
    return o->fixed;
}

static void set_number(Object *obj, Visitor *v, const char *name, void *opaque,
                       Error **errp)
{
    ColoCompareOptions *o = opaque;
    const Number *n = number_of(name);
    void *field = (char *)o + n->offset;
    uint64_t value;

    if (!visit_type_uint64(v, name, &value, errp)) {
        return;
    }
    if (value < n->min || value > n->max) {
        error_setg(errp, "Parameter '%s' is %" PRIu64 ", it has to be between "
                   "%" PRIu64 " and %" PRIu64, name, value, n->min, n->max);
        return;
    }
    if (refuse_change(o, name, errp)) {
        return;
    }
    if (n->wide) {
        *(uint64_t *)field = value;
    } else {
        *(uint32_t *)field = value;
    }
}

static void get_vnet_hdr(Object *obj, Visitor *v, const char *name,
                         void *opaque, Error **errp)
{
    visit_type_bool(v, name, &((ColoCompareOptions *)opaque)->vnet_hdr, errp);
}

static void set_vnet_hdr(Object *obj, Visitor *v, const char *name,
                         void *opaque, Error **errp)
{
    ColoCompareOptions *o = opaque;
    bool value;

    if (visit_type_bool(v, name, &value, errp) &&
        !refuse_change(o, name, errp)) {
        o->vnet_hdr = value;
    }
}

static void add_property(ColoCompareOptions *o, Object *obj, const char *name,
                         char separator, const char *type,
                         ObjectPropertyAccessor *get,
                         ObjectPropertyAccessor *set)
{
    g_autofree char *spelt = g_strdelimit(g_strdup(name), "_", separator);

    object_property_add(obj, spelt, type, get, set, NULL, o);
}

void colo_compare_options_init(ColoCompareOptions *o, Object *obj,
                               char separator)
{
    *o = (ColoCompareOptions) {
        .timeout_ms = DEFAULT_TIMEOUT_MS,
        .scan_ms = DEFAULT_SCAN_MS,
        .max_packets = DEFAULT_MAX_PACKETS,
        .max_flows = DEFAULT_MAX_FLOWS,
    };
    for (int i = 0; i < ARRAY_SIZE(numbers); i++) {
        add_property(o, obj, numbers[i].name, separator,
                     numbers[i].wide ? "uint64" : "uint32", get_number,
                     set_number);
    }
    add_property(o, obj, "vnet_hdr_support", separator, "bool", get_vnet_hdr,
                 set_vnet_hdr);
}

ColoMatch *colo_compare_options_match(const ColoCompareOptions *o,
                                      const ColoMatchOps *ops, void *opaque)
{
    ColoMatchConfig config = {
        .timeout_ms = o->timeout_ms,
        .max_packets = o->max_packets,
        .max_bytes = MAX_BYTES,
        .max_flows = o->max_flows,
        .idle_ms = IDLE_MS,
    };

    return colo_match_new(&config, ops, opaque);
}

static const ColoCheckpointReason reasons[] = {
    [COLO_MATCH_NEED_MISMATCH] = COLO_CHECKPOINT_REASON_MISMATCH,
    [COLO_MATCH_NEED_TIMEOUT] = COLO_CHECKPOINT_REASON_TIMEOUT,
    [COLO_MATCH_NEED_ROOM] = COLO_CHECKPOINT_REASON_QUEUE_FULL,
};

QEMU_BUILD_BUG_ON(ARRAY_SIZE(reasons) != COLO_MATCH_NEED__MAX);

void colo_compare_request(ColoMatchNeed why, uint64_t epoch)
{
    colo_request_checkpoint(reasons[why], epoch);
}

void colo_compare_withdraw(void *opaque, ColoMatchNeed why, uint64_t epoch)
{
    colo_withdraw_checkpoint(reasons[why], epoch);
}

ColoCompareStatistics *colo_compare_statistics_new(Object *obj,
                                                   const ColoMatchStats *m)
{
    ColoCompareStatistics *st = g_new0(ColoCompareStatistics, 1);

    st->id = g_strdup(object_get_canonical_path_component(obj));
    st->primary_packets = m->primary_packets;
    st->secondary_packets = m->secondary_packets;
    st->released_equal = m->released[COLO_RELEASE_EQUAL];
    st->released_commit = m->released[COLO_RELEASE_COMMIT];
    st->released_open = m->released[COLO_RELEASE_OPEN];
    st->mismatches = m->mismatches;
    st->timeouts = m->timeouts;
    st->bytes_compared = m->bytes_compared;
    st->acks_clamped = m->acks_clamped;
    st->windows_clamped = m->windows_clamped;
    st->acks_of_secondary = m->released[COLO_RELEASE_SECONDARY_ACK];
    st->secondary_discarded = m->secondary_discarded;
    st->secondary_dropped = m->secondary_dropped;
    st->flows = m->flows;
    st->unplaced_packets = m->unplaced_packets;
    st->queued_packets = m->queued_packets;
    st->queued_bytes = m->queued_bytes;
    st->queued_bytes_max = m->queued_bytes_max;
    return st;
}
