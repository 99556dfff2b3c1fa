// SPDX-License-Identifier: Apache-2.0

// Package sdnotify is what a service tells systemd, and gets from it: sd_notify(3) for state, watchdog and descriptors to
// keep, sd_listen_fds(3) for those that it kept. Without systemd, which is without NOTIFY_SOCKET, all of it does nothing.
package sdnotify
