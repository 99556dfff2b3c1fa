// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/nat"
)

// machine is what metrics ask the machine for; a *system is one.
type machine interface {
	// faults are what keeps packets from passing, at this moment.
	faults() []control.Fault
	// fits says why the machine cannot go on with another configuration, or nil. It changes nothing.
	fits(*config.Config) error
	// become takes the machine to another configuration. In the middle, when what goes is withdrawn and what comes is not
	// published, swap changes the engine. On an error the machine is as it was.
	become(next *config.Config, swap func() error) error
	// dropped is how many packets of a device the kernel dropped before they were read, and after they were written.
	dropped(nat.Side) (read, write uint64)
}

// metrics are all there are, with their labels. The values of each label are a few words of the code: none is an address.
var metrics = []struct {
	name, help string
	labels     []string
}{
	{"nat_sessions", "Session records in use.", nil},
	{"nat_sessions_limit", "Session records that there are.", nil},
	{"nat_sessions_created_total", "Sessions made.", nil},
	{"nat_sessions_ended_total", "Sessions that ended: expired (nothing refreshed them), recycled (unanswered, when the table was full), cut (by a change of the configuration).",
		[]string{"reason"}},
	{"nat_mappings", "External ports held by endpoint-independent mappings.", nil},
	{"nat_ports_quarantined", "External ports that wait before they are given out again.", nil},
	{"nat_port_alloc_failures_total", "Packets refused because no external port was left.", nil},
	{"nat_tcp_connections", "TCP connections that are established.", []string{"pool"}},
	{"nat_tcp_attempts_total", "TCP connections that began: a SYN that was let through, counted once however often it is sent.", []string{"pool"}},
	{"nat_tcp_established_total", "TCP connections whose handshake was seen to its end.", []string{"pool"}},
	{"nat_tcp_idle_timeouts_total", "Established TCP connections that ended since nothing was sent for their time-out.", []string{"pool"}},
	{"nat_pool_ports_used", "External ports, or ICMP identifiers, with a session, summed over the public addresses; up to 15 s old.", []string{"proto"}},
	{"nat_pool_ports_limit", "External ports, or ICMP identifiers, that can be given out, summed over the public addresses.", []string{"proto"}},
	{"nat_endpoint_port_saturation_ratio", "The fullest of all that can run out of ports: a public address with a destination, or where mapping is endpoint-independent the address; up to 15 s old.",
		nil},
	{"nat_packets_total", "Packets by the way they were going and what became of them; a super-packet is one.", []string{"dir", "verdict"}},
	{"nat_bytes_total", "Bytes of the IP packets that were sent on, by the way they were going.", []string{"dir"}},
	{"nat_drops_total", "Packets that ended here, by reason.", []string{"reason"}},
	{"nat_icmp_errors_translated_total", "ICMP errors passed on.", []string{"dir"}},
	{"nat_fragments_total", "Fragments by what became of them.", []string{"result"}},
	{"nat_checksum_errors_total", "Packets dropped for a checksum, by which.", []string{"checksum"}},
	{"nat_subscriber_quota_hits_total", "Packets refused because their host had as much as it may.", []string{"limit"}},
	{"nat_emitted_total", "Packets that the gateway made: ICMP errors, RSTs.", nil},
	{"nat_icmp_suppressed_total", "ICMP errors that the rate limit kept back.", nil},
	{"nat_device_packets_total", "Packets of an interface, as on a wire.", []string{"device", "op"}},
	{"nat_device_queue_packets_total", "Packets of a queue of an interface, since the process began.", []string{"device", "queue", "op"}},
	{"nat_device_bytes_total", "Bytes of IP packets of an interface.", []string{"device", "op"}},
	{"nat_device_refused_total", "Packets that an interface did not take.", []string{"device"}},
	{"nat_device_read_errors_total", "Reads of an interface that failed.", []string{"device"}},
	{"nat_device_backend_info", "Always 1; how packets of an interface are read and written is a label.", []string{"device", "backend"}},
	{"nat_device_sleeps_total", "How often the gateway found nothing to read at an interface and slept.", []string{"device"}},
	{"nat_device_exhausted_total", "How often all buffers of an interface were full, and packets had to wait.", []string{"device"}},
	{"nat_device_dropped_total", "Packets of an interface that the kernel dropped: the gateway did not read them in time, or what it wrote.",
		[]string{"device", "op"}},
	{"nat_healthy", "Whether nothing is wrong, as /healthz says it.", nil},
	{"nat_fault_active", "What is wrong now, by kind.", []string{"fault"}},
	{"nat_faults_total", "How often something was wrong, by kind.", []string{"fault"}},
	{"nat_fault_repairs_total", "How often the gateway put it right.", []string{"fault"}},
	{"nat_monitor_resyncs_total", "How often the kernel had more changes to tell of than were read, so that all was looked at anew.", nil},
	{"nat_table_bytes", "Memory of the engine's tables.", nil},
	{"nat_config_last_reload_successful", "Whether the configuration was taken when it was last read.", nil},
	{"nat_config_reload_success_timestamp_seconds", "When a configuration was last taken.", nil},
}

// collector turns the counters of a loop, its engine and its devices into metrics.
type collector struct {
	l       *loop
	m       machine
	r       *reloader
	ports   saturation
	descs   map[string]*prometheus.Desc
	ordered []*prometheus.Desc
}

func newCollector(l *loop, m machine, r *reloader) *collector {
	c := &collector{l: l, m: m, r: r, descs: map[string]*prometheus.Desc{}}
	for _, d := range metrics {
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
	gauge := func(name string, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.descs[name], prometheus.GaugeValue, v, labels...)
	}
	counter := func(name string, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.descs[name], prometheus.CounterValue, float64(v), labels...)
	}
	gauge("nat_sessions", float64(st.Sessions))
	gauge("nat_sessions_limit", float64(st.SessionsMax))
	counter("nat_sessions_created_total", st.Created)
	counter("nat_sessions_ended_total", st.Expired, "expired")
	counter("nat_sessions_ended_total", st.Recycled, "recycled")
	counter("nat_sessions_ended_total", st.Cut, "cut")
	gauge("nat_mappings", float64(st.Mappings))
	gauge("nat_ports_quarantined", float64(st.Quarantined))
	counter("nat_port_alloc_failures_total", st.Verdicts[nat.DropNoPort])
	for _, p := range c.l.engine.PoolStats(c.l.now()) {
		gauge("nat_tcp_connections", float64(p.ActiveConnections), p.Name)
		counter("nat_tcp_attempts_total", p.Attempts, p.Name)
		counter("nat_tcp_established_total", p.Established, p.Name)
		counter("nat_tcp_idle_timeouts_total", p.IdleTimeouts, p.Name)
	}
	for i, n := range st.Verdicts {
		v := nat.Verdict(i)
		if v == nat.Unset {
			continue
		}
		for s, dir := range directions {
			counter("nat_packets_total", c.l.sides[s].verdicts[v].Load(), dir, v.String())
		}
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
		counter("nat_device_read_errors_total", p.readErrors.Load(), side)
		counter("nat_bytes_total", p.passedBytes.Load(), directions[s])
		for i, q := range p.queues {
			counter("nat_device_queue_packets_total", q.readPackets.Load(), side, strconv.Itoa(i), "read")
			counter("nat_device_queue_packets_total", q.wrotePackets.Load(), side, strconv.Itoa(i), "write")
		}
		if io, ok := p.stats(); ok {
			gauge("nat_device_backend_info", 1, side, backend(io))
			counter("nat_device_sleeps_total", io.Sleeps, side)
			counter("nat_device_exhausted_total", io.Exhausted, side)
		}
		read, write := c.m.dropped(nat.Side(s))
		counter("nat_device_dropped_total", read, side, "read")
		counter("nat_device_dropped_total", write, side, "write")
	}
	faults := c.m.faults()
	gauge("nat_healthy", flag(len(faults) == 0))
	active := map[string]int{}
	for _, f := range faults {
		active[f.Kind]++
	}
	var resyncs uint64
	for _, kind := range faultKinds {
		began, repaired, n := c.l.book.counts(kind)
		gauge("nat_fault_active", float64(active[kind]), kind)
		counter("nat_faults_total", began, kind)
		counter("nat_fault_repairs_total", repaired, kind)
		resyncs = n
	}
	counter("nat_monitor_resyncs_total", resyncs)
	gauge("nat_table_bytes", float64(st.MemoryBytes))
	ports := c.ports.get(c.l.engine, c.r.policy(), c.l.now())
	gauge("nat_endpoint_port_saturation_ratio", fullest(&ports))
	used, limit := map[string]int{}, map[string]int{}
	for _, a := range ports.Addresses {
		used[a.Protocol] += a.Used
		limit[a.Protocol] += a.Total
	}
	for _, k := range classes {
		name := nat.ProtocolName(k.proto)
		gauge("nat_pool_ports_used", float64(used[name]), name)
		gauge("nat_pool_ports_limit", float64(limit[name]), name)
	}
	loaded, ok := c.r.state()
	gauge("nat_config_reload_success_timestamp_seconds", float64(loaded.UnixMilli())/1000)
	gauge("nat_config_last_reload_successful", flag(ok))
}

// flag is a bool as a metric.
func flag(v bool) float64 {
	if v {
		return 1
	}
	return 0
}

// directions are the ways that packets go, by the nat.Side that they come from.
var directions = [2]string{nat.Inside: "out", nat.Outside: "in"}

// handler serves /metrics and /healthz.
func handler(l *loop, version string, m machine, r *reloader) http.Handler {
	reg := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "nat_build_info", Help: "Always 1; the version is a label.",
		ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	reg.MustRegister(newCollector(l, m, r), build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	started := time.Now()
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		status, faults := http.StatusOK, m.faults()
		if len(faults) > 0 {
			status = http.StatusServiceUnavailable
		}
		if strings.Contains(r.Header.Get("Accept"), "application/json") {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(statusOf(l, version, started, faults)) // the client may be gone
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		fmt.Fprintln(w, control.Lines(faults))
	})
	return mux
}

// serve serves at ln, which it closes, and returns how to stop.
func serve(ln net.Listener, o Options, l *loop, m machine, r *reloader) (stop func()) {
	srv := &http.Server{Handler: handler(l, o.Version, m, r), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second}
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
