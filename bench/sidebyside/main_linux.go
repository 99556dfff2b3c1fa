// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

// Exit codes are those of the other programs: 0 as asked, 1 failed while running, 2 bad usage, 3 missing privilege.
const (
	exitFailed = 1
	exitUsage  = 2
	exitDenied = 3
)

type cli struct {
	Rounds  int           `default:"5" help:"How often each peer is visited."`
	Window  time.Duration `default:"2s" help:"How long each row is measured, after a warm-up of a quarter of that."`
	Quick   bool          `help:"About a minute: two rounds, short windows; TCP CRR does not go past the ephemeral range."`
	Only    []string      `placeholder:"NAME" help:"These peers or rows alone; ${base} is always measured. Peers: ${peers}; tidegate-queues only if it is named. Rows: ${rows}."`
	Gateway string        `placeholder:"FLAGS" help:"More flags for the gateway, in one argument."`
	Out     string        `default:"sidebyside-out" placeholder:"DIR" help:"Where results.json, table.md, plot.svg and plot.png go."`
	Render  string        `placeholder:"FILE" help:"Measure nothing: write table and plots of this results.json."`
}

func main() {
	if len(os.Args) > 1 {
		var err error
		switch os.Args[1] {
		case "agent":
			err = runAgent(os.Stdin, os.Stdout)
		case "water":
			err = waterMain(os.Args[2:])
		default:
			os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(exitFailed)
		}
		return
	}
	os.Exit(execute(nil, os.Stdout, os.Stderr))
}

func execute(args []string, out, errOut io.Writer) int {
	var c cli
	exit := -1 // set by --help
	names := func(n int, name func(int) string) string {
		var s []string
		for i := range n {
			s = append(s, name(i))
		}
		return strings.Join(s, ", ")
	}
	p, err := kong.New(&c, kong.Name("sidebyside"), kong.Description("Measures the gateway beside the other ways to do its job, in namespaces of its own."),
		kong.Writers(out, errOut), kong.Exit(func(code int) { exit = code }), kong.Vars{"base": base,
			"peers": names(len(peers), func(i int) string { return peers[i].name }), "rows": names(len(rows), func(i int) string { return rows[i].name })})
	if err != nil {
		fmt.Fprintln(errOut, err)
		return exitFailed
	}
	_, err = p.Parse(args)
	if exit >= 0 {
		return exit
	}
	if err == nil {
		err = c.check()
	}
	if err != nil {
		fmt.Fprintf(errOut, "sidebyside: %v (see --help)\n", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := c.run(ctx, out, errOut); err != nil {
		fmt.Fprintf(errOut, "sidebyside: %v\n", err)
		if errors.Is(err, os.ErrPermission) {
			return exitDenied
		}
		return exitFailed
	}
	return 0
}

func (c *cli) check() error {
	if c.Rounds < 1 || c.Window < 100*time.Millisecond {
		return errors.New("at least one round, and 100ms")
	}
	if c.Quick {
		c.Rounds, c.Window = 2, 300*time.Millisecond
	}
	for _, n := range c.Only {
		if !slices.ContainsFunc(peers, func(p peer) bool { return p.name == n }) && !slices.ContainsFunc(rows, func(r row) bool { return r.name == n }) {
			return fmt.Errorf("neither a peer nor a row: %q", n)
		}
	}
	return nil
}

// chosen are the peers and rows that were asked for: all of a kind that no name was of.
func (c *cli) chosen() (ps []peer, rs []row) {
	has := func(n string) bool { return slices.Contains(c.Only, n) }
	for _, p := range peers {
		if has(p.name) || p.name == base {
			ps = append(ps, p)
		}
	}
	for _, r := range rows {
		if has(r.name) {
			rs = append(rs, r)
		}
	}
	if !slices.ContainsFunc(peers, func(p peer) bool { return has(p.name) }) {
		ps = slices.DeleteFunc(slices.Clone(peers), func(p peer) bool { return p.extra })
	}
	if len(rs) == 0 {
		rs = rows
	}
	return ps, rs
}

func (c *cli) run(ctx context.Context, out, progress io.Writer) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sidebyside")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // programs that leave root behind have to get there
		return err
	}
	w := &workshop{ctx: ctx, root: root, dir: dir, flags: strings.Fields(c.Gateway)}
	r := &results{Format: 1}
	if c.Render != "" {
		b, err := os.ReadFile(c.Render)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(b, r); err != nil {
			return fmt.Errorf("%s: %w", c.Render, err)
		}
		return c.write(w, r, out, progress)
	}
	if os.Getuid() != 0 {
		return fmt.Errorf("network namespaces need root: %w", os.ErrPermission)
	}
	ps, rs := c.chosen()
	r.Options = options{Rounds: c.Rounds, Warmup: c.Window / 4, Window: c.Window, Quick: c.Quick, Only: c.Only}
	if r.Machine, err = describeMachine(); err != nil {
		return err
	}
	there := []peer{}
	for _, p := range ps {
		fmt.Fprintf(progress, "getting %s ready\n", p.name)
		version, err := p.prepare(w)
		if err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			fmt.Fprintf(progress, "  missing: %v\n  to get it: %s\n", err, p.get)
			r.Missing = append(r.Missing, absence{p.name, firstLine(err), p.get})
			continue
		}
		r.Peers = append(r.Peers, outcome{p.name, version, p.what})
		there = append(there, p)
	}
	if err := (&run{ctx: ctx, results: r, progress: progress, rows: rs}).rounds(w, there); err != nil {
		return err
	}
	return c.write(w, r, out, progress)
}

func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}

// write leaves the results in c.Out and prints the table.
func (c *cli) write(w *workshop, r *results, out, progress io.Writer) error {
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	file := filepath.Join(c.Out, "results.json")
	if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
		return err
	}
	var table strings.Builder
	if err := writeTable(io.MultiWriter(&table, out), r); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.Out, "table.md"), []byte(table.String()), 0o644); err != nil {
		return err
	}
	// The plots are made by a program with a module of its own, so that whoever imports this one has nothing to do with it.
	if err := w.build("plot", "bench/sidebyside/tools/plot"); err != nil {
		fmt.Fprintf(progress, "no plots: %v\nto get them: a module proxy that has gonum.org/v1/plot (bench/sidebyside/tools/go.mod), then --render %s\n", err, file)
		return nil
	}
	msg, err := exec.CommandContext(w.ctx, w.bin("plot"), "gateway", file, filepath.Join(c.Out, "plot")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("plot: %w: %s", err, msg)
	}
	fmt.Fprintf(progress, "written: %s, table.md, plot.svg, plot.png\n", file)
	return nil
}

// moduleRoot is where the tree is: programs are built from it.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Path}} {{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("go list -m: %w", err)
	}
	path, dir, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if path != "github.com/tidegate/tidegate" {
		return "", fmt.Errorf("run it in the tree of github.com/tidegate/tidegate, not of %s", path)
	}
	return dir, nil
}
