/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what the two sides say to each other beside the checkpoints: that they
 * are there, that they end the session, and why.
 *
 * Both sides, in the session's thread, without the BQL.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "farewell.h"
#include "peer.h"

void colo_read_end(ColoSession *s, const ColoFrame *f, const char *stage,
                   Error **errp)
{
    uint8_t buf[COLO_TEXT_MAX + 1];
    ColoByeReason reason;

    QEMU_BUILD_BUG_ON(COLO_BYE_LEN > COLO_TEXT_MAX);

    switch (f->type) {
    case COLO_FRAME_BYE:
        if (!colo_wire_recv_buf(s->wire, buf, f->length, errp) ||
            !colo_bye_decode(buf, f->length, &reason, errp)) {
            return;
        }
        s->cause = COLO_CAUSE_PEER_BYE;
        s->peer_reason = reason;
        /* If this gets lost the peer finds out by itself */
        colo_wire_send_buf(s->wire, COLO_FRAME_BYE_ACK, s->epoch, NULL, 0,
                           NULL);
        error_setg(errp, "the peer ended the session: %s",
                   colo_bye_reason_str(reason));
        return;
    case COLO_FRAME_ERROR:
        if (!colo_wire_recv_buf(s->wire, buf, f->length, errp)) {
            return;
        }
        buf[f->length] = '\0';
        for (uint64_t i = 0; i < f->length; i++) {
            buf[i] = g_ascii_isprint(buf[i]) ? buf[i] : '?';
        }
        s->cause = COLO_CAUSE_PEER_ERROR;
        colo_wire_send_buf(s->wire, COLO_FRAME_BYE_ACK, s->epoch, NULL, 0,
                           NULL);
        error_setg(errp, "the peer reports: %s", buf);
        return;
    case COLO_FRAME_TAKEOVER:
        if (s->side == COLO_MODE_PRIMARY) {
            s->cause = COLO_CAUSE_TAKEOVER;
            error_setg(errp, "the other side goes on");
            return;
        }
        /* fall through */
    default:
        error_setg(errp, "waiting for %s: unexpected '%s' of checkpoint "
                   "%" PRIu64, stage, colo_frame_name(f->type), f->epoch);
        return;
    }
}

int64_t colo_patience_end(ColoSession *s)
{
    return colo_now_ns() + COLO_STALL_TIMEOUTS * colo_timeout_ns(s);
}

/* True, with @errp set, if it is time to give up */
static bool patience_over(ColoSession *s, int64_t end_ns, const char *stage,
                          Error **errp)
{
    if (colo_now_ns() < end_ns) {
        return false;
    }
    error_setg(errp, "waiting for %s: the peer spoke of something else for "
               "%u ms", stage, COLO_STALL_TIMEOUTS * s->timeout_ms);
    return true;
}

bool colo_take_sign_of_life(ColoSession *s, const ColoFrame *f)
{
    if (s->side == COLO_MODE_SECONDARY) {
        return f->type == COLO_FRAME_PING;
    }
    if (f->type == COLO_FRAME_HANDOVER_REQUEST) {
        s->primary.hand_over = true;
        return true;
    }
    if (f->type != COLO_FRAME_PONG || !s->primary.pings) {
        return false;
    }
    s->primary.pings--;
    return true;
}

bool colo_recv(ColoSession *s, const char *stage, ColoFrame *f, Error **errp)
{
    int64_t end_ns = colo_patience_end(s);
    unsigned returns = colo_wire_returns(s->wire);

    do {
        if (patience_over(s, end_ns, stage, errp) ||
            !colo_wire_recv(s->wire, stage, f, errp)) {
            return false;
        }
        if (returns != colo_wire_returns(s->wire)) {
            /* The time in which it was away does not count */
            returns = colo_wire_returns(s->wire);
            end_ns = colo_patience_end(s);
        }
    } while (colo_take_sign_of_life(s, f));
    return true;
}

bool colo_expect(ColoSession *s, ColoFrameType type, uint64_t cut,
                 const char *stage, ColoFrame *f, Error **errp)
{
    g_autofree char *name = g_strdup_printf("'%s' of checkpoint %" PRIu64,
                                            colo_frame_name(type), cut);

    if (!stage) {
        stage = name;
    }
    if (!colo_recv(s, stage, f, errp)) {
        return false;
    }
    if (f->type != type || f->epoch != cut) {
        colo_read_end(s, f, stage, errp);
        return false;
    }
    return true;
}

/*
 * Wait until the peer has understood, passing over whatever it was about to
 * say.  Without that, closing a socket with unread data would reset the
 * connection, and the peer might never see our last word.
 */
static bool await_bye_ack(ColoSession *s, Error **errp)
{
    int64_t end_ns = colo_patience_end(s);
    ColoFrame f;

    do {
        if (patience_over(s, end_ns, "'bye-ack'", errp) ||
            !colo_wire_recv(s->wire, "'bye-ack'", &f, errp) ||
            !colo_wire_skip(s->wire, f.length, errp)) {
            return false;
        }
        if (f.type == COLO_FRAME_TAKEOVER && s->side == COLO_MODE_PRIMARY) {
            /* It had not heard this side, and does not ask */
            s->cause = COLO_CAUSE_TAKEOVER;
            error_setg(errp, "the other side goes on");
            return false;
        }
        /* BYE: both sides had the same idea */
    } while (f.type != COLO_FRAME_BYE_ACK && f.type != COLO_FRAME_BYE);
    return true;
}

bool colo_hand_over(ColoSession *s, Error **errp)
{
    const char *stage = "the secondary to take over";
    ColoFrame f;

    if (!colo_wire_send_buf(s->wire, COLO_FRAME_HANDOVER, s->epoch, NULL, 0,
                            errp) ||
        !colo_recv(s, stage, &f, errp)) {
        return false;
    }
    if (f.type != COLO_FRAME_BYE_ACK) {
        /* If it ends, of all times, this side goes on */
        colo_read_end(s, &f, stage, errp);
        return false;
    }
    colo_let_go(s);
    return true;
}

void colo_let_go(ColoSession *s)
{
    /* If it gets lost the secondary needs a decision */
    colo_wire_send_buf(s->wire, COLO_FRAME_BYE_ACK, s->epoch, NULL, 0, NULL);
    colo_farewell(colo_wire_channel(s->wire));
}

void colo_say_going_on(ColoSession *s)
{
    uint8_t buf[COLO_BYE_LEN];
    bool ok;

    if (s->side == COLO_MODE_SECONDARY) {
        ok = colo_wire_last_word(s->wire, COLO_FRAME_TAKEOVER, s->epoch, NULL,
                                 0);
    } else {
        colo_bye_encode(COLO_BYE_FAILOVER, buf);
        ok = colo_wire_last_word(s->wire, COLO_FRAME_BYE, s->epoch, buf,
                                 sizeof(buf));
    }
    if (ok) {
        colo_farewell(colo_wire_channel(s->wire));
    }
}

bool colo_say_bye(ColoSession *s, ColoByeReason reason, Error **errp)
{
    uint8_t buf[COLO_BYE_LEN];

    colo_bye_encode(reason, buf);
    return colo_wire_send_buf(s->wire, COLO_FRAME_BYE, s->epoch, buf,
                              sizeof(buf), errp) &&
           await_bye_ack(s, errp);
}

void colo_say_error(ColoSession *s, const Error *err)
{
    const char *text = error_get_pretty(err);

    /* If the peer does not hear it, it finds out by itself */
    if (colo_wire_send_buf(s->wire, COLO_FRAME_ERROR, s->epoch, text,
                           MIN(strlen(text), COLO_TEXT_MAX), NULL)) {
        await_bye_ack(s, NULL);
    }
}

bool colo_hears_peer(ColoSession *s, Error **errp)
{
    const char *stage = "a sign of life";
    int64_t end_ns = colo_now_ns() + colo_timeout_ns(s);
    bool is_news = false;   /* all that had come before has been read */
    ColoFrame f;

    colo_wire_begin_wait(s->wire);
    while (colo_wish(s) != COLO_WISH_FAILOVER) {
        switch (colo_wire_wait(s->wire, is_news ? end_ns : colo_now_ns())) {
        case COLO_WAIT_WOKEN:
            if (colo_wire_cancelled(s->wire)) {
                /* From now on nothing is waited for */
                error_setg(errp, "waiting for %s: interrupted", stage);
                return false;
            }
            continue;
        case COLO_WAIT_DEADLINE:
            if (is_news) {
                error_setg(errp, "waiting for %s: the peer was silent for "
                           "%u ms", stage, s->timeout_ms);
                return false;
            }
            is_news = true;
            continue;
        case COLO_WAIT_READABLE:
            break;
        }
        if (!colo_wire_next(s->wire, stage, &f, errp)) {
            return false;
        }
        if (f.type != COLO_FRAME_ALIVE && !colo_take_sign_of_life(s, &f)) {
            colo_read_end(s, &f, stage, errp);
            return false;
        }
        if (is_news) {
            return true;
        }
    }
    error_setg(errp, "asked to go on");
    return false;
}

void colo_begin_alive(ColoSession *s)
{
    BQL_LOCK_GUARD();
    s->keepalive = colo_keepalive_start(s->wire);
}
