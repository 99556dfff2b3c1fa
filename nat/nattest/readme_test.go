// SPDX-License-Identifier: Apache-2.0

package nattest_test

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat/nattest"
)

func TestBehindNAT(t *testing.T) {
	nattest.Run(t, nattest.Config{}, func(t *testing.T, n *nattest.Network) {
		server := n.Host("server")
		gateway := n.NAT(nattest.AWSNATGateway()) // or Symmetric, LinuxMasquerade, CarrierGrade, DoubleNAT ...
		laptop := gateway.Host("laptop")

		l, err := server.Listen("tcp", ":80") // hosts Listen, ListenPacket, Dial and DialContext as package net does
		if err != nil {
			t.Fatal(err)
		}
		go http.Serve(l, http.FileServerFS(os.DirFS(".")))
		for _, idle := range []time.Duration{0, time.Hour} {
			time.Sleep(idle) // virtual time: an hour takes what its packets take
			response, err := laptop.HTTPClient().Get("http://server/")
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		for _, record := range gateway.Log() {
			t.Log(record) // each packet that the NAT has seen, and what became of it
		}
	})
}

// TestReadme: the test in the README is the one above.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("readme_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, want, _ := strings.Cut(string(source), "\nfunc TestBehindNAT")
	want, _, _ = strings.Cut(want, "\n}\n")
	if !strings.Contains(string(readme), "\nfunc TestBehindNAT"+want+"\n}\n```\n") {
		t.Error("the README has another one")
	}
}
