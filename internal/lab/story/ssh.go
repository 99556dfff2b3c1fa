// SPDX-License-Identifier: Apache-2.0

package story

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/tidegate/tidegate/internal/lab"
)

// keys are thrown away with the story: one for all hosts, one for the user.
type keys struct {
	hostPEM, userPEM []byte
	host, user       ssh.Signer
}

func newKeys() (*keys, error) {
	k := &keys{}
	for _, to := range []struct {
		pem    *[]byte
		signer *ssh.Signer
	}{{&k.hostPEM, &k.host}, {&k.userPEM, &k.user}} {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		block, err := ssh.MarshalPrivateKey(private, "story")
		if err != nil {
			return nil, err
		}
		*to.pem = pem.EncodeToMemory(block)
		if *to.signer, err = ssh.NewSignerFromKey(private); err != nil {
			return nil, err
		}
	}
	return k, nil
}

const sshDir = lab.Dir + "/ssh"

// serveSSH starts sshd on h, or a server in Go that knows the commands of the story.
func (s *services) serveSSH(ctx context.Context, t Tools, h Host, k *keys) error {
	m, sshd, ok := t.real(h, "sshd")
	if !ok {
		conf := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if string(key.Marshal()) != string(k.user.PublicKey().Marshal()) {
				return nil, errors.New("unknown key")
			}
			return nil, nil
		}}
		conf.AddHostKey(k.host)
		return s.serveTCP(h, sshPort, func(c net.Conn) { serveSSHConn(h, c, conf) })
	}
	conf := strings.Join([]string{
		fmt.Sprintf("Port %d", sshPort), "ListenAddress 0.0.0.0", "HostKey " + sshDir + "/host_key",
		"AuthorizedKeysFile " + sshDir + "/authorized_keys", "PermitRootLogin prohibit-password", "StrictModes no",
		"PasswordAuthentication no", "KbdInteractiveAuthentication no", "UseDNS no", "PidFile none", "LogLevel ERROR",
		"PrintMotd no", "PrintLastLog no", "",
	}, "\n")
	for name, data := range map[string][]byte{"host_key": k.hostPEM, "sshd_config": []byte(conf),
		"authorized_keys": ssh.MarshalAuthorizedKey(k.user.PublicKey())} {
		if err := m.WriteFile(path.Join(sshDir, name), data, 0o600); err != nil {
			return err
		}
	}
	cmd := m.Command(ctx, sshd, "-D", "-e", "-f", sshDir+"/sshd_config")
	var log lockedBuffer
	cmd.Stderr = &log
	if err := m.Start(cmd); err != nil {
		return fmt.Errorf("sshd: %w", err)
	}
	ended := make(chan error, 1)
	s.wg.Go(func() { ended <- cmd.Wait() })
	// It is up when it answers.
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := h.Dial(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", sshPort))
		if err == nil {
			return c.Close()
		}
		select {
		case <-tick.C:
		case err := <-ended:
			return fmt.Errorf("sshd on %s: %w: %s", h.Name(), err, lastLine(log.String()))
		case <-ctx.Done():
			return fmt.Errorf("sshd on %s does not come up: %w", h.Name(), err)
		}
	}
}

// shell is one command running over ssh.
type shell struct {
	io.Reader
	io.WriteCloser
	wait func() error
}

// sshClient is a user of ssh on one host.
type sshClient struct {
	tools Tools
	keys  *keys
	from  Host
	// timeout, in whole seconds, is how long it waits for a connection.
	timeout time.Duration
}

// start runs a command as root on to, through the jump host if that is valid. The caller closes and waits.
func (s *sshClient) start(ctx context.Context, jump, to netip.Addr, command string) (*shell, error) {
	m, program, ok := s.tools.real(s.from, "ssh")
	if !ok {
		return s.startInGo(ctx, jump, to, command)
	}
	args := []string{"-F", sshDir + "/config", "-T"}
	if jump.IsValid() {
		args = append(args, "-J", "root@"+jump.String())
	}
	conf := strings.Join([]string{
		"Host *", "User root", "IdentityFile " + sshDir + "/user_key", "IdentitiesOnly yes", "BatchMode yes",
		"UserKnownHostsFile " + sshDir + "/known_hosts", "GlobalKnownHostsFile /dev/null", "StrictHostKeyChecking yes",
		fmt.Sprintf("ConnectTimeout %d", int(s.timeout.Seconds())), "LogLevel ERROR", "",
	}, "\n")
	known := append([]byte("* "), ssh.MarshalAuthorizedKey(s.keys.host.PublicKey())...)
	for name, data := range map[string][]byte{"user_key": s.keys.userPEM, "known_hosts": known, "config": []byte(conf)} {
		if err := m.WriteFile(path.Join(sshDir, name), data, 0o600); err != nil {
			return nil, err
		}
	}
	cmd := m.Command(ctx, program, append(args, to.String(), command)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var log lockedBuffer
	cmd.Stderr = &log
	if err := m.Start(cmd); err != nil {
		return nil, err
	}
	return &shell{Reader: out, WriteCloser: in, wait: func() error {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("ssh: %w: %s", err, lastLine(log.String()))
		}
		return nil
	}}, nil
}

// run runs a command over ssh to its end.
func (s *sshClient) run(ctx context.Context, jump, to netip.Addr, command string) (string, error) {
	sh, err := s.start(ctx, jump, to, command)
	if err != nil {
		return "", err
	}
	_ = sh.Close()
	out, _ := io.ReadAll(sh)
	return strings.TrimSpace(string(out)), sh.wait()
}

// startInGo is start without ssh.
func (s *sshClient) startInGo(ctx context.Context, jump, to netip.Addr, command string) (*shell, error) {
	conf := &ssh.ClientConfig{User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(s.keys.user)},
		HostKeyCallback: ssh.FixedHostKey(s.keys.host.PublicKey()), Timeout: s.timeout}
	dial := func(addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, conf.Timeout)
		defer cancel()
		return s.from.Dial(ctx, "tcp", addr)
	}
	var first io.Closer
	connect := func(a netip.Addr) (*ssh.Client, error) {
		addr := netip.AddrPortFrom(a, sshPort).String()
		nc, err := dial(addr)
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = nc
		}
		c, chans, reqs, err := ssh.NewClientConn(nc, addr, conf)
		if err != nil {
			return nil, errors.Join(err, nc.Close())
		}
		return ssh.NewClient(c, chans, reqs), nil
	}
	if jump.IsValid() {
		c, err := connect(jump)
		if err != nil {
			return nil, err
		}
		dial = func(addr string) (net.Conn, error) { return c.Dial("tcp", addr) }
	}
	c, err := connect(to)
	if err != nil {
		if first != nil {
			err = errors.Join(err, first.Close())
		}
		return nil, err
	}
	// Everything hangs on the first connection; what ends ctx ends it.
	stop := context.AfterFunc(ctx, func() { _ = first.Close() })
	end := func(err error) error {
		stop()
		_ = first.Close()
		return err
	}
	run, err := c.NewSession()
	if err != nil {
		return nil, end(err)
	}
	in, err1 := run.StdinPipe()
	out, err2 := run.StdoutPipe()
	if err := errors.Join(err1, err2, run.Start(command)); err != nil {
		return nil, end(err)
	}
	return &shell{Reader: out, WriteCloser: in, wait: func() error { return end(run.Wait()) }}, nil
}
