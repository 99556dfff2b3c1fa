// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
)

// The frozen floor is a module of its own in ./floor, and its loads are in its tests, so it runs as its own test binary.

var floorBinary = sync.OnceValues(func() (string, error) {
	out, err := filepath.Abs(filepath.Join("testdata", "floor.test"))
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "test", "-c", "-o", out, ".")
	cmd.Dir = "floor"
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", &floorError{err, string(msg)}
	}
	return out, nil
})

type floorError struct {
	err error
	out string
}

func (e *floorError) Error() string { return "the floor: " + e.err.Error() + ": " + e.out }

// runFloor runs one row of the floor in a process of its own, so many times for as long as benchtime says, and returns one of
// its figures of each.
func runFloor(b *testing.B, row, unit, benchtime string, times int) (figures []float64) {
	b.Helper()
	bin, err := floorBinary()
	if err != nil {
		b.Fatal(err)
	}
	out, err := exec.Command(bin, "-test.run", "^$", "-test.bench", row, "-test.benchtime", benchtime, "-test.count", strconv.Itoa(times),
		"-test.cpu", "1").CombinedOutput()
	if err != nil {
		b.Fatalf("the floor: %v: %s", err, out)
	}
	for _, m := range regexp.MustCompile(`([0-9.]+) `+regexp.QuoteMeta(unit)+`(\s|$)`).FindAllSubmatch(out, -1) {
		v, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			b.Fatal(err)
		}
		figures = append(figures, v)
	}
	if len(figures) != times {
		b.Fatalf("the floor printed %d of %d times %s: %s", len(figures), times, unit, out)
	}
	return figures
}
