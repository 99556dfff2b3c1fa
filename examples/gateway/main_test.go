// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestCommands are those that need neither Linux nor privilege.
func TestCommands(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("inside: {prefixes: [10.0.0.0/16]}\noutside: {address: [203.0.113.1]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	nobody := filepath.Join(t.TempDir(), "gw.sock")
	plain := []string{"--inside", "10.0.0.0/16", "--public", "203.0.113.1"}
	for _, tt := range []struct {
		name        string
		args        []string
		exit        int
		out, errOut string // what is among it
	}{
		{"help", []string{"--help"}, 0, "gateway run --inside 10.0.0.0/16 --public 203.0.113.1", ""},
		{"help of a command", []string{"run", "--help"}, 0, "--metrics=ADDR", ""},
		{"version", []string{"--version"}, 0, "tidegate gateway ", ""},
		{"nothing", nil, 2, "", "see gateway --help"},
		{"unknown command", []string{"fly"}, 2, "", "unexpected argument fly"},
		{"unknown flag", []string{"check", "--confg", "x"}, 2, "", "unknown flag --confg"},
		{"check of the example", []string{"check", "--config", "gateway.yaml"}, 0, "fine: 1 inside prefixes, 2 external addresses, 1 forwards", ""},
		{"check of flags", append([]string{"check"}, plain...), 0, "fine: ", ""},
		{"check of nothing", []string{"check"}, 2, "", "write either --config FILE, or"},
		{"check of both", append([]string{"check", "-c", "gateway.yaml"}, plain...), 2, "", "write either --config FILE, or"},
		{"check of no file", []string{"check", "-c", "none.yaml"}, 2, "", "none.yaml"},
		{"check of faults", []string{"check", "-c", bad}, 2, "", `bad.yaml:2: outside.address: unknown key: did you mean "addresses"?`},
		{"forward with commas in a list", append([]string{"check", "--forward", "tcp:203.0.113.1:1=10.0.0.1:1", "--forward", "udp:203.0.113.1:1=10.0.0.1:1"}, plain...),
			0, "2 forwards", ""},
		{"help of flows", []string{"flows", "--help"}, 0, "--orig-src=ADDR", ""},
		{"flows of nobody", []string{"flows", "--socket", nobody}, 1, "", "gateway: no gateway runs at " + nobody},
		{"flows with an argument", []string{"flows", "x", "--socket", nobody}, 2, "", "unexpected argument x"},
		{"an address of -n", []string{"flows", "-n", "203.0.113.1", "--socket", nobody}, 1, "", "no gateway runs"},
		{"unknown format", []string{"stats", "-o", "xml"}, 2, "", "--output must be one of"},
		{"reload of nobody", []string{"reload", "--dry-run", "--socket", nobody}, 1, "", "no gateway runs"},
		{"help of explain", []string{"explain", "--help"}, 0, "--hex=BYTES", ""},
		{"explain of nobody", strings.Fields("explain -p tcp -s 10.0.1.10 --sport 1 -d 203.0.113.9 --dport 443 --socket " + nobody), 1, "", "no gateway runs"},
		{"explain of nothing", []string{"explain", "--socket", nobody}, 2, "", "gateway: missing: proto, src, dst, sport, dport; or the whole packet as hex\n"},
		{"explain of nonsense", []string{"explain", "--hex", "xyz", "--socket", nobody}, 2, "", `gateway: hex: "xyz": write the bytes of an IPv4 packet`},
		{"explain with an argument", []string{"explain", "17", "--socket", nobody}, 2, "", "unexpected argument 17"},
		{"print-config", append([]string{"print-config"}, plain...), 0, "tcp_established: 7440s\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			exit := run(tt.args, &out, &errOut)
			if exit != tt.exit || !strings.Contains(out.String(), tt.out) || !strings.Contains(errOut.String(), tt.errOut) {
				t.Errorf("exit %d, want %d\n%s%s", exit, tt.exit, out.String(), errOut.String())
			}
			if exit != 0 && out.Len() > 0 || exit == 0 && errOut.Len() > 0 {
				t.Errorf("on the wrong stream: %q, %q", out.String(), errOut.String())
			}
		})
	}
}

// TestPrintConfig: what print-config prints is what check takes.
func TestPrintConfig(t *testing.T) {
	var out, again, errOut bytes.Buffer
	if exit := run([]string{"print-config", "--config", "gateway.yaml"}, &out, &errOut); exit != 0 {
		t.Fatalf("exit %d: %s", exit, errOut.String())
	}
	name := filepath.Join(t.TempDir(), "printed.yaml")
	if err := os.WriteFile(name, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if exit := run([]string{"print-config", "--config", name}, &again, &errOut); exit != 0 || again.String() != out.String() {
		t.Errorf("exit %d: %s\n%s", exit, errOut.String(), again.String())
	}
}

// TestFilterFlags: each flag is the parameter that it says it is; -n and -g take an address, or none.
func TestFilterFlags(t *testing.T) {
	for args, want := range map[string]string{
		"":                        "",
		"-p tcp --state SYN_SENT": "proto=tcp&state=SYN_SENT",
		"-s 10.0.0.0/8 --dst 1.2.3.4 -r 1.2.3.4 -q 203.0.113.1": "orig-dst=1.2.3.4&orig-src=10.0.0.0%2F8&reply-dst=203.0.113.1&reply-src=1.2.3.4",
		"--sport 1 --orig-port-dst 2":                           "dport=2&sport=1",
		"-n":                                                    "src-nat=",
		"-n 203.0.113.1 -g":                                     "dst-nat=&src-nat=203.0.113.1",
		"-g -p udp":                                             "dst-nat=&proto=udp",
		"--src-nat=203.0.113.0/24":                              "src-nat=203.0.113.0%2F24",
	} {
		var c flowsCmd
		p, err := kong.New(&c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Parse(strings.Fields(args)); err != nil {
			t.Errorf("%s: %v", args, err)
		}
		if got := c.filter().Encode(); got != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
}
