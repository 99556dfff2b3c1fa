// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// results is what of bench/sidebyside's results.json is drawn.
type results struct {
	Format  int
	Peers   []struct{ Name string }
	Samples []struct {
		Peer, Row, Error string
		Value, P90, P99  float64
	}
}

const base = "nft"

func gateway(b []byte, out string) error {
	var r results
	if err := json.Unmarshal(b, &r); err != nil {
		return err
	}
	if r.Format != 1 {
		return fmt.Errorf("results of format %d; this is for 1", r.Format)
	}
	throughput, err := r.throughput()
	if err != nil {
		return err
	}
	latency, err := r.latency()
	if err != nil {
		return err
	}
	return save([]*plot.Plot{throughput, latency}, out)
}

// median of what pick finds in the samples of a peer and row.
func (r *results) median(peer, row, what string) float64 {
	var vs []float64
	for _, s := range r.Samples {
		if s.Peer == peer && s.Row == row && s.Error == "" {
			vs = append(vs, map[string]float64{"p50": s.Value, "p90": s.P90, "p99": s.P99}[what])
		}
	}
	if len(vs) == 0 {
		return 0
	}
	slices.Sort(vs)
	return (vs[(len(vs)-1)/2] + vs[len(vs)/2]) / 2
}

// throughput has a group of bars for each row: each peer's median as a ratio to nft's.
func (r *results) throughput() (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = "Throughput, nft masquerade = 1.00"
	p.Y.Label.Text = "ratio of medians"
	groups := []string{"tcp1-up", "tcp1-down", "tcp4-up", "tcp4-down", "udp-small", "udp-gso", "tcp-crr"}
	return p, r.bars(p, groups, func(peer, row string) float64 {
		if one := r.median(base, row, "p50"); one > 0 {
			return r.median(peer, row, "p50") / one
		}
		return 0
	})
}

// latency has a group of points for each percentile, idle and under load.
func (r *results) latency() (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = "Round trip, idle and beside a fixed load of small datagrams"
	p.Y.Label.Text = "µs, logarithmic"
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	groups := []string{"idle p50", "idle p90", "idle p99", "load p50", "load p90", "load p99"}
	for i, peer := range r.Peers {
		var at plotter.XYs
		for j, g := range groups {
			if v := r.median(peer.Name, "rtt-"+g[:4], g[5:]); v > 0 {
				at = append(at, plotter.XY{X: float64(j) + 0.1*(float64(i)-float64(len(r.Peers)-1)/2), Y: v})
			}
		}
		if len(at) == 0 {
			continue
		}
		s, err := plotter.NewScatter(at)
		if err != nil {
			return nil, err
		}
		s.GlyphStyle = draw.GlyphStyle{Color: palette[i%len(palette)], Radius: vg.Points(4), Shape: draw.CircleGlyph{}}
		p.Add(s)
		p.Legend.Add(peer.Name, s)
	}
	p.Add(plotter.NewGrid())
	p.Legend.Top, p.Legend.Left = true, true
	p.NominalX(groups...)
	p.X.Min, p.X.Max = -0.5, float64(len(groups))-0.5
	if p.Y.Min <= 0 || p.Y.Min >= p.Y.Max { // nothing was measured
		p.Y.Min, p.Y.Max = 1, 10
	}
	p.Y.Min, p.Y.Max = p.Y.Min/1.3, p.Y.Max*1.3 // points have a size
	return p, nil
}

func (r *results) bars(p *plot.Plot, groups []string, value func(peer, group string) float64) error {
	width := vg.Points(9)
	for i, peer := range r.Peers {
		vs := make(plotter.Values, len(groups))
		for j, g := range groups {
			vs[j] = value(peer.Name, g)
		}
		c, err := plotter.NewBarChart(vs, width)
		if err != nil {
			return err
		}
		c.Color, c.LineStyle.Width = palette[i%len(palette)], 0
		c.Offset = width * vg.Length(float64(i)-float64(len(r.Peers)-1)/2)
		p.Add(c)
		p.Legend.Add(peer.Name, c)
	}
	p.Add(plotter.NewGrid())
	p.Legend.Top = true
	p.NominalX(groups...)
	p.X.Min, p.X.Max = -0.5, float64(len(groups))+0.5 // with room for the legend
	return nil
}
