// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tidegate/tidegate/nat"
)

// machine is what metrics ask the machine for; a *system is one.
type machine interface {
	// health says what keeps packets from passing.
	health() error
	// dropped is how many packets of a device the kernel dropped before they were read, and after they were written.
	dropped(nat.Side) (read, write uint64)
}

// collector turns the counters of a loop, its engine and its devices into metrics. There are no labels with addresses: their
// number is bounded by the code.
type collector struct {
	l       *loop
	m       machine
	descs   map[string]*prometheus.Desc
	ordered []*prometheus.Desc
}

func newCollector(l *loop, m machine) *collector {
	c := &collector{l: l, m: m, descs: map[string]*prometheus.Desc{}}
	for _, d := range []struct {
		name, help string
		labels     []string
	}{
		{"nat_sessions", "Session records in use.", nil},
		{"nat_sessions_limit", "Session records that there are.", nil},
		{"nat_sessions_created_total", "Sessions made.", nil},
		{"nat_sessions_expired_total", "Sessions that timed out.", nil},
		{"nat_sessions_recycled_total", "Unanswered sessions that gave way when the table was full.", nil},
		{"nat_sessions_cut_total", "Sessions that a change of policy ended.", nil},
		{"nat_mappings", "External ports held by endpoint-independent mappings.", nil},
		{"nat_ports_quarantined", "External ports that wait before they are given out again.", nil},
		{"nat_port_alloc_failures_total", "Packets refused because no external port was left.", nil},
		{"nat_packets_total", "Packets by what became of them.", []string{"verdict"}},
		{"nat_drops_total", "Packets that ended here, by reason.", []string{"reason"}},
		{"nat_icmp_errors_translated_total", "ICMP errors passed on.", []string{"dir"}},
		{"nat_fragments_total", "Fragments by what became of them.", []string{"result"}},
		{"nat_checksum_errors_total", "Packets dropped for a checksum, by which.", []string{"checksum"}},
		{"nat_subscriber_quota_hits_total", "Packets refused because their host had as much as it may.", []string{"limit"}},
		{"nat_emitted_total", "Packets that the gateway made: ICMP errors, RSTs.", nil},
		{"nat_icmp_suppressed_total", "ICMP errors that the rate limit kept back.", nil},
		{"nat_device_packets_total", "Packets of an interface, as on a wire.", []string{"device", "op"}},
		{"nat_device_bytes_total", "Bytes of IP packets of an interface.", []string{"device", "op"}},
		{"nat_device_refused_total", "Packets that an interface did not take.", []string{"device"}},
		{"nat_device_dropped_total", "Packets of an interface that the kernel dropped: the gateway did not read them in time, or what it wrote.",
			[]string{"device", "op"}},
		{"nat_table_bytes", "Memory of the engine's tables.", nil},
	} {
		desc := prometheus.NewDesc(d.name, d.help, d.labels, nil)
		c.descs[d.name] = desc
		c.ordered = append(c.ordered, desc)
	}
	return c
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.ordered {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	st := c.l.engine.Stats(c.l.now())
	gauge := func(name string, v int) {
		ch <- prometheus.MustNewConstMetric(c.descs[name], prometheus.GaugeValue, float64(v))
	}
	counter := func(name string, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.descs[name], prometheus.CounterValue, float64(v), labels...)
	}
	gauge("nat_sessions", st.Sessions)
	gauge("nat_sessions_limit", st.SessionsMax)
	counter("nat_sessions_created_total", st.Created)
	counter("nat_sessions_expired_total", st.Expired)
	counter("nat_sessions_recycled_total", st.Recycled)
	counter("nat_sessions_cut_total", st.Cut)
	gauge("nat_mappings", st.Mappings)
	gauge("nat_ports_quarantined", st.Quarantined)
	counter("nat_port_alloc_failures_total", st.Verdicts[nat.DropNoPort])
	for i, n := range st.Verdicts {
		v := nat.Verdict(i)
		if v == nat.Unset {
			continue
		}
		counter("nat_packets_total", n, v.String())
		if v.Dropped() {
			counter("nat_drops_total", n, v.String())
		}
	}
	counter("nat_icmp_errors_translated_total", st.Verdicts[nat.ErrorOutbound], "out")
	counter("nat_icmp_errors_translated_total", st.Verdicts[nat.ErrorInbound], "in")
	for _, v := range []nat.Verdict{nat.HeldFragment, nat.Reassembled, nat.DropTinyFragment, nat.DropFragmentOverlap,
		nat.DropFragmentDuplicate, nat.DropFragmentLimit, nat.DropFragmentPolicy} {
		counter("nat_fragments_total", st.Verdicts[v], v.String())
	}
	counter("nat_checksum_errors_total", st.Verdicts[nat.DropHeaderChecksum], "ip")
	counter("nat_checksum_errors_total", st.Verdicts[nat.DropICMPChecksum], "icmp")
	counter("nat_checksum_errors_total", st.Verdicts[nat.DropICMPQuoteChecksum], "icmp_quote")
	counter("nat_subscriber_quota_hits_total", st.Verdicts[nat.DropHostLimit], "sessions")
	counter("nat_subscriber_quota_hits_total", st.Verdicts[nat.DropHostRate], "rate")
	counter("nat_emitted_total", st.Emitted)
	counter("nat_icmp_suppressed_total", st.ICMPSuppressed)
	for s := range c.l.sides {
		p, side := &c.l.sides[s], nat.Side(s).String()
		counter("nat_device_packets_total", p.readPackets.Load(), side, "read")
		counter("nat_device_packets_total", p.wrotePackets.Load(), side, "write")
		counter("nat_device_bytes_total", p.readBytes.Load(), side, "read")
		counter("nat_device_bytes_total", p.wroteBytes.Load(), side, "write")
		counter("nat_device_refused_total", p.refused.Load(), side)
		read, write := c.m.dropped(nat.Side(s))
		counter("nat_device_dropped_total", read, side, "read")
		counter("nat_device_dropped_total", write, side, "write")
	}
	gauge("nat_table_bytes", st.MemoryBytes)
}

// handler serves /metrics and /healthz.
func handler(l *loop, version string, m machine) http.Handler {
	reg := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "nat_build_info", Help: "Always 1; the version is a label.",
		ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	reg.MustRegister(newCollector(l, m), build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := m.health(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// serve serves at ln, which it closes, and returns how to stop.
func serve(ln net.Listener, o Options, l *loop, m machine) (stop func()) {
	srv := &http.Server{Handler: handler(l, o.Version, m), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			o.Log.Error("metrics are no longer served", "error", err)
		}
	}()
	o.Log.Info("serving /metrics and /healthz", "address", ln.Addr().String())
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = srv.Shutdown(ctx)
		_ = srv.Close()
		<-done
	}
}
