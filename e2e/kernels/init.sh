#!/bin/sh
# Process 1 of a guest: runs the tests and writes how that went to the second
# serial port, line by line; a guest that dies on the way leaves that incomplete.
PATH=/usr/sbin:/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
busybox mount -t tmpfs tmpfs /tmp
# Of legacy iptables the program loads the modules, not the kernel by itself.
busybox modprobe -a iptable_nat ip6table_nat
echo "release $(busybox uname -r)" >/dev/ttyS1
# A skipped test would go unnoticed here: CI makes it a failure.
export PATH HOME=/root TMPDIR=/tmp CI=true FAIRWAY_REQUIRE_NFT=1 FAIRWAY_TEST_SLOWNESS="$slowness"
cd "/repository/$(busybox cat /package)"
busybox xargs -0 /test </arguments
echo "exit $?" >/dev/ttyS1
busybox poweroff -f
