// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/tun"
)

// Errors of this package; test with errors.Is.
var (
	// ErrRefused: the configuration does not fit this machine. The text says how.
	ErrRefused = errors.New("the configuration does not fit this machine")
	// ErrPrivilege: the process may not change the network.
	ErrPrivilege = errors.New("this needs the right to change the network: run as root, or with CAP_NET_ADMIN and CAP_NET_RAW")
	// ErrRunning: there is a gateway in this network namespace already, which was not to be, or cannot be, taken over from.
	ErrRunning = errors.New("a gateway runs in this network namespace: stop it first")
	// ErrUnsupported: the gateway is for Linux.
	ErrUnsupported = errors.New("the gateway needs Linux")
)

// refusal is an ErrRefused with a text of its own.
type refusal struct{ error }

func (refusal) Is(target error) bool { return target == ErrRefused }
func (r refusal) Unwrap() error      { return r.error }

func refuse(format string, args ...any) error { return refusal{fmt.Errorf(format, args...)} }

// Options are what Run is told. Config and Log must be set.
type Options struct {
	// Config is a valid configuration; Path the file that it was read from, which a reload reads again, "" for none.
	Config *config.Config
	Path   string
	// Reload asks for a reload each time that it has something; nil never does.
	Reload <-chan os.Signal
	// Leave ends the gateway with everything in place for the next one, which goes on; without state it ends as with ctx.
	Leave <-chan os.Signal
	// Log gets a few lines at start and stop, and what goes wrong; nothing for each packet.
	Log *slog.Logger
	// Socket is the path of the control socket, or config.NoSocket, instead of that of Config; "" leaves it.
	Socket string
	// State is the path of the state file, config.Memfd or config.NoState, instead of that of Config; "" leaves it.
	State string
	// NoTakeover has it refuse to start where a gateway runs, instead of taking over from that.
	NoTakeover bool
	// Metrics is the address, such as "127.0.0.1:9464", that /metrics and /healthz are served on; "" serves none.
	Metrics string
	// Version is for nat_build_info.
	Version string
}

// The exit codes of all commands.
const (
	ExitOK      = 0 // as asked
	ExitFailed  = 1 // failed while running; doctor: found something
	ExitInput   = 2 // bad usage, configuration or input
	ExitMissing = 3 // missing privilege or device
)

// ExitCode is the exit code for an error of this package or of config.
func ExitCode(err error) int {
	var faults config.Faults
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &faults), errors.Is(err, ErrRefused):
		return ExitInput
	case errors.Is(err, ErrPrivilege), errors.Is(err, ErrUnsupported), errors.Is(err, fs.ErrPermission),
		errors.Is(err, tun.ErrPermission), errors.Is(err, tun.ErrNoDevice):
		return ExitMissing
	default:
		return ExitFailed
	}
}
