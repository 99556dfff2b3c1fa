// SPDX-License-Identifier: Apache-2.0

package nattest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pion/stun/v3"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/nattest"
)

// run is nattest.Run for examples, which have no *testing.T.
func run(f func(n *nattest.Network)) {
	nattest.Run(new(testing.T), nattest.Config{}, func(_ *testing.T, n *nattest.Network) { f(n) })
}

// must is for what is not the point of an example.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A server on the internet, and a client behind a NAT. (In a test, run is nattest.Run.)
func Example() {
	run(func(n *nattest.Network) {
		server := n.Host("server")
		laptop := n.NAT(nattest.PortRestrictedCone()).Host("laptop")

		go http.Serve(must(server.Listen("tcp", ":80")), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			from, _, _ := net.SplitHostPort(r.RemoteAddr)
			fmt.Fprintln(w, "the server sees", from)
		}))

		fmt.Println("the laptop has", laptop.Addr())
		response := must(laptop.HTTPClient().Get("http://server/"))
		defer response.Body.Close()
		fmt.Printf("%s", must(io.ReadAll(response.Body)))
	})
	// Output:
	// the laptop has 10.1.0.2
	// the server sees 198.51.100.1
}

// Two peers behind NATs learn their external endpoints from a server, and each sends to the other's. That opens both
// filters, provided that a NAT uses the same endpoint for the peer as for the server. A symmetric one does not.
func Example_holePunching() {
	for _, behaviour := range []nattest.Behaviour{nattest.PortRestrictedCone(), nattest.Symmetric()} {
		run(func(n *nattest.Network) {
			server := must(n.Host("server").ListenPacket("udp", "server:3478"))
			alice := must(n.NAT(behaviour).Host("alice").ListenPacket("udp", ":5000"))
			bob := must(n.NAT(behaviour).Host("bob").ListenPacket("udp", ":5000"))

			b := make([]byte, 100)
			external := func(peer net.PacketConn) net.Addr { // which the server would tell the other one
				must(peer.WriteTo([]byte("who am I?"), server.LocalAddr()))
				_, from, _ := server.ReadFrom(b)
				return from
			}
			atAlice, atBob := external(alice), external(bob)
			for range 2 { // the first may come too early for the other's filter
				must(alice.WriteTo([]byte("hello from alice"), atBob))
				must(bob.WriteTo([]byte("hello from bob"), atAlice))
				time.Sleep(time.Second)
			}

			_ = bob.SetReadDeadline(time.Now().Add(time.Minute))
			m, _, err := bob.ReadFrom(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				fmt.Printf("%s: bob hears nothing\n", behaviour.Name)
				return
			}
			fmt.Printf("%s: bob hears %q\n", behaviour.Name, b[:m])
		})
	}
	// Output:
	// port-restricted-cone: bob hears "hello from alice"
	// symmetric: bob hears nothing
}

// One socket asks two STUN servers how they see it. If they see the same, the mapping does not depend on the destination.
// This is how programs find out whether punching a hole is worth a try.
func Example_stun() {
	serve := func(conn net.PacketConn) {
		for b := make([]byte, 1500); ; {
			m, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			request := &stun.Message{Raw: b[:m]}
			if request.Decode() != nil {
				continue
			}
			seen := from.(*net.UDPAddr)
			answer := stun.MustBuild(request, stun.BindingSuccess, &stun.XORMappedAddress{IP: seen.IP, Port: seen.Port})
			must(conn.WriteTo(answer.Raw, from))
		}
	}
	ask := func(conn net.PacketConn, server net.Addr) string {
		must(conn.WriteTo(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw, server))
		b := make([]byte, 1500)
		m, _, err := conn.ReadFrom(b)
		must(m, err)
		answer, mapped := &stun.Message{Raw: b[:m]}, stun.XORMappedAddress{}
		must(0, errors.Join(answer.Decode(), mapped.GetFrom(answer)))
		return mapped.String()
	}
	for _, behaviour := range []nattest.Behaviour{nattest.FullCone(), nattest.LinuxMasquerade(), nattest.Symmetric()} {
		run(func(n *nattest.Network) {
			first := must(n.Host("stun1").ListenPacket("udp", "stun1:3478"))
			second := must(n.Host("stun2").ListenPacket("udp", "stun2:3478"))
			go serve(first)
			go serve(second)

			client := must(n.NAT(behaviour).Host("client").ListenPacket("udp", ":5000"))
			mapping := "endpoint-independent"
			if ask(client, first.LocalAddr()) != ask(client, second.LocalAddr()) {
				mapping = "endpoint-dependent"
			}
			fmt.Printf("%s: %s\n", behaviour.Name, mapping)
		})
	}
	// Output:
	// full-cone: endpoint-independent
	// linux-masquerade: endpoint-independent
	// symmetric: endpoint-dependent
}

// A corporate NAT forgets UDP after 30 s. A client that keeps its mapping alive every 45 s gets what the server sends at
// once, and nothing of what it sends later.
func Example_keepAlive() {
	for _, every := range []time.Duration{20 * time.Second, 45 * time.Second} {
		run(func(n *nattest.Network) {
			server := must(n.Host("server").ListenPacket("udp", ":4500"))
			office := n.NAT(nattest.Corporate())
			client := must(office.Host("client").Dial("udp", "server:4500"))

			var clientAt net.Addr // where the server has last heard of it
			b := make([]byte, 100)
			for start := time.Now(); time.Since(start) < time.Hour; time.Sleep(every) {
				must(client.Write([]byte("still here")))
				_, clientAt, _ = server.ReadFrom(b)
			}
			must(server.WriteTo([]byte("news"), clientAt))

			_ = client.SetReadDeadline(time.Now().Add(time.Minute))
			m, err := client.Read(b)
			fmt.Printf("every %v: read %q, timeout %v; the NAT refused %d packets\n",
				every, b[:m], errors.Is(err, os.ErrDeadlineExceeded), office.Count(nat.DropNoMapping))
		})
	}
	// Output:
	// every 20s: read "news", timeout false; the NAT refused 0 packets
	// every 45s: read "", timeout true; the NAT refused 1 packets
}

// A NAT gateway on AWS forgets connections that are idle for 350 s, and resets them when they are used again. A client that
// keeps connections for longer loses requests; one that closes them first does not. (Neither would one that sends TCP
// keep-alives, as those of net.Dialer do; those of a Host do not unless they are asked to.)
func Example_idleConnection() {
	for _, keep := range []time.Duration{0, 5 * time.Minute} { // 0 is for ever, as in a Transport of one's own
		run(func(n *nattest.Network) {
			server := n.Host("server")
			go http.Serve(must(server.Listen("tcp", ":80")), http.NotFoundHandler())

			gateway := n.NAT(nattest.AWSNATGateway())
			worker := gateway.Host("worker")
			client := http.Client{Transport: &http.Transport{DialContext: worker.DialContext, IdleConnTimeout: keep}}

			for _, idle := range []time.Duration{0, 340 * time.Second, 360 * time.Second} {
				time.Sleep(idle)
				response, err := client.Post("http://server/", "text/plain", strings.NewReader("a job"))
				if err != nil {
					fmt.Printf("keep %v, idle %v: reset %v\n", keep, idle, errors.Is(err, syscall.ECONNRESET))
					continue
				}
				must(io.Copy(io.Discard, response.Body)) // or the connection is not kept
				response.Body.Close()
				fmt.Printf("keep %v, idle %v: %s\n", keep, idle, response.Status)
			}
		})
	}
	// Output:
	// keep 0s, idle 0s: 404 Not Found
	// keep 0s, idle 5m40s: 404 Not Found
	// keep 0s, idle 6m0s: reset true
	// keep 5m0s, idle 0s: 404 Not Found
	// keep 5m0s, idle 5m40s: 404 Not Found
	// keep 5m0s, idle 6m0s: 404 Not Found
}

// With one external port for each connection, a NAT is soon full. One whose mappings depend on the destination has its ports
// again for every other server.
func Example_portExhaustion() {
	oneForEach := nattest.FullCone()
	oneForEach.Profile.NoPort = nat.RefuseSilently
	for _, behaviour := range []nattest.Behaviour{oneForEach, nattest.AWSNATGateway()} {
		run(func(n *nattest.Network) {
			for _, name := range []string{"server", "another"} {
				must(n.Host(name).Listen("tcp", ":80"))
			}
			x := n.NAT(behaviour)
			x.LimitPorts(3)
			client := x.Host("client")

			fmt.Println(behaviour.Name)
			for _, to := range []string{"server:80", "server:80", "server:80", "server:80", "another:80"} {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				_, err := client.DialContext(ctx, "tcp", to)
				fmt.Printf("  %s: connected %v\n", to, err == nil)
				cancel()
			}
			fmt.Println("  packets without a port:", x.Count(nat.DropNoPort))
		})
	}
	// Output:
	// full-cone
	//   server:80: connected true
	//   server:80: connected true
	//   server:80: connected true
	//   server:80: connected false
	//   another:80: connected false
	//   packets without a port: 8
	// aws-nat-gateway
	//   server:80: connected true
	//   server:80: connected true
	//   server:80: connected true
	//   server:80: connected false
	//   another:80: connected true
	//   packets without a port: 4
}
