/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * colo-compare: the streams that come in.
 *
 * What is read from primary_in and secondary_in is fed to the rules (match.c),
 * records as cuts; what each says of itself is held against this object and
 * against the other.  notify_dev is Xen's, see colo-compare.c.
 *
 * Threads: the iothread only.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "compare-object.h"
#include "net/net.h"
#include "packet.h"
#include "trace.h"

#define XEN_INIT        "COLO_USERSPACE_PROXY_INIT"
#define XEN_CHECKPOINT  "COLO_CHECKPOINT"

static void primary_packet(void *opaque, uint8_t *data, uint32_t size,
                           uint32_t vnet_hdr_len)
{
    CompareInput *in = opaque;
    ColoPacket *p = colo_packet_new_behind(data, size, vnet_hdr_len);

    p->arrived_ms = colo_compare_now_ms();
    colo_match_primary(in->c->match, p);
}

static void primary_cut(void *opaque, uint64_t epoch)
{
    CompareInput *in = opaque;

    colo_compare_obey(in->c);
    trace_colo_compare_cut(epoch, in->name);
    colo_stream_end_sound(&in->end);
    colo_match_primary_cut(in->c->match, epoch, colo_compare_now_ms());
}

static void secondary_packet(void *opaque, uint8_t *data, uint32_t size,
                             uint32_t vnet_hdr_len)
{
    CompareInput *in = opaque;
    ColoPacket *p = colo_packet_new_behind(data, size, vnet_hdr_len);

    p->arrived_ms = colo_compare_now_ms();
    colo_match_secondary(in->c->match, p);
}

static void secondary_cut(void *opaque, uint64_t epoch)
{
    CompareInput *in = opaque;

    colo_compare_obey(in->c);
    trace_colo_compare_cut(epoch, in->name);
    if (colo_match_secondary_cut(in->c->match, epoch, colo_compare_now_ms())) {
        colo_stream_end_sound(&in->end);
        return;
    }
    colo_stream_end_wrong_epoch(&in->end, epoch);
    colo_match_secondary_lost(in->c->match);
    colo_stream_reader_reset(in->reader);
}

static bool is_message(const uint8_t *data, uint32_t size, const char *message)
{
    return size == strlen(message) && !memcmp(data, message, size);
}

static void notify_packet(void *opaque, uint8_t *data, uint32_t size,
                          uint32_t vnet_hdr_len)
{
    CompareInput *in = opaque;
    ColoCompare *c = in->c;

    if (is_message(data, size, XEN_INIT)) {
        c->xen_epoch = 0;
        colo_match_arm(c->match);
        colo_match_primary_cut(c->match, 0, colo_compare_now_ms());
        colo_match_secondary_cut(c->match, 0, colo_compare_now_ms());
        colo_compare_say_to_xen(c, XEN_INIT);
    } else if (is_message(data, size, XEN_CHECKPOINT)) {
        c->xen_epoch++;
        colo_match_primary_cut(c->match, c->xen_epoch, colo_compare_now_ms());
        colo_match_commit(c->match, c->xen_epoch, colo_compare_now_ms());
        colo_match_secondary_cut(c->match, c->xen_epoch, colo_compare_now_ms());
    } else {
        warn_report("colo-compare: unknown message of %" PRIu32 " bytes from "
                    "notify_dev '%s'", size, c->notify_dev);
    }
    g_free(data);
}

static void notify_cut(void *opaque, uint64_t epoch)
{
    /* Xen knows no such record */
}

/* The two netdevs cannot be looked at here, but they can be compared */
static void check_alike(CompareInput *in, CompareInput *other, Error **errp)
{
    const ColoStreamHello *one = &in->hello, *two = &other->hello;

    if (!other->told) {
        return;
    }
    if (!one->vnet_hdr_len != !two->vnet_hdr_len) {
        error_setg(errp, "packets have %s vnet header, those of %s have %s: "
                   "the netdevs of both sides, and their vnet_hdr, have to be "
                   "alike", one->vnet_hdr_len ? "a" : "no", other->name,
                   two->vnet_hdr_len ? "one" : "none");
    } else if (one->has_mac && two->has_mac &&
               memcmp(&one->mac, &two->mac, sizeof(one->mac))) {
        error_setg(errp, "the MAC address of the NIC is " MAC_FMT ", that of "
                   "%s is " MAC_FMT ": give both sides the same mac",
                   MAC_ARG(one->mac.a), other->name, MAC_ARG(two->mac.a));
    }
}

static bool input_hello(CompareInput *in, CompareInput *other,
                        ColoStreamKind kind, const ColoStreamHello *hello)
{
    const ColoStreamExpected expected = {
        .kind = kind,
        .vnet_hdr = in->c->options.vnet_hdr,
        .parsed = true,
    };
    Error *err = NULL;
    bool fatal;

    if (!colo_stream_end_belongs(&in->end, hello)) {
        return false;
    }
    in->told = true;
    in->hello = *hello;
    if (colo_stream_hello_check(hello, &expected, &fatal, &err)) {
        fatal = false;
        check_alike(in, other, &err);
    }
    if (err) {
        error_prepend(&err, "colo-compare: %s: ", in->name);
    }
    colo_stream_end_told(&in->end, err, fatal);
    return !fatal;
}

static bool primary_hello(void *opaque, const ColoStreamHello *hello)
{
    CompareInput *in = opaque;

    return input_hello(in, &in->c->secondary, COLO_STREAM_PRIMARY_OUTPUT,
                       hello);
}

static bool secondary_hello(void *opaque, const ColoStreamHello *hello)
{
    CompareInput *in = opaque;

    return input_hello(in, &in->c->primary, COLO_STREAM_SECONDARY_OUTPUT,
                       hello);
}

static const ColoStreamReaderOps primary_ops = {
    .room = COLO_PACKET_ROOM,
    .packet = primary_packet,
    .cut = primary_cut,
    .hello = primary_hello,
};

static const ColoStreamReaderOps secondary_ops = {
    .room = COLO_PACKET_ROOM,
    .packet = secondary_packet,
    .cut = secondary_cut,
    .hello = secondary_hello,
};

static const ColoStreamReaderOps notify_ops = {
    .packet = notify_packet,
    .cut = notify_cut,
};

static int input_can_read(void *opaque)
{
    CompareInput *in = opaque;
    ColoCompare *c = in->c;

    if (in == &c->notify) {
        return COLO_COMPARE_READ_BYTES;
    }
    /* What the secondary says lets packets go, too, and adds some */
    if (!QSIMPLEQ_EMPTY(&c->pending) ||
        (in == &c->primary && colo_match_full(c->match))) {
        return 0;
    }
    return COLO_COMPARE_READ_BYTES;
}

static void input_read(void *opaque, const uint8_t *buf, int size)
{
    CompareInput *in = opaque;
    ColoCompare *c = in->c;
    Error *err = NULL;
    bool sound;

    c->moved |= in == &c->primary;
    if (in->end.broken) {
        return;
    }
    colo_stream_writer_cork(c->out);
    colo_match_begin_read(c->match);
    sound = colo_stream_reader_feed(in->reader, buf, size, &err);
    colo_match_end_read(c->match);
    if (!sound) {
        error_prepend(&err, "colo-compare: %s: ", in->name);
        colo_stream_end_broken(&in->end, err);
        if (in == &c->secondary) {
            colo_match_secondary_lost(c->match);
        }
    }
    colo_stream_writer_uncork(c->out);
    colo_compare_set_timer(c);
    colo_compare_publish(c);
}

static void input_event(void *opaque, QEMUChrEvent event)
{
    CompareInput *in = opaque;
    ColoCompare *c = in->c;

    switch (event) {
    case CHR_EVENT_OPENED:
        /* Its first bytes may have been read already */
        if (in == &c->notify) {
            colo_compare_tell_opened(c, COMPARE_NOTIFY_OPENED);
        }
        if (in == &c->secondary) {
            colo_compare_tell_opened(c, COMPARE_SECONDARY_OPENED);
        }
        break;
    case CHR_EVENT_CLOSED:
        colo_stream_reader_reset(in->reader);
        in->told = false;
        if (in == &c->secondary) {
            colo_match_secondary_lost(c->match);
        }
        if (in == &c->notify) {
            colo_stream_writer_closed(c->notify_out);
        }
        break;
    default:
        break;
    }
    colo_stream_end_event(&in->end, event);
}

static void input_begin(ColoCompare *c, CompareInput *in, const char *name,
                        bool vnet_hdr, const ColoStreamReaderOps *ops)
{
    in->c = c;
    in->name = name;
    in->reader = colo_stream_reader_new(vnet_hdr, ops, in);
    colo_stream_end_init(&in->end, &in->chr, c->ctx);
    if (in != &c->notify) {
        colo_stream_end_expect_records(&in->end, c->ctx);
    }
    qemu_chr_fe_set_handlers(&in->chr, input_can_read, input_read, input_event,
                             NULL, in, iothread_get_g_main_context(c->iothread),
                             true);
}

static void input_end(CompareInput *in)
{
    colo_stream_end_cleanup(&in->end);
    qemu_chr_fe_set_handlers(&in->chr, NULL, NULL, NULL, NULL, NULL, NULL,
                             true);
    g_clear_pointer(&in->reader, colo_stream_reader_free);
}

void colo_compare_inputs_begin(ColoCompare *c)
{
    bool vnet_hdr = c->options.vnet_hdr;

    if (c->notify_dev) {
        input_begin(c, &c->notify, "notify_dev", false, &notify_ops);
    }
    input_begin(c, &c->secondary, "secondary_in", vnet_hdr, &secondary_ops);
    input_begin(c, &c->primary, "primary_in", vnet_hdr, &primary_ops);
}

void colo_compare_inputs_end(ColoCompare *c)
{
    input_end(&c->primary);
    input_end(&c->secondary);
    if (c->notify_dev) {
        input_end(&c->notify);
    }
}
