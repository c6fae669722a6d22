# SPDX-License-Identifier: GPL-2.0-or-later
"""Library of the COLO end-to-end tests, the demo and the benchmarks.

qmp       talk to the monitor of a QEMU
net       two hosts, a switch and a client, made of network namespaces
guest     build the guest's kernel and initramfs, and the client program
client    run the client program and read what it found
proxy     set up the filters of hybrid mode
document  take commands out of the document for operators
disks     set up replicated disks
vm        start QEMUs, make a protected pair of them, break it, fail over

Everything is synchronous and every wait has a deadline.
"""
