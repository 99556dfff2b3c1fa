// SPDX-License-Identifier: Apache-2.0

// Command gateway is a NAT gateway for Linux: private hosts go out through public addresses, and nothing comes in that
// was not asked for or given an address.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/internal/gateway"
)

const description = `A NAT gateway: private hosts go out through public addresses, and nothing comes in that was not asked for.

Examples:
  gateway run --inside 10.0.0.0/16 --public 203.0.113.1
  gateway run --config /etc/tidegate/gateway.yaml --metrics 127.0.0.1:9464
  gateway run --inside 10.0.0.0/16 --public 203.0.113.1 --static 10.0.1.10=203.0.113.10 \
      --forward tcp:203.0.113.1:8080=10.0.1.20:80
  gateway check --config gateway.yaml
  gateway doctor --config gateway.yaml
  gateway status; gateway stats; gateway flows -p tcp --dport 443; gateway ports
  gateway explain -p tcp -s 10.0.1.10 --sport 40000 -d 203.0.113.9 --dport 443
  gateway reload --dry-run
  gateway run --config /etc/tidegate/gateway.yaml     # while one runs: takes over, connections go on

Exit codes: 0 as asked, 1 failed while running (doctor, status: found something), 2 bad usage, configuration or input,
3 missing privilege or device.`

// source is where the configuration comes from.
type source struct {
	Config  string   `short:"c" placeholder:"FILE" help:"Configuration file; the commented gateway.yaml beside this program has every key."`
	Inside  []string `placeholder:"PREFIX" help:"Without a file: address space of the inside hosts."`
	Public  []string `placeholder:"ADDR" help:"Without a file: public address, range or prefix that they share."`
	Static  []string `placeholder:"IN=OUT" help:"Without a file: 1:1 mapping of an inside to a public address."`
	Forward []string `sep:"none" placeholder:"PROTO:OUT:PORT=IN:PORT" help:"Without a file: port forward."`
}

// usageError is a command line that cannot be followed.
type usageError struct{ error }

var errNoConfig = usageError{errors.New("write either --config FILE, or --inside PREFIX and --public ADDR")}

func (s *source) given() bool { return s.Config != "" || s.flags() }

func (s *source) flags() bool { return len(s.Inside)+len(s.Public)+len(s.Static)+len(s.Forward) > 0 }

func (s *source) load() (*config.Config, error) {
	switch {
	case (s.Config != "") == s.flags():
		return nil, errNoConfig
	case s.flags():
		return config.Plain(config.Flags{Inside: s.Inside, Public: s.Public, Static: s.Static, Forward: s.Forward})
	}
	c, err := config.Load(s.Config)
	if err != nil && !errors.As(err, new(config.Faults)) {
		return nil, usageError{err}
	}
	return c, err
}

// loadOr is load, with the defaults if nothing was given.
func (s *source) loadOr() (*config.Config, error) {
	if !s.given() {
		return nil, nil
	}
	return s.load()
}

type cli struct {
	Run         runCmd           `cmd:"" help:"Run the gateway until it is told to stop (SIGINT, SIGTERM), or another one takes over. SIGHUP reloads its file; without one it stops, too. SIGUSR2 stops it with everything in place for the next start."`
	Check       checkCmd         `cmd:"" help:"Check a configuration."`
	PrintConfig printCmd         `cmd:"" help:"Print the configuration with all its defaults."`
	Flows       flowsCmd         `cmd:"" help:"Show the sessions of the gateway that runs, as conntrack -L does."`
	Status      statusCmd        `cmd:"" help:"Show whether packets can pass, and if not, why; then the exit code is 1."`
	Stats       statsCmd         `cmd:"" help:"Show its counters, and why packets were dropped."`
	Ports       portsCmd         `cmd:"" help:"Show how full its public addresses are."`
	Explain     explainCmd       `cmd:"" help:"Say what would become of a packet, and why; nothing changes."`
	Reload      reloadCmd        `cmd:"" help:"Have it read its configuration again."`
	Teardown    teardownCmd      `cmd:"" help:"Remove the guard that a stopped gateway leaves, and say what that makes possible."`
	Doctor      doctorCmd        `cmd:"" help:"Look for what gets in the way of the gateway on this machine."`
	Version     kong.VersionFlag `help:"Print the version."`
}

type runCmd struct {
	source
	Metrics string `placeholder:"ADDR" help:"Serve /metrics (Prometheus) and /healthz at this address, such as 127.0.0.1:9464. /healthz covers the interfaces, rules, routes, sysctls and ARP entries of the gateway, and whether the interfaces and networks that it had are there; not whether the internet can be reached."`
	Socket  string `placeholder:"PATH" help:"Control socket, or none, instead of that of the configuration."`
	State   string `placeholder:"PATH" help:"State file on a tmpfs, memfd or none, instead of that of the configuration."`
	// Takeover is a pair of flags by kong's hand.
	Takeover bool `default:"true" negatable:"" help:"Where a gateway runs, take devices and connections over from it; without, refuse to start."`
	Debug    bool `help:"Log more."`
}

func (r *runCmd) Run() error {
	c, err := r.load()
	if err != nil {
		return err
	}
	o := gateway.Options{Config: c, Log: logger(r.Debug), Metrics: r.Metrics, Version: version(), Socket: r.Socket, State: r.State, NoTakeover: !r.Takeover}
	if r.Socket != "" && r.Socket != config.NoSocket {
		if o.Socket, err = filepath.Abs(r.Socket); err != nil {
			return usageError{err}
		}
	}
	if r.State != "" && r.State != config.NoState && r.State != config.Memfd {
		if o.State, err = filepath.Abs(r.State); err != nil {
			return usageError{err}
		}
	}
	leave := make(chan os.Signal, 1)
	notifyLeave(leave)
	defer signal.Stop(leave)
	o.Leave = leave
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	switch {
	case r.Config != "":
		if o.Path, err = filepath.Abs(r.Config); err != nil {
			return usageError{err}
		}
		reload := make(chan os.Signal, 1)
		signal.Notify(reload, syscall.SIGHUP)
		defer signal.Stop(reload)
		o.Reload = reload
	case !signal.Ignored(syscall.SIGHUP): // as by nohup
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	return gateway.Run(ctx, o)
}

// logger writes text for people and JSON for machines.
func logger(debug bool) *slog.Logger {
	o := &slog.HandlerOptions{}
	if debug {
		o.Level = slog.LevelDebug
	}
	if isTerminal(os.Stderr) {
		return slog.New(slog.NewTextHandler(os.Stderr, o))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, o))
}

func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

type checkCmd struct{ source }

func (r *checkCmd) Run(out io.Writer) error {
	c, err := r.load()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "fine: %d inside prefixes, %d external addresses, %d forwards, profile %s\n",
		len(c.Inside.Prefixes), len(c.External()), len(c.Forwards), c.Profile)
	return nil
}

type printCmd struct{ source }

func (r *printCmd) Run(out io.Writer) error {
	c, err := r.load()
	if err != nil {
		return err
	}
	b, err := c.YAML()
	if err != nil {
		return err
	}
	_, err = out.Write(b)
	return err
}

type teardownCmd struct{}

func (*teardownCmd) Run(out io.Writer) error { return gateway.Teardown(out) }

type doctorCmd struct {
	source
	remote
}

// errFindings makes doctor and status exit with 1; the findings have been printed.
var errFindings = errors.New("something is in the way")

func (r *doctorCmd) Run(out io.Writer) error {
	c, err := r.loadOr()
	if err != nil {
		return err
	}
	found, err := gateway.Doctor(c, r.Socket)
	if err != nil {
		return err
	}
	problems := 0
	for _, f := range found {
		label := "note:   "
		if f.Problem {
			label = "problem:"
			problems++
		}
		fmt.Fprintf(out, "%s %s\n         -> %s\n", label, f.What, f.Do)
	}
	if problems > 0 {
		return errFindings
	}
	fmt.Fprintln(out, "nothing is in the way")
	return nil
}

func version() string {
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is the program; it returns the exit code.
func run(args []string, out, errOut io.Writer) int {
	exit := -1 // set by --help and --version
	p, err := kong.New(&cli{}, kong.Name("gateway"), kong.Description(description), kong.Writers(out, errOut),
		kong.Exit(func(code int) { exit = code }), kong.Vars{"version": "tidegate gateway " + version()},
		kong.BindTo(out, (*io.Writer)(nil)), kong.Bind(errStream{errOut}), kong.ConfigureHelp(kong.HelpOptions{WrapUpperBound: 120}))
	if err != nil {
		fmt.Fprintln(errOut, err)
		return gateway.ExitFailed
	}
	k, err := p.Parse(args)
	if exit >= 0 {
		return exit
	}
	if err != nil {
		fmt.Fprintf(errOut, "gateway: %v (see gateway --help)\n", err)
		return gateway.ExitInput
	}
	err = k.Run()
	if err == nil {
		return gateway.ExitOK
	}
	if !errors.Is(err, errFindings) {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintf(errOut, "gateway: %s\n", line)
		}
	}
	var refused *control.Refused
	if errors.As(err, new(usageError)) || errors.As(err, &refused) && refused.Status < 500 {
		return gateway.ExitInput
	}
	return gateway.ExitCode(err)
}
