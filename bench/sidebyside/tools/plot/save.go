// SPDX-License-Identifier: Apache-2.0

package main

import (
	"image/color"
	"os"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

const (
	width  = 25 * vg.Centimeter
	height = 11 * vg.Centimeter // of each plot
)

// palette tells up to eight apart, for colour-blind readers too (Okabe and Ito).
var palette = []color.Color{
	color.RGBA{153, 153, 153, 255}, color.RGBA{0, 0, 0, 255}, color.RGBA{213, 94, 0, 255}, color.RGBA{0, 114, 178, 255},
	color.RGBA{86, 180, 233, 255}, color.RGBA{0, 158, 115, 255}, color.RGBA{230, 159, 0, 255}, color.RGBA{204, 121, 167, 255},
}

// save draws plots one below the other into out.svg and out.png.
func save(plots []*plot.Plot, out string) error {
	total := height * vg.Length(len(plots))
	vector, pixels := vgsvg.New(width, total), vgimg.New(width, total)
	for _, c := range []vg.CanvasSizer{vector, pixels} {
		dc := draw.New(c)
		tiles := draw.Tiles{Cols: 1, Rows: len(plots), PadTop: 4 * vg.Millimeter, PadBottom: 4 * vg.Millimeter, PadLeft: 4 * vg.Millimeter,
			PadRight: 4 * vg.Millimeter, PadY: 6 * vg.Millimeter}
		grid := make([][]*plot.Plot, len(plots))
		for i, p := range plots {
			grid[i] = []*plot.Plot{p}
		}
		for i, row := range plot.Align(grid, tiles, dc) {
			plots[i].Draw(row[0])
		}
	}
	for name, w := range map[string]func(*os.File) error{
		out + ".svg": func(f *os.File) error { _, err := vector.WriteTo(f); return err },
		out + ".png": func(f *os.File) error { _, err := vgimg.PngCanvas{Canvas: pixels}.WriteTo(f); return err },
	} {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		if err := w(f); err != nil {
			_ = f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}
