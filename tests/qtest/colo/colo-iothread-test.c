/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: devices that complete requests in an iothread, when the VM is
 * stopped as for a checkpoint.
 *
 * Proves, for each of them: the guest gets the interrupt of a request that
 * completes while the VM stops.  A guest that does not waits for ever, and so
 * does the one that takes over.
 *
 * The throttle node holds the request back until the VM stops and drains it.
 * The iothread has the CPU of the main loop, and that only while the main loop
 * sleeps: so the latter goes on with the stop as soon as the request is
 * complete for the block layer, and before the iothread has done more.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include <sched.h>
#include "libqos/libqos-pc.h"
#include "libqos/virtio-pci.h"
#include "standard-headers/linux/virtio_blk.h"
#include "standard-headers/linux/virtio_ids.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"

#define SLOT            4
#define STOPS           5       /* on each queue */
#define QUEUES          2
#define SCSI_QUEUES     2       /* before those for commands */
#define SCSI_READY      0x00
#define SCSI_WRITE      0x2a
#define BYTES           512
#define TEST_UNIT_READY_TIMES 2 /* the first one tells of the power-on */

typedef struct Request {
    uint64_t head, data, answer;
    uint32_t head_bytes, data_bytes, answer_bytes;
} Request;

typedef struct Device {
    const char *name;
    const char *options;        /* after the driver's name */
    const char *more;           /* devices on it */
    int first_queue;
} Device;

#define MAPPING "'iothread-vq-mapping':[{'iothread':'io0'},{'iothread':'io1'}]"
#define BLK "'driver':'virtio-blk-pci','drive':'top','num-queues':2,"
#define SCSI "'driver':'virtio-scsi-pci','num_queues':2,"
#define SCSI_DISK "-device \"{'driver':'scsi-hd','bus':'dev0.0','drive':'top'}\""

static const Device devices[] = {
    { "virtio-blk", BLK "'iothread':'io0'", "", 0 },
    { "virtio-blk-mapping", BLK MAPPING, "", 0 },
    { "virtio-scsi", SCSI "'iothread':'io0'",
      SCSI_DISK, SCSI_QUEUES },
    { "virtio-scsi-mapping", SCSI MAPPING,
      SCSI_DISK, SCSI_QUEUES },
};

typedef struct Machine {
    const Device *device;
    char *dir;
    char *path;
    QOSState *qs;
    QVirtioPCIDevice *pci;
    QVirtQueue *queues[SCSI_QUEUES + QUEUES];
} Machine;

static bool is_scsi(const Machine *m)
{
    return m->device->first_queue == SCSI_QUEUES;
}

/* The iothreads run where the main loop does, and give way to it */
static void give_way(QTestState *qts)
{
    QDict *answer = qtest_qmp(qts, "{'execute': 'query-iothreads'}");
    struct sched_param none = { 0 };
    const QListEntry *entry;
    cpu_set_t cpus, one;
    int cpu = 0;

    g_assert_cmpint(sched_getaffinity(0, sizeof(cpus), &cpus), ==, 0);
    while (!CPU_ISSET(cpu, &cpus)) {
        cpu++;
    }
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    g_assert_cmpint(sched_setaffinity(qtest_pid(qts), sizeof(one), &one), ==,
                    0);
    QLIST_FOREACH_ENTRY(qdict_get_qlist(answer, "return"), entry) {
        pid_t thread = qdict_get_int(qobject_to(QDict, qlist_entry_obj(entry)),
                                     "thread-id");

        g_assert_cmpint(sched_setaffinity(thread, sizeof(one), &one), ==, 0);
        g_assert_cmpint(sched_setscheduler(thread, SCHED_IDLE, &none), ==, 0);
    }
    qobject_unref(answer);
}

static void machine_begin(Machine *m)
{
    QPCIAddress address = { .devfn = QPCI_DEVFN(SLOT, 0) };
    int queues = m->device->first_queue + QUEUES;

    disk_deadline_begin();
    m->dir = g_dir_make_tmp("colo-iothread-XXXXXX", NULL);
    g_assert_nonnull(m->dir);
    m->path = disk_new_file(m->dir, "disk", false);
    m->qs = qtest_pc_boot(
        "-nodefaults -object iothread,id=io0 -object iothread,id=io1 "
        "-object throttle-group,id=tg0,x-bps-total=1 "
        "-blockdev driver=throttle,throttle-group=tg0,node-name=top,"
        "file.driver=file,file.filename=%s "
        "-device \"{%s,'id':'dev0','addr':'%d'}\" %s",
        m->path, m->device->options, SLOT, m->device->more);
    give_way(m->qs->qts);
    m->pci = virtio_pci_new(m->qs->pcibus, &address);
    qvirtio_pci_device_enable(m->pci);
    qvirtio_start_device(&m->pci->vdev);
    qpci_msix_enable(m->pci->pdev);
    qvirtio_pci_set_msix_configuration_vector(m->pci, &m->qs->alloc, 0);
    qvirtio_set_features(&m->pci->vdev,
                         qvirtio_get_features(&m->pci->vdev) &
                         (1ULL << VIRTIO_F_VERSION_1));
    for (int i = 0; i < queues; i++) {
        m->queues[i] = qvirtqueue_setup(&m->pci->vdev, &m->qs->alloc, i);
        qvirtqueue_pci_msix_setup(m->pci, container_of(m->queues[i],
                                                       QVirtQueuePCI, vq),
                                  &m->qs->alloc, i + 1);
    }
    qvirtio_set_driver_ok(&m->pci->vdev);
}

static void machine_end(Machine *m)
{
    int queues = m->device->first_queue + QUEUES;

    for (int i = 0; i < queues; i++) {
        qvirtqueue_cleanup(m->pci->vdev.bus, m->queues[i], &m->qs->alloc);
    }
    qpci_msix_disable(m->pci->pdev);
    qvirtio_pci_device_disable(m->pci);
    qvirtio_pci_destructor(&m->pci->obj);
    g_free(m->pci);
    qtest_shutdown(m->qs);
    disk_free_file(m->path);
    rmdir(m->dir);
    g_free(m->dir);
    disk_deadline_end();
}

static uint64_t new_bytes(Machine *m, const void *data, size_t bytes)
{
    uint64_t address = guest_alloc(&m->qs->alloc, bytes);

    qtest_memwrite(m->qs->qts, address, data, bytes);
    return address;
}

static void blk_request(Machine *m, Request *r)
{
    struct virtio_blk_outhdr head = {
        .type = cpu_to_le32(VIRTIO_BLK_T_OUT),
    };

    r->head_bytes = sizeof(head);
    r->head = new_bytes(m, &head, sizeof(head));
    r->answer_bytes = 1;
}

static void scsi_request(Machine *m, Request *r, uint8_t command)
{
    uint8_t head[51] = { 1, 0, 0x40 };      /* target 0, LUN 0 */

    head[19] = command;                     /* the first byte of the CDB */
    head[27] = command == SCSI_WRITE;       /* how many blocks */
    r->head_bytes = sizeof(head);
    r->head = new_bytes(m, head, sizeof(head));
    r->answer_bytes = 108;
}

/* Give it to the device */
static void submit(Machine *m, QVirtQueue *vq, Request *r)
{
    g_autofree uint8_t *zeroes = g_malloc0(MAX(r->answer_bytes, BYTES));
    QTestState *qts = m->qs->qts;
    uint32_t first;

    r->answer = new_bytes(m, zeroes, r->answer_bytes);
    first = qvirtqueue_add(qts, vq, r->head, r->head_bytes, false, true);
    if (r->data_bytes) {
        r->data = new_bytes(m, zeroes, r->data_bytes);
        qvirtqueue_add(qts, vq, r->data, r->data_bytes, false, true);
    }
    qvirtqueue_add(qts, vq, r->answer, r->answer_bytes, true, false);
    qvirtqueue_kick(qts, &m->pci->vdev, vq, first);
}

/* The device has done it */
static void release(Machine *m, QVirtQueue *vq, Request *r)
{
    uint32_t index;

    g_assert_true(qvirtqueue_get_buf(m->qs->qts, vq, &index, NULL));
    guest_free(&m->qs->alloc, r->head);
    guest_free(&m->qs->alloc, r->answer);
    if (r->data_bytes) {
        guest_free(&m->qs->alloc, r->data);
    }
    qvirtqueue_reset_pool(vq);
}

/* Until the device has taken a request, and not yet completed it */
static void wait_taken(Machine *m, int queue)
{
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;

    for (;;) {
        QDict *answer = qtest_qmp_assert_success_ref(m->qs->qts,
            "{'execute': 'x-query-virtio-queue-status', 'arguments': {"
            "'path': '/machine/peripheral/dev0/virtio-backend', "
            "'queue': %d}}", queue);
        int64_t taken = qdict_get_int(answer, "inuse");

        qobject_unref(answer);
        if (taken) {
            return;
        }
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
}

static void make_ready(Machine *m)
{
    QVirtQueue *vq = m->queues[m->device->first_queue];

    for (int i = 0; i < TEST_UNIT_READY_TIMES; i++) {
        Request r = { 0 };

        scsi_request(m, &r, SCSI_READY);
        submit(m, vq, &r);
        qvirtio_wait_queue_isr(m->qs->qts, &m->pci->vdev, vq,
                               COLO_DEADLINE_MS * 1000LL);
        release(m, vq, &r);
    }
}

static void stop_once(Machine *m, int queue)
{
    QVirtQueue *vq = m->queues[queue];
    QTestState *qts = m->qs->qts;
    Request r = { .data_bytes = BYTES };

    if (is_scsi(m)) {
        scsi_request(m, &r, SCSI_WRITE);
    } else {
        blk_request(m, &r);
    }
    submit(m, vq, &r);
    wait_taken(m, queue);
    qtest_qmp_assert_success(qts, "{'execute': 'stop'}");
    g_assert_true(m->pci->vdev.bus->get_queue_isr_status(&m->pci->vdev, vq));
    release(m, vq, &r);
    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
}

static void test_stop(const void *opaque)
{
    Machine m = { .device = opaque };

    machine_begin(&m);
    if (is_scsi(&m)) {
        make_ready(&m);
    }
    for (int i = 0; i < STOPS; i++) {
        for (int j = 0; j < QUEUES; j++) {
            stop_once(&m, m.device->first_queue + j);
        }
    }
    machine_end(&m);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < ARRAY_SIZE(devices); i++) {
        g_autofree char *path = g_strdup_printf("/colo/iothread/stop/%s",
                                                devices[i].name);

        g_test_add_data_func(path, &devices[i], test_stop);
    }
    return g_test_run();
}
