// SPDX-License-Identifier: Apache-2.0

package control

import (
	"net"
	"sync"
)

// FewClients is ln, but closes connections beyond MaxClients.
func FewClients(ln net.Listener) net.Listener {
	return &fewClients{Listener: ln, free: make(chan struct{}, MaxClients)}
}

type fewClients struct {
	net.Listener
	free chan struct{} // full while there are as many as may be
}

func (f *fewClients) Accept() (net.Conn, error) {
	for {
		conn, err := f.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case f.free <- struct{}{}:
			return &oneClient{Conn: conn, free: f.free}, nil
		default:
			_ = conn.Close() // it is one too many, and hears nothing else
		}
	}
}

type oneClient struct {
	net.Conn
	once sync.Once
	free chan struct{}
}

// UnixConn is the connection below one that FewClients accepted, or nil.
func UnixConn(conn net.Conn) *net.UnixConn {
	if c, ok := conn.(*oneClient); ok {
		conn = c.Conn
	}
	u, _ := conn.(*net.UnixConn)
	return u
}

func (c *oneClient) Close() error {
	c.once.Do(func() { <-c.free })
	return c.Conn.Close()
}
