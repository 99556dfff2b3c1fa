// SPDX-License-Identifier: Apache-2.0

package story

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// The commands that the story gives over ssh: all that the server in Go knows.
const (
	cmdName = "uname -n"
	cmdPeer = "echo $SSH_CONNECTION"
	cmdEcho = "cat"
)

// serveSSHConn is one connection to the server in Go: sessions that run one of the commands, and jumps.
func serveSSHConn(h Host, nc net.Conn, conf *ssh.ServerConfig) {
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
	conn, chans, reqs, err := ssh.NewServerConn(nc, conf)
	if err != nil {
		return
	}
	_ = nc.SetDeadline(time.Time{})
	go ssh.DiscardRequests(reqs)
	for ch := range chans {
		switch ch.ChannelType() {
		case "session":
			go serveSession(h, conn, ch)
		case "direct-tcpip":
			go serveJump(h, ch)
		default:
			_ = ch.Reject(ssh.UnknownChannelType, "sessions and jumps only")
		}
	}
}

func serveSession(h Host, conn ssh.Conn, nch ssh.NewChannel) {
	ch, reqs, err := nch.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	for r := range reqs {
		var exec struct{ Command string }
		if r.Type != "exec" || ssh.Unmarshal(r.Payload, &exec) != nil {
			_ = r.Reply(false, nil)
			continue
		}
		_ = r.Reply(true, nil)
		status := uint32(0)
		switch exec.Command {
		case cmdName:
			fmt.Fprintln(ch, h.Name())
		case cmdPeer:
			r, l := conn.RemoteAddr().String(), conn.LocalAddr().String()
			fmt.Fprintln(ch, strings.NewReplacer(":", " ").Replace(r+" "+l))
		case cmdEcho:
			_, _ = io.Copy(ch, ch)
		default:
			status = 127
		}
		_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
		return
	}
}

// serveJump connects a channel to where its extra data says (RFC 4254, section 7.2).
func serveJump(h Host, nch ssh.NewChannel) {
	var to struct {
		Host     string
		Port     uint32
		From     string
		FromPort uint32
	}
	if err := ssh.Unmarshal(nch.ExtraData(), &to); err != nil {
		_ = nch.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c, err := h.Dial(ctx, "tcp", fmt.Sprintf("%s:%d", to.Host, to.Port))
	if err != nil {
		_ = nch.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	ch, reqs, err := nch.Accept()
	if err != nil {
		_ = c.Close()
		return
	}
	go ssh.DiscardRequests(reqs)
	var both sync.WaitGroup
	pipe := func(to, from io.ReadWriteCloser) {
		_, _ = io.Copy(to, from)
		_ = to.Close()
	}
	both.Go(func() { pipe(ch, c) })
	both.Go(func() { pipe(c, ch) })
	both.Wait()
}

// lockedBuffer collects what a program prints, to be read while it runs.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
