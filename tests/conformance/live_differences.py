"""Where a running guest shows something else than under QEMU: the reason, and the lines that only QEMU (-) or hmp (+) says.

The list is held by test_live.py to the letter: what is mended, or differs in another way, fails there until it is told here.
"""

from __future__ import annotations

DIFFERENCES: dict[str, tuple[str, list[str]]] = {
    "before it runs": (
        "the modelled device offers no RING_RESET, ANY_LAYOUT, NOTIFY_ON_EMPTY or legacy bits",
        [
            "-\tVIRTIO_F_VERSION_1: Device compliant for v1 spec (legacy),",
            "-\tVIRTIO_F_ANY_LAYOUT: Device accepts arbitrary desc. layouts,",
            "-\tVIRTIO_F_NOTIFY_ON_EMPTY: Notify when device runs out of avail. descs. on VQ",
            "+\tVIRTIO_F_VERSION_1: Device compliant for v1 spec (legacy)",
            "-  unknown-features(0x0000010040000000)",
        ],
    ),
    "virtio-status": (
        "the modelled driver does not accept RING_RESET, which the device does not offer; queue_sel is a register of a transport that is not modelled; its interrupt is not acknowledged (isr), where QEMU's is MSI-X; the modelled device offers no RING_RESET, ANY_LAYOUT, NOTIFY_ON_EMPTY or legacy bits",
        [
            "-  queue_sel:               2",
            "-  isr:                     0",
            "+  queue_sel:               0",
            "+  isr:                     3",
            "-  unknown-features(0x0000010000000000)",
            "-\tVIRTIO_F_VERSION_1: Device compliant for v1 spec (legacy),",
            "-\tVIRTIO_F_ANY_LAYOUT: Device accepts arbitrary desc. layouts,",
            "-\tVIRTIO_F_NOTIFY_ON_EMPTY: Notify when device runs out of avail. descs. on VQ",
            "+\tVIRTIO_F_VERSION_1: Device compliant for v1 spec (legacy)",
            "-  unknown-features(0x0000010040000000)",
        ],
    ),
    "properties": (
        "the object has no iothread and no property for old machine types",
        [
            '-return {"return": ""}',
            '+return {"error": {"class": "GenericError", "desc": "Property \'virtio-balloon-pci.iothread\' not found"}}',
            '-return {"return": false}',
            '+return {"error": {"class": "GenericError", "desc": "Property \'virtio-balloon-pci.qemu-4-0-config-size\' not found"}}',
        ],
    ),
    "qom-list of the device": (
        "the object has no iothread and no property for old machine types",
        [
            '-return {"name": "iothread", "type": "link<iothread>"}',
            '-return {"name": "qemu-4-0-config-size", "type": "bool"}',
        ],
    ),
    "qom-list of the backend": (
        "the object has no iothread and no property for old machine types",
        [
            "-legacy-iothread (str)",
            "-iothread (link<iothread>)",
            "-qemu-4-0-config-size (bool)",
        ],
    ),
    "balloon asked, seed": (
        "the seed dialect waits for the guest's statistics and prints them: what the project is for",
        [
            "-balloon: actual~",
            "+balloon: actual~,mem_swapped_in~,mem_swapped_out~,major_page_faults~,minor_page_faults~,free_mem~,total_mem~",
            "-return balloon: actual~",
            "+return balloon: actual~,mem_swapped_in~,mem_swapped_out~,major_page_faults~,minor_page_faults~,free_mem~,total_mem~",
        ],
    ),
    "query-balloon, seed": (
        "the seed dialect raises BALLOON once the guest answered",
        [
            '+event {"event": "BALLOON", "data": {"actual": ~, "mem_swapped_in": ~, "mem_swapped_out": ~, "major_page_faults": ~, "minor_page_faults": ~, "free_mem": ~, "total_mem": ~}}',
        ],
    ),
    "no snapshots": (
        "a loadvm that fails leaves QEMU stopped in restore-vm, with a STOP; in hmp nothing has changed",
        [
            '-event {"event": "STOP"}',
            '-return {"return": {"status": "restore-vm", "singlestep": false, "running": false}}',
            '+return {"return": {"status": "running", "singlestep": false, "running": true}}',
            '-event {"event": "RESUME"}',
        ],
    ),
    "no driver: status": (
        "rmmod leaves ACKNOWLEDGE, which Linux sets again at once; hmp's driver leaves 0; the modelled device offers no RING_RESET, ANY_LAYOUT, NOTIFY_ON_EMPTY or legacy bits",
        [
            "-\tVIRTIO_CONFIG_S_ACKNOWLEDGE: Valid virtio device found",
            "+",
            "-\tVIRTIO_F_VERSION_1: Device compliant for v1 spec (legacy),",
            "-\tVIRTIO_F_ANY_LAYOUT: Device accepts arbitrary desc. layouts,",
            "-\tVIRTIO_F_NOTIFY_ON_EMPTY: Notify when device runs out of avail. descs. on VQ",
            "+\tVIRTIO_F_VERSION_1: Device compliant for v1 spec (legacy)",
            "-  unknown-features(0x0000010040000000)",
        ],
    ),
    "device_del": (
        "QEMU says DEVICE_DELETED for the backend too, before that for the device",
        [
            '-event {"event": "DEVICE_DELETED", "data": {"path": "/machine/peripheral/balloon0/virtio-backend"}}',
        ],
    ),
    "device_del while inflated, QMP": (
        "QEMU says DEVICE_DELETED for the backend too, before that for the device; its guest takes a moment, so its BALLOON_CHANGE is behind the reply, where the modelled one's is before it",
        [
            '+event {"event": "BALLOON_CHANGE", "data": {"actual": 536870912}}',
            '-event {"event": "BALLOON_CHANGE", "data": {"actual": 536870912}}',
            '-event {"event": "DEVICE_DELETED", "data": {"path": "/machine/peripheral/balloon0/virtio-backend"}}',
        ],
    ),
    "device_del twice, stopped": (
        "of the backend's DEVICE_DELETED see device_del",
        [
            '+event {"event": "DEVICE_DELETED", "data": {"device": "balloon0", "path": "/machine/peripheral/balloon0"}}',
            '-event {"event": "DEVICE_DELETED", "data": {"path": "/machine/peripheral/balloon0/virtio-backend"}}',
            '-event {"event": "DEVICE_DELETED", "data": {"device": "balloon0", "path": "/machine/peripheral/balloon0"}}',
        ],
    ),
    "panic, no pvpanic": (
        "without a pvpanic device QEMU does not learn of the panic; hmp says GUEST_PANICKED, action run",
        [
            '+event {"event": "GUEST_PANICKED", "data": {"action": "run"}}',
        ],
    ),
    "oom: features": (
        "the modelled driver does not accept RING_RESET, which the device does not offer; queue_sel is a register of a transport that is not modelled; its interrupt is not acknowledged (isr), where QEMU's is MSI-X; the reporting queue has 128 entries instead of 32; the modelled device offers no RING_RESET, ANY_LAYOUT, NOTIFY_ON_EMPTY or legacy bits",
        [
            "-  queue_sel:               3",
            "+  queue_sel:               0",
            "-  unknown-features(0x0000010000000000)",
            "-\tVIRTIO_F_VERSION_1: Device compliant for v1 spec (legacy),",
            "-\tVIRTIO_F_ANY_LAYOUT: Device accepts arbitrary desc. layouts,",
            "-\tVIRTIO_F_NOTIFY_ON_EMPTY: Notify when device runs out of avail. descs. on VQ",
            "+\tVIRTIO_F_VERSION_1: Device compliant for v1 spec (legacy)",
            "-  unknown-features(0x0000010040000000)",
            "-    num:          32",
            "-    num_default:  32",
            "+    num:          128",
            "+    num_default:  128",
        ],
    ),
    "panic": (
        "with pvpanic QEMU ends (its default action): GUEST_PANICKED poweroff, SHUTDOWN guest-panic; hmp goes on",
        [
            '-event {"event": "GUEST_PANICKED", "data": {"action": "poweroff"}}',
            '-event {"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-panic"}}',
            "-gone with status 0",
            '+event {"event": "GUEST_PANICKED", "data": {"action": "run"}}',
            "+still there",
        ],
    ),
}
