// SPDX-License-Identifier: Apache-2.0

package sdnotify

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier talks to the service manager. nil is none, and says nothing. Its methods may be called by several goroutines.
type Notifier struct {
	conn  *net.UnixConn
	stays bool // the service manager keeps descriptors
	// Watchdog is how long it may hear nothing before it kills the service; 0 is for ever.
	Watchdog time.Duration
}

// FromEnvironment is the service manager that started this process, or nil. The variables are taken away, so that no
// child believes that they are for it.
func FromEnvironment() (*Notifier, error) {
	at := take("NOTIFY_SOCKET")
	usec, pid := take("WATCHDOG_USEC"), take("WATCHDOG_PID")
	store := take("FDSTORE")
	if at == "" {
		return nil, nil
	}
	if at[0] != '/' && at[0] != '@' { // such as vsock, of a service manager outside of a virtual machine
		return nil, fmt.Errorf("NOTIFY_SOCKET=%s is no unix socket", at)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: at, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("the service manager: %w", err)
	}
	n := &Notifier{conn: conn, stays: store != "0"} // older than 254 it does not say
	if us, err := strconv.ParseInt(usec, 10, 64); err == nil && us > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.Watchdog = time.Duration(us) * time.Microsecond
	}
	return n, nil
}

func take(name string) string {
	v := os.Getenv(name)
	_ = os.Unsetenv(name) // which fails for names that are none
	return v
}

// Close ends the conversation.
func (n *Notifier) Close() error {
	if n == nil {
		return nil
	}
	return n.conn.Close()
}

// Ready says that the service does its work, after a start or a reload; status is a line for people.
func (n *Notifier) Ready(status string) error { return n.send("READY=1", "STATUS="+status) }

// Reloading says that the configuration is read again, until Ready.
func (n *Notifier) Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	return n.send("RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(now.Nano()/1000, 10))
}

// Stopping says that the service is about to end.
func (n *Notifier) Stopping() error { return n.send("STOPPING=1") }

// Alive is for the watchdog.
func (n *Notifier) Alive() error { return n.send("WATCHDOG=1") }

// Status is a line for people.
func (n *Notifier) Status(text string) error { return n.send("STATUS=" + text) }

func (n *Notifier) send(lines ...string) error {
	if n == nil {
		return nil
	}
	_, err := n.conn.Write([]byte(strings.Join(lines, "\n")))
	return err
}

// Keeps reports whether there is somebody to keep descriptors. (Whether it has room for them it does not tell.)
func (n *Notifier) Keeps() bool { return n != nil && n.stays }

// Keep has a descriptor kept under a name until the next start of the service, instead of what it had by that name; the
// caller's stays open. What is at its end, such as a device that was deleted, is kept no longer.
func (n *Notifier) Keep(name string, fd int) error {
	if !n.Keeps() {
		return nil
	}
	if err := n.Forget(name); err != nil {
		return err
	}
	raw, err := n.conn.SyscallConn() // WriteMsgUnix wants an address, or a stream
	if err != nil {
		return err
	}
	cerr := raw.Write(func(to uintptr) bool {
		err = unix.Sendmsg(int(to), []byte("FDSTORE=1\nFDNAME="+name), unix.UnixRights(fd), nil, 0)
		return err != unix.EAGAIN
	})
	return errors.Join(cerr, err)
}

// Forget has what is kept under a name closed.
func (n *Notifier) Forget(name string) error {
	if !n.Keeps() {
		return nil
	}
	return n.send("FDSTOREREMOVE=1", "FDNAME="+name)
}

// firstFD is where the descriptors begin that a service is started with.
const firstFD = 3

// Kept are the descriptors that the service manager kept, by their names; the caller owns them. It is for once.
func Kept() map[string]int {
	pid, count, names := take("LISTEN_PID"), take("LISTEN_FDS"), take("LISTEN_FDNAMES")
	_ = take("LISTEN_PIDFDID")
	n, err := strconv.Atoi(count)
	if err != nil || pid != strconv.Itoa(os.Getpid()) {
		return nil
	}
	kept := map[string]int{}
	all := strings.Split(names, ":")
	for i := range n {
		fd := firstFD + i
		unix.CloseOnExec(fd)
		if i >= len(all) || kept[all[i]] != 0 { // without a name, or a second time: nobody's
			_ = unix.Close(fd)
			continue
		}
		kept[all[i]] = fd
	}
	return kept
}
