// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"
)

func waterConfig(o Options) (c water.Config, err error) {
	if len(o.Name) >= unix.IFNAMSIZ { // water would cut it
		return c, fmt.Errorf("the name has %d bytes: choose one of at most %d", len(o.Name), unix.IFNAMSIZ-1)
	}
	c.Name, c.Persist = o.Name, o.Persist
	return c, nil
}

// adopt does what water leaves undone: the descriptor is not to be inherited by programs, and the interface may have
// been used with offloads before. It returns the interface and how to ask for its MTU.
func adopt(ifce *water.Interface, o Options) (io.ReadWriteCloser, func() (int, error), error) {
	file, ok := ifce.ReadWriteCloser.(*os.File)
	if !ok {
		return nil, nil, fmt.Errorf("water opened a %T, not a file", ifce.ReadWriteCloser)
	}
	var socket *os.File
	own := func(f func(fd int) error) error { return controlFile(file, f) }
	err := controlFile(file, func(fd int) (err error) {
		unix.CloseOnExec(fd)
		if _, err = configure(fd, o, false); err != nil {
			return err
		}
		socket, err = socketFor(fd)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return &fileAndSocket{file, socket}, func() (int, error) { return mtuOf(own, socket) }, nil
}

type fileAndSocket struct {
	*os.File
	socket *os.File
}

func (f *fileAndSocket) Close() error { return errors.Join(f.File.Close(), f.socket.Close()) }
