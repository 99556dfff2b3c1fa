// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"os/exec"
	"syscall"
	"time"
)

// Command prepares a program to run in the host, in Dir, with an environment of its own: nothing that the caller's
// carries, such as a proxy, has a say. Start it with Start or Run of this package, never with its own methods.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = Dir
	cmd.Env = environment()
	// The program is the first of a PID namespace, so that all it starts dies with it; and it dies with the host's thread.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	return cmd
}

// Start starts a command of h.Command. The caller calls its Wait.
func (h *Host) Start(cmd *exec.Cmd) error { return h.Do(cmd.Start) }

// Run runs a command of h.Command to its end.
func (h *Host) Run(cmd *exec.Cmd) error {
	if err := h.Start(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is that of programs in a host.
func environment() []string { return []string{"PATH=" + path, "HOME=" + Dir, "LC_ALL=C"} }
