// SPDX-License-Identifier: Apache-2.0

package main

import "time"

// results is the JSON that a run leaves: every sample, and what it was measured on. A change of meaning is another format.
type results struct {
	Format  int       `json:"format"` // 1
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	Machine machine   `json:"machine"`
	Options options   `json:"options"`
	Peers   []outcome `json:"peers"`
	Missing []absence `json:"missing,omitempty"`
	Samples []sample  `json:"samples"`
}

type machine struct {
	Kernel    string `json:"kernel"`
	Go        string `json:"go"`
	Processor string `json:"processor"`
	CPUs      int    `json:"cpus"`
	MemoryKiB int    `json:"memory_kib"`
	// Load is the load average of a minute before the run: what else the machine does.
	Load string `json:"load_before"`
}

type options struct {
	Rounds int           `json:"rounds"`
	Warmup time.Duration `json:"warmup_ns"`
	Window time.Duration `json:"window_ns"`
	Quick  bool          `json:"quick"`
	Only   []string      `json:"only,omitempty"`
}

// outcome is a peer that was measured.
type outcome struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	What    string `json:"what"`
}

// absence is a peer that could not be had.
type absence struct {
	Name string `json:"name"`
	Why  string `json:"why"`
	Get  string `json:"get"`
}

// sample is one measurement. Rates are per second of Seconds.
type sample struct {
	Round   int     `json:"round"`
	Peer    string  `json:"peer"`
	Row     string  `json:"row"`
	Unit    string  `json:"unit"`
	Value   float64 `json:"value"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
	// P90 and P99 belong to rtt rows, whose Value is the median of Pings; Lost of them had no answer.
	P90   float64 `json:"p90,omitempty"`
	P99   float64 `json:"p99,omitempty"`
	Pings int     `json:"pings,omitempty"`
	Lost  int     `json:"lost,omitempty"`
	// Packets are the datagrams that arrived, Offered those that were sent, Reads the messages that they arrived in.
	Packets float64 `json:"packets,omitempty"`
	Offered float64 `json:"offered,omitempty"`
	Reads   float64 `json:"reads,omitempty"`
	// Connections were made; Failed were not. Wrapped says that they were more than there are ephemeral ports.
	Connections int  `json:"connections,omitempty"`
	Failed      int  `json:"failed,omitempty"`
	Wrapped     bool `json:"wrapped,omitempty"`
	// Seconds of processors: what the whole machine was busy, what another guest had, and what the forwarder's processes ran.
	BusySeconds      float64 `json:"busy_seconds"`
	StolenSeconds    float64 `json:"stolen_seconds"`
	ForwarderSeconds float64 `json:"forwarder_seconds"`
}
