// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/lab"
)

// TestFTP: payload is never touched. Passive FTP works, since the client makes both connections. With active FTP the server
// is told the client's inside address, as it is, and has no way there: neither to that address nor to the public one.
func TestFTP(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.start()
	b.serveFTP(b.net, "198.51.100.1:21")
	b.ftp("passive", func(t *testing.T, c *textproto.Conn) {
		_, text, err := ftpCommand(c, 227, "PASV")
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ = strings.Cut(text, "(")
		at, err := parseFTPAddr(strings.TrimSuffix(text, ")"))
		if err != nil {
			t.Fatal(err)
		}
		data, err := b.pc.Dial(t.Context(), "tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer data.Close()
		if _, _, err := ftpCommand(c, 150, "RETR file"); err != nil {
			t.Fatal(err)
		}
		_ = data.SetDeadline(time.Now().Add(20 * time.Second))
		if got, err := io.ReadAll(data); err != nil || string(got) != ftpFile {
			t.Errorf("got %q, %v", got, err)
		}
		if _, _, err := c.ReadResponse(226); err != nil {
			t.Error(err)
		}
	})
	if out, exit := b.tool(b.pc, "curl", "-sS", "--max-time", "20", "--disable-epsv", "ftp://198.51.100.1/file"); exit != 0 ||
		out != ftpFile && out != "page" {
		t.Errorf("curl: exit %d\n%s", exit, out)
	}
	b.ftp("active", func(t *testing.T, c *textproto.Conn) {
		const port = "PORT 10,0,1,10,31,144" // 8080
		l, err := b.pc.Listen("tcp", "10.0.1.10:8080")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if _, heard, err := ftpCommand(c, 200, port); err != nil || heard != port {
			t.Errorf("the server heard %q, %v", heard, err)
		}
		b.refused(b.net, "10.0.1.10:8080", "unassigned")   // where the server was told to connect to
		b.refused(b.net, "203.0.113.1:8080", "no_mapping") // where the client seems to be
	})
}

// refused has a host connect to where it cannot. The refusal is silent: that the gateway counts it ends the wait.
func (b *bed) refused(h *lab.Host, addr, reason string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	dialed := make(chan error, 1)
	go func() {
		c, err := h.Dial(ctx, "tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		dialed <- err
	}()
	until(b.t, "a connection to "+addr+" to be counted as "+reason, func() bool {
		return len(dialed) > 0 || b.metric(`nat_drops_total{reason="`+reason+`"}`) != "0"
	})
	cancel()
	if err := <-dialed; err == nil {
		b.t.Errorf("there is a connection to %s", addr)
	}
}

const ftpFile = "the file"

// ftp logs in from pc.
func (b *bed) ftp(name string, session func(t *testing.T, c *textproto.Conn)) {
	b.t.Run(name, func(t *testing.T) {
		nc, err := b.pc.Dial(t.Context(), "tcp", "198.51.100.1:21")
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(30 * time.Second))
		c := textproto.NewConn(nc)
		defer c.Close()
		if _, _, err := c.ReadResponse(220); err != nil {
			t.Fatal(err)
		}
		session(t, c)
	})
}

func ftpCommand(c *textproto.Conn, want int, line string) (int, string, error) {
	if err := c.PrintfLine("%s", line); err != nil {
		return 0, "", err
	}
	return c.ReadResponse(want)
}

// serveFTP is as much of an FTP server as the clients here want.
func (b *bed) serveFTP(h *lab.Host, addr string) {
	b.t.Helper()
	l, err := h.Listen("tcp", addr)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				(&ftpServer{host: h, control: c}).serve()
			}()
		}
	}()
}

type ftpServer struct {
	host    *lab.Host
	control net.Conn
	passive net.Listener // since PASV
}

func (s *ftpServer) serve() {
	fmt.Fprint(s.control, "220 ready\r\n")
	for sc := bufio.NewScanner(s.control); sc.Scan(); {
		fmt.Fprint(s.control, s.answer(sc.Text())+"\r\n")
	}
	if s.passive != nil {
		_ = s.passive.Close()
	}
}

func (s *ftpServer) answer(line string) string {
	command, _, _ := strings.Cut(line, " ")
	switch command {
	case "USER", "PASS":
		return "230 welcome"
	case "PWD":
		return `257 "/"`
	case "TYPE":
		return "200 as you like"
	case "PASV":
		l, err := s.host.Listen("tcp", "198.51.100.1:0")
		if err != nil {
			return "425 " + err.Error()
		}
		s.passive = l
		a := netip.MustParseAddrPort(s.passive.Addr().String())
		return fmt.Sprintf("227 (%s,%d,%d)", strings.ReplaceAll(a.Addr().String(), ".", ","), a.Port()>>8, a.Port()&255)
	case "PORT":
		return "200 " + line // what was heard, for the client to compare; there will be no connection
	case "RETR":
		if s.passive == nil {
			return "425 PASV first"
		}
		data, err := s.passive.Accept()
		if err != nil {
			return "425 " + err.Error()
		}
		fmt.Fprint(s.control, "150 here it comes\r\n")
		_, _ = io.WriteString(data, ftpFile) // what is missing is found at the other end
		_ = data.Close()
		return "226 that was it"
	case "QUIT":
		return "221 bye"
	}
	return "502 not here"
}

// parseFTPAddr reads an address and a port as FTP has them: six numbers.
func parseFTPAddr(s string) (netip.AddrPort, error) {
	var n [6]byte
	_, err := fmt.Sscanf(s, "%d,%d,%d,%d,%d,%d", &n[0], &n[1], &n[2], &n[3], &n[4], &n[5])
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(n[:4])), uint16(n[4])<<8|uint16(n[5])), err
}
