// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// Exec makes this process a program in the namespaces of a Host, which is the thread tid of the process pid: with its
// network, name and files, in Dir, and with an environment of its own. It returns only if that fails. Namespaces live as
// long as a process is in them, so a program that the host does not know of may outlive it. It needs root.
func Exec(pid, tid int, name string, args ...string) error {
	runtime.LockOSThread() // and never unlocked: the thread is of no other use
	var all []*os.File
	for _, ns := range []string{"net", "uts", "mnt"} { // the files last: then /proc is another's
		f, err := os.Open(fmt.Sprintf("/proc/%d/task/%d/ns/%s", pid, tid, ns))
		if errors.Is(err, os.ErrNotExist) {
			return errors.New("the host is gone")
		}
		if err != nil {
			return err
		}
		all = append(all, f)
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // its root is not to be that of the other threads
		return fmt.Errorf("leave the files of the process: %w", err)
	}
	for _, f := range all {
		if err := unix.Setns(int(f.Fd()), 0); err != nil {
			return fmt.Errorf("enter the host: %w", err)
		}
	}
	if err := os.Chdir(Dir); err != nil {
		return err
	}
	env := environment()
	if term := os.Getenv("TERM"); term != "" {
		env = append(env, "TERM="+term)
	}
	_ = os.Setenv("PATH", path) // where the program is looked for; the name is right, so it never fails
	program, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	return os.NewSyscallError("exec "+program, unix.Exec(program, append([]string{name}, args...), env))
}
