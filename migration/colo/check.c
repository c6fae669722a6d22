/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: capabilities, channels, devices and disks that cannot be part of a
 * session.
 *
 * Both sides, main loop, BQL.  They are found when the migration begins, so
 * that nothing has to be migrated, and no secondary is used up, to learn that
 * it was for nothing.  Until then devices and disks are among the problems that
 * query-colo-status shows.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-types-migration.h"
#include "qapi/util.h"
#include "hw/pci/pci_bridge.h"
#include "hw/pci/pci_device.h"
#include "hw/qdev-core.h"
#include "hw/virtio/virtio.h"
#include "io/channel-socket.h"
#include "migration/colo.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/savevm.h"
#include "net/colo.h"
#include "system/runstate.h"
#include "disks.h"
#include "problems.h"
#include "status.h"

/*
 * Postcopy and snapshots need the guest to be in one place.  switchover-ack
 * occupies the channel that the session uses afterwards.  release-ram gives
 * away what the primary goes on with.  mapped-ram is for files.
 * x-ignore-shared leaves RAM out that a load needs.  dirty-limit would slow the
 * guest down as long as the session lasts.  return-path may be set or not: the
 * session opens that direction itself.
 */
static const MigrationCapability incompatible_caps[] = {
    MIGRATION_CAPABILITY_POSTCOPY_RAM,
    MIGRATION_CAPABILITY_BACKGROUND_SNAPSHOT,
    MIGRATION_CAPABILITY_SWITCHOVER_ACK,
    MIGRATION_CAPABILITY_RELEASE_RAM,
    MIGRATION_CAPABILITY_MAPPED_RAM,
    MIGRATION_CAPABILITY_X_IGNORE_SHARED,
    MIGRATION_CAPABILITY_DIRTY_LIMIT,
};

typedef struct Search {
    ColoProblemFunc *found;
    void *opaque;
} Search;

/* Models that cannot be reset and loaded while the session is under way */
static const struct Model {
    const char *type;
    const char *why;
} models[] = {
    { "virtio-mem", "a reset, which each checkpoint begins with, gives the "
                    "memory back that the guest uses" },
    { "adlib", "its registers are not migrated" },
};

bool colo_supported(void)
{
    return colo_net_supported();
}

bool colo_caps_check(const bool *caps, Error **errp)
{
    if (!colo_supported()) {
        error_setg(errp, "this QEMU was built without --enable-colo-proxy, "
                   "which x-colo needs");
        return false;
    }
    for (int i = 0; i < ARRAY_SIZE(incompatible_caps); i++) {
        if (caps[incompatible_caps[i]]) {
            error_setg(errp, "x-colo is not compatible with %s",
                       MigrationCapability_str(incompatible_caps[i]));
            return false;
        }
    }
    return true;
}

static void refuse_channel(Error **errp)
{
    error_setg(errp, "x-colo needs a channel that goes both ways: tcp:, unix:, "
               "vsock:, or fd: with a socket");
}

/*
 * True if the guest reaches @dev, or what is behind it, at addresses that a
 * load takes away: they are part of a state that is not migrated.
 */
static bool loses_addresses(DeviceState *dev)
{
    PCIDevice *pci = PCI_DEVICE(dev);
    g_autofree char *path = qdev_get_dev_path(dev);
    bool addressed = object_dynamic_cast(OBJECT(dev), TYPE_PCI_BRIDGE);

    /* A function that its physical one has not switched on */
    if (pci_is_vf(pci) && !pci->enabled) {
        return false;
    }
    for (int i = 0; i < PCI_NUM_REGIONS; i++) {
        addressed |= pci->io_regions[i].size != 0;
    }
    return addressed && path && !qemu_savevm_has_section(path);
}

/* True if the guest's driver finds @obj reset after a load */
static bool is_forgotten(Object *obj)
{
    if (object_dynamic_cast(obj, TYPE_PCI_DEVICE)) {
        return DEVICE(obj)->realized && loses_addresses(DEVICE(obj));
    }
    if (object_dynamic_cast(obj, TYPE_VIRTIO_DEVICE)) {
        return DEVICE(obj)->realized && !qdev_get_vmsd(DEVICE(obj));
    }
    return false;
}

/* What the user made: a virtio device is inside of another one */
static DeviceState *user_device(Object *obj)
{
    BusState *bus = qdev_get_parent_bus(DEVICE(obj));

    return object_dynamic_cast(obj, TYPE_VIRTIO_DEVICE) && bus && bus->parent
           ? bus->parent : DEVICE(obj);
}

static void report(Search *s, const char *name, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

static void report(Search *s, const char *name, const char *fmt, ...)
{
    g_autofree char *message = NULL;
    va_list ap;

    va_start(ap, fmt);
    message = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    s->found(s->opaque, COLO_PROBLEM_KIND_DEVICE, name, message);
}

static int look_at_model(Object *obj, void *opaque)
{
    Search *s = opaque;

    if (is_forgotten(obj)) {
        g_autofree char *name = qdev_get_human_name(DEVICE(obj));

        report(s, name, "x-colo cannot protect a guest with the %s device "
               "'%s': it has no state that is migrated",
               object_get_typename(obj), name);
    }
    for (int i = 0; i < ARRAY_SIZE(models); i++) {
        if (object_dynamic_cast(obj, models[i].type)) {
            g_autofree char *name = qdev_get_human_name(user_device(obj));

            report(s, name, "x-colo cannot protect a guest with the %s device "
                   "'%s': %s", models[i].type, name, models[i].why);
        }
    }
    return 0;
}

void colo_device_problems(ColoProblemFunc *found, void *opaque)
{
    Search s = { .found = found, .opaque = opaque };
    const char *own_stream = qemu_savevm_own_stream();

    if (own_stream) {
        report(&s, own_stream, "x-colo cannot protect '%s': it is migrated by "
               "a stream of its own, which a checkpoint does not have",
               own_stream);
    }
    object_child_foreach_recursive(object_get_root(), look_at_model, &s);
}

/* The first problem is the one to refuse for */
static void set_error(void *opaque, ColoProblemKind kind, const char *name,
                      const char *message)
{
    Error **first = opaque;

    if (!*first) {
        error_setg(first, "%s", message);
    }
}

static bool check_devices(Error **errp)
{
    Error *first = NULL;

    colo_device_problems(set_error, &first);
    if (first) {
        error_propagate(errp, first);
        return false;
    }
    return colo_net_check(errp);
}

/* Its state is `failed` already, and its thread or channel is still there */
static bool migration_ends(void)
{
    MigrationState *ms = migrate_get_current();

    return !migration_is_running() &&
           (ms->to_dst_file || ms->migration_thread_running);
}

bool colo_migrate_check(const MigrationAddress *addr, Error **errp)
{
    if (colo_lost_refused("migrate", errp) ||
        colo_command_refused("migrate", errp)) {
        return false;
    }
    if (migration_ends()) {
        error_setg(errp, "the migration before is just ending: try again");
        return false;
    }
    if (!migrate_colo()) {
        return true;
    }
    if (addr->transport != MIGRATION_ADDRESS_TYPE_SOCKET) {
        refuse_channel(errp);
        return false;
    }
    /* A secondary's disks may get what they lack until the primary comes */
    if (!check_devices(errp) ||
        (!runstate_check(RUN_STATE_INMIGRATE) &&
         !colo_disks_can_begin(COLO_MODE_PRIMARY, errp))) {
        return false;
    }
    if (!migration_is_running()) {
        colo_status_try_again();
    }
    return true;
}

bool colo_fd_check(QIOChannel *ioc, Error **errp)
{
    if (migrate_colo() && !object_dynamic_cast(OBJECT(ioc),
                                               TYPE_QIO_CHANNEL_SOCKET)) {
        refuse_channel(errp);
        return false;
    }
    return true;
}

bool colo_vmstate_needed(void *opaque)
{
    return migrate_colo();
}
