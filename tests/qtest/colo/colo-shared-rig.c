/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: two QEMUs and one image, see colo-shared-rig.h.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "colo-helpers.h"
#include "colo-shared-rig.h"

#define QUORUM "driver=quorum,read-pattern=fifo,vote-threshold=1"

void shared_start_primary_as(Shared *s, const char *image, const char *file,
                             const char *shared)
{
    s->primary.qts = qtest_initf(
        ">/dev/null -M none -nodefaults "
        "-blockdev node-name=image,%s=%s "
        "-blockdev driver=replication,%s,node-name=repl,mode=primary,"
        "log-size=4194304,file=image "
        "-drive if=none,id=top,node-name=topnode," QUORUM ",discard=unmap,"
        "children.0=repl", image, file, shared);
    disk_export_top(s->primary.qts, s->primary.server);
}

static void shared_start_primary(Shared *s)
{
    shared_start_primary_as(s, RAW_FILE, s->image, SHARED);
}

void shared_start_secondary_as(Shared *s, Side *side, const char *image,
                               const char *shared, const char *store)
{
    side->qts = qtest_initf(
        ">/dev/null -M none -nodefaults "
        "-blockdev node-name=disk,%s=%s "
        "-blockdev driver=%s,node-name=store,"
        "file.driver=qcow2,file.node-name=hidden,file.backing=disk,"
        "file.file.driver=blkdebug,file.file.image.driver=file,"
        "file.file.image.filename=%s "
        "-blockdev driver=qcow2,node-name=active,file.driver=file,"
        "file.filename=%s,backing=hidden "
        "-blockdev driver=replication,%s,node-name=repl,mode=secondary,"
        "top-id=top,file=active "
        "-blockdev driver=replication," SHARED ",node-name=front,"
        "mode=primary,file=repl "
        "-drive if=none,id=top,node-name=topnode," QUORUM ",children.0=front",
        image, s->image, store, side->hidden, side->active, shared);
    disk_export_top(side->qts, side->server);
    disk_export(side->qts, "store", "s", true);
}

void shared_start_secondary(Shared *s, Side *side)
{
    shared_start_secondary_as(s, side, RAW_FILE_RO, SHARED,
                              "replication-store");
}

static void side_init(Shared *s, Side *side, const char *name)
{
    g_autofree char *active = g_strconcat("active-", name, NULL);
    g_autofree char *hidden = g_strconcat("hidden-", name, NULL);

    side->active = disk_new_file(s->dir, active, true);
    side->hidden = disk_new_file(s->dir, hidden, true);
    side->server = g_build_filename(s->dir, name, NULL);
}

static void side_end(Side *side)
{
    if (side->qts) {
        colo_quit(&side->qts);
    }
    disk_free_file(side->active);
    disk_free_file(side->hidden);
    disk_free_file(side->server);
}

Shared *shared_new(void)
{
    Shared *s = g_new0(Shared, 1);

    disk_deadline_begin();
    s->dir = g_dir_make_tmp("colo-shared-XXXXXX", NULL);
    g_assert_nonnull(s->dir);
    s->image = disk_new_file(s->dir, "image", false);
    side_init(s, &s->primary, "primary");
    side_init(s, &s->secondary, "secondary");
    side_init(s, &s->third, "third");
    shared_start_primary(s);
    shared_start_secondary(s, &s->secondary);
    return s;
}

void shared_free(Shared *s)
{
    side_end(&s->primary);
    side_end(&s->secondary);
    side_end(&s->third);
    disk_free_file(s->image);
    rmdir(s->dir);
    g_free(s->dir);
    g_free(s);
    disk_deadline_end();
}

void shared_add_peer(Side *primary, const char *parent, Side *secondary)
{
    disk_add_client(primary->qts, "peer", secondary->server, "s", "");
    disk_add_child(primary->qts, parent, "peer");
}

void shared_del_peer(Side *primary, const char *parent)
{
    disk_del_child(primary->qts, parent, "hidden");
    qtest_qmp_assert_success(primary->qts,
        "{'execute': 'blockdev-del', 'arguments': {'node-name': 'peer'}}");
}

void shared_begin(Side *primary, const char *parent, Side *secondary)
{
    shared_add_peer(primary, parent, secondary);
    disk_replicate(secondary->qts, true, false);
    disk_replicate(primary->qts, true, true);
}

Shared *shared_new_started(void)
{
    Shared *s = shared_new();

    shared_begin(&s->primary, "repl", &s->secondary);
    return s;
}

void shared_checkpoint(Side *primary, Side *secondary)
{
    disk_checkpoint(primary->qts, secondary->qts);
}

void shared_change_refused(Side *primary, const char *text, const char *what,
                           const char *name)
{
    g_autofree char *json = g_strdup_printf(
        "{'execute': 'x-blockdev-change', 'arguments': {'parent': 'repl', "
        "'%s': %%s}}", what);

    colo_refused(primary->qts, text, json, name);
}

void side_read(Side *side, int byte, int64_t offset, int64_t bytes)
{
    disk_read(side->server, byte, offset, bytes);
}

void side_add_drive(Side *side, const char *id, const char *options)
{
    g_autofree char *answer = qtest_hmp(side->qts,
                                        "drive_add 0 if=none,id=%s,%s", id,
                                        options);

    g_assert_true(g_str_has_prefix(answer, "OK"));
}

void side_add_inside(Side *secondary)
{
    side_add_drive(secondary, "inside", "read-only=on,driver=raw,"
                   "file.driver=raw,file.file=store");
}
