// SPDX-License-Identifier: Apache-2.0

// Command tidegate holds a region of VPCs, and asks and changes it in the words of the aws command line: what aws ec2 has
// as allocate-address is tidegate allocate-address here, with the same parameters and the same JSON.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"reflect"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/tidegate/tidegate/internal/calls"
)

const description = `A region of VPCs: Elastic IPs, route tables, internet and NAT gateways, in the words of the aws command line.

Examples:
  tidegate serve --state region.db --pool 198.51.100.0/24
  tidegate create-vpc --cidr-block 10.0.0.0/16
  tidegate allocate-address
  tidegate associate-address --allocation-id eipalloc-0... --instance-id i-0... --no-allow-reassociation
  tidegate describe-addresses --output table
  tidegate serve --lab --state region.db --pool 198.51.100.0/24
  tidegate lab exec i-0... -- ping -c 3 192.0.2.1

Exit codes: 0 as asked, 1 failed, 2 bad usage or refused by the region (where aws has 254), 3 missing privilege.`

// The exit codes.
const (
	exitOK = iota
	exitFailed
	exitInput
	exitPrivilege
)

type cli struct {
	Socket  string           `default:"/run/tidegate/region.sock" env:"TIDEGATE_SOCKET" placeholder:"PATH" help:"The unix socket of the region (${default})."`
	Output  string           `enum:"json,table,text" default:"json" help:"How answers are printed: json, table or text."`
	DryRun  bool             `help:"Say what the call would do, and change nothing."`
	Version kong.VersionFlag `help:"Print the version."`
	Serve   serveCmd         `cmd:"" help:"Hold a region, and answer at the socket until told to stop (SIGINT, SIGTERM). With --lab it carries packets."`
	Lab     labCmd           `cmd:"" help:"What is in a lab, a region that was started with serve --lab."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program; it returns the exit code.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	exit := -1 // set by --help and --version
	c := &cli{}
	options := []kong.Option{
		kong.Name("tidegate"), kong.Description(description), kong.Writers(out, errOut), kong.Exit(func(code int) { exit = code }),
		kong.Vars{"version": "tidegate " + version()}, kong.ConfigureHelp(kong.HelpOptions{WrapUpperBound: 120}),
	}
	inputs := map[string]any{} // the parameters of each call
	for i := range calls.Table {
		t := &calls.Table[i]
		inputs[t.Name] = t.New()
		options = append(options, kong.DynamicCommand(t.Command(), t.Help, "", inputs[t.Name]))
	}
	parser, err := kong.New(c, options...)
	if err != nil {
		fmt.Fprintln(errOut, "tidegate:", err)
		return exitFailed
	}
	k, err := parser.Parse(joinLists(args))
	if exit >= 0 {
		return exit
	}
	if err != nil {
		fmt.Fprintf(errOut, "tidegate: %v (see tidegate --help)\n", err)
		return exitInput
	}
	command := k.Selected().Name
	switch command {
	case "serve":
		err = c.Serve.run(ctx, c, errOut)
	case "exec":
		err = c.Lab.Exec.run(ctx, c)
	default:
		for i := range calls.Table {
			if t := &calls.Table[i]; t.Command() == command {
				err = c.call(ctx, t, inputs[t.Name], out, errOut)
			}
		}
	}
	var refused *calls.Failure
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &refused):
		fmt.Fprintln(errOut, err) // it reads as that of aws does
		if refused.Code == string(calls.InternalError) {
			return exitFailed
		}
		return exitInput
	}
	fmt.Fprintln(errOut, "tidegate:", err)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return exitPrivilege
	case errors.As(err, new(usageError)):
		return exitInput
	}
	return exitFailed
}

// usageError is a command line that cannot be followed, or a file that it names.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// call makes a call of the region at the socket, and prints the answer.
func (c *cli) call(ctx context.Context, t *calls.Call, in any, out, errOut io.Writer) error {
	client := calls.NewClient(c.Socket)
	defer client.Close()
	r, err := client.Call(ctx, t.Name, in, c.DryRun)
	if refused := (*calls.Failure)(nil); errors.As(err, &refused) {
		return operationError{t.Name, refused}
	}
	if err != nil {
		return err
	}
	if r.DryRun {
		fmt.Fprintln(errOut, "DryRunOperation: the request would have succeeded; nothing was changed.")
	}
	for _, line := range impactLines(r) {
		fmt.Fprintln(errOut, line)
	}
	return printResult(out, c.Output, t.Name, r.Result)
}

// operationError is a refusal as the aws command line prints it.
type operationError struct {
	operation string
	*calls.Failure
}

func (e operationError) Error() string {
	return fmt.Sprintf("An error occurred (%s) when calling the %s operation: %s", e.Code, e.operation, e.Message)
}

func (e operationError) Unwrap() error { return e.Failure }

// joinLists makes "--ids a,b" of "--ids a b", for those flags that are lists, as the aws command line has them.
func joinLists(args []string) []string {
	lists := map[string]bool{}
	for i := range calls.Table {
		in := reflect.TypeOf(calls.Table[i].New()).Elem()
		for j := range in.NumField() {
			if f := in.Field(j); f.Type.Kind() == reflect.Slice {
				lists["--"+(&calls.Call{Name: f.Name}).Command()] = true
			}
		}
	}
	var out []string
	for i := 0; i < len(args); i++ {
		if args[i] == "--" { // a program's own
			return append(out, args[i:]...)
		}
		out = append(out, args[i])
		if !lists[args[i]] {
			continue
		}
		first := i + 1
		for i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++
		}
		if i >= first {
			out = append(out, strings.Join(args[first:i+1], ","))
		}
	}
	return out
}

func version() string {
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}
