// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/control"
)

// The commands in this file talk to a gateway that runs. Package control has the protocol.

// errStream is where summaries go, so that what is on the standard output is data alone.
type errStream struct{ io.Writer }

// remote is which gateway.
type remote struct {
	Socket string `placeholder:"PATH" help:"Control socket of the gateway; by default that of the only one that runs, in /run/tidegate."`
}

// with calls f with a client, and a context that ends with the first signal.
func (r *remote) with(f func(context.Context, *control.Client) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	path := r.Socket
	if path == "" {
		var err error
		if path, err = control.Find(ctx, config.SocketDir); err != nil {
			return err
		}
	}
	c := control.NewClient(path)
	defer c.Close()
	err := f(ctx, c)
	if errors.Is(err, context.Canceled) {
		return nil // as asked
	}
	return err
}

// format is how to write an answer.
type format struct {
	Output string `short:"o" enum:"text,json" default:"text" placeholder:"FORMAT" help:"text, or json: an object, of flows and events one a line (JSON Lines)."`
}

// write writes an answer that is one object.
func (f *format) write(out io.Writer, v interface{ Print(io.Writer) error }) error {
	if f.Output == "text" {
		return v.Print(out)
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// natFlag is a flag with an address that may be left out, as conntrack has them.
type natFlag struct {
	set   bool
	value string
}

// Decode takes the address if one follows.
func (n *natFlag) Decode(ctx *kong.DecodeContext) error {
	n.set = true
	if t := ctx.Scan.Peek(); t.Type == kong.FlagValueToken || t.Type == kong.UntypedToken && !strings.HasPrefix(t.String(), "-") {
		n.value = ctx.Scan.Pop().String()
	}
	return nil
}

// IsBool makes kong take the flag alone.
func (*natFlag) IsBool() bool { return true }

type flowsCmd struct {
	remote
	format
	Watch    bool    `short:"w" help:"Show what becomes of them from now on, as conntrack -E does, until interrupted."`
	Proto    string  `short:"p" placeholder:"PROTO" aliases:"protonum" help:"tcp, udp or icmp."`
	OrigSrc  string  `short:"s" placeholder:"ADDR" aliases:"src" help:"Source of the first packet. Addresses may be prefixes."`
	OrigDst  string  `short:"d" placeholder:"ADDR" aliases:"dst" help:"Destination of the first packet."`
	ReplySrc string  `short:"r" placeholder:"ADDR" help:"Source of an answer."`
	ReplyDst string  `short:"q" placeholder:"ADDR" help:"Destination of an answer."`
	Sport    string  `placeholder:"PORT" aliases:"orig-port-src" help:"Source port of the first packet."`
	Dport    string  `placeholder:"PORT" aliases:"orig-port-dst" help:"Destination port of the first packet."`
	State    string  `placeholder:"STATE" help:"Of TCP: SYN_SENT, SYN_RECV, ESTABLISHED, TIME_WAIT or CLOSE."`
	SrcNat   natFlag `short:"n" placeholder:"ADDR" help:"With a translated source; with an address, translated to that."`
	DstNat   natFlag `short:"g" placeholder:"ADDR" help:"With a translated destination; with an address, translated to that."`
}

// Help is what --help adds.
func (*flowsCmd) Help() string {
	return `Sessions in the shape of "conntrack -L", chosen by its filters, which the gateway applies; the number of them follows on the standard error.
1:1 mappings keep no state, so they have no flows.

Examples:
  gateway flows -p tcp --state ESTABLISHED --dport 443
  gateway flows -s 10.0.1.0/24 -o json | jq -r .remote
  gateway flows -n 203.0.113.1
  gateway flows --watch -s 10.0.1.10`
}

// filter are the parameters of the request.
func (c *flowsCmd) filter() url.Values {
	q := given(map[string]string{"proto": c.Proto, "orig-src": c.OrigSrc, "orig-dst": c.OrigDst, "reply-src": c.ReplySrc,
		"reply-dst": c.ReplyDst, "sport": c.Sport, "dport": c.Dport, "state": c.State})
	for name, v := range map[string]natFlag{"src-nat": c.SrcNat, "dst-nat": c.DstNat} {
		if v.set {
			q.Set(name, v.value)
		}
	}
	return q
}

// given are the parameters that have a value.
func given(all map[string]string) url.Values {
	q := url.Values{}
	for name, v := range all {
		if v != "" {
			q.Set(name, v)
		}
	}
	return q
}

func (c *flowsCmd) Run(out io.Writer, summary errStream) error {
	return c.with(func(ctx context.Context, client *control.Client) error {
		if c.Watch {
			return c.watch(ctx, client, out, summary)
		}
		b := bufio.NewWriter(out)
		p, n := printer[*control.Flow]{w: b, json: c.Output == "json"}, 0
		err := client.Flows(ctx, c.filter(), func(f *control.Flow) error { n++; return p.print(f) })
		if err := errors.Join(err, b.Flush()); err != nil {
			return err
		}
		fmt.Fprintf(summary, "%d flow entries have been shown.\n", n)
		return nil
	})
}

func (c *flowsCmd) watch(ctx context.Context, client *control.Client, out io.Writer, summary errStream) error {
	p, n := printer[*control.Event]{w: out, json: c.Output == "json"}, 0
	err := client.Events(ctx, c.filter(), func(e *control.Event) error {
		if e.Lost > 0 {
			fmt.Fprintf(summary, "%d events are missing here: they came faster than they were taken.\n", e.Lost)
			if !p.json {
				return nil
			}
		}
		n++
		return p.print(e)
	})
	if err == nil || errors.Is(err, context.Canceled) {
		fmt.Fprintf(summary, "%d flow events have been shown.\n", n)
	}
	return err
}

// printer writes one thing a line.
type printer[T interface{ AppendText([]byte) []byte }] struct {
	w    io.Writer
	json bool
	line []byte
}

func (p *printer[T]) print(v T) error {
	if p.json {
		return json.NewEncoder(p.w).Encode(v)
	}
	p.line = append(v.AppendText(p.line[:0]), '\n')
	_, err := p.w.Write(p.line)
	return err
}

type statsCmd struct {
	remote
	format
}

// Help is what --help adds.
func (*statsCmd) Help() string {
	return `Examples:
  gateway stats
  gateway stats -o json | jq '.verdicts[] | select(.dropped and .packets > 0)'`
}

func (c *statsCmd) Run(out io.Writer) error {
	return c.with(func(ctx context.Context, client *control.Client) error {
		s, err := client.Stats(ctx)
		if err != nil {
			return err
		}
		return c.write(out, &s)
	})
}

type statusCmd struct {
	remote
	format
}

// Help is what --help adds.
func (*statusCmd) Help() string {
	return `What keeps packets from passing at this moment, with when that was noticed and why the gateway cannot put it right. /healthz says the same.

Examples:
  gateway status || systemctl status tidegate
  gateway status -o json | jq -r '.faults[].text'`
}

func (c *statusCmd) Run(out io.Writer) error {
	return c.with(func(ctx context.Context, client *control.Client) error {
		s, err := client.Status(ctx)
		if err != nil {
			return err
		}
		if err := c.write(out, &s); err != nil {
			return err
		}
		if !s.Healthy {
			return errFindings
		}
		return nil
	})
}

type portsCmd struct {
	remote
	format
	Top int `default:"20" placeholder:"N" help:"How many destinations to show, up to 1000."`
}

// Help is what --help adds.
func (*portsCmd) Help() string {
	return `The ports of each public address, and the fullest pairs of an address and a destination: only flows to one destination compete for ports
where mapping is address-and-port-dependent. The gateway counts by going through its sessions, some tenths of a second for a million of them.

Examples:
  gateway ports --top 5
  gateway ports -o json | jq '.destinations[0].ratio'`
}

func (c *portsCmd) Run(out io.Writer) error {
	return c.with(func(ctx context.Context, client *control.Client) error {
		p, err := client.Ports(ctx, c.Top)
		if err != nil {
			return err
		}
		return c.write(out, &p)
	})
}

type explainCmd struct {
	remote
	format
	Proto string `short:"p" placeholder:"PROTO" help:"tcp, udp or icmp."`
	Src   string `short:"s" placeholder:"ADDR" help:"Source address."`
	Dst   string `short:"d" placeholder:"ADDR" help:"Destination address."`
	Sport string `placeholder:"PORT" help:"Source port; of icmp, which is an echo request, the identifier."`
	Dport string `placeholder:"PORT" help:"Destination port."`
	Flags string `placeholder:"FLAGS" help:"Of tcp: letters of FSRPAU, such as S, SA or A; by default S."`
	Size  string `placeholder:"N" help:"Length of the packet in bytes; by default its headers alone."`
	Hex   string `placeholder:"BYTES" help:"The whole packet in hex, from its IPv4 header on, instead of the above."`
	From  string `placeholder:"SIDE" help:"inside or outside, where it comes from; by default the side that its source belongs to."`
}

// Help is what --help adds.
func (*explainCmd) Help() string {
	return `What would become of a packet that came now, and why: the lines of the policy that it meets, its session, what is rewritten, the verdict.
Nothing is sent, and nothing changes in the gateway.

Examples:
  gateway explain -p tcp -s 10.0.1.10 --sport 40000 -d 203.0.113.9 --dport 443
  gateway explain -p tcp -s 198.51.100.7 --sport 443 -d 203.0.113.1 --dport 50000 --flags SA -o json | jq -r .reason
  gateway explain --hex "4500 001c 0000 0000 4001 459d 0a00 010a c633 6407 0800 f7f7 0007 0001" --from inside`
}

// question are the parameters of the request.
func (c *explainCmd) question() url.Values {
	return given(map[string]string{"proto": c.Proto, "src": c.Src, "dst": c.Dst, "sport": c.Sport, "dport": c.Dport,
		"flags": c.Flags, "size": c.Size, "hex": c.Hex, "from": c.From})
}

func (c *explainCmd) Run(out io.Writer) error {
	q := c.question()
	if _, err := control.ParseQuestion(q); err != nil { // a question that is none needs no gateway
		return usageError{err}
	}
	return c.with(func(ctx context.Context, client *control.Client) error {
		x, err := client.Explain(ctx, q)
		if err != nil {
			return err
		}
		return c.write(out, &x)
	})
}

type reloadCmd struct {
	remote
	format
	DryRun bool `help:"Only say what it would do."`
}

// Help is what --help adds.
func (*reloadCmd) Help() string {
	return `The gateway reads its configuration file again and puts it in force as a whole, or refuses it as a whole, with everything that is wrong with
it, and goes on as before (exit code 2). SIGHUP does the same, and says so in the log. What needs a restart instead: limits.sessions,
timeouts.fragment, flow_counters, devices, control.

Examples:
  gateway reload --dry-run
  gateway reload`
}

func (c *reloadCmd) Run(out io.Writer) error {
	return c.with(func(ctx context.Context, client *control.Client) error {
		if c.Output == "text" || c.DryRun {
			before, err := client.Reload(ctx, true)
			if err != nil {
				return err
			}
			if err := c.write(out, &before); err != nil || c.DryRun {
				return err
			}
		}
		// What has been begun is not to end in the middle.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		after, err := client.Reload(ctx, false)
		if err != nil {
			return err
		}
		return c.write(out, &after)
	})
}
