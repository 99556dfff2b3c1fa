// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// The rows that are drawn: established TCP packets, both ways, in batches of 64.
var established = regexp.MustCompile(`^Benchmark(Established|GVisor)/(?:profile=gateway/)?proto=tcp/flows=(\d+)/dir=both\S*`)

// parseEngine finds the rows in the output of go test: for each thing that was measured, ns/packet by flows.
func parseEngine(text string) map[string]map[float64][]float64 {
	found := map[string]map[float64][]float64{}
	for sc := bufio.NewScanner(strings.NewReader(text)); sc.Scan(); {
		m := established.FindStringSubmatch(sc.Text())
		if m == nil {
			continue
		}
		flows, _ := strconv.ParseFloat(m[2], 64)
		f := strings.Fields(sc.Text())
		for i := 2; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				continue
			}
			name := map[string]string{"ns/packet": map[string]string{"Established": "tidegate", "GVisor": "gVisor netstack"}[m[1]],
				"floor-ns/packet": "frozen floor"}[f[i+1]]
			if name == "" {
				continue
			}
			if found[name] == nil {
				found[name] = map[float64][]float64{}
			}
			found[name][flows] = append(found[name][flows], v)
		}
	}
	return found
}

func engine(text, out string) error {
	found := parseEngine(text)
	if len(found) == 0 {
		return errors.New("no rows of BenchmarkEstablished for TCP in both directions")
	}
	p := plot.New()
	p.Title.Text = "An established TCP packet, both directions, one core, batches of 64"
	p.X.Label.Text, p.Y.Label.Text = "flows", "ns/packet"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.LogTicks{Prec: -1}, plot.LogTicks{Prec: -1}
	for i, name := range slices.Sorted(maps.Keys(found)) {
		var at plotter.XYs
		for _, flows := range slices.Sorted(maps.Keys(found[name])) {
			vs := found[name][flows]
			slices.Sort(vs)
			at = append(at, plotter.XY{X: flows, Y: vs[len(vs)/2]})
		}
		line, points, err := plotter.NewLinePoints(at)
		if err != nil {
			return err
		}
		line.Color, line.Width = palette[i+1], vg.Points(1.5)
		points.GlyphStyle = draw.GlyphStyle{Color: palette[i+1], Radius: vg.Points(3), Shape: plotutil.Shape(i)}
		p.Add(line, points)
		p.Legend.Add(name, line, points)
	}
	p.Add(plotter.NewGrid())
	// The legend is at the lower right, below all lines.
	p.X.Min, p.Y.Min = 1, 10
	return save([]*plot.Plot{p}, out)
}
